"""Runs trained together leave in their folders what they leave alone, and go on from there."""

import json
import multiprocessing
import time
from dataclasses import replace

import pytest
import torch
from training_runs import left_by, work_together

from rwloss import RWLossError
from rwloss.training import PRESETS, Diverged, RunFolder, train
from rwloss.training import run as runs
from rwloss.training import together as together_module
from rwloss.training.run import Start
from rwloss.training.together import reasons_apart, train_together


@pytest.fixture
def three(squares, short_settings, tmp_path):
    """Settings of three runs in a folder each, by the name of the study."""

    def settings(study, **changes):
        short = {"validate_every": 2, "checkpoint_every": 1, "record_every": 2, "steps": 3}
        short |= {"learning_rate": 1e-5}
        own = [
            {"map": "rectified", "seed": 0},
            {"map": "rectified", "seed": 1, "learning_rate": 1e-4},
            {"map": "dice + class_weighted", "seed": 0},
        ]
        return [
            short_settings(
                squares, tmp_path / study / str(i), **{**short, **each, **changes}
            )
            for i, each in enumerate(own)
        ]  # fmt: skip

    return settings


def assert_close(one, other, where=""):
    """The same content of folders, apart from rounding."""
    if isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for name in other:
            assert_close(one[name], other[name], f"{where}/{name}")
    elif isinstance(other, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_close(*pair, f"{where}/{number}")
    elif isinstance(other, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=where)
    elif isinstance(other, float):
        assert one == pytest.approx(other, rel=1e-2, abs=1e-3), where
    else:
        assert one == other, where


def stop_after(monkeypatch, step):
    """End the process that trains, as a kill would, after a step of its last run."""
    after_step = Start.after_step

    def stopping(self, at, loss):
        after_step(self, at, loss)
        if at == step and self.settings.map.startswith("dice"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Start, "after_step", stopping)


def starts_of(settings):
    """The steps at which the run was started, and how many were trained together."""
    lines = RunFolder(settings.out).lines()
    return [(line["step"], line.get("together")) for line in lines if line["kind"] == "start"]


def test_together_and_alone_leave_the_same_and_resume_each_other(three, monkeypatch, caplog):
    alone, together, begun = three("alone"), three("together"), three("begun")
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train_together(together)
        with pytest.raises(KeyboardInterrupt):
            train(begun[2])
    for settings in (*alone, together[1]):
        train(settings)
    assert train_together(together) == [None] * 3
    assert train_together(begun) == [None] * 3
    assert "they take turns" not in caplog.text
    assert starts_of(alone[0]) == [(0, None)]
    assert starts_of(together[0]) == [(0, 3), (1, 2)]
    assert starts_of(together[1]) == [(0, 3), (1, None)]
    assert starts_of(begun[0]) == [(0, 3)]
    assert starts_of(begun[2]) == [(0, None), (1, 3)]
    for wanted, *found in zip(alone, together, begun, strict=True):
        for each in found:
            assert_close(left_by(each.out), left_by(wanted.out))
            assert RunFolder(each.out).read_result().settings.seed == each.seed
    # A checkpoint holds one run, not the stack.
    sizes = [RunFolder(runs[0].out).last.stat().st_size for runs in (alone, together)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


@pytest.mark.parametrize(("map_of", "bytes_of_each"), [("patch", [2**33]), ("slice", [2**32] * 2)])
def test_maps_of_whole_images_share_the_memory_of_the_device(
    three, monkeypatch, map_of, bytes_of_each
):
    """Two maps; with one list of patches for each, each may be half as large."""
    given, make = [], runs.patch_sources

    def noted(*args, max_device_bytes, **named):
        given.append(max_device_bytes)
        return make(*args, max_device_bytes=max_device_bytes, **named)

    monkeypatch.setattr(runs, "patch_sources", noted)
    assert train_together(three("study", map_of=map_of, data_on_device_gib=8)) == [None] * 3
    assert given == bytes_of_each


def test_runs_that_cannot_be_validated_or_tested_together_take_turns(three, monkeypatch, caplog):
    """And one that fails then does not stop the others."""
    alone, together = three("alone"), three("together")

    def none(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def failing(network, volumes, settings, *args):
        if settings.seed == 1:
            raise OSError("no space left")
        return mean_dice(network, volumes, settings, *args)

    for settings in alone:
        train(settings)
    mean_dice = runs.mean_dice
    monkeypatch.setattr(runs, "mean_dice", failing)
    monkeypatch.setattr(together_module, "mean_dice_of_each", none)
    monkeypatch.setattr(together_module, "score_each", none)
    first, failed, last = train_together(together)
    assert (first, str(failed), last) == (None, "no space left", None)
    for way in ("validated", "tested"):
        assert f"runs cannot be {way} together (CUDA out of memory): they take turns" in caplog.text
    for one, wanted in zip(together[::2], alone[::2], strict=True):
        assert_close(left_by(one.out), left_by(wanted.out))


def test_a_run_that_cannot_be_saved_fails_alone(three, monkeypatch):
    settings = three("study")
    save = runs.save_checkpoint

    def full(path, weights, own, *args, **more):
        if own.seed == 1 and path.stem == "last":
            raise RWLossError("cannot write: no space left")
        save(path, weights, own, *args, **more)

    monkeypatch.setattr(runs, "save_checkpoint", full)
    assert list(map(str, train_together(settings))) == [
        "None",
        "cannot write: no space left",
        "None",
    ]
    assert [RunFolder(run.out).is_done(run) for run in settings] == [True, False, True]


@pytest.mark.slow
def test_a_stack_that_is_killed_leaves_runs_that_can_be_resumed(three, monkeypatch):
    """After each of several kills of the process."""
    real = replace(PRESETS["tiny"], channels=(16, 32, 64, 128), residual_units=2)
    monkeypatch.setitem(PRESETS, "tiny", real)  # as in the process
    changes = {"steps": 20, "checkpoint_every": 3, "validate_every": 10}
    alone, together = three("alone", **changes), three("together", **changes)
    context = multiprocessing.get_context("spawn")
    for step in (5, 11):
        process = context.Process(target=work_together, args=([s.model_dump() for s in together],))
        process.start()
        began = time.monotonic()
        while steps_of(together[2]) < step:
            assert process.is_alive()
            assert time.monotonic() - began < 200
            time.sleep(0.01)
        process.kill()
        process.join()
    assert train_together(together) == [None] * 3
    for one, wanted in zip(together, alone, strict=True):
        train(wanted)
        assert 0 < starts_of(one)[-1][0] < 20
        assert_close(left_by(one.out), left_by(wanted.out))


def steps_of(settings):
    """Steps that the last checkpoint of a run holds; 0 without one."""
    try:
        return torch.load(RunFolder(settings.out).last, weights_only=True)["step"]
    except FileNotFoundError:
        return 0


def test_one_that_diverges_and_one_that_cannot_begin_stop_no_other(three):
    settings = three("study", steps=6)
    bad = settings[1] = settings[1].model_copy(update={"learning_rate": 1e30})
    strange = RunFolder(settings[2].out).path / "notes.txt"
    strange.parent.mkdir(parents=True)
    strange.touch()
    none, diverged, refused = train_together(settings)
    assert none is None
    assert RunFolder(settings[0].out).is_done(settings[0])
    assert isinstance(diverged, Diverged)
    assert "neither empty nor a run" in str(refused)
    last = json.loads(RunFolder(bad.out).metrics.read_text().splitlines()[-1])
    assert (last["kind"], last["step"], last["reason"]) == (
        "diverged",
        diverged.step,
        str(diverged),
    )
    assert RunFolder(bad.out).metrics.read_text().count('"diverged"') == 1


def test_what_cannot_be_trained_together(three):
    [settings, *_] = three("study")
    assert reasons_apart(settings) == []
    other = {"compile": True, "devices": 2, "optimizer": "sgd", "precision": "16-mixed"}
    reasons = reasons_apart(settings.model_copy(update=other))
    assert sorted(reasons) == [
        "compile=True",
        "devices=2",
        "optimizer='sgd'",
        "precision='16-mixed'",
    ]
    other = settings.model_copy(update={"batch_size": settings.batch_size + 1, "seed": 5})
    with pytest.raises(RWLossError, match="runs with several batch_size cannot be trained"):
        train_together([settings, other])
    compiled = settings.model_copy(update={"compile": True})
    with pytest.raises(RWLossError, match="runs with compile=True cannot be trained"):
        train_together([compiled, compiled])
