"""Runs from files to numbers: repeatable, resumable, comparable."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from raw_folders import make_raw
from training_runs import assert_same, left_by

import rwloss
from rwloss import Regions, RWLossError, distance, maps, stability
from rwloss.precompute import precompute
from rwloss.training import Diverged, RunFolder, TrainingProgress, load_network, train
from rwloss.training import run as runs

BUSY = {"flip": 0.5, "zoom": 0.3, "intensity": 0.5, "balanced": True}
"""Settings with everything random switched on."""


class Notes(TrainingProgress):
    """Notes what it is told; stops the run after a step, if asked to, as a kill would."""

    def __init__(self, stop_after=None):
        self.stop_after, self.losses, self.dice, self.begun = stop_after, {}, {}, None

    def begin(self, done, steps):
        self.begun = (done, steps)

    def step(self, step, loss):
        self.losses[step] = loss
        if step == self.stop_after:
            raise KeyboardInterrupt

    def validated(self, step, dice, *, is_best):
        self.dice[step] = (dice, is_best)


def test_two_at_once_on_one_folder(boxes, settings_of):
    """The second is refused, and neither leaves a trace in the other's run."""
    settings = settings_of(boxes, dims=2, steps=2)
    run = RunFolder(settings.out)
    run.path.mkdir()
    with run.held(), pytest.raises(RWLossError, match=r"another run is writing to .*process"):
        train(settings)
    assert not run.settings.exists()
    train(settings)
    assert not list(run.path.glob(".rwloss*"))


def test_metrics_of_the_test(boxes, settings_of):
    """Those of the settings, and Dice, are in test.json; one of an earlier version has fewer."""
    settings = settings_of(boxes, dims=2, steps=1, metrics=("betti_1_error", "nsd_at_2"))
    found = train(settings)
    run = RunFolder(settings.out)
    assert found.scores.metrics == ("dice", "nsd_at_2", "betti_1_error")
    assert found == run.read_result()
    content = run.read_test()
    for case in content["cases"]:
        for of_class in case["classes"]:
            del of_class["nsd_at_2"], of_class["betti_1_error"]
    run.write_test(content)
    earlier = run.read_result().scores
    assert earlier.metrics == ("dice",)
    assert earlier.summary()[0].dice == found.scores.summary()[0].dice
    with pytest.raises(ValidationError, match="there is no metric 'betti_1'"):
        settings_of(boxes, metrics=("betti_1",))


def test_a_package_that_a_metric_needs_is_asked_for_before_training(
    boxes, settings_of, monkeypatch
):
    monkeypatch.setattr("rwloss.metrics.registry.find_spec", lambda _: None)
    with pytest.raises(RWLossError, match=r"metric cl_dice needs scikit-image.*rwloss\[skeleton\]"):
        train(settings_of(boxes, metrics=("cl_dice",)))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_run_leaves_what_is_needed_to_repeat_it(dims, boxes, settings_of):
    notes = Notes()
    settings = settings_of(boxes, dims=dims, steps=3, validate_every=2, **BUSY)
    torch.manual_seed(0)
    found = train(settings, notes)
    run = Path(settings.out)
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints", "metrics.jsonl", "run.toml", "splits.json", "test.json",
    ]  # fmt: skip
    assert notes.begun == (0, 3)
    assert list(notes.losses.values()) == list(found.losses)
    assert sorted(notes.dice) == [2, 3]
    assert found.settings.map == "rectified"
    assert found.num_items == (12 if dims == 2 else 3)
    assert found.parameters == sum(w.numel() for w in load_network(run).network.parameters())
    splits = json.loads((run / "splits.json").read_text())
    assert [case.name for case in found.scores.cases] == splits["test"]
    assert all(math.isfinite(case.diagonal_mm) for case in found.scores.cases)
    assert found == RunFolder(run).read_result()
    start = next(RunFolder(run).lines())
    assert (start["kind"], start["step"]) == ("start", 0)
    assert start["hardware"].startswith("CPU: 1 thread, ")
    assert start["distance_engine"] == distance.engine_name()
    # Some builds name themselves ("+cu130") in one of the two alone.
    torch_version = start["versions"]["torch"].partition("+")[0]
    assert torch_version == torch.__version__.partition("+")[0]
    assert start["versions"]["rwloss"] == rwloss.__version__
    # The file alone repeats the run, bit for bit, whatever was drawn before; another seed does not.
    torch.manual_seed(99)
    again = found.settings.model_copy(update={"out": str(run.parent / "again")})
    assert train(again).losses == found.losses
    assert_same(left_by(again.out), left_by(run))
    if dims == 2:
        other = again.model_copy(update={"out": str(run.parent / "other"), "seed": 2})
        assert train(other).losses != found.losses
        assert json.loads(Path(other.out, "splits.json").read_text()) == splits


