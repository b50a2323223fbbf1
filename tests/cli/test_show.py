"""`rwloss show` on real files."""

import json
import re
import shutil
from functools import cache

import nibabel
import numpy as np
import pytest
from PIL import Image
from stored import ATTACKS

from rwloss.data import sample_dir
from rwloss.precompute import precompute

HIPPOCAMPUS = sample_dir("hippocampus") / "labelsTr" / "hippocampus_033.nii.gz"
LUNG = sample_dir("lung_patches") / "labelsTr" / "lung001_1.png"


def words(path):
    """The texts of an SVG picture."""
    return re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"))


@pytest.fixture
def labels_file(tmp_path):
    """A label file on its own: three classes, 2-D."""
    labels = np.zeros((20, 30), np.uint8)
    labels[4:12, 4:16], labels[8:18, 18:26] = 1, 2
    path = tmp_path / "case.npy"
    np.save(path, labels)
    return path


def test_draws_a_case_of_a_data_set(rwloss_command, tmp_path):
    out = tmp_path / "four.svg"
    texts = ["boundary", "rectified", "class_weighted", "active_contour"]
    options = [part for text in texts for part in ("--map", text)]
    code, printed, err = rwloss_command("show", HIPPOCAMPUS, *options, "-o", out)
    assert (code, err) == (0, "")
    assert str(out) in printed
    found = words(out)
    names = ["0 background", "1 anterior", "2 posterior", "image", "hippocampus_033"]
    assert {*texts, *names} <= set(found)
    assert (found.count("mm"), found.count("unitless")) == (1, 3)
    assert list(tmp_path.iterdir()) == [out]


def test_draws_a_png_label_map_with_its_image(rwloss_command, tmp_path):
    out = tmp_path / "lung.png"
    code, _, err = rwloss_command("show", LUNG, "--map", "rectified", "--spacing", "2,2", "-o", out)
    assert (code, err) == (0, "")
    with Image.open(out) as picture:
        assert picture.size[0] > 800
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100


def test_draws_a_lone_file_with_the_options_of_its_labels(rwloss_command, labels_file, tmp_path):
    out, with_all = tmp_path / "a.svg", tmp_path / "b.svg"
    show = ["show", labels_file, "--map", "boundary", "-o"]
    assert rwloss_command(*show, out)[::2] == (0, "")
    assert {"class 0", "class 1", "class 2", "labels", "voxels", "case"} <= set(words(out))
    assert not {"image", "mm"} & set(words(out))
    options = ["--num-classes", 5, "--spacing", "1,3", "--ignore-label", 2]
    assert rwloss_command(*show, with_all, *options)[0] == 0
    assert {"class 4", "ignored", "mm"} <= set(words(with_all)) - set(words(out))


def test_dynamic_maps_are_drawn_at_uniform_probabilities(rwloss_command, labels_file, tmp_path):
    """That of cross-entropy is -K / p at the true class and 0 elsewhere: -9 of three classes."""
    out = tmp_path / "a.svg"
    show = ["show", labels_file, "--map", "cross_entropy", "--map", "boundary", "-o", out]
    assert rwloss_command(*show)[::2] == (0, "")
    found = words(out)
    assert {"cross_entropy", "unitless", "−8"} <= set(found)
    assert "depend on the prediction use uniform probabilities" in " ".join(found)
    for scale, said in (("symlog", "Colors are logarithmic"), ("robust", "at the 99th percentile")):
        assert rwloss_command(*show[:2], *show[4:], "--scale", scale)[::2] == (0, "")
        assert said in " ".join(words(out))
        assert "uniform" not in " ".join(words(out))


def test_a_single_slice_is_drawn_whole(rwloss_command, tmp_path):
    labels, out = np.zeros((48, 56, 1), np.uint8), tmp_path / "a.svg"
    labels[8:30, 10:30] = 1
    path = tmp_path / "us.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([1.5, 1.5, 1.0, 1])), path)
    assert rwloss_command("show", path, "--map", "boundary", "-o", out)[0] == 0
    assert "Slice 0 of 0..0 along axis 2." in " ".join(words(out))


def test_slice_and_axis_are_obeyed(rwloss_command, tmp_path):
    """And the image of a test case is found."""
    out, path = tmp_path / "a.svg", sample_dir("hippocampus") / "labelsTs/hippocampus_040.nii.gz"
    show = ["show", path, "--map", "rectified", "-o", out]
    assert rwloss_command(*show, "--axis", 0, "--slice", 9)[0] == 0
    assert "Slice 9 of 0.." in " ".join(words(out))
    assert " along axis 0." in " ".join(words(out))
    assert {"image", "1 anterior"} <= set(words(out))


