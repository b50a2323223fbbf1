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
from rwloss.training import predicting, settings
from rwloss.training.checkpoint import SegmentationTask, build_network, save_checkpoint
from rwloss.training.predicting import RECORD_FILE, predict_images
from rwloss.training.volumes import normalized
from rwloss.training.windows import predict_labels

SAMPLE = data.sample_dir("hippocampus")
AFFINE = np.array([[0, -0.8, 0, 10], [0.8, 0, 0.1, -20], [0, -0.1, 2.5, 30], [0, 0, 0, 1]], float)


def make_run(folder, *, dims=3, channels=1, seed=0, length=16, slice_axis=2):
    """A run of no steps: settings and checkpoints with the first weights."""
    chosen = settings.make(
        data="data",
        map="rectified",
        out=str(folder),
        dims=dims,
        patch_size=(length,) * dims,
        slice_axis=slice_axis if dims == 2 else None,
        seed=seed,
    )
    task = SegmentationTask(channels, 3, ("background", "first", "second"))
    (folder / "checkpoints").mkdir(parents=True)
    settings.write(chosen, folder / "run.toml")
    for step, which in enumerate(("best", "last"), start=1):
        network = build_network(chosen.model_copy(update={"seed": seed + step}), task)
        save_checkpoint(folder / "checkpoints" / f"{which}.pt", network, chosen, task, step)
    return folder


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def some_image(seed=0, shape=(20, 18, 9)):
    return np.random.default_rng(seed).integers(0, 2000, shape).astype(np.int16)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, name in enumerate("abc"):
        nibabel.Nifti1Image(some_image(seed), AFFINE).to_filename(folder / f"{name}_0000.nii.gz")
    return folder


def copy_with_other_values(images, folder):
    """Images of the same names, older than those that they were made after."""
    folder.mkdir()
    for seed, path in enumerate(sorted(images.iterdir()), start=10):
        nibabel.Nifti1Image(some_image(seed), AFFINE).to_filename(folder / path.name)
        os.utime(folder / path.name, (0, 0))
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


def lines(out):
    return [json.loads(line) for line in (out / RECORD_FILE).read_text().splitlines()]


def states(made):
    return {outcome.case: outcome.state for outcome in made.outcomes}


def expected(run, *channels, which="best", axis=None):
    from rwloss.training.checkpoint import load_network

    trained = load_network(run, which=which)
    image = np.stack([normalized(np.asarray(each, np.float32)) for each in channels])
    if axis is None:
        axis = trained.settings.slice_axis or 0
    return predict_labels(trained.network, image, trained.settings.patch_size, axis=axis)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("which", ["best", "last"])
def test_predicting_are_the_network_s_in_the_image_s_place(tmp_path, images, dims, which):
    run = make_run(tmp_path / "run", dims=dims)
    made = predict_images(run, images, tmp_path / "out", checkpoint=which, device="cpu")
    assert states(made) == dict.fromkeys("abc", "made")
    written = nibabel.load(tmp_path / "out" / "b.nii.gz")
    found = np.asarray(written.dataobj)
    assert np.array_equal(found, expected(run, some_image(1), which=which))
    assert found.dtype == np.uint8
    assert len(np.unique(found)) > 1
    assert np.array_equal(written.affine, nibabel.load(images / "b_0000.nii.gz").affine)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a.nii.gz",
        "b.nii.gz",
        "c.nii.gz",
        RECORD_FILE,
    }
    assert (made.record.checkpoint, made.record.class_names[1]) == (which, "first")


def test_two_channels_of_pictures(tmp_path):
    run = make_run(tmp_path / "run", dims=2, channels=2)
    (tmp_path / "images").mkdir()
    channels = [some_image(seed, (20, 33)).astype(np.uint16) for seed in range(2)]
    for number, channel in enumerate(channels):
        Image.fromarray(channel).save(tmp_path / "images" / f"x_{number:04}.png")
    predict_images(run, tmp_path / "images", tmp_path / "out", device="cpu")
    found = data.read_labels(tmp_path / "out" / "x.png").labels
    assert np.array_equal(found, expected(run, *channels))


