import json
import re

import numpy as np
import pytest
from PIL import Image
from written_files import png_bytes

from rwloss import RWLossError
from rwloss.data import find, read_channels, sample_dir
from rwloss.data.cases import find_images
from rwloss.training.volumes import read_volume


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def found(source, num_channels, **options):
    cases = find_images(source, num_channels, **options)
    assert not any(case.problem for case in cases)
    return {case.name: [image.name for image in case.images] for case in cases}


def test_channels_of_a_case(tmp_path):
    touch(tmp_path, "b_0001.nii.gz", "b_0000.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz")
    touch(tmp_path, ".hidden_0000.nii.gz", "notes.txt")
    assert found(tmp_path, 2) == {
        "a": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b": ["b_0000.nii.gz", "b_0001.nii.gz"],
    }


def test_names_without_a_channel(tmp_path):
    assert found(touch(tmp_path, "b.png", "a.nii.gz"), 1) == {"a": ["a.nii.gz"], "b": ["b.png"]}


def test_numbers_are_channels_only_from_0000(tmp_path):
    touch(tmp_path, "scan_0001.png", "scan_0002.png", "other_0000.png")
    assert found(tmp_path, 1) == {
        "other": ["other_0000.png"],
        "scan_0001": ["scan_0001.png"],
        "scan_0002": ["scan_0002.png"],
    }


@pytest.mark.parametrize(
    ("names", "num_channels", "problem"),
    [
        (["a_0000.png", "a_0001.png"], 1, "expected 1 images, one per channel, found 2"),
        (["a_0000.npy"], 2, "expected 2 images, one per channel, found 1: a_0000.npy"),
        (["a_0001.npy", "a_0002.npy"], 2, r"expected the channels 0 to 1, found files of \[1, 2\]"),
        (["a_0000.png", "a_0000.tif"], 1, r"files of \[0, 0\]"),
        (["a_0000.png", "a.png"], 1, r"files of \[0, 0\]"),
    ],
)
def test_a_case_of_other_channels_has_a_problem(tmp_path, names, num_channels, problem):
    touch(tmp_path, *names)
    [case] = find_images(tmp_path, num_channels)
    assert case.name == "a"
    assert re.search(problem, case.problem)


