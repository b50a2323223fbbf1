import errno
import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from rwloss import RWLossError, data
from rwloss.data.splits import Split
from rwloss.files.journal import parsed_lines
from rwloss.training import RunSettings, load_network, predict_labels, predicting
from rwloss.training.network import SegmentationTask, build_network, save_checkpoint
from rwloss.training.normalization import normalized
from rwloss.training.predicting import RECORD_FILE, predict_images

# Turned about one axis (cosine 0.8, sine 0.6), with the first two axes swapped.
AFFINE = np.array([[0, -0.5, 0, 10], [0.4, 0, -1.5, -20], [0.3, 0, 2, 30], [0, 0, 0, 1]])


def make_run(folder, *, dims=2, channels=1, seed=0, slice_axis=2, map="rectified"):
    """A run of no steps: settings and checkpoints with the initial weights."""
    chosen = RunSettings(
        data="data",
        map=map,
        out=str(folder),
        dims=dims,
        patch_size=(16,) * dims,
        slice_axis=slice_axis if dims == 2 else None,
        seed=seed,
    )
    task = SegmentationTask(channels, 3, ("background", "first", "second"))
    (folder / "checkpoints").mkdir(parents=True)
    chosen.write(folder / "run.toml")
    for step, which in enumerate(("best", "last"), start=1):
        network = build_network(chosen.model_copy(update={"seed": seed + step}), task)
        save_checkpoint(
            folder / "checkpoints" / f"{which}.pt", network.state_dict(), chosen, task, step
        )
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def other_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("other") / "run", seed=5)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, name in enumerate("abc"):
        write_nifti(folder / f"{name}_0000.nii.gz", some_image(seed))
    return folder


@pytest.fixture
def predict(run, images, out):
    """Predicts all images into `out` by the best weights of the run, unless told otherwise."""

    def start(**changes):
        return predict_images(
            **({"run": run, "images": images, "out": out, "device": "cpu"} | changes)
        )

    return start


def some_image(seed=0, shape=(20, 18, 9)):
    return np.random.default_rng(seed).integers(0, 2000, shape).astype(np.int16)


def write_nifti(path, values):
    nibabel.Nifti1Image(values, AFFINE).to_filename(path)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


def states(made):
    return {outcome.case: outcome.state for outcome in made.outcomes}


def expected(run, *channels, which="best", axis=None):
    trained = load_network(run, which=which)
    image = np.stack([normalized(np.asarray(each, np.float32)) for each in channels])
    if axis is None:
        axis = trained.settings.slice_axis or 0
    return predict_labels(trained.network, image, trained.settings.patch_size, axis=axis)


@pytest.mark.parametrize(("dims", "which"), [(2, "best"), (2, "last"), (3, "best")])
def test_label_maps_are_the_network_s_in_the_image_s_place(
    tmp_path, predict, images, out, dims, which
):
    run = make_run(tmp_path / "run", dims=dims)
    made = predict(run=run, checkpoint=which)
    assert states(made) == dict.fromkeys("abc", "made")
    written = nibabel.load(out / "b.nii.gz")
    found = np.asarray(written.dataobj)
    assert np.array_equal(found, expected(run, some_image(1), which=which))
    assert found.dtype == np.uint8
    assert len(np.unique(found)) > 1
    assert np.array_equal(written.affine, nibabel.load(images / "b_0000.nii.gz").affine)
    names = {path.name for path in out.iterdir()}
    assert names == {"a.nii.gz", "b.nii.gz", "c.nii.gz", RECORD_FILE}
    assert (made.record.checkpoint, made.record.class_names[1]) == (which, "first")
    assert {outcome.note for outcome in made.outcomes} == {""}


def test_two_channels(tmp_path, out):
    run = make_run(tmp_path / "run", channels=2)
    (tmp_path / "images").mkdir()
    channels = [some_image(seed, (20, 33)).astype(np.uint16) for seed in range(2)]
    for number, channel in enumerate(channels):
        Image.fromarray(channel).save(tmp_path / "images" / f"x_{number:04}.png")
        np.save(tmp_path / "images" / f"y_{number:04}.npy", channel[number:])
    [failed] = predict_images(run, tmp_path / "images", out, device="cpu").failed
    assert np.array_equal(data.read_labels(out / "x.png").labels, expected(run, *channels))
    assert failed.case == "y"
    assert "has shape (19, 33), 'y_0000.npy' (20, 33)" in failed.reason


