"""Classes of dataset.json, files that it lists, and files that are no dataset.json."""

import os

import pytest
from data_folders import LABELS, explicit, nnunet, touch

from rwloss.data import count_classes, find
from rwloss.errors import RWLossError


@pytest.mark.parametrize(
    ("labels", "names", "ignored"),
    [
        (LABELS | {"ignore": 3}, ("background", "liver", "tumour"), 3),
        ({"background": 0, "ignore": 255, "liver": 1}, ("background", "liver"), 255),
        ({"background": 0, "liver": 2}, ("background", "label 1", "liver"), None),
        ({"background": 0, "whole": [1, 2], "core": [2]}, ("background", "label 1", "core"), None),
        ({"0": 0, "1": 1}, ("0", "1"), None),
        ({"0": "background", "1": "liver", "2": "ignore"}, ("background", "liver"), 2),
    ],
)
def test_classes(tmp_path, labels, names, ignored):
    dataset = find(nnunet(tmp_path, labels=labels))
    assert dataset.class_names == names
    assert dataset.num_classes == len(names)
    assert dataset.ignore_label == ignored
    assert count_classes(dataset) == len(names)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"0": "1", "1": "0"}, "may be number to name or name to number"),
        ({"background": "0", "liver": "1"}, "expected labels as {name: number}"),
        ({"0": "liver", "1": "liver"}, "expected labels as {name: number}"),
        ({"background": 0, "liver": "1"}, "expected a number as label of 'liver', got '1'"),
        ({"background": 0, "liver": -1}, "labels of 0 or more for 'liver', got -1"),
        ({"background": 0, "liver": []}, "labels of 0 or more for 'liver'"),
        ({"background": 0, "liver": True}, "labels.liver: .*'True'"),
        ({"background": 0, "liver": 1.5}, "labels.liver: .*'1.5'"),
        ({"background": 0, "liver": 1, "ignore": 1}, '"ignore" is 1, which is also the label of a'),
        ({"background": 0, "ignore": [1, 2]}, 'one number for "ignore"'),
        ({"ignore": 1}, "names no class"),
        ({"background": 0, "liver": 0}, "label 0 has two names: 'background', 'liver'"),
        ({"0": "background", "00": "liver"}, "label 0 has two names"),
        ({"background": 0, "label 1": 2}, r"labels \[1, 2\] are both named 'label 1'"),
        ({"background": 0, "liver": 65536}, "expected labels below 65536, got 65536"),
        ({"background": 0, "liver": 10**30}, "expected labels below 65536"),
        ({"0": "background", "1" * 9: "liver"}, "expected labels below 65536, got 111111111"),
        ({"0": "background", "1" * 4000: "liver"}, "expected labels as {name: number}"),
        ({"background": 0, "ignore": [0, 1]}, 'one number for "ignore"'),
        ({}, "labels: "),
        ([0, 1], "labels: "),
    ],
)
def test_classes_that_cannot_be(tmp_path, labels, words):
    with pytest.raises(RWLossError, match=words) as caught:
        find(nnunet(tmp_path, labels=labels))
    assert "dataset.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", 'has no "labels"'),
        (b'{"name": "x"}', 'has no "labels"'),
        (b'{"labels": {"a": 0}, "file_ending": 3}', "file_ending"),
        (
            b'{"labels": {"a": 0}, "file_ending": ".jpg"}',
            "file_ending '.jpg': expected one of .nii",
        ),
        (b'{"labels": {"a": 0}, "dataset": {"a": {}}}', "dataset.a"),
        (b'{"labels": {"a": 0}, "dataset": {}}', "names no case"),
        (b'{"labels": {"a": 0, "b": 1' + b"0" * 5000 + b"}}", "not valid JSON"),
        (b'{"labels": {"a": 0, "b": NaN}}', "labels.b"),
        (b'{"labels": {"a": 0, "b": Infinity}}', "labels.b"),
        (b'{"labels": {"a": 0}, "a": ' + b'{"a":' * 100_000, "not valid JSON"),
    ],
)
def test_bad_dataset_json(tmp_path, text, words):
    nnunet(tmp_path)
    (tmp_path / "dataset.json").write_bytes(text)
    with pytest.raises(RWLossError, match=words) as caught:
        find(tmp_path)
    assert "dataset.json" in str(caught.value)


def test_keys_that_occur_twice(tmp_path):
    nnunet(tmp_path)
    for text in (
        '{"labels": {"a": 0, "b": 1, "a": 2}}',
        '{"labels": {"a": 0}, "labels": {"b": 0}}',
    ):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(RWLossError, match=r"dataset\.json.*the key '(a|labels)' occurs twice"):
            find(tmp_path)


def test_byte_order_mark_and_a_folder_that_is_a_link(tmp_path):
    file = nnunet(tmp_path / "set") / "dataset.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    (tmp_path / "link").symlink_to(tmp_path / "set")
    dataset = find(tmp_path / "link")
    assert (dataset.num_classes, len(dataset.cases)) == (3, 2)
    assert count_classes(dataset, 4) == 4


# Paths that dataset.json writes


def test_explicit_files(tmp_path):
    touch(tmp_path / "set/x/seg.nii.gz", tmp_path / "set/x/t1.nii.gz")
    dataset = find(explicit(tmp_path / "set", "x/seg.nii.gz", "./x/../x/t1.nii.gz"))
    (case,) = dataset.cases
    assert case.name == "a"
    assert case.labels == tmp_path / "set/x/seg.nii.gz"
    assert case.images[0].samefile(tmp_path / "set/x/t1.nii.gz")


@pytest.mark.parametrize("where", ["label", "image"])
def test_explicit_files_stay_inside(tmp_path, where):
    secret = tmp_path / "elsewhere/secret.nii.gz"
    bad = [str(secret), "../elsewhere/secret.nii.gz", "link.nii.gz", "folder/secret.nii.gz"]
    for number, name in enumerate([*bad, "a\0.nii.gz", "\ud800.nii.gz"]):
        root = tmp_path / f"set{number}"
        touch(secret, root / "ok.nii.gz")
        (root / "link.nii.gz").symlink_to(secret)
        (root / "folder").symlink_to(secret.parent)
        paths = (name, "ok.nii.gz") if where == "label" else ("ok.nii.gz", name)
        with pytest.raises(RWLossError, match="outside its folder"):
            find(explicit(root, *paths))


@pytest.mark.parametrize(
    "written", ["x.nii.gz", "loop.nii.gz", "to_loop.nii.gz", "loops/a.nii.gz", "pipe.npy"]
)
def test_explicit_file_that_is_none(tmp_path, written):
    (tmp_path / "loop.nii.gz").symlink_to("loop.nii.gz")
    (tmp_path / "to_loop.nii.gz").symlink_to("loop.nii.gz")
    (tmp_path / "loops").symlink_to("loops")
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(RWLossError, match=rf"names '{written}', and .* has no such file"):
        find(explicit(tmp_path, written))


def test_case_names_are_no_paths(tmp_path):
    for number, name in enumerate(["../a", "a/b", "..", ".", "", "a\\b", "/a", "a\0", "\udfff"]):
        touch(tmp_path / f"{number}/seg.nii.gz")
        with pytest.raises(RWLossError, match="expected a plain file name"):
            find(explicit(tmp_path / str(number), "seg.nii.gz", name=name))
