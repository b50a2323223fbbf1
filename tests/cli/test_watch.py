"""What is told of the runs of a study while they are at work."""

import json
import time

import pytest

from rwloss.cli import watch
from rwloss.cli.watch import watched
from rwloss.study import plan
from rwloss.study.execution import RunEnd, steps_done


@pytest.fixture
def todo(tmp_path):
    """Two runs of 40 steps that nobody has begun."""
    study = plan.make(data="D", maps={"rw": "rectified", "dice": "dice"}, seeds=[0], steps=40)
    return list(plan.runs(study, tmp_path))


def log(run, *steps, end="\n"):
    run.folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"kind": "record", "step": step}) for step in steps]
    (run.folder / "metrics.jsonl").write_text("\n".join(lines) + end)


def test_steps_are_those_of_the_last_whole_line(todo):
    run = todo[0]
    assert steps_done(run) == 0
    log(run, 1, 20)
    assert steps_done(run) == 20
    log(run, 1, 20, 30, end="")  # half written
    assert steps_done(run) == 20
    for text in ("3\n", "{\n", "\n", '{"step": null}\n', "[]\n"):
        (run.folder / "metrics.jsonl").write_text(text)
        assert steps_done(run) == 0


def until(told, text):
    begun = time.monotonic()
    while text not in told():
        assert time.monotonic() - begun < 60, told()
        time.sleep(0.01)


def test_lines_follow_the_folders_and_never_raise(todo, capsys, monkeypatch):
    told = []
    monkeypatch.setattr(watch.typer, "echo", lambda text, err: told.append(text))
    first, second = todo
    with watched(todo, 40, seconds=0.01) as on_end:
        until(lambda: told, "0 of 80 steps done in 2 runs")
        log(first, 1, 20)
        until(lambda: " ".join(told), "20 of 80 steps done in 2 runs, 0:")
        (first.folder / "metrics.jsonl").unlink()
        (first.folder / "metrics.jsonl").mkdir()  # whatever is there
        on_end(RunEnd("rw", 0, "out of\nmemory"))
        assert "1 of 2: rw, seed 0: failed: out of\\nmemory" in told
        until(lambda: " ".join(told), "40 of 80 steps done")
        log(second, 40)
        until(lambda: told, "80 of 80 steps done in 2 runs")
        on_end(RunEnd("dice", 0))
    assert told[-1] == "2 of 2: dice, seed 0: done"
    assert len(told) == len(set(told)) == 6
    assert capsys.readouterr().out == ""


def test_a_bar_on_a_terminal(todo, capsys, monkeypatch):
    monkeypatch.setattr(watch.sys.stderr, "isatty", lambda: True)
    log(todo[0], 1, 20)
    with watched(todo, 40, seconds=0.01) as on_end:
        time.sleep(0.2)
        on_end(RunEnd("rw", 0))
    printed, told = capsys.readouterr()
    assert printed == ""
    assert "1 of 2: rw, seed 0: done" in told
    assert "steps of 2 runs" in told


def test_what_goes_wrong_in_a_look_stops_nothing(todo, monkeypatch):
    looks = []
    monkeypatch.setattr(watch, "_steps", lambda *_: looks.append(1) or 1 / 0)
    with watched(todo, 40, seconds=0.01):
        begun = time.monotonic()
        while len(looks) < 3:
            assert time.monotonic() - begun < 60
            time.sleep(0.01)
