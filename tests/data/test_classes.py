"""The number of classes of a dataset, and what labels that are not 0, 1, 2, ... likely are."""

import itertools

import numpy as np
import pytest
from data_folders import nnunet, save, touch

from rwloss import Regions
from rwloss.data import count_classes, find, one_class_left, read_labels
from rwloss.errors import RWLossError


def test_classes_are_counted_over_all_cases(tmp_path):
    """From the files, or from the labels where those are known: then no file is read."""
    with_ignored = (
        r"look like classes with an ignored label: pass ignore_label=255 .*number it as 2;"
    )
    expected_for = [
        ([[0, 0], [0, 2], [0, 1]], None, 3),
        ([[1, 2, 2]], None, 3),
        ([[0, 1, 255]], 255, 2),
        ([[0, 1, 2, -1]], -1, 3),
        ([range(200)], None, 200),
        ([[0, 2, -1]], None, r"holds the label -1: .*ignore_label=-1 \(--ignore-label -1\)"),
        ([[0, -1, -7]], None, "holds the label -7"),
        ([[0, 0]], None, r"two classes or more, got 1 .*\(--num-classes\)"),
        ([[0, 255], [0]], None, r"0, 255, .*a mask: store its foreground as 1.*num_classes=256"),
        ([[0, 1, 255]], None, with_ignored),
        ([[0, 1, 2, 65535]], None, r"are 0, 1, 2, 65535, .*ignore_label=65535"),
        ([[0, 1], [2, 4]], None, r"gap: number 4 as 3; .*pass num_classes=5 \(--num-classes 5\)"),
        ([[0, 1, 3, 4, 6]], None, "number 3 as 2, 4 as 3 and 6 as 4;"),
        ([range(201)], None, r"0, 1, 2, 3, ..., 200, .*gray values .*object numbers"),
        ([range(851)], None, "object numbers: store the class of each voxel"),
        ([[0, 63, 64, 127, 191, 255]], None, "gray values"),
        ([[0, 1, 70_000]], None, r"are 0, 1, 70000, .*gray values"),
    ]
    for number, (labels, ignore_label, expected) in enumerate(expected_for):
        for case, values in enumerate(labels):
            save(tmp_path / f"{number}/{case}.npy", [values], np.int32)
        dataset = find(tmp_path / str(number))
        for options in ({}, {"labels": [*itertools.chain(*labels)]}):
            if isinstance(expected, int):
                assert count_classes(dataset, ignore_label=ignore_label, **options) == expected
                continue
            with pytest.raises(RWLossError, match=expected):
                count_classes(dataset, ignore_label=ignore_label, **options)
            assert count_classes(dataset, 900, ignore_label=ignore_label, **options) == 900
            for path in dataset.root.iterdir():
                path.write_bytes(b"torn")
    with pytest.raises(RWLossError, match="expected at most 65536 classes, got 100000000"):
        count_classes(dataset, 100_000_000)


@pytest.mark.parametrize("in_json", [True, False])
def test_an_ignored_label_that_leaves_one_class(tmp_path, in_json):
    """255 of a mask is its foreground. With dataset.json too, which says how many classes."""
    mask = "no voxel of .* is foreground: if 255 .* store it as 1 and do not ignore it"
    cases_and_message = [
        ([[0, 255], [0, 0]], 255, mask),
        ([[255, 255]], 255, mask),
        ([[1, 255], [1, 1]], 255, "holds only label 1: a class can't be ignored if only one other"),
        ([[0, 1], [1, 1]], 0, "label 0 is ignored, .* holds only label 1"),
        ([[0, 255], [1, 255]], 255, ""),
        ([[0, 255], [0, 1]], 255, ""),
    ]
    for number, (labels, ignored, message) in enumerate(cases_and_message):
        root = tmp_path / str(number)
        if in_json:
            nnunet(root, (), file_ending=".npy")
        for case, values in enumerate(labels):
            save(root / f"labelsTr/{case}.npy", [values])
        dataset = find(root if in_json else root / "labelsTr")
        for known in (None, set().union(*labels)):
            assert bool(one_class_left(dataset, ignored, known)) == bool(message)
            if message:
                asks = rf"{message}.*; if that is meant, pass num_classes \(--num-classes\)"
                with pytest.raises(RWLossError, match=asks):
                    count_classes(dataset, ignore_label=ignored, labels=known)
                assert count_classes(dataset, 2, ignore_label=ignored, labels=known) == 2
            else:
                count_classes(dataset, ignore_label=ignored, labels=known)
        assert one_class_left(dataset, None) == one_class_left(dataset, 7) == ""


def test_an_unreadable_case_does_not_stop_the_count(tmp_path):
    save(tmp_path / "a.npy", [[0, 1, 2]])
    touch(tmp_path / "b.png")
    assert count_classes(find(tmp_path)) == 3
    assert count_classes(find(tmp_path), labels={1: 1, 0: 2}) == 2
    with pytest.raises(RWLossError, match="two classes or more, got 1"):
        count_classes(find(tmp_path), labels=[])
    (tmp_path / "a.npy").unlink()
    with pytest.raises(RWLossError, match=r"b\.png': it is empty"):
        count_classes(find(tmp_path))


def test_labels_that_dataset_json_does_not_know(tmp_path):
    """Nothing is read to find the cases; who uses one learns which label is wrong."""
    nnunet(tmp_path, (), file_ending=".npy")
    save(tmp_path / "labelsTr/a.npy", [[0, 1, 7]])
    dataset = find(tmp_path)
    volume = read_labels(dataset.cases[0].labels)
    with pytest.raises(RWLossError, match=r"label 7 found, but num_classes=3 allows 0\.\.2: pass"):
        Regions.single(volume.labels, count_classes(dataset))
