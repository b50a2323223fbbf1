"""Lines and bars, on a clock that the test turns."""

import io
import sys
import time

import pytest
import typer

from rwloss.cli.progress import Pace, Progress, progress, watched


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def terminal(monkeypatch):
    """Make standard error a terminal. Not in a fixture: pytest captures anew for the test."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "100")
    return sys.stderr


def test_rate_remaining_time_and_failures():
    pace = Pace(10, "case", "failed", began=0.0)
    assert pace.facts == ""
    pace.update(1, 2.0)
    assert pace.facts == "0.5 cases/s, 0:00:18 left"
    pace.failed = 1
    pace.update(2, 4.0)
    assert pace.facts == "0.5 cases/s, 0:00:16 left, 1 failed"
    pace.update(10, 8.0)
    assert pace.facts == "1.25 cases/s, 1 failed"


def test_cases_that_no_time_went_into_have_no_rate():
    pace = Pace(3, "case", "failed", began=0.0)
    pace.failed = 1
    pace.update(1, 0.0)
    assert pace.facts == "1 failed"


def test_the_rate_is_that_of_the_newest_tenth():
    """A thousand cases that an earlier run has made must not promise a quick end."""
    pace = Pace(2000, "case", "failed", began=0.0)
    for i in range(1, 1201):
        pace.update(i, 0.001 * min(i, 1000) + max(i - 1000, 0))
    assert pace.facts == "1 cases/s, 0:13:20 left"


def test_lines_at_each_tenth_but_not_more_than_one_a_second(capsys):
    clock = Clock()
    shown = Progress(clock=clock)
    for i in range(100):
        clock.now += 1 / 16
        shown.step("maps", 100, failed=i == 30)
    found = capsys.readouterr().err.splitlines()
    assert [line.split(" of ")[0] for line in found] == [
        f"maps: {n}" for n in (20, 40, 60, 80, 100)
    ]
    assert found[1] == "maps: 40 of 100 cases, 16 cases/s, 0:00:04 left, 1 failed"
    assert found[-1] == "maps: 100 of 100 cases, 16 cases/s, 1 failed"


def test_a_line_per_minute_where_a_tenth_takes_longer(capsys):
    clock = Clock()
    shown = Progress(clock=clock)
    for _ in range(9):
        clock.now += 25
        shown.step("maps", 100)
    found = capsys.readouterr().err.splitlines()
    assert [line.split(" of ")[0] for line in found] == [f"maps: {n}" for n in (3, 6, 9)]


def test_each_phase_ends_with_a_line(capsys):
    with progress(str) as shown:
        for phase, total in (("labels read", 2), ("maps", 3)):
            for _ in range(total):
                shown.step(phase, total)
    found = capsys.readouterr().err.splitlines()
    assert len(found) == 2
    assert found[0].startswith("labels read: 2 of 2 cases")
    assert found[1].startswith("maps: 3 of 3 cases")


def test_steps_of_a_resumed_run(capsys):
    """They begin with what is done, and that took no time; a step that comes again is not told."""
    clock = Clock()
    shown = Progress(clock=clock)
    shown.update("run", 25, 40)
    for step in range(26, 41):
        clock.now += 1
        shown.update("run", step, 40, "loss 0.250")
        shown.update("run", 26, 40)
    shown.line("done")
    assert capsys.readouterr().err.splitlines() == [
        "run: 25 of 40 steps",
        "run: 28 of 40 steps, loss 0.250, 1 steps/s, 0:00:12 left",
        "run: 32 of 40 steps, loss 0.250, 1 steps/s, 0:00:08 left",
        "run: 36 of 40 steps, loss 0.250, 1 steps/s, 0:00:04 left",
        "run: 40 of 40 steps, loss 0.250, 1 steps/s",
        "done",
    ]


def test_bars_on_a_terminal(monkeypatch):
    shown_on = terminal(monkeypatch)
    with progress(str, "with problems") as shown:
        for i in range(30):
            time.sleep(0.001)
            shown.step("checked", 30, failed=i == 3)
        shown.update("run", 3, 4)
        shown.update("run", 4, 4, "loss 0.5")
        shown.line("[a line]")
    *_, first, second, _ = shown_on.getvalue().splitlines()  # then the cursor is shown again
    for text in ("checked", "30/30", "cases/s", "1 with problems"):
        assert text in first
    assert "4/4" in second
    assert "loss 0.5" in second
    assert "[a line]" in shown_on.getvalue()


def until(condition):
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < 60
        time.sleep(0.01)


def test_watching_the_work_of_others(capsys):
    """What goes wrong in a look stops nothing, and is looked at again."""
    looks = iter([0, "wrong", 10, 10])
    done = []

    def look():
        done.append(next(looks, 20))
        return 1 // 0 if done[-1] == "wrong" else done[-1]

    with watched("2 runs", 20, look, "nothing", seconds=0.01) as shown:
        until(lambda: 20 in done and len(done) > 6)
        shown.line("ended")
    printed, told = capsys.readouterr()
    assert printed == ""
    first, last, ended = told.splitlines()
    assert (first, ended) == ("2 runs: 0 of 20 steps", "ended")
    assert last.startswith("2 runs: 20 of 20 steps")


def test_watching_on_a_terminal(monkeypatch):
    shown_on = terminal(monkeypatch)
    with watched("2 runs", 20, lambda: 20, "nothing", seconds=0.01) as shown:
        shown.line("1 of 2: done")
    assert "2 runs" in shown_on.getvalue()
    assert "20/20" in shown_on.getvalue()
    assert "1 of 2: done" in shown_on.getvalue()


def test_an_interrupt_says_what_is_left(capsys):
    def stopped():
        with progress(lambda shown: f"after {shown.done('maps')}, {shown.done('else')}") as shown:
            for failed in (False, True, False):
                shown.step("maps", 9, failed=failed)
            raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        stopped()
    assert ended.value.exit_code == 130
    assert capsys.readouterr() == ("", "interrupted: after 2, 0\n")
