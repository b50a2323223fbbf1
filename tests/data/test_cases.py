import glob
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from data_folders import LABELS, explicit, nnunet, save, touch

from rwloss.data import Case, Dataset, count_classes, find, read_labels
from rwloss.errors import RWLossError
from rwloss.training.volumes import read_volume

# nnU-Net folders


def test_nnunet(tmp_path):
    dataset = find(nnunet(tmp_path, channels=2))
    assert dataset == Dataset(
        root=tmp_path,
        cases=tuple(
            Case(
                name,
                tmp_path / f"labelsTr/{name}.nii.gz",
                tuple(tmp_path / f"imagesTr/{name}_{i:04}.nii.gz" for i in (0, 1)),
            )
            for name in ("a", "b")
        ),
        num_classes=3,
        class_names=("background", "liver", "tumour"),
        ignore_label=None,
        num_channels=2,
    )
    assert find(str(tmp_path)) == dataset


def test_channels_are_ordered_by_number(tmp_path):
    nnunet(tmp_path, ("a",), channels=12)
    (case,) = find(tmp_path).cases
    assert [path.name[2:6] for path in case.images] == [f"{i:04}" for i in range(12)]
    for image in case.images:  # they may be missing altogether
        image.unlink()
    assert find(tmp_path).cases == (Case("a", case.labels),)


def test_a_missing_channel(tmp_path):
    """The labels can be used without it, and reading the images says what is missing."""
    for missing, words in {
        1: r"expected the channels 0 to 2, found files of \[0, 2\]",
        2: r"expected 3 images, one per channel, found 2: a_0000\.nii\.gz, a_0001\.nii\.gz",
    }.items():
        root = nnunet(tmp_path / str(missing), ("a",), channels=3)
        (root / f"imagesTr/a_000{missing}.nii.gz").unlink()
        (case,) = find(root).cases
        assert re.search(words, case.problem)
        with pytest.raises(RWLossError, match=rf"case 'a': {words}"):
            read_volume(case)


def test_names_that_look_like_channels(tmp_path):
    nnunet(tmp_path, ("la_0003", "la_0007"))
    assert [len(case.images) for case in find(tmp_path).cases] == [1, 1]


def test_decathlon(tmp_path):
    labels = {"0": "background", "1": "liver", "2": "tumour"}
    nnunet(tmp_path, (), labels=labels, file_ending=None, channel_names=None)
    for name in ("la_003", "la_0007"):
        touch(tmp_path / f"labelsTr/{name}.nii.gz", tmp_path / f"imagesTr/{name}.nii.gz")
        touch(tmp_path / f"labelsTr/._{name}.nii.gz", tmp_path / f"imagesTr/._{name}.nii.gz")
    dataset = find(tmp_path)
    assert dataset.class_names == tuple(LABELS)
    assert [case.images[0].name for case in dataset.cases] == ["la_0007.nii.gz", "la_003.nii.gz"]


def test_file_ending_decides(tmp_path):
    nnunet(tmp_path, ("a",))
    touch(tmp_path / "labelsTr/a.png", tmp_path / "labelsTr/other.npy")
    assert [case.name for case in find(tmp_path).cases] == ["a"]
    (tmp_path / "labelsTr/a.nii.gz").unlink()
    with pytest.raises(RWLossError, match=r"no label files in '.*labelsTr'.*with \.nii\.gz$"):
        find(tmp_path)


def test_predictions_with_dataset_json(tmp_path):
    nnunet(tmp_path, ())
    (tmp_path / "labelsTr").rmdir()
    touch(tmp_path / "a.nii.gz")
    assert find(tmp_path).cases == (Case("a", tmp_path / "a.nii.gz"),)


def test_part(tmp_path):
    nnunet(tmp_path, ("a",))
    touch(tmp_path / "labelsTs/z.nii.gz", tmp_path / "imagesTs/z_0000.nii.gz")
    dataset = find(tmp_path, part="test")
    assert dataset.num_classes == 3
    assert dataset.cases == (
        Case("z", tmp_path / "labelsTs/z.nii.gz", (tmp_path / "imagesTs/z_0000.nii.gz",)),
    )
    with pytest.raises(RWLossError, match=r"part 'test' needs a dataset\.json"):
        find(tmp_path / "labelsTs", part="test")
    with pytest.raises(RWLossError, match=r"cannot list '.*labelsTs'"):
        find(nnunet(tmp_path / "other"), part="test")
    with pytest.raises(RWLossError, match="expected part 'train' or 'test', got 'validation'"):
        find(tmp_path, part="validation")


def test_links_that_the_user_made(tmp_path):
    touch(tmp_path / "archive/a.nii.gz")
    nnunet(tmp_path / "set", ())
    (tmp_path / "set/labelsTr/a.nii.gz").symlink_to(tmp_path / "archive/a.nii.gz")
    # A broken one stays a case: reading it says so, instead of one case less in silence.
    (tmp_path / "set/labelsTr/b.nii.gz").symlink_to(tmp_path / "archive/gone.nii.gz")
    assert [case.name for case in find(tmp_path / "set").cases] == ["a", "b"]


