"""Plain lines of trainings: one for each part, and how long it will take."""

import pytest

from rwloss.cli import steps
from rwloss.cli.steps import bars


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(steps.time, "monotonic", lambda: now[0])
    return now


def test_a_line_for_each_part_and_the_time_that_is_left(clock, capsys):
    """The second training waits for the first one: its waiting is no part of its pace."""
    with bars(["one", "two"], 40, parts=4) as (on_step, line):
        for run in (0, 1):
            for step in range(1, 41):
                clock[0] += 2.0
                on_step(run, step, 0.5)
            clock[0] += 1000.0
        line("done")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[:2] == [
        "one: step 10 of 40, loss 0.500, 0:01:00 left",
        "one: step 20 of 40, loss 0.500, 0:00:40 left",
    ]
    assert lines[3:5] == [
        "one: step 40 of 40, loss 0.500",
        "two: step 10 of 40, loss 0.500, 0:01:00 left",
    ]
    assert lines[-1] == "done"
    assert len(lines) == 9


def test_a_start_that_goes_on_tells_the_parts_that_are_left(clock, capsys):
    with bars(["run"], 40, done=25, parts=4) as (on_step, _):
        for step in range(26, 41):
            clock[0] += 1.0
            on_step(0, step, 0.25)
    assert capsys.readouterr().err.splitlines() == [
        "run: step 30 of 40, loss 0.250, 0:00:10 left",
        "run: step 40 of 40, loss 0.250",
    ]