@pytest.mark.parametrize(("suffix", "axis"), [(".nii.gz", 2), (".npy", 2), (".tif", 0)])
def test_volumes_for_a_network_of_pictures(tmp_path, predict, images, suffix, axis):
    """Slices across the default axis, or pages; and a note, because the run did not choose it."""
    run = make_run(tmp_path / "run", slice_axis=None)
    image, source = some_image(1), images / "b_0000.nii.gz"
    if suffix == ".npy":
        source = tmp_path / "b.npy"
        np.save(source, image)
    elif suffix == ".tif":
        source = tmp_path / "b.tif"
        first, *pages = [Image.fromarray(page.astype(np.uint16)) for page in image]
        first.save(source, save_all=True, append_images=pages)
    [made] = predict(run=run, images=source).outcomes
    assert made.note == (
        f"the run was trained on 2-D images: volumes ({suffix}) are predicted slice by slice, "
        f"across axis {axis}"
    )
    found = data.read_labels(made.path).labels
    assert np.array_equal(found, expected(run, image, axis=axis))
    assert not np.array_equal(found, expected(run, image, axis=2 - axis))
    flat = image[:1] if axis else image[:, :, :1].swapaxes(0, 2)  # one slice is that slice
    np.save(tmp_path / "flat.npy", flat)
    [made] = predict(run=run, images=tmp_path / "flat.npy").outcomes
    assert np.array_equal(data.read_labels(made.path).labels, expected(run, flat, axis=0))


def test_a_second_start_keeps_what_is_there(predict, out):
    predict()
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "b.nii.gz").unlink()
    old, young = (out / f"{predicting.TEMPORARY_PREFIX}{name}.nii.gz" for name in "01")
    old.write_bytes(b"half, by a start that was killed")
    os.utime(old, (0, 0))
    young.write_bytes(b"half, by another start that is running")
    made = predict()
    assert states(made) == {"a": "kept", "b": "made", "c": "kept"}
    assert (made.made, made.kept, made.failed) == (1, 2, ())
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert after.keys() == {*before, young.name}
    assert {name for name in before if after[name] != before[name]} == {"b.nii.gz", RECORD_FILE}


def test_an_image_that_has_changed_in_its_place_is_predicted_again(predict, images, out):
    """By its bytes: times go back when files are copied. An unreadable one keeps its label map."""
    predict()
    later = (out / "a.nii.gz").stat().st_mtime + 10
    os.utime(images / "a_0000.nii.gz", (later, later))
    shutil.copy(images / "c_0000.nii.gz", images / "b_0000.nii.gz")
    os.utime(images / "b_0000.nii.gz", (0, 0))
    assert states(predict()) == {"a": "kept", "b": "made", "c": "kept"}
    assert contents(out)["b.nii.gz"] == contents(out)["c.nii.gz"]
    assert predict().kept == 3
    before = contents(out)
    (images / "a_0000.nii.gz").write_bytes(b"cut")
    shutil.copy(images / "b_0000.nii.gz", images / "b_0001.nii.gz")
    assert states(predict()) == {"a": "failed", "b": "failed", "c": "kept"}
    assert contents(out) == before


def test_images_and_a_run_that_moved_are_still_the_same(tmp_path, predict, run, images):
    """Also with a name that is no Unicode."""
    (images / "a_0000.nii.gz").rename(images / os.fsdecode(b"caf\xe9_0000.nii.gz"))
    shutil.copytree(run, tmp_path / "first")
    assert predict(run=tmp_path / "first").made == 3
    (tmp_path / "first").rename(tmp_path / "moved_run")
    images.rename(tmp_path / "moved")
    assert predict(run=tmp_path / "moved_run", images=tmp_path / "moved").kept == 3