def test_the_scale_of_an_image_does_not_matter(tmp_path, run):
    """Normalised as in training: each case by itself."""
    for name, factor, offset in (("small", 1, 0), ("large", 4, -1000)):
        (tmp_path / name).mkdir()
        values = some_image() * np.float32(factor) + np.float32(offset)
        np.save(tmp_path / name / "x.npy", values)
        predict_images(run, tmp_path / name, tmp_path / f"out_{name}", device="cpu")
    small, large = (np.load(tmp_path / f"out_{name}" / "x.npy") for name in ("small", "large"))
    assert (small == large).mean() > 0.999


@pytest.mark.parametrize(("suffix", "axis"), [(".nii.gz", 2), (".npy", 2), (".tif", 0)])
def test_volumes_for_a_network_of_pictures(tmp_path, images, suffix, axis):
    """Slices across the default axis, or pages; and a note, as no training chose the axis."""
    run = make_run(tmp_path / "run", dims=2, slice_axis=None)
    image, source = some_image(1), images / "b_0000.nii.gz"
    if suffix == ".npy":
        source = tmp_path / "b.npy"
        np.save(source, image)
    elif suffix == ".tif":
        source = tmp_path / "b.tif"
        first, *pages = [Image.fromarray(page.astype(np.uint16)) for page in image]
        first.save(source, save_all=True, append_images=pages)
    [made] = predict_images(run, source, tmp_path / "out", device="cpu").outcomes
    assert made.note == (
        f"the run was trained on 2-D images: volumes ({suffix}) are predicted slice by slice, "
        f"across axis {axis}"
    )
    found = data.read_labels(made.path).labels
    assert np.array_equal(found, expected(run, image, axis=axis))
    assert not np.array_equal(found, expected(run, image, axis=2 - axis))


@pytest.mark.parametrize("dims", [2, 3])
def test_no_note_where_the_training_says_the_axis(tmp_path, images, dims):
    made = predict_images(
        make_run(tmp_path / "run", dims=dims), images, tmp_path / "out", device="cpu"
    )
    assert {outcome.note for outcome in made.outcomes} == {""}


def test_nnunet_folder(tmp_path):
    run = make_run(tmp_path / "run", dims=2, length=64)
    made = predict_images(run, SAMPLE, tmp_path / "out", device="cpu")
    assert sorted(states(made)) == [case.name for case in data.find(SAMPLE, part="test").cases]


def test_a_second_start_keeps_what_is_there(tmp_path, run, images):
    out = tmp_path / "out"
    predict_images(run, images, out, device="cpu")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "b.nii.gz").unlink()
    left, young = (out / f"{predicting.TEMPORARY_PREFIX}{name}.nii.gz" for name in "01")
    left.write_bytes(b"half, by a start that was killed")
    os.utime(left, (0, 0))
    young.write_bytes(b"half, by another start that is at work")
    made = predict_images(run, images, out, device="cpu")
    assert states(made) == {"a": "kept", "b": "made", "c": "kept"}
    assert (made.made, made.kept, made.failed) == (1, 2, ())
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert after.keys() == {*before, young.name}
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"b.nii.gz", RECORD_FILE}


def test_an_image_that_has_changed_in_its_place_is_predicted_again(tmp_path, run, images):
    """By its bytes: times go back where files are copied."""
    predict_images(run, images, tmp_path / "out", device="cpu")
    later = (tmp_path / "out" / "a.nii.gz").stat().st_mtime + 10
    os.utime(images / "a_0000.nii.gz", (later, later))
    shutil.copy(images / "c_0000.nii.gz", images / "b_0000.nii.gz")
    os.utime(images / "b_0000.nii.gz", (0, 0))
    made = predict_images(run, images, tmp_path / "out", device="cpu")
    assert states(made) == {"a": "kept", "b": "made", "c": "kept"}
    assert contents(tmp_path / "out")["b.nii.gz"] == contents(tmp_path / "out")["c.nii.gz"]
    assert predict_images(run, images, tmp_path / "out", device="cpu").kept == 3