def test_runs_that_differ_in_the_map_begin_alike_and_meet_the_same(
    squares, settings_of, tmp_path, monkeypatch
):
    seen, start, build = {}, {}, runs.build_network

    class Spied(runs.PatchSampler):
        def __call__(self, step):
            batch = super().__call__(step)
            seen.setdefault(text, []).extend([batch.images, batch.labels])
            return batch

    def spied(*args):
        network = build(*args)
        start[text] = [weight.detach().clone() for weight in network.parameters()]
        return network

    monkeypatch.setattr(runs, "PatchSampler", Spied)
    monkeypatch.setattr(runs, "build_network", spied)
    for text in ("boundary", "rectified + dice"):
        train(settings_of(squares, map=text, out=str(tmp_path / text[:4]), **BUSY))
    # Images and labels of each step, and once more of the first, for the weights of the terms.
    assert [len(batches) for batches in seen.values()] == [10, 10]
    for tensors in (seen, start):
        assert all(map(torch.equal, *tensors.values()))
    regions = Regions(seen["boundary"][1], 3)
    for text, run in (("boundary", "boun"), ("rectified + dice", "rect")):
        found = next(RunFolder(tmp_path / run).lines())["effective_weights"]
        wanted = stability.effective_weights(maps.parse(text), regions)
        assert found == pytest.approx(wanted, rel=1e-6)
        assert list(found) == ([] if text == "boundary" else ["rectified", "dice"])


SHARED = "rectified + blend(dice, boundary, schedule='gradient_share', every=3)"
PLAN = {"steps": 8, "checkpoint_every": 3, "validate_every": 4, "record_every": 2, **BUSY}
PLAN["map"] = SHARED  # a weight that is measured in the run must be kept too