def test_label_maps_of_other_images_are_refused(tmp_path, predict, images, out):
    """Images of the same case names, all of them older."""
    predict()
    others, before = tmp_path / "others", contents(out)
    others.mkdir()
    for seed, path in enumerate(sorted(images.iterdir()), start=10):
        write_nifti(others / path.name, some_image(seed))
        os.utime(others / path.name, (0, 0))
    with pytest.raises(
        RWLossError,
        match=r"holds 3 label maps .* 'a\.nii\.gz', made from other images \(.*/images/a_",
    ):
        predict(images=others)
    assert contents(out) == before
    assert predict(images=others, overwrite=True).made == 3
    assert not before.items() & contents(out).items()
    assert predict(images=others).kept == 3


def test_other_weights_or_windows_are_refused(predict, out, other_run):
    for change, value in (("checkpoint", "last"), ("overlap", 0.25), ("run", other_run)):
        predict(overwrite=True)
        before, lines = contents(out), (out / RECORD_FILE).read_text().splitlines()
        with pytest.raises(RWLossError, match=r"holds 3 label maps .* made by the best weights of"):
            predict(**{change: value})
        assert contents(out) == before
        assert predict(overwrite=True, **{change: value}).made == 3
        new = (out / RECORD_FILE).read_text().splitlines()[len(lines) :]
        assert {str(json.loads(line)[change]) for line in new} == {str(value)}
        assert predict(**{change: value}).kept == 3


def test_a_file_with_other_bytes_is_not_overwritten(predict, out):
    """One of others, or a label map that was corrected by hand."""
    for is_ours in (False, True):
        if is_ours:
            (out / "b.nii.gz").unlink()
            predict()
        out.mkdir(exist_ok=True)
        (out / "b.nii.gz").write_bytes(b"precious")
        with pytest.raises(
            RWLossError, match=r"holds 1 label maps .* 'b\.nii\.gz', of unknown origin, or changed"
        ):
            predict()
        assert contents(out)["b.nii.gz"] == b"precious"


def test_label_maps_of_two_runs_in_one_folder(tmp_path, predict, images, out, run, other_run):
    """Each is known by what made it, whatever was done in the folder since."""
    more = tmp_path / "more"
    more.mkdir()
    shutil.copy(images / "a_0000.nii.gz", more / "d_0000.nii.gz")
    predict(images=images / "a_0000.nii.gz")
    with (out / RECORD_FILE).open("a") as file:
        file.write('{"rwloss": "0.')  # of a start that was killed; later lines count
    assert states(predict()) == {"a": "kept", "b": "made", "c": "made"}
    predict(run=other_run, images=more)
    assert (predict().kept, predict(run=other_run, images=more).kept) == (3, 1)
    lines = parsed_lines((out / RECORD_FILE).read_bytes())
    assert {line["label_map"]: line["run"] for line in lines} == {
        **{f"{name}.nii.gz": str(run) for name in "abc"},
        "d.nii.gz": str(other_run),
    }
    # Overwriting some leaves the others to their run.
    some = {"run": other_run, "images": images / "a_0000.nii.gz"}
    predict(**some, overwrite=True)
    with pytest.raises(RWLossError, match=r"holds 2 label maps .* 'b\.nii\.gz', made by the best"):
        predict(run=other_run)
    assert predict(**some).kept == 1


def test_folds_fill_one_folder(tmp_path, predict, run):
    """The validation cases of each run, with a second start of all."""
    folds = {name: shutil.copytree(run, tmp_path / f"fold_{name}") for name in "abc"}
    for name, fold in folds.items():
        Split((), (name,), (), "by hand").write(fold / "splits.json")
    for state in ("made", "kept"):
        for name, fold in folds.items():
            assert states(predict(run=fold, split="validation")) == {name: state}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("after", ["write_labels", "append_line"])
def test_a_kill_before_a_label_map_has_its_name(
    predict, out, run, other_run, monkeypatch, after, overwrite
):
    """Whatever was written by then, the next start makes it, and keeps no other run's."""
    if overwrite:
        predict(run=other_run)
    write = getattr(predicting, after)

    def killed(path, content, *more, **options):
        write(path, content, *more, **options)
        if len(content):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(predicting, after, killed)
        with pytest.raises(KeyboardInterrupt):
            predict(overwrite=overwrite)
    assert predict().made == 3
    found = np.asarray(nibabel.load(out / "a.nii.gz").dataobj)
    assert np.array_equal(found, expected(run, some_image(0)))


