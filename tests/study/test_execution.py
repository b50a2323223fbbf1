"""Studies that are carried out: failures, resuming, other processes."""

import gc
import os
import re
import signal
import subprocess
import sys
import time
import weakref

import pytest
import torch
from training_runs import assert_same, left_by

from rwloss.study import plan
from rwloss.study.execution import RunEnd, carry_out
from rwloss.study.outcomes import read_outcome
from rwloss.study.plan import runs
from rwloss.study.results import collect
from rwloss.study.stacking import steps_done
from rwloss.training import RunFolder


def test_runs_end_and_are_kept(study_of, tmp_path):
    threads = torch.get_num_threads()
    todo = list(runs(study_of({"rw": "rectified", "dice": "dice"}), tmp_path))
    seen = []
    ends = carry_out(todo, jobs=0, on_end=seen.append)
    assert seen == ends
    assert ends == [RunEnd("rw", 0), RunEnd("dice", 0)]
    assert torch.get_num_threads() == threads
    before = {run: left_by(run.folder) for run in todo}
    for run in todo:  # a run that is done is not even looked at closely
        run.folder.joinpath("splits.json").unlink()
    again = [*todo, *runs(study_of({"rw": "rectified"}, seeds=[3]), tmp_path)]
    assert all(end.reason is None for end in carry_out(again, jobs=0))
    for run in todo:
        assert_same(before[run], left_by(run.folder))
    assert RunFolder(again[-1].folder).read_result().settings.seed == 3
    [longer] = runs(study_of({"rw": "rectified"}, steps=6), tmp_path)
    assert carry_out([longer], jobs=0)[0].reason is None
    assert len(RunFolder(longer.folder).read_result().losses) == 6


def test_a_failure_is_kept_and_stops_no_other(study_of, tmp_path, monkeypatch):
    bad, good = todo = list(runs(study_of({"bad": "dice", "rw": "rectified"}), tmp_path))
    strange = bad.folder / "notes.txt"
    strange.parent.mkdir(parents=True)
    strange.touch()
    failed, ended = carry_out(todo, jobs=0)
    assert ended.reason is None
    assert (good.folder / "test.json").exists()
    assert not good.failure.exists()
    assert "neither empty nor a run" in failed.reason
    assert bad.failure.read_text() == failed.reason + "\n"
    strange.unlink()
    assert [end.reason for end in carry_out(todo, jobs=0)] == [None, None]
    assert not bad.failure.exists()
    # A dead process is a failure too.
    (bad.folder / "test.json").unlink()
    monkeypatch.setattr(
        "rwloss.study.execution.run_tasks", lambda tasks, **_: [task.died() for task in tasks]
    )
    [end] = carry_out([bad], jobs=1)
    assert "the process died in this run" in end.reason
    assert bad.failure.exists()


def test_a_run_leaves_its_memory_to_the_next(study_of, tmp_path, monkeypatch):
    """Also where it failed, and before Python looks for cycles by itself."""
    held = []

    def fails(settings):
        assert all(each() is None for each in held)
        network = torch.nn.Linear(1, 1)
        held.append(weakref.ref(network))
        raise OSError("no space left")

    monkeypatch.setattr("rwloss.training.train", fails)
    todo = list(runs(study_of({"rw": "rectified", "dice": "dice"}), tmp_path))
    gc.disable()
    try:
        ends = carry_out(todo, jobs=0)
    finally:
        gc.enable()
    assert [end.reason for end in ends] == ["OSError: no space left"] * 2


def test_divergence_is_a_failure_with_its_step(study_of, tmp_path):
    plan = study_of({"rw": "rectified"}, steps=200, training={
        "learning_rate": 1e30, "accelerator": "cpu", "batch_size": 2,
    })  # fmt: skip
    [run] = runs(plan, tmp_path)
    [end] = carry_out([run], jobs=0)
    assert "try a learning rate below" in end.reason
    step = read_outcome(run.folder).diverged_step
    assert step in {1, 2, 3}
    assert re.search(rf"\bstep {step}\b", end.reason)
    [row] = collect(plan, tmp_path).runs
    assert (row.status, row.outcome.diverged_step, row.reason) == ("failed", step, end.reason)


COMMAND = "import sys; from rwloss.cli import main; main()"


@pytest.mark.slow
def test_a_study_killed_in_a_process_and_resumed_on_dask_gives_the_same_bits(study_of, tmp_path):
    pytest.importorskip("distributed", reason="a scheduler needs Dask")
    plan = study_of(
        {"rw": "rectified", "dice": "dice"}, steps=40,
        training={"batch_size": 2, "accelerator": "cpu", "checkpoint_every": 5, "dims": 2},
    )  # fmt: skip
    whole, study = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (whole, study):
        plan.write(folder / "study.toml")

    def start(folder, *options):
        """In a process of its own, because only those of the tests have small networks."""
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, "compare", folder / "study.toml", *options],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    assert start(whole, "--jobs", "0").wait() == 0
    undisturbed = (whole / "runs.csv").read_text()

    def ended():
        return len(list(study.glob("runs/*/*/test.json")))

    killed = start(study, "--jobs", "1")
    begun = time.monotonic()
    while not (ended() and list(study.glob("runs/dice/seed_0/checkpoints/*"))):
        assert killed.poll() is None
        assert time.monotonic() - begun < 120
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert ended() == 1
    assert start(study, "--scheduler", "local", "--jobs", "1").wait() == 0
    assert (study / "runs.csv").read_text() == undisturbed
    for one, other in zip(runs(plan, whole), runs(plan, study), strict=True):
        assert_same(left_by(one.folder), left_by(other.folder))


def test_steps_done_are_those_of_the_last_whole_line(tmp_path):
    study = plan.make(data="D", maps={"rw": "rectified"}, seeds=[0], steps=40)
    [run] = plan.runs(study, tmp_path)
    assert steps_done(run) == 0
    run.folder.mkdir(parents=True)
    log = run.folder / "metrics.jsonl"
    one, two = '{"kind": "record", "step": 1}\n', '{"kind": "record", "step": 20}\n'
    for text, steps in (
        (one, 1),
        (one + two, 20),
        (one + two + '{"kind": "record", "st', 20),  # half written
        *((text, 0) for text in ("3\n", "{\n", "\n", '{"step": null}\n', "[]\n")),
    ):
        log.write_text(text)
        assert steps_done(run) == steps
