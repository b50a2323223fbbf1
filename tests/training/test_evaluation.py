import json
import re
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image
from raw_folders import make_raw

from rwloss import RWLossError, data
from rwloss.training.evaluation import FailedPair, evaluate
from rwloss.training.scores import score

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


def test_labels_against_themselves():
    labels = SAMPLE / "labelsTs"
    result = evaluate(labels, SAMPLE, jobs=0)
    assert result.scores.class_names == ("background", "anterior", "posterior")
    for each in result.scores.summary():
        assert (each.dice.mean, each.hd95_mm.mean, each.assd_mm.mean) == (1.0, 0.0, 0.0)
        assert each.both == each.cases == len(list(labels.iterdir()))


def test_a_limit_that_refuses_every_file_is_refused_first(two):
    with pytest.raises(RWLossError, match="expected max_voxels of 1 or more, got 0"):
        evaluate(*two, max_voxels=0, jobs=0)


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


@pytest.mark.parametrize("label", [-1, 255, 65535, 70_000])
def test_a_prediction_with_what_is_no_class_fails_alone(tmp_path, label):
    truth = save(tmp_path / "truth", a=[[0, 1, 1]], b=[[0, 0, 2]], c=[[0, 1, 2]])
    predictions = save(tmp_path / "pred", a=[[0, 1, 1]], c=[[0, 3, 2]])
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
    for folder in two:
        for file in folder.iterdir():
            file.write_bytes(b"")
    for known in ({}, {"num_classes": 2}):
        result = evaluate(*two, jobs=0, **known)
        assert [failure.name for failure in result.failed] == ["a", "b", "c"]
        assert all("0 bytes" in failure.reason for failure in result.failed)


def test_two_folders_of_empty_masks(tmp_path):
    empty = [save(tmp_path / name, a=np.zeros((3, 3)), b=np.zeros((3, 3))) for name in "pt"]
    [mask] = evaluate(*empty, jobs=0).scores.summary()
    assert (mask.empty, mask.dice.n, mask.dice.mean) == (2, 0, None)


@pytest.mark.parametrize("num_classes", [0, 1])
def test_fewer_than_two_classes(two, num_classes):
    with pytest.raises(RWLossError, match="expected two classes or more"):
        evaluate(*two, num_classes=num_classes, jobs=0)


def test_a_mask_of_255_is_no_class_256(tmp_path):
    folder = save(tmp_path / "masks", a=[[0, 255]])
    with pytest.raises(RWLossError, match="a mask: store its foreground as 1"):
        evaluate(folder, folder, jobs=0)


def test_classes_of_dataset_json_in_the_folder_of_predictions(tmp_path):
    truth, predictions = (save(tmp_path / name, a=[[0, 1]]) for name in ("truth", "pred"))
    content = {"labels": {"background": 0, "left": 1, "right": 2}, "file_ending": ".npy"}
    (predictions / "dataset.json").write_text(json.dumps(content))
    result = evaluate(predictions, truth, jobs=0)
    assert result.scores.class_names == ("background", "left", "right")


def test_cases_without_partner_are_named(two):
    predictions, truth = two
    (predictions / "a.npy").rename(predictions / "other.npy")
    result = evaluate(predictions, truth, jobs=0)
    assert (result.unpredicted, result.unlabelled) == (("a",), ("other",))
    assert [case.name for case in result.scores.cases] == ["b", "c"]
    assert not result.is_complete
    assert result.num_cases == 3


def test_extra_predictions_alone_are_no_failure(two):
    predictions, truth = two
    (truth / "a.npy").unlink()
    result = evaluate(predictions, truth, jobs=0)
    assert result.unlabelled == ("a",)
    assert result.is_complete


def test_no_case_in_both(two):
    predictions, truth = two
    for file in list(predictions.iterdir()):
        file.rename(file.with_stem(f"{file.stem}_pred"))
    with pytest.raises(
        RWLossError, match=r"has 'a', 'b', 'c', .* has 'a_pred', 'b_pred', 'c_pred'"
    ):
        evaluate(predictions, truth, jobs=0)


def test_one_bad_pair_does_not_stop_the_others(two):
    predictions, truth = two
    save(predictions, a=np.zeros((6, 6)), b=np.full((6, 7), 9))
    result = evaluate(predictions, truth, num_classes=3, jobs=0)
    assert [case.name for case in result.scores.cases] == ["c"]
    shape, label = result.failed
    assert shape == FailedPair(
        "a",
        "the prediction has the shape (6, 6), its labels (6, 7): both must lie on the same voxels",
    )
    assert label.name == "b"
    assert "the prediction has the class 9, and there are 3 classes" in label.reason


def test_a_damaged_file_is_a_failure_of_its_case(two):
    predictions, truth = two
    (predictions / "b.npy").write_bytes(b"")
    [failure] = evaluate(predictions, truth, jobs=0).failed
    assert "b.npy" in failure.reason
    assert "0 bytes" in failure.reason


def turned(degrees):
    angle = np.radians(degrees)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, 3] = [-120.1, 33.3, 900.7]
    return affine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda affine: affine @ np.diag([1, 1, 1.01, 1]), "the prediction has the spacing"),
        (lambda affine: turned(5), "corners up to .* mm apart"),
        (lambda affine: affine @ np.diag([-1, 1, 1, 1]), "corners up to"),
        (lambda affine: affine + np.eye(4)[:, :1] @ [[0, 0, 0, 0.5]], "corners up to 0.5 mm"),
        (lambda affine: affine + 1e-6, None),
        (lambda affine: np.round(affine, 4), None),
    ],
)
def test_geometry_of_a_pair(tmp_path, change, message):
    labels = np.random.default_rng(0).integers(0, 2, (20, 21, 9))
    save_nifti(tmp_path / "truth" / "a.nii.gz", labels, turned(3))
    save_nifti(tmp_path / "pred" / "a.nii.gz", labels, change(turned(3)))
    result = evaluate(tmp_path / "pred", tmp_path / "truth", jobs=0)
    if message is None:
        assert result.is_complete
    else:
        [failure] = result.failed
        assert failure.name == "a"
        assert re.search(message, failure.reason)


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
    for name in ("truth", "pred"):
        save(tmp_path / name)
        np.save(tmp_path / name / "a.npy", np.array([[0, 1, -1]]))
    [failure] = evaluate(tmp_path / "pred", tmp_path / "truth", num_classes=2, jobs=0).failed
    assert "the truth has the label -1: expected 0 or more" in failure.reason
    save(tmp_path / "truth", a=[[0, 1, 1]])
    [failure] = evaluate(tmp_path / "pred", tmp_path / "truth", num_classes=2, jobs=0).failed
    assert "the prediction has the label -1: expected 0 or more" in failure.reason
    np.save(tmp_path / "truth" / "a.npy", np.array([[0, 1, -1]]))
    result = evaluate(tmp_path / "pred", tmp_path / "truth", ignore_label=-1, jobs=0)
    assert result.scores.summary()[0].dice.mean == 1.0


def test_formats_of_a_pair_may_differ(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, (5, 6)).astype(np.uint8)
    truth, predictions = save(tmp_path / "truth", a=labels), tmp_path / "pred"
    predictions.mkdir()
    Image.fromarray(labels).save(predictions / "a.png")
    [mask] = evaluate(predictions, truth, jobs=0).scores.summary()
    assert mask.dice.mean == 1.0


def test_progress(two):
    told = []
    evaluate(*two, num_classes=3, jobs=0, progress=lambda one, total: told.append((one, total)))
    assert [(one.name, total) for one, total in told] == [("a", 3), ("b", 3), ("c", 3)]


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