def test_an_image_that_became_unreadable_leaves_its_label_map(tmp_path, run, images):
    out = tmp_path / "out"
    predict_images(run, images, out, device="cpu")
    before = contents(out)
    (images / "a_0000.nii.gz").write_bytes(b"cut")
    shutil.copy(images / "b_0000.nii.gz", images / "b_0001.nii.gz")
    made = predict_images(run, images, out, device="cpu")
    assert states(made) == {"a": "failed", "b": "failed", "c": "kept"}
    assert contents(out) == before


def test_predicting_of_other_images_are_refused(tmp_path, run, images):
    """Images of the same case names, all of them older."""
    out, others = tmp_path / "out", copy_with_other_values(images, tmp_path / "others")
    predict_images(run, images, out, device="cpu")
    before = contents(out)
    with pytest.raises(
        RWLossError,
        match=r"holds 3 label maps .* 'a\.nii\.gz', made from other images \(.*/images/a_",
    ):
        predict_images(run, others, out, device="cpu")
    assert contents(out) == before
    assert predict_images(run, others, out, device="cpu", overwrite=True).made == 3
    assert not before.items() & contents(out).items()
    assert predict_images(run, others, out, device="cpu").kept == 3


def test_images_that_moved_are_still_the_same(tmp_path, run, images):
    predict_images(run, images, tmp_path / "out", device="cpu")
    images.rename(tmp_path / "moved")
    assert predict_images(run, tmp_path / "moved", tmp_path / "out", device="cpu").kept == 3


def test_predicting_of_two_runs_in_one_folder(tmp_path, run, images):
    """Each is known by what made it, whatever was done in the folder since."""
    other, out, more = make_run(tmp_path / "other", seed=5), tmp_path / "out", tmp_path / "more"
    more.mkdir()
    shutil.copy(images / "a_0000.nii.gz", more / "d_0000.nii.gz")
    predict_images(run, images, out, device="cpu")
    predict_images(other, more, out, device="cpu")
    before = contents(out)
    with pytest.raises(RWLossError, match=r"holds 3 label maps .* 'a\.nii\.gz', made by the best"):
        predict_images(other, images, out, device="cpu")
    assert contents(out) == before
    assert predict_images(run, images, out, device="cpu").kept == 3
    assert predict_images(other, more, out, device="cpu").kept == 1
    assert {line["label_map"]: line["run"] for line in lines(out)} == {
        "a.nii.gz": str(run),
        "b.nii.gz": str(run),
        "c.nii.gz": str(run),
        "d.nii.gz": str(other),
    }


def test_overwriting_some_leaves_the_others_to_their_run(tmp_path, run, images):
    other, out = make_run(tmp_path / "other", seed=5), tmp_path / "out"
    predict_images(run, images, out, device="cpu")
    predict_images(other, images / "a_0000.nii.gz", out, device="cpu", overwrite=True)
    with pytest.raises(RWLossError, match=r"holds 2 label maps .* 'b\.nii\.gz', made by the best"):
        predict_images(other, images, out, device="cpu")
    assert predict_images(other, images / "a_0000.nii.gz", out, device="cpu").kept == 1


def test_folds_fill_one_folder(tmp_path, images):
    """The validation cases of each run, with a second start of all."""
    folds = {name: make_run(tmp_path / f"fold_{name}", seed=ord(name)) for name in "abc"}
    for name, fold in folds.items():
        Split((), (name,), (), "by hand").write(fold / "splits.json")
    for state in ("made", "kept"):
        for name, fold in folds.items():
            made = predict_images(fold, images, tmp_path / "out", split="validation", device="cpu")
            assert states(made) == {name: state}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("after", ["write_labels", "append_line"])