def test_nnunet_raw_folder(tmp_path):
    content = {"labels": {"background": 0, "a": 1}, "file_ending": ".png"}
    touch(tmp_path / "imagesTr", "a_0000.png", "a_0000.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert found(tmp_path, 1) == {"a": ["a_0000.png"]}
    touch(tmp_path / "imagesTs", "b_0000.png")
    assert found(tmp_path, 1) == {"b": ["b_0000.png"]}
    assert found(tmp_path, 1, part="train") == {"a": ["a_0000.png"]}


def test_explicit_list_of_files(tmp_path):
    touch(tmp_path, "one.png", "mask.png")
    content = {
        "labels": {"background": 0, "a": 1},
        "file_ending": ".png",
        "dataset": {"case": {"images": ["one.png"], "label": "mask.png"}},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert found(tmp_path, 1) == {"case": ["one.png"]}


def test_one_file(tmp_path):
    touch(tmp_path, "a_0000.png", "b.png")
    assert found(tmp_path / "a_0000.png", 1) == {"a": ["a_0000.png"]}
    assert found(tmp_path / "b.png", 1) == {"b": ["b.png"]}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_picture_in_colour_holds_the_channels(tmp_path, suffix):
    """Three channel names and one RGB file per case, as nnU-Net takes natural images."""
    content = {"labels": {"background": 0, "a": 1}, "file_ending": suffix}
    content["channel_names"] = {"0": "R", "1": "G", "2": "B"}
    colours = np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8)
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        Image.fromarray(colours).save(tmp_path / f"imagesTr/{name}_0000{suffix}")
        Image.fromarray(colours[..., 0] // 128).save(tmp_path / f"labelsTr/{name}{suffix}")
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    dataset = find(tmp_path)
    assert dataset.num_channels == 3
    for case in (*dataset.cases, *find_images(tmp_path, 3)):
        channels = [channel.values for channel in read_channels(case.images, 3)]
        np.testing.assert_array_equal(np.stack(channels, -1), colours)
        assert not case.problem
    assert read_volume(dataset.cases[0], num_channels=3).image.shape == (3, 8, 9)
    grey = tmp_path / f"labelsTr/a{suffix}"
    with pytest.raises(RWLossError, match=r"expected 3 channels, found 4 in a_0000.*, a\."):
        read_channels([dataset.cases[0].images[0], grey], 3)
    with pytest.raises(RWLossError, match="expected 3 channels, found 1 in a"):
        read_channels([grey], 3)
    Image.new("RGB", (4, 4)).save(tmp_path / f"small{suffix}")
    with pytest.raises(RWLossError, match=r"has shape \(4, 4\).*\(8, 9\): channels must lie"):
        read_channels([grey, tmp_path / f"small{suffix}"])


def test_colours_that_would_lose_their_values(tmp_path):
    """Pillow takes colours of 16 bits to 8."""
    (tmp_path / "deep.png").write_bytes(png_bytes(np.full((3, 4), 2**40), 48, colours=3))
    with pytest.raises(RWLossError, match="mode RGB with 16 bits per channel"):
        read_channels([tmp_path / "deep.png"])
    page = Image.new("RGB", (4, 3))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    with pytest.raises(RWLossError, match="one color picture, got several pages"):
        read_channels([tmp_path / "pages.tif"])


def test_images_without_a_label_file_are_listed(tmp_path):
    content = {"labels": {"background": 0, "a": 1}, "file_ending": ".png"}
    touch(tmp_path / "imagesTr", "a_0000.png", "b_0000.png", "b_0001.png", "c.png")
    touch(tmp_path / "labelsTr", "a.png")
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    dataset = find(tmp_path)
    assert dataset.unlabelled == ("b", "c")
    assert dataset.doubts == "left out, because they have no label file: 2 images, 'b', 'c'"
    for name in ("b", "c"):
        touch(tmp_path / "labelsTr", f"{name}.png")
    assert find(tmp_path).doubts == ""


def test_labels_that_dataset_json_does_not_name_are_listed(tmp_path):
    touch(tmp_path / "labelsTr", "a.png")
    for labels, unnamed in (
        ({"background": 0, "a": 1, "b": 2, "c": 4}, (3,)),
        ({"background": 0, "a": 1, "c": 3, "ignore": 2}, ()),
        ({"background": 0, "all": [1, 2, 4], "core": 4}, (3,)),
        ({"a": 1, "b": 2}, ()),
    ):
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
        dataset = find(tmp_path)
        assert dataset.unnamed == unnamed, labels
        assert ("names no label 3: each counts as a class" in dataset.doubts) == bool(unnamed)


def test_a_folder_of_labels_has_the_classes_of_its_dataset(tmp_path):
    labels = {"background": 0, "a": 1, "b": 2, "both": [1, 2], "ignore": 3}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    for folder in ("labelsTr", "labelsTs", "others"):
        touch(tmp_path / folder, "a.png")
        found = find(tmp_path / folder)
        known = found.class_names, found.num_classes, found.ignore_label, found.regions
        wanted = (("background", "a", "b"), 3, 3, ("both",))
        assert known == (((), None, None, ()) if folder == "others" else wanted), folder
        assert found.cases[0].labels == tmp_path / folder / "a.png"


def test_sample():
    images = find_images(sample_dir("hippocampus"), 1, part="train")
    assert len(images) == 24
    assert images[0].name == "hippocampus_003"


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("none", {}, "there is no file or folder"),
        ("empty", {}, "no images in"),
        ("empty", {"part": "test"}, "part 'test' needs a dataset.json"),
        ("notes.txt", {}, "expected a file that ends with"),
    ],
)
def test_wrong_use(tmp_path, source, options, message):
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "notes.txt")
    with pytest.raises(RWLossError, match=message):
        find_images(tmp_path / source, 1, **options)