# Links in circles, pipes, odd names


def test_label_files_in_a_circle_are_cases_whose_reading_names_them(tmp_path):
    nnunet(tmp_path, ("a",))
    for name, target in (("b", "b"), ("c", "d"), ("d", "c")):
        (tmp_path / f"labelsTr/{name}.nii.gz").symlink_to(f"{target}.nii.gz")
    (tmp_path / "labelsTr/up.nii.gz").symlink_to("..")
    cases = find(tmp_path).cases
    assert [case.name for case in cases] == ["a", "b", "c", "d"]
    with pytest.raises(RWLossError, match=r"c\.nii\.gz': it is a broken link"):
        read_labels(cases[2].labels)


@pytest.mark.parametrize("name", ["labelsTr", "imagesTr", "dataset.json"])
def test_parts_of_a_set_that_lead_nowhere(tmp_path, name):
    nnunet(tmp_path, ("a",)).joinpath(name).rename(tmp_path / "away")
    # As label files of the folder itself, they would be taken for the dataset.
    touch(tmp_path / "b.nii.gz")
    for target in (name, "gone"):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(RWLossError, match=rf"cannot (list|read) '.*{name}'"):
            find(tmp_path)
        (tmp_path / name).unlink()


def test_a_pattern_over_links_in_circles(tmp_path):
    touch(tmp_path / "x/a.png", tmp_path / "x/y/b.png", tmp_path / "x/.hidden/c.png")
    touch(tmp_path / "elsewhere/d.png", tmp_path / "elsewhere/y/e.png")
    for link, target in (("x/up", ".."), ("x/y/again", "../../x"), ("x/self", "self")):
        (tmp_path / link).symlink_to(target)
    (tmp_path / "x/link").symlink_to("../elsewhere")
    names = {"x/**/*.png": "abde", "x/**": "abde", "x/**/y/*.png": "be", "**/y/**/*.png": "be"}
    for pattern, expected in names.items():
        if pattern.startswith("**"):
            (tmp_path / "x/up").unlink()
            (tmp_path / "x/y/again").unlink()
        assert [case.name for case in find(f"{tmp_path}/{pattern}").cases] == list(expected)
    with pytest.raises(RWLossError, match="no label files"):
        find(f"{tmp_path}/x/**/*.tif")


def test_a_pattern_without_circles_finds_what_glob_finds(tmp_path):
    touch(*(tmp_path / f"{a}/{b}/{a}{b}{c}.png" for a in "xyz" for b in "xyz" for c in "xyz"))
    touch(*(tmp_path / f"{a}/{a}.png" for a in "xyz"), tmp_path / "[x]/new.png")
    for pattern in ("**/*.png", "x/**/*.png", "*/**/y*.png", "**/x/*", "x/**", "**/y/**/*.*"):
        plain = glob.glob(f"{tmp_path}/{pattern}", recursive=True)
        expected = {Path(name) for name in plain if name.endswith(".png")}
        assert {case.labels for case in find(f"{tmp_path}/{pattern}").cases} == expected


NAMES = [
    "two words",
    "it's",
    'say "a"',
    "line\nbreak",
    "tab\t",
    "海馬",
    "[1]*?",
    "-rf",
    "a_0000_0001",
]


def test_odd_names_with_their_images(tmp_path):
    nnunet(tmp_path, (), channels=2, file_ending=".npy")
    for name in NAMES:
        save(tmp_path / f"labelsTr/{name}.npy", [[0, 1]])
        for channel in range(2):
            save(tmp_path / f"imagesTr/{name}_{channel:04}.npy", [[channel, 5]])
    cases = find(tmp_path).cases
    assert [case.name for case in cases] == sorted(NAMES)
    for case in cases:
        assert read_labels(case.labels).labels.tolist() == [[0, 1]]
        assert [image.name for image in case.images] == [f"{case.name}_{i:04}.npy" for i in (0, 1)]
        assert find(case.labels).cases[0].name == case.name


# Folders, patterns, files


def test_folder_of_label_files(tmp_path):
    names = ["b.png", "a.nii.gz", "c.npy", "d.v2.TIF", "two words.mha", "海馬.nrrd", "é\n.npz"]
    touch(*(tmp_path / name for name in names))
    touch(tmp_path / "._b.png", tmp_path / ".hidden.png", tmp_path / "notes.txt")
    (tmp_path / "folder.png").mkdir()
    dataset = find(tmp_path)
    found = [case.name for case in dataset.cases]
    assert found == sorted(["b", "a", "c", "d.v2", "two words", "海馬", "é\n"])
    assert (dataset.root, dataset.num_classes, dataset.class_names) == (tmp_path, None, ())