@pytest.fixture(scope="module")
def undisturbed(squares, short_settings, tmp_path_factory):
    """What a run of PLAN leaves that nobody stops."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    train(short_settings(squares, out, **PLAN))
    return left_by(out)


@pytest.mark.parametrize(("stop_after", "kept"), [(3, 0), (5, 4), (8, 6)])
def test_a_stopped_run_ends_as_an_undisturbed_one(
    stop_after, kept, squares, settings_of, undisturbed
):
    """Wherever it stops: before the first checkpoint, at one, between two."""
    settings = settings_of(squares, **PLAN)
    with pytest.raises(KeyboardInterrupt):
        train(settings, Notes(stop_after))
    folder, notes = RunFolder(settings.out), Notes()
    with folder.metrics.open("a") as file:
        file.write('{"kind": "reco')  # what a kill may leave
    train(settings, notes)
    assert notes.begun == (kept, 8)
    starts = [line for line in folder.lines() if line["kind"] == "start"]
    assert [start["step"] for start in starts] == [0, kept]
    assert_same(left_by(settings.out), undisturbed)


@pytest.fixture(scope="module")
def trained_once(squares, short_settings, tmp_path_factory):
    """The folder of a run of four steps on the squares."""
    out = tmp_path_factory.mktemp("trained") / "run"
    train(short_settings(squares, out))
    return out


@pytest.fixture
def finished(trained_once, squares, settings_of):
    """A copy of that run, to spoil: its settings."""
    settings = settings_of(squares)
    shutil.copytree(trained_once, settings.out)
    return settings


def test_a_finished_run_is_not_trained_again_but_may_grow(squares, settings_of, tmp_path):
    plan = {"learning_rate_schedule": "constant", "validate_every": 2, "record_every": 2}
    short = settings_of(squares, steps=4, **plan)
    first, notes = train(short), Notes()
    assert train(short, notes) == first
    assert notes.begun is None
    longer = short.model_copy(update={"steps": 6})
    grown = train(longer, notes)
    assert notes.begun == (4, 6)
    assert len(grown.losses) == 6
    at_once = settings_of(squares, steps=6, out=str(tmp_path / "at once"), **plan)
    assert train(at_once).losses == grown.losses
    assert_same(left_by(longer.out), left_by(at_once.out))
    with pytest.raises(RWLossError, match="of 6 steps, and you asked for 4"):
        train(short)


def test_data_that_changed_or_moved(finished, squares, settings_of, tmp_path):
    moved = Path(shutil.copytree(squares, tmp_path / "moved"))
    assert train(settings_of(moved)).best_step
    labels = moved / "labelsTr" / "case3.npy"
    np.save(labels, np.load(labels).T)
    for steps in (4, 6):
        with pytest.raises(RWLossError, match=r"have changed since the run .* began: case 'case3'"):
            train(settings_of(moved, steps=steps))


def test_checkpoints_that_are_not_those_of_the_run(finished, squares, settings_of, tmp_path):
    folder, longer = RunFolder(finished.out), finished.model_copy(update={"steps": 6})
    last, best = folder.last.read_bytes(), folder.best.read_bytes()
    other = RunFolder(tmp_path / "other")
    train(settings_of(squares, seed=7, out=other.path))

    def refused(settings, message):
        """Nothing that is there is lost."""
        before = {path: path.read_bytes() for path in folder.path.rglob("*.*")}
        with pytest.raises(RWLossError, match=message):
            train(settings)
        assert {path: path.read_bytes() for path in folder.path.rglob("*.*")} == before

    for spoilt, message in (
        (best, r"last\.pt' holds only weights, like best\.pt"),
        (last[:999], r"last\.pt' is not a checkpoint, or it is damaged .*: put the run's own file"),
        (other.last.read_bytes(), r"last\.pt' was written with settings other.*seed 7.*; put"),
    ):
        folder.last.write_bytes(spoilt)
        refused(longer, message)
    folder.last.write_bytes(last)
    folder.best.unlink()
    refused(longer, r"best\.pt', the best weights so far \(step 4\), is missing")
    folder.best.write_bytes(other.best.read_bytes())
    folder.test.unlink()
    with pytest.raises(RWLossError, match=r"best\.pt' was written with settings other.*seed 7"):
        train(finished)
    folder.best.write_bytes(best)
    assert train(finished).best_step == 4


def test_the_best_on_validation_is_tested_and_of_equals_the_earlier(
    squares, settings_of, monkeypatch
):
    scores = iter([0.2, 0.6, 0.6, 0.4])
    monkeypatch.setattr(runs, "mean_dice", lambda *args: {"class 1": next(scores), "class 2": None})
    notes = Notes()
    found = train(settings_of(squares, validate_every=1), notes)
    assert found.best_step == 2
    assert [is_best for _, is_best in notes.dice.values()] == [True, True, False, False]
    best, last = (load_network(found.settings.out, which=which) for which in ("best", "last"))
    assert (best.step, last.step) == (2, 4)
    lines = RunFolder(found.settings.out).lines()
    chosen = [line for line in lines if line["kind"] == "validation"]
    assert [line["mean_dice"] for line in chosen] == [0.2, 0.6, 0.6, 0.4]


def test_without_validation_the_last_is_tested(squares, settings_of, tmp_path):
    found = train(settings_of(squares, validation_fraction=0.0, validate_every=1))
    assert found.best_step == 4
    assert len(found.scores.cases) == 2
    bare = train(settings_of(squares, test_fraction=0.0, steps=1, out=tmp_path / "bare"))
    assert bare.scores.cases == ()
    assert [each.dice.mean for each in bare.scores.summary()] == [None, None]


@pytest.mark.parametrize("spoilt", ["image", "weight"])
def test_divergence_leaves_a_line_and_the_last_checkpoint(
    spoilt, squares, settings_of, monkeypatch
):
    """Infinite images make the loss nan; a weight is seen when the checkpoint is written."""
    networks, build = [], runs.build_network

    class Spoiling(Notes):
        def step(self, step, loss):
            if step == 4 and spoilt == "weight":
                next(networks[0].parameters()).data.fill_(math.inf)

    class Spoilt(runs.PatchSampler):
        def __call__(self, step):
            batch = super().__call__(step)
            if step >= 4 and spoilt == "image":
                batch.images.fill_(math.inf)
            return batch

    monkeypatch.setattr(runs, "PatchSampler", Spoilt)
    monkeypatch.setattr(
        runs, "build_network", lambda *args: networks.append(build(*args)) or networks[0]
    )
    settings = settings_of(squares, steps=9, checkpoint_every=2)
    message = {"image": "the loss is nan at step 4", "weight": "not finite after step 4"}[spoilt]
    with pytest.raises(Diverged, match=message):
        train(settings, Spoiling())
    line = list(RunFolder(settings.out).lines())[-1]
    assert (line["kind"], line["step"]) == ("diverged", 4)
    assert message in line["reason"]
    assert load_network(settings.out, which="last").step == 2


def test_stored_maps_train_as_maps_of_whole_images(squares, settings_of, tmp_path):
    """Without zoom and crops, maps on the fly are the same maps, to the store's precision.

    And so are the maps of whole images that are made at the start.
    """
    store = tmp_path / "maps"
    precompute(squares, store, "rectified", jobs=0, dtype="float32")
    plain = {"zoom": 0.0, "flip": 0.5, "turn": 0.5, "record_every": 1}
    stored = settings_of(squares, maps=str(store), out=str(tmp_path / "stored"), **plain)
    fresh = settings_of(squares, out=str(tmp_path / "fresh"), **plain)
    whole = settings_of(squares, map_of="volume", out=str(tmp_path / "whole"), **plain)
    losses = train(fresh).losses
    assert train(stored).losses == pytest.approx(losses, rel=1e-5)
    assert train(whole).losses == pytest.approx(losses, rel=1e-5)


def test_stored_maps_that_do_not_fit_begin_no_run(tmp_path, settings_of):
    raw = make_raw(tmp_path / "raw", ["a", "b", "new"])
    file = raw / "labelsTr" / "new.npy"
    labels = np.load(file)
    none = {"test_fraction": 0.0, "validation_fraction": 0.0}
    file.unlink()
    precompute(raw, tmp_path / "lacking", "rectified", jobs=0)
    np.save(file, np.eye(16, dtype=np.uint8))
    precompute(raw, tmp_path / "other", "rectified", jobs=0)
    np.save(file, labels)
    for store, message in (
        ("lacking", "no map of case 'new'"),
        ("other", "the map of case 'new' was made from other labels"),
    ):
        settings = settings_of(raw, maps=str(tmp_path / store), **none)
        with pytest.raises(RWLossError, match=message):
            train(settings)
        assert not (Path(settings.out) / "run.toml").exists()


def test_precision_and_compiled_networks_are_settings(squares, settings_of):
    """bf16 rounds; the run is the same in kind."""
    found = train(settings_of(squares, precision="bf16-mixed", record_every=1))
    assert all(map(math.isfinite, found.losses))
    weights = load_network(found.settings.out).network.state_dict()
    assert all(weight.dtype == torch.float32 for weight in weights.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_hardware_that_is_not_there(squares, settings_of):
    for devices in (1, 2):
        settings = settings_of(squares, accelerator="gpu", devices=devices)
        with pytest.raises(RWLossError, match=r"no --accelerator gpu.*try --accelerator cpu"):
            train(settings)
        assert not Path(settings.out).exists()


def test_without_fabric_the_error_says_how_to_get_it(monkeypatch, squares, settings_of):
    monkeypatch.setitem(__import__("sys").modules, "lightning_fabric", None)
    with pytest.raises(RWLossError, match=r"Lightning Fabric.* pip install 'rwloss\[train\]'"):
        train(settings_of(squares))