def test_an_image_can_be_named(rwloss_command, labels_file, tmp_path):
    image, out = tmp_path / "image.npy", tmp_path / "a.svg"
    np.save(image, np.random.default_rng(0).normal(size=(20, 30)))
    show = ["show", labels_file, "--map", "rectified", "-o", out, "--image", image]
    assert rwloss_command(*show)[0] == 0
    assert "image" in words(out)


def test_any_file_name_will_do(rwloss_command, labels_file, tmp_path):
    name = "海马体 $x$ $5 sp ace [1] {2}"
    path, out = tmp_path / f"{name}.npy", tmp_path / f"{name}.png"
    shutil.copy(labels_file, path)
    code, printed, err = rwloss_command("show", path, "--map", "rectified", "-o", out)
    assert (code, err) == (0, "")
    assert out.name in printed
    assert out.stat().st_size > 10_000


def test_the_ignore_label_of_the_data_set_is_obeyed(rwloss_command, tmp_path):
    labels = np.zeros((8, 9, 4), np.uint8)
    labels[2:5, 2:5], labels[:, 7:] = 1, 2
    (tmp_path / "labelsTr").mkdir()
    path = tmp_path / "labelsTr" / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([1, 1, 3, 1])), path)
    (tmp_path / "dataset.json").write_text(
        '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "bone": 1, "ignore": 2}, '
        '"numTraining": 1, "file_ending": ".nii.gz"}'
    )
    out = tmp_path / "a.svg"
    code, _, err = rwloss_command("show", path, "--map", "boundary", "-o", out)
    assert (code, err) == (0, "")
    assert {"1 bone", "ignored"} <= set(words(out))
    assert not {"class 2", "2 ignore"} & set(words(out))