def test_two_files_of_one_name(tmp_path):
    touch(tmp_path / "a.nii.gz", tmp_path / "a.png")
    with pytest.raises(RWLossError, match=r"one case name 'a'.*a\.nii\.gz' and .*a\.png'"):
        find(tmp_path)
    assert len(find(tmp_path / "*.png").cases) == 1


def test_glob(tmp_path):
    touch(
        tmp_path / "x/a.png", tmp_path / "x/y/b.png", tmp_path / "x/y/c.npy", tmp_path / "x/n.txt"
    )
    assert [case.name for case in find(tmp_path / "x/*").cases] == ["a"]
    dataset = find(f"{tmp_path}/x/**/*.png")
    assert [case.name for case in dataset.cases] == ["a", "b"]
    assert dataset.root == tmp_path / "x"
    assert [case.name for case in find(str(tmp_path / "x/y/[bc].*")).cases] == ["b", "c"]
    with pytest.raises(RWLossError, match=r"no label files in '.*\*\.tif'"):
        find(tmp_path / "x/*.tif")
    touch(tmp_path / "x/y/a.png")
    with pytest.raises(RWLossError, match="two files of one case name 'a'"):
        find(tmp_path / "x/**/*.png")


def test_a_name_with_brackets_is_a_name_first(tmp_path):
    touch(tmp_path / "data[v2]/x/c.png")
    for pattern in ("data[v2]/x/*.png", "data[v2]/**/*.png", "data[[]v2]/*/c.*", "*[[]v2]/x/c.png"):
        assert [case.name for case in find(tmp_path / pattern).cases] == ["c"], pattern
    assert find(tmp_path / "data[v2]/x/*").root == tmp_path / "data[v2]/x"
    with pytest.raises(RWLossError, match=r"\[...\] stands for one character: write \[\[\] for \["):
        find(tmp_path / "*[v2]/x/*.png")
    touch(tmp_path / "set [1]/a.png", tmp_path / "set [1]/b[0].png")
    assert [case.name for case in find(tmp_path / "set [1]").cases] == ["a", "b[0]"]
    assert [case.name for case in find(tmp_path / "set [1]/b[0].png").cases] == ["b[0]"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may list everything")
def test_folder_that_may_not_be_listed(tmp_path):
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(RWLossError, match="cannot list"):
        find(tmp_path / "locked")


# What cannot be found


def test_sources_that_cannot_be(tmp_path):
    for name, target in {"loop": "loop", "broken": "gone"}.items():
        (tmp_path / name).symlink_to(target)
    touch(tmp_path / "notes.txt", tmp_path / "empty/notes.txt", tmp_path / "bare/labelsTr/a.png")
    (tmp_path / "odd/dataset.json").mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/dataset.json")
    explicit(tmp_path / "long", "x" * 5000 + ".nii.gz")
    refused = {
        "x" * 5000: "cannot open .*File name too long",
        "a\0b": "there is no file or folder",
        "*\0": "no label files|there is no file",
        "\ud800": "there is no file or folder",
        "nowhere": "there is no file or folder '.*nowhere'",
        "loop": "loop' is a broken link",
        "broken": "broken' is a broken link",
        "notes.txt": "ends with one of",
        "empty": r"no label files in .*end with \.nii\.gz \.nii \.png",
        "bare": r"has labelsTr but no dataset\.json",
        "odd": r"odd/dataset\.json' is not a file",
        "pipe": r"pipe/dataset\.json' is not a file",
        "long": "File name too long",
    }
    for source, words in refused.items():
        with pytest.raises(RWLossError, match=words):
            find(f"{tmp_path}/{source}")


def test_one_file_and_a_relative_pattern(tmp_path, monkeypatch):
    touch(tmp_path / "a.png", tmp_path / "b.nii.gz", tmp_path / "notes.txt")
    assert find(tmp_path / "b.nii.gz").cases == (Case("b", tmp_path / "b.nii.gz"),)
    monkeypatch.chdir(tmp_path)
    assert find("*.png") == Dataset(Path(), (Case("a", Path("a.png")),))


# The room


def test_import_is_light():
    code = (
        "import sys, rwloss.data; "
        "print(*{'nibabel', 'PIL', 'SimpleITK', 'torch', 'monai'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("name", "cases", "classes"), [("hippocampus", 182, 3), ("lung_patches", 177, 2)]
)
def test_shared_sets(shared_data, name, cases, classes):
    dataset = find(shared_data(name))
    assert len(dataset.cases) == cases
    assert all(len(case.images) == 1 for case in dataset.cases)
    assert dataset.num_classes == classes
    assert count_classes(find(shared_data(name) / "labelsTr")) == classes


def test_shared_set_of_three_channels(shared_data):
    assert [len(case.images) for case in find(shared_data("ms_lesions")).cases] == [3, 3]
