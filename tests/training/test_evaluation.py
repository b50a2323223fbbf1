import csv
import errno
import json
import os
import re
import shutil
import tempfile

import nibabel
import numpy as np
import pytest
from raw_folders import make_raw

from rwloss import RWLossError, data
from rwloss.training import evaluation
from rwloss.training.evaluation import Evaluation, FailedPair, evaluate
from rwloss.training.scores import CaseScore, ClassScore, Scores, score

SAMPLE = data.sample_dir("hippocampus")


def save(folder, **cases):
    """Label maps as NumPy files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, labels in cases.items():
        np.save(folder / f"{name}.npy", np.asarray(labels, dtype=np.uint8))
    return folder


def save_nifti(path, labels, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(np.asarray(labels, np.uint8), affine).to_filename(path)


@pytest.fixture
def two(tmp_path):
    """Predictions and labels of three cases with two classes; class 2 only in one of them."""
    labels = {name: np.zeros((6, 7), int) for name in "abc"}
    for each in labels.values():
        each[1:4, 1:4] = 1
    labels["b"][5, 5:] = 2
    predictions = {name: np.roll(each, 1, axis=1) for name, each in labels.items()}
    predictions["c"][:] = 0
    return save(tmp_path / "pred", **predictions), save(tmp_path / "truth", **labels)


def test_scores_are_those_of_each_pair(two):
    result = evaluate(*two, spacing_mm=(1.0, 2.5), jobs=0)
    assert [case.name for case in result.scores.cases] == ["a", "b", "c"]
    for case in result.scores.cases:
        found, truth = (data.read_labels(folder / f"{case.name}.npy").labels for folder in two)
        assert case == score(found, truth, 3, (1.0, 2.5), name=case.name)
    first, second = result.scores.summary()
    assert (first.both, first.missed, first.hd95_mm.n) == (2, 1, 2)
    assert (second.both, second.empty, second.cases) == (1, 2, 3)
    assert result.is_complete
    assert result.num_cases == 3


@pytest.mark.slow  # two processes that load MONAI
def test_processes_change_nothing(two):
    assert evaluate(*two, jobs=0) == evaluate(*two, jobs=2)


def test_wrong_use(two):
    with pytest.raises(RWLossError, match="expected max_voxels of 1 or more, got 0"):
        evaluate(*two, max_voxels=0, jobs=0)
    for num_classes in (0, 1):
        with pytest.raises(RWLossError, match="expected two classes or more"):
            evaluate(*two, num_classes=num_classes, jobs=0)
    for file in list(two[0].iterdir()):
        file.rename(file.with_stem(f"{file.stem}_pred"))
    with pytest.raises(
        RWLossError, match=r"has 'a', 'b', 'c', .* has 'a_pred', 'b_pred', 'c_pred'"
    ):
        evaluate(*two, jobs=0)


def test_the_parts_of_an_nnunet_folder(tmp_path):
    raw = make_raw(tmp_path / "raw", ["a", "b"], tests=["x"])
    assert len(evaluate(raw / "labelsTr", raw, part="train", jobs=0).scores.cases) == 2
    with pytest.raises(RWLossError, match="no case is in both"):
        evaluate(raw / "labelsTr", raw, jobs=0)  # labelsTs, because it is there
    shutil.rmtree(raw / "labelsTs")
    assert len(evaluate(raw / "labelsTr", raw, jobs=0).scores.cases) == 2


def test_some_cases_of_both_parts_of_an_nnunet_folder(tmp_path):
    [first, *_], [last, *_] = (
        sorted(data.case_name(path) for path in (SAMPLE / part).iterdir())
        for part in ("labelsTr", "labelsTs")
    )
    predictions = tmp_path / "pred"
    predictions.mkdir()
    for part, name in (("labelsTr", first), ("labelsTs", last)):
        shutil.copy(SAMPLE / part / f"{name}.nii.gz", predictions)
    whole = evaluate(predictions, SAMPLE, jobs=0)  # labelsTs
    assert (len(whole.unpredicted), whole.unlabelled) == (7, (first,))
    some = evaluate(predictions, SAMPLE, cases=[last, first], jobs=0)
    assert [case.name for case in some.scores.cases] == [first, last]
    assert some.is_complete
    assert some.unlabelled == ()
    # A case that is asked for and was not predicted is no silence.
    (predictions / f"{last}.nii.gz").unlink()
    lacking = evaluate(predictions, SAMPLE, cases=[last, first], jobs=0)
    assert (lacking.unpredicted, lacking.is_complete) == ((last,), False)
    with pytest.raises(RWLossError, match="has no labels of 'x': give the labels of all cases"):
        evaluate(predictions, SAMPLE, cases=[first, "x"], jobs=0)


def test_number_of_classes_is_that_of_both_folders_together(tmp_path):
    """Never of one case: class 3 is in the prediction of one case only."""
    truth = save(tmp_path / "truth", a=[[0, 1, 1]], b=[[0, 0, 2]])
    predictions = save(tmp_path / "pred", a=[[0, 1, 1]], b=[[0, 3, 2]])
    told = []
    result = evaluate(predictions, truth, jobs=0, counting=told.append)
    assert result.scores.class_names == ("background", "class 1", "class 2", "class 3")
    assert all(len(case.classes) == 3 for case in result.scores.cases)
    assert [each.false_alarms for each in result.scores.summary()] == [0, 0, 1]
    assert told == [4] * 4
    assert len(evaluate(predictions, truth, num_classes=6, jobs=0).scores.summary()) == 5


def test_a_prediction_with_what_is_no_class_fails_alone(tmp_path):
    truth = save(tmp_path / "truth", a=[[0, 1, 1]], b=[[0, 0, 2]], c=[[0, 1, 2]])
    predictions = save(tmp_path / "pred", a=[[0, 1, 1]], c=[[0, 3, 2]])
    for label in (-1, 255, 65535, 70_000):
        np.save(predictions / "b.npy", np.array([[0, label, 2]]))
        result = evaluate(predictions, truth, jobs=0)
        assert [case.name for case in result.scores.cases] == ["a", "c"]
        assert len(result.scores.class_names) == 4
        [failure] = result.failed
        assert failure.name == "b"
        assert re.match(f"the prediction has the (label|class) {label}", failure.reason)


def test_what_is_no_class_in_the_truth_is_wrong_use_and_its_folder_is_named(tmp_path):
    truth, predictions = (save(tmp_path / name, a=[[0, 1]], b=[[0, 1]]) for name in ("t", "p"))
    np.save(truth / "a.npy", np.array([[1, -1]]))
    words = re.escape(f"{str(truth)!r} holds the label -1: ")
    with pytest.raises(RWLossError, match=words):
        evaluate(predictions, truth, jobs=0)
    save(truth, a=[[0, 255]])  # a mask
    with pytest.raises(RWLossError, match=r"pass ignore_label=255 .*number it as 2"):
        evaluate(truth, truth, jobs=0)


def test_classes_of_a_prediction_alone(tmp_path):
    """They count where they follow those of the labels; another label fails its own pair."""
    truth = save(tmp_path / "truth", a=[range(3)], b=[range(3)])
    predictions = save(tmp_path / "pred", a=[[3, 0, 1]], b=[[0, 1, 255]])
    result = evaluate(predictions, truth, jobs=0)
    assert len(result.scores.class_names) == 4
    [failed] = result.failed
    assert failed.name == "b"
    assert "has the class 255, and there are 4 classes" in failed.reason


def test_no_file_that_can_be_read(two):
    """Each pair says why, as where the number of classes is known."""
    for file in (file for folder in two for file in folder.iterdir()):
        file.write_bytes(b"")
    for known in ({}, {"num_classes": 2}):
        result = evaluate(*two, jobs=0, **known)
        assert [failure.name for failure in result.failed] == ["a", "b", "c"]
        assert all("0 bytes" in failure.reason for failure in result.failed)


def test_two_folders_of_empty_masks(tmp_path):
    empty = [save(tmp_path / name, a=np.zeros((3, 3)), b=np.zeros((3, 3))) for name in "pt"]
    [mask] = evaluate(*empty, jobs=0).scores.summary()
    assert (mask.empty, mask.dice.n, mask.dice.mean) == (2, 0, None)


def test_classes_of_dataset_json_in_the_folder_of_predictions(tmp_path):
    truth, predictions = (save(tmp_path / name, a=[[0, 1]]) for name in ("truth", "pred"))
    content = {"labels": {"background": 0, "left": 1, "right": 2}, "file_ending": ".npy"}
    (predictions / "dataset.json").write_text(json.dumps(content))
    result = evaluate(predictions, truth, jobs=0)
    assert result.scores.class_names == ("background", "left", "right")
    assert result.regions == ()
    content["labels"]["both"] = [1, 2]
    (predictions / "dataset.json").write_text(json.dumps(content))
    assert evaluate(predictions, truth, jobs=0).regions == ("both",)


def test_cases_without_partner_are_named(two):
    """Predictions without labels alone are no failure."""
    predictions, truth = two
    (predictions / "a.npy").rename(predictions / "other.npy")
    result = evaluate(predictions, truth, jobs=0)
    assert (result.unpredicted, result.unlabelled) == (("a",), ("other",))
    assert [case.name for case in result.scores.cases] == ["b", "c"]
    assert (result.is_complete, result.num_cases) == (False, 3)
    (truth / "a.npy").unlink()
    result = evaluate(predictions, truth, jobs=0)
    assert (result.unlabelled, result.is_complete) == (("other",), True)


def test_one_bad_pair_does_not_stop_the_others(two):
    predictions, truth = two
    save(predictions, a=np.zeros((6, 6)), b=np.full((6, 7), 9))
    told = []
    result = evaluate(
        *two, num_classes=3, jobs=0, progress=lambda one, total: told.append((one.name, total))
    )
    assert told == [("a", 3), ("b", 3), ("c", 3)]
    assert [case.name for case in result.scores.cases] == ["c"]
    shape, label = result.failed
    assert shape == FailedPair(
        "a",
        "the prediction has the shape (6, 6), its labels (6, 7): both must lie on the same voxels",
    )
    assert label.name == "b"
    assert "the prediction has the class 9, and there are 3 classes" in label.reason
    (predictions / "b.npy").write_bytes(b"")
    [_, damaged] = evaluate(predictions, truth, jobs=0).failed
    assert "b.npy" in damaged.reason
    assert "0 bytes" in damaged.reason


def turned(degrees):
    angle = np.radians(degrees)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, 3] = [-120.1, 33.3, 900.7]
    return affine


def test_geometry_of_a_pair(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, (20, 21, 9))
    affine, shift = turned(3), np.zeros((4, 4))
    shift[0, 3] = 0.5
    save_nifti(tmp_path / "truth" / "a.nii.gz", labels, affine)
    for other, message in (
        (affine @ np.diag([1, 1, 1.01, 1]), "the prediction has the spacing"),
        (turned(5), "corners up to .* mm apart"),
        (affine @ np.diag([-1, 1, 1, 1]), "corners up to"),
        (affine + shift, "corners up to 0.5 mm"),
        (affine + 1e-6, None),
        (np.round(affine, 4), None),
    ):
        save_nifti(tmp_path / "pred" / "a.nii.gz", labels, other)
        result = evaluate(tmp_path / "pred", tmp_path / "truth", jobs=0)
        assert result.is_complete == (message is None), message
        for failure in result.failed:
            assert failure.name == "a"
            assert re.search(message, failure.reason)


def test_the_thickness_of_a_single_slice_says_nothing(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, (20, 21, 1))
    save_nifti(tmp_path / "truth" / "a.nii.gz", labels, np.diag([1.5, 1.5, 1e-3, 1]))
    save_nifti(tmp_path / "pred" / "a.nii.gz", labels, np.diag([1.5, 1.5 + 1e-4, 5.0, 1]))
    assert evaluate(tmp_path / "pred", tmp_path / "truth", jobs=0).is_complete


def test_spacing_of_the_labels_or_else_of_the_prediction(tmp_path):
    """Formats that carry a spacing beside those that carry none."""
    labels = np.zeros((6, 7, 5), int)
    labels[2:4, 2:4, 2:4] = 1
    moved = np.roll(labels, 1, axis=2)
    for first, second in (("truth", "pred"), ("pred", "truth")):
        root = tmp_path / first
        save_nifti(root / first / "a.nii.gz", labels, np.diag([1, 1, 2.5, 1]))
        save(root / second, a=moved)
        [one] = evaluate(root / "pred", root / "truth", jobs=0).scores.cases
        assert one.spacing_mm == (1.0, 1.0, 2.5)
        assert one.classes[0].hd95_mm == 2.5


def test_without_a_spacing_distances_are_in_voxels(two):
    assert evaluate(*two, jobs=0).in_voxels == ("a", "b", "c")
    assert evaluate(*two, spacing_mm=(2, 2), jobs=0).in_voxels == ()


def test_ignored_voxels(tmp_path):
    truth = save(tmp_path / "truth", a=[[0, 1, 9, 9, 9]])
    predictions = save(tmp_path / "pred", a=[[0, 1, 1, 2, 9]])
    result = evaluate(predictions, truth, ignore_label=9, jobs=0)
    [first, second] = result.scores.summary()
    assert (first.dice.mean, second.empty) == (1.0, 1)
    assert result.ignore_label == 9
    content = {"labels": {"background": 0, "a": 1, "b": 2, "ignore": 9}, "file_ending": ".npy"}
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(content))
    shutil.copytree(truth, tmp_path / "raw" / "labelsTr")
    assert evaluate(predictions, tmp_path / "raw", jobs=0).scores.cases == result.scores.cases


def test_negative_labels_are_no_class_unless_ignored(tmp_path):
    negative, plain = np.array([[0, 1, -1]]), np.array([[0, 1, 1]])
    truth, predictions = save(tmp_path / "truth"), save(tmp_path / "pred")
    np.save(predictions / "a.npy", negative)
    for labels, whose in ((negative, "truth"), (plain, "prediction")):
        np.save(truth / "a.npy", labels)
        [failure] = evaluate(predictions, truth, num_classes=2, jobs=0).failed
        assert f"the {whose} has the label -1: expected 0 or more" in failure.reason
    np.save(truth / "a.npy", negative)
    result = evaluate(predictions, truth, ignore_label=-1, jobs=0)
    assert result.scores.summary()[0].dice.mean == 1.0


def test_eroded_hippocampus(shared_data):
    """The truth without its outermost voxels: every surface distance is one voxel or a diagonal."""
    folder = shared_data("hippocampus")
    dataset = data.find(folder)
    for case in dataset.cases[:3]:
        from scipy.ndimage import binary_erosion

        volume = data.read_labels(case.labels)
        eroded = sum(k * binary_erosion(volume.labels == k) for k in (1, 2))
        for each in score(eroded, volume.labels, 3, volume.spacing_mm).classes:
            assert 0.6 < each.dice < 0.85
            assert 1.0 <= each.hd95_mm <= 3**0.5
            assert 1.0 <= each.assd_mm < 1.2


# --- The file of scores

NONE, LOST = {"dice": None, "hd95_mm": None}, {"dice": 0.0, "hd95_mm": None}
SCORES = Scores(
    (
        CaseScore(
            "a",
            (1.0, 2.0),
            9.5,
            (ClassScore(1, 4, 5, {"dice": 0.5, "hd95_mm": 1.5}), ClassScore(2, 0, 0, NONE)),
        ),
        CaseScore("b", None, 8.0, (ClassScore(1, 4, 0, LOST), ClassScore(2, 0, 3, LOST))),
    ),
    ("background", "left, upper", "right"),
)
RESULT = Evaluation("pred", "truth", SCORES, 9, (FailedPair("c", 'cut "short"'),), ("d",), ("e",))


def test_csv_has_a_row_for_each_case_and_class(tmp_path):
    evaluation.write_scores(RESULT, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == ["case", "label", "class", "state", "dice", "hd95_mm"]
    assert [(row["case"], row["class"], row["state"], row["dice"]) for row in rows] == [
        ("a", "left, upper", "both", "0.5"),
        ("a", "right", "empty", ""),
        ("b", "left, upper", "missed", "0.0"),
        ("b", "right", "false alarm", "0.0"),
        ("c", "", "failed", ""),
        ("d", "", "unpredicted", ""),
    ]
    assert (rows[0]["hd95_mm"], rows[0]["spacing_mm"], rows[1]["hd95_mm"]) == ("1.5", "1.0 2.0", "")
    assert rows[4]["reason"] == 'cut "short"'


def test_json_has_summary_and_cases(tmp_path):
    evaluation.write_scores(RESULT, tmp_path / "scores.json", "diagonal")
    content = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    names = ("cases", "measured", "failed", "unpredicted", "unlabelled", "in_voxels")
    assert content["counts"] == dict(zip(names, (4, 2, 1, 1, 1, 1), strict=True))
    left, right = content["summary"]
    assert (left["name"], left["missed"], left["dice"]["n"]) == ("left, upper", 1, 2)
    assert left["hd95_mm"]["mean"] == (1.5 + 8.0) / 2
    assert (right["empty"], right["false_alarms"], right["hd95_mm"]["mean"]) == (1, 1, 8.0)
    missed = content["cases"][1]["classes"][0]
    assert (missed["state"], missed["hd95_mm"]) == ("missed", None)
    assert content["penalty_mm"] == "diagonal"


def test_an_existing_file_is_replaced_and_nothing_else_is_left(tmp_path):
    evaluation.check_score_file(tmp_path / "scores.csv")
    assert not any(tmp_path.iterdir())
    (tmp_path / "scores.csv").write_text("old")
    evaluation.write_scores(RESULT, tmp_path / "scores.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["scores.csv"]
    assert (tmp_path / "scores.csv").read_text().startswith("case,")


def test_a_name_that_is_not_utf_8_is_escaped(tmp_path):
    failed = Evaluation("pred", "truth", SCORES, None, (FailedPair("sur\udcff", "cut"),))
    for name in ("scores.csv", "scores.json"):
        evaluation.write_scores(failed, tmp_path / name)
        assert r"sur\udcff" in (tmp_path / name).read_text(encoding="utf-8")


def test_files_that_cannot_be_written(tmp_path, monkeypatch):
    """Each is refused before anything is measured."""
    (tmp_path / "d.csv").mkdir()
    for name, message in (
        ("a.txt", "ends with .csv or .json"),
        ("none/a.csv", "no folder"),
        ("d.csv", "is a folder"),
    ):
        with pytest.raises(RWLossError, match=message):
            evaluation.check_score_file(tmp_path / name)
    with pytest.raises(RWLossError, match="cannot write"):
        evaluation.write_scores(RESULT, tmp_path / f"{'a' * 300}.csv")

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(RWLossError, match=r"cannot write .*a.csv' \(Read-only file system\): name"):
        evaluation.check_score_file(tmp_path / "a.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["d.csv"]