def test_one_bad_case_does_not_stop_the_others(tmp_path, predict, images, out):
    (images / "a_0000.nii.gz").write_bytes(b"cut")
    np.save(images / "flat.npy", np.zeros((20, 20)))
    shutil.copy(images / "b_0000.nii.gz", images / "b_0001.nii.gz")
    told = []
    made = predict(run=make_run(tmp_path / "run", dims=3), progress=lambda *one: told.append(one))
    assert states(made) == {"a": "failed", "b": "failed", "c": "made", "flat": "failed"}
    reasons = {outcome.case: outcome.reason for outcome in made.failed}
    assert "a_0000.nii.gz" in reasons["a"]
    assert "found 2: b_0000.nii.gz, b_0001.nii.gz" in reasons["b"]
    assert "expected an image of 3 axes, as in training, got (20, 20)" in reasons["flat"]
    assert [(outcome.case, total) for outcome, total in told] == [
        (name, 4) for name in ("a", "b", "c", "flat")
    ]
    assert not list(out.glob("a*"))


def test_a_case_that_needs_too_much_memory_is_named_and_a_full_disk_ends_the_run(
    predict, out, monkeypatch
):
    def full(path: Path, *args, **options):
        if (out / "a.nii.gz").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        data.writing.write_labels(path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(predicting, "write_labels", full)
        with pytest.raises(RWLossError, match=r"No space left on device.*label maps are kept"):
            predict()
    assert {path.name for path in out.iterdir()} == {"a.nii.gz", RECORD_FILE}

    def too_much(*args, **options):
        raise torch.OutOfMemoryError("out of memory\nand a long table")

    monkeypatch.setattr(predicting, "predict_labels", too_much)
    failed = predict().failed
    assert [each.reason for each in failed] == ["OutOfMemoryError: out of memory"] * 2


def test_wrong_use(predict, images, out):
    for options, message in (
        ({"run": "none"}, "run.toml"),
        ({"images": "none"}, "there is no file or folder"),
        ({"overlap": 1.0}, "expected an overlap"),
        ({"device": "teapot"}, "there is no device 'teapot' here"),
    ):
        with pytest.raises(RWLossError, match=message):
            predict(**options)
        assert not out.exists()
    before = sorted(images.iterdir())
    with pytest.raises(RWLossError, match="is the folder of the images"):
        predict(out=images, overwrite=True)
    assert sorted(images.iterdir()) == before
    out.write_text("a file")
    with pytest.raises(RWLossError, match="cannot write to"):
        predict()


@pytest.mark.parametrize("layout", ["folder", "raw"])
def test_cases_of_the_run_s_split(tmp_path, predict, run, images, layout):
    """By name, from both folders of an nnU-Net raw folder."""
    run = shutil.copytree(run, tmp_path / "run")
    Split(("a",), ("x",), ("b", "c"), "by hand").write(run / "splits.json")
    if layout == "raw":
        raw = tmp_path / "raw"
        for name, part in zip("abc", ("imagesTr", "imagesTr", "imagesTs"), strict=True):
            (raw / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(images / f"{name}_0000.nii.gz", raw / part)
        (raw / "dataset.json").write_text('{"labels": {"background": 0, "a": 1, "b": 2}}')
        images = raw
    start = {"run": run, "images": images}
    for split, wanted in (("test", "bc"), ("train", "a")):
        made = predict(**start, out=tmp_path / split, split=split)
        assert states(made) == dict.fromkeys(wanted, "made")
    with pytest.raises(RWLossError, match=r"no image of 'x', which the run's splits\.json names"):
        predict(**start, out=tmp_path / "none", split="validation")
    assert not (tmp_path / "none").exists()
    if layout == "raw":
        with pytest.raises(RWLossError, match="has no image of 'b'"):
            predict(**start, out=tmp_path / "none", split="test", part="test")


def test_the_map_of_a_run_is_no_code_to_run(tmp_path, predict):
    """A run of someone else: its map is text, for run.toml and for the checkpoint."""
    (tmp_path / "evil.py").write_text("raise SystemExit('it was run')")
    run = make_run(tmp_path / "run", map=f"file('{tmp_path}/evil.py:Evil')")
    assert predict(run=run).made == 3