# --- Stores


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A function that gives a store of three cases of the sample."""
    top = tmp_path_factory.mktemp("stores")
    dataset = top / "data"
    for folder in ("labelsTr", "imagesTr"):
        (dataset / folder).mkdir(parents=True)
        for file in sorted((sample_dir("hippocampus") / folder).iterdir())[:3]:
            shutil.copy(file, dataset / folder)
    shutil.copy(sample_dir("hippocampus") / "dataset.json", dataset)

    @cache
    def made(text="boundary", kind="nifti"):
        out = top / f"{kind} {text}"
        assert not precompute(dataset, out, text, format=kind, jobs=0).failed
        return out

    return made


@pytest.mark.parametrize("kind", ["nifti", "zarr"])
def test_draws_a_case_of_a_store(rwloss_command, stores, tmp_path, kind):
    """The same picture as of the labels, within what 16 bits can tell, but for the title."""
    out, made_here = tmp_path / "a.svg", tmp_path / "b.svg"
    store = stores("boundary", kind)
    code, printed, err = rwloss_command("show", store, "--case", "hippocampus_033", "-o", out)
    assert (code, err) == (0, "")
    assert printed == f"wrote {out}\n"
    assert rwloss_command("show", HIPPOCAMPUS, "--map", "boundary", "-o", made_here)[0] == 0
    drawn, wanted = words(out), words(made_here)
    assert set(drawn) - set(wanted) == {"hippocampus_033, as stored"}
    assert set(wanted) - set(drawn) == {"hippocampus_033"}
    assert {"image", "boundary", "mm", "1 anterior"} <= set(drawn)


def test_the_first_case_of_a_store_if_none_is_named(rwloss_command, stores, tmp_path):
    out = tmp_path / "a.svg"
    code, _, err = rwloss_command("show", stores(), "-o", out, "--axis", 0, "--slice", 9)
    assert code == 0
    assert err == "drawing the first of 3 cases; --case chooses another\n"
    assert "hippocampus_003, as stored" in words(out)
    assert "Slice 9 of 0..33 along axis 0." in " ".join(words(out))


def test_an_expression_and_a_compact_map_of_a_store(rwloss_command, stores, tmp_path):
    out = tmp_path / "a.svg"
    for text, unit in (("rectified", "unitless"), ("rectified + 0.01 * boundary", "")):
        show = "show", stores(text), "--case", "hippocampus_003", "-o", out
        assert rwloss_command(*show)[::2] == (0, "")
        assert text in words(out)
        assert not unit or unit in words(out)


def test_a_store_without_its_data_set_is_drawn_without_image(rwloss_command, stores, tmp_path):
    store = shutil.copytree(stores(), tmp_path / "maps")
    (store / "log.jsonl").unlink()
    out = tmp_path / "a.svg"
    show = "show", store, "--case", "hippocampus_033", "-o", out
    assert rwloss_command(*show)[::2] == (0, "")
    assert "image" not in words(out)
    assert {"labels", "1 anterior", "mm or", "voxels"} <= set(words(out))  # not known any more
    image = sample_dir("hippocampus") / "imagesTr" / "hippocampus_033_0000.nii.gz"
    assert rwloss_command(*show, "--image", image)[::2] == (0, "")
    assert "image" in words(out)


def test_a_store_whose_labels_are_gone_or_torn(rwloss_command, stores, tmp_path):
    source = tmp_path / "labels"
    source.mkdir()
    shutil.copy(HIPPOCAMPUS, source)
    assert not precompute(source, tmp_path / "maps", "rectified", jobs=0).failed
    (source / HIPPOCAMPUS.name).write_bytes(b"torn")
    show = "show", tmp_path / "maps", "--case", "hippocampus_033", "-o", tmp_path / "a.svg"
    assert rwloss_command(*show)[::2] == (0, "")
    assert {"class 0", "class 1", "class 2"} <= set(words(tmp_path / "a.svg"))


def test_showing_a_store_runs_no_file_that_it_names(rwloss_command, stores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('it was run')")
    store = shutil.copytree(stores(), tmp_path / "maps")
    fields = json.loads((store / "map.json").read_text())
    for text in (ATTACKS[0], ATTACKS[3], "a_plug_in_that_is_not_here"):
        (store / "map.json").write_text(json.dumps(fields | {"expression": text}))
        show = "show", store, "--case", "hippocampus_033", "-o", tmp_path / "a.svg"
        assert rwloss_command(*show)[::2] == (0, "")
        assert text in words(tmp_path / "a.svg")


def test_stores_that_can_not_be_drawn(assert_refused, stores, labels_file, tmp_path):
    store, out = stores(), ("-o", "a.svg")
    nearest = "has no case 'hippocampus_34': did you mean 'hippocampus_0"
    assert_refused(nearest, "show", store, "--case", "hippocampus_34", *out)
    settled = "leave out --map, --num-classes, --spacing and --ignore-label"
    for options in ("--map rectified", "--num-classes 3", "--spacing 1,1,1", "--ignore-label 2"):
        assert_refused(settled, "show", store, *options.split(), *out)
    case = "show", labels_file, "--map", "rectified", "--case", "a"
    assert_refused("has no map.json", *case, *out)
    assert_refused("is not a store of maps", "show", f"memory://none-{tmp_path.name}", *out)
    empty = shutil.copytree(store, tmp_path / "maps")
    (empty / "manifest.jsonl").write_bytes(b"")
    assert_refused("holds no map yet", "show", empty, *out)


# --- Wrong use


def test_wrong_use(assert_refused, labels_file, tmp_path):
    show = "show", labels_file, "-o", "a.png"
    np.save(tmp_path / "wide.npy", np.zeros((20, 31)))
    for options, message in [
        (["--map", "rectifed"], "did you mean 'rectified'"),
        (["--map", "boundary(normalise='max')"], "did you mean 'normalize'"),
        (["--map", "rectified", "--spacing", "1;1"], "--spacing"),
        (["--map", "rectified", "--spacing", "1,1,1"], "expected 2 lengths"),
        (["--map", "rectified", "--num-classes", "2"], "label 2 found"),
        (["--map", "rectified", "--num-classes", "100000000"], "at most 65536 classes"),
        (["--map", "rectified", "--image", "none.png"], "no such file"),
        (["--map", "rectified", "--image", "wide.npy"], "the image has shape (20, 31), its labels"),
        (["--map", "rectified", "--slice", "900"], "no slices"),
        (["--map", "rectified", "--axis", "0"], "no slices"),
        ([], "--map"),
        *(
            (["--map", "rectified", "-o", out], "rwloss: ")
            for out in ("none/a.png", "a.jpg", ".", "case.npy/a.png")
        ),
    ]:
        assert_refused(message, *show, *options)
    assert_refused(
        "expected a slice of 0..",
        "show",
        HIPPOCAMPUS,
        *show[2:],
        "--map",
        "rectified",
        "--slice",
        99,
    )
    (tmp_path / "broken.nii.gz").write_bytes(HIPPOCAMPUS.read_bytes()[:500])
    for case in ("none.npy", ".", "*.npy", "broken.nii.gz"):
        assert_refused("rwloss: ", "show", case, "--map", "rectified", "-o", "a.png")
