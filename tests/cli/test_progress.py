"""Lines and bars, on a clock that the test turns."""

import io
import sys
import time

import pytest
import typer

from rwloss.cli.progress import Lines, Pace, progress, stoppable


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_rate_remaining_time_and_failures():
    clock = Clock()
    pace = Pace(10, "failed", clock)
    assert pace.facts == ""
    clock.now = 2.0
    pace.step(failed=False)
    assert pace.facts == "0.5 cases/s, 0:00:18 left"
    clock.now = 4.0
    pace.step(failed=True)
    assert pace.facts == "0.5 cases/s, 0:00:16 left, 1 failed"
    for _ in range(8):
        clock.now += 0.5
        pace.step(failed=False)
    assert pace.facts == "1.25 cases/s, 1 failed"


def test_cases_that_no_time_went_into_have_no_rate():
    pace = Pace(3, "failed", Clock())
    pace.step(failed=True)
    assert pace.facts == "1 failed"


def test_the_rate_is_that_of_the_newest_tenth():
    """A thousand cases that an earlier run has made must not promise a quick end."""
    clock = Clock()
    pace = Pace(2000, "failed", clock)
    for _ in range(1000):
        clock.now += 0.001
        pace.step(failed=False)
    for _ in range(200):
        clock.now += 1.0
        pace.step(failed=False)
    assert pace.facts == "1 cases/s, 0:13:20 left"


def test_lines_at_each_tenth_but_not_more_than_one_a_second(capsys):
    clock = Clock()
    lines = Lines("failed", clock)
    for i in range(100):
        clock.now += 1 / 16
        lines.step("maps", 100, failed=i == 30)
    found = capsys.readouterr().err.splitlines()
    assert [line.split(" of ")[0] for line in found] == [
        f"maps: {n}" for n in (20, 40, 60, 80, 100)
    ]
    assert found[1] == "maps: 40 of 100 cases, 16 cases/s, 0:00:04 left, 1 failed"
    assert found[-1] == "maps: 100 of 100 cases, 16 cases/s, 1 failed"


def test_each_phase_ends_with_a_line(capsys):
    with progress() as shown:
        for phase, total in (("labels read", 2), ("maps", 3)):
            for _ in range(total):
                shown.step(phase, total)
    found = capsys.readouterr().err.splitlines()
    assert len(found) == 2
    assert found[0].startswith("labels read: 2 of 2 cases")
    assert found[1].startswith("maps: 3 of 3 cases")


def test_bars_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "100")
    with progress("with problems") as shown:
        for i in range(30):
            time.sleep(0.001)
            shown.step("checked", 30, failed=i == 3)
    *_, last, _ = sys.stderr.getvalue().splitlines()  # then the cursor is shown again
    assert "checked" in last
    assert "30/30" in last
    assert "cases/s" in last
    assert "1 with problems" in last


def test_stoppable_says_what_it_is_told_then(capsys):
    done = []

    def stopped():
        with stoppable(lambda: f"after {len(done)}"):
            done.extend("abc")
            raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        stopped()
    assert ended.value.exit_code == 130
    assert capsys.readouterr() == ("", "stopped: after 3\n")