def test_a_kill_before_a_label_map_has_its_name(
    tmp_path, run, images, monkeypatch, after, overwrite
):
    """Whatever was written by then, the next start makes it, and keeps no other run's."""
    other, out = make_run(tmp_path / "other", seed=5), tmp_path / "out"
    if overwrite:
        predict_images(other, images, out, device="cpu")
    write = getattr(predicting, after)

    def killed(path, content, *more, **options):
        write(path, content, *more, **options)
        if content is not None and len(content):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(predicting, after, killed)
        with pytest.raises(KeyboardInterrupt):
            predict_images(run, images, out, device="cpu", overwrite=overwrite)
    assert predict_images(run, images, out, device="cpu").made == 3
    found = np.asarray(nibabel.load(out / "a.nii.gz").dataobj)
    assert np.array_equal(found, expected(run, some_image(0)))


def test_half_a_line_in_the_record(tmp_path, run, images):
    """Of a start that was killed: its label map is not there, and later lines count."""
    out = tmp_path / "out"
    predict_images(run, images / "a_0000.nii.gz", out, device="cpu")
    with (out / RECORD_FILE).open("a") as file:
        file.write('{"rwloss": "0.')
    assert states(predict_images(run, images, out, device="cpu")) == {
        "a": "kept",
        "b": "made",
        "c": "made",
    }
    assert predict_images(run, images, out, device="cpu").kept == 3


def test_a_label_map_that_was_corrected_by_hand_is_not_lost(tmp_path, run, images):
    out = tmp_path / "out"
    predict_images(run, images, out, device="cpu")
    (out / "b.nii.gz").write_bytes(b"corrected")
    with pytest.raises(RWLossError, match=r"1 label maps .* 'b\.nii\.gz', .* or changed since"):
        predict_images(run, images, out, device="cpu")
    assert contents(out)["b.nii.gz"] == b"corrected"


def test_names_that_are_no_unicode(tmp_path, run, images):
    name = os.fsdecode(b"caf\xe9")
    (images / "a_0000.nii.gz").rename(images / f"{name}_0000.nii.gz")
    for state in ("made", "kept"):
        made = predict_images(run, images, tmp_path / "out", device="cpu")
        assert states(made) == dict.fromkeys(["b", "c", name], state)


def test_overwrite(tmp_path, run, images):
    predict_images(run, images, tmp_path / "out", device="cpu")
    made = predict_images(run, images, tmp_path / "out", device="cpu", overwrite=True)
    assert states(made) == dict.fromkeys("abc", "made")


@pytest.mark.parametrize("options", [{"checkpoint": "last"}, {"overlap": 0.25}])
def test_other_weights_or_windows_are_refused(tmp_path, run, images, options):
    out = tmp_path / "out"
    predict_images(run, images, out, device="cpu")
    with pytest.raises(RWLossError, match=r"holds 3 label maps .* made by the best weights of"):
        predict_images(run, images, out, device="cpu", **options)
    made = predict_images(run, images, out, device="cpu", overwrite=True, **options)
    assert made.made == 3
    for line in lines(out)[3:]:
        assert {name: line[name] for name in options} == options


def test_a_run_that_moved_is_still_the_same(tmp_path, run, images):
    predict_images(run, images, tmp_path / "out", device="cpu")
    run.rename(tmp_path / "moved")
    made = predict_images(tmp_path / "moved", images, tmp_path / "out", device="cpu")
    assert made.kept == 3


def test_files_of_others_are_not_overwritten(tmp_path, run, images):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii.gz").write_bytes(b"precious")
    with pytest.raises(RWLossError, match=r"holds 1 label maps .* of another origin, or changed"):
        predict_images(run, images, tmp_path / "out", device="cpu")
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == b"precious"


def test_the_folder_of_the_images_is_refused(run, images):
    before = sorted(images.iterdir())
    with pytest.raises(RWLossError, match="is the folder of the images"):
        predict_images(run, images, images, device="cpu", overwrite=True)
    assert sorted(images.iterdir()) == before


def test_one_bad_case_does_not_stop_the_others(tmp_path, run, images):
    (images / "a_0000.nii.gz").write_bytes(b"cut")
    np.save(images / "flat.npy", np.zeros((20, 20)))
    shutil.copy(images / "b_0000.nii.gz", images / "b_0001.nii.gz")
    told = []
    made = predict_images(
        run, images, tmp_path / "out", device="cpu", progress=lambda *one: told.append(one)
    )
    assert states(made) == {"a": "failed", "b": "failed", "c": "made", "flat": "failed"}
    reasons = {outcome.case: outcome.reason for outcome in made.failed}
    assert "a_0000.nii.gz" in reasons["a"]
    assert "expected 1 images, one per channel, found 2" in reasons["b"]
    assert "expected an image of 3 axes, as in training, got (20, 20)" in reasons["flat"]
    assert [(outcome.case, total) for outcome, total in told] == [
        (name, 4) for name in ("a", "b", "c", "flat")
    ]
    assert not list((tmp_path / "out").glob("a*"))


def test_channels_of_different_shapes(tmp_path):
    run = make_run(tmp_path / "run", channels=2)
    (tmp_path / "images").mkdir()
    for number, shape in enumerate([(9, 9, 9), (9, 9, 8)]):
        np.save(tmp_path / "images" / f"x_{number:04}.npy", some_image(0, shape))
    [failed] = predict_images(run, tmp_path / "images", tmp_path / "out", device="cpu").failed
    assert "has shape (9, 9, 8), 'x_0000.npy' (9, 9, 9)" in failed.reason


def test_a_case_that_needs_too_much_memory_is_named(tmp_path, run, images, monkeypatch):
    def full(*args, **options):
        raise torch.OutOfMemoryError("out of memory\nand a long table")

    monkeypatch.setattr(predicting, "predict_labels", full)
    made = predict_images(run, images, tmp_path / "out", device="cpu")
    assert made.failed[0].reason == "OutOfMemoryError: out of memory"
    assert len(made.failed) == 3


def test_a_full_disk_ends_the_run(tmp_path, run, images, monkeypatch):
    def full(path: Path, *args, **options):
        if (tmp_path / "out" / "a.nii.gz").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        data.writing.write_labels(path, *args, **options)

    monkeypatch.setattr(predicting, "write_labels", full)
    with pytest.raises(RWLossError, match=r"No space left on device.*finished label maps are kept"):
        predict_images(run, images, tmp_path / "out", device="cpu")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.nii.gz", RECORD_FILE}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run": "none"}, "run.toml"),
        ({"images": "none"}, "there is no file or folder"),
        ({"overlap": 1.0}, "expected an overlap"),
        ({"device": "teapot"}, "there is no device 'teapot' here"),
    ],
)
def test_wrong_use(tmp_path, run, images, options, message):
    given = {"run": run, "images": images, "out": tmp_path / "out", "device": "cpu"} | {
        name: tmp_path / value if name in {"run", "images"} else value
        for name, value in options.items()
    }
    with pytest.raises(RWLossError, match=message):
        predict_images(**given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", ["folder", "raw"])
def test_cases_of_the_run_s_split(tmp_path, run, images, layout):
    """By name, from both folders of an nnU-Net raw folder."""
    Split(("a",), ("x",), ("b", "c"), "by hand").write(run / "splits.json")
    source = images
    if layout == "raw":
        source = tmp_path / "raw"
        for name, part in zip("abc", ("imagesTr", "imagesTr", "imagesTs"), strict=True):
            (source / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(images / f"{name}_0000.nii.gz", source / part)
        (source / "dataset.json").write_text('{"labels": {"background": 0, "a": 1, "b": 2}}')
    for split, wanted in (("test", "bc"), ("train", "a")):
        made = predict_images(run, source, tmp_path / split, split=split, device="cpu")
        assert states(made) == dict.fromkeys(wanted, "made")
    with pytest.raises(RWLossError, match=r"no image of 'x', which the run's splits\.json names"):
        predict_images(run, source, tmp_path / "none", split="validation", device="cpu")
    assert not (tmp_path / "none").exists()
    if layout == "raw":
        with pytest.raises(RWLossError, match="has no image of 'b'"):
            predict_images(run, source, tmp_path / "none", split="test", part="test", device="cpu")


def test_out_that_is_a_file(tmp_path, run, images):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RWLossError, match="cannot write to"):
        predict_images(run, images, tmp_path / "out", device="cpu")
