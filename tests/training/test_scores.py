"""Scores per class and case against naive loops, and what their means count."""

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from rwloss import RWLossError
from rwloss.training.scores import CaseScore, ClassScore, Scores, Statistic, score


def naive_dice(predicted, labels, k):
    """2 |A and B| / (|A| + |B|), voxel by voxel; None where both are empty."""
    both = only = 0
    for found, truth in zip(predicted.ravel(), labels.ravel(), strict=True):
        if truth < 0:
            continue
        both += found == k and truth == k
        only += (found == k) != (truth == k)
    return 2 * both / (2 * both + only) if both + only else None


def test_dice_on_every_small_pair():
    """All pairs of label maps of three voxels with three classes: every kind of empty class."""
    for truth, found in itertools.product(itertools.product(range(3), repeat=3), repeat=2):
        labels, predicted = np.array([truth]), np.array([found])
        case = score(predicted, labels, 3, metrics=["dice"])
        expected = [naive_dice(predicted, labels, k) for k in (1, 2)]
        assert [each.dice for each in case.classes] == pytest.approx(expected), (truth, found)


# --- Surface distances


def naive_surface(mask):
    """Voxels with a face neighbor outside the mask or the image, one by one."""
    surface = []
    for index in map(tuple, np.argwhere(mask)):
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            beside = list(index)
            beside[axis] += step
            if not 0 <= beside[axis] < mask.shape[axis] or not mask[tuple(beside)]:
                surface.append(index)
                break
    return surface


def naive_distances(found, truth, spacing_mm):
    """HD95, ASSD and NSD within 1 mm, from all pairs of surface voxels."""
    there, back = [], []
    surfaces = naive_surface(found), naive_surface(truth)
    for (start, end), distances in zip((surfaces, surfaces[::-1]), (there, back), strict=True):
        for a in start:
            to = [math.dist(np.multiply(a, spacing_mm), np.multiply(b, spacing_mm)) for b in end]
            distances.append(min(to))
    larger = max(naive_percentile(there, 95), naive_percentile(back, 95))
    both = there + back
    return larger, sum(both) / len(both), sum(each <= 1 for each in both) / len(both)


def naive_percentile(values, percent):
    """Linear between the two values around the rank."""
    ordered, rank = sorted(values), (len(values) - 1) * percent / 100
    low = math.floor(rank)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (rank - low) * (ordered[high] - ordered[low])


def check_against_naive(predicted, labels, num_classes, spacing_mm):
    case = score(predicted, labels, num_classes, spacing_mm)
    counted = labels >= 0
    assert [each.label for each in case.classes] == list(range(1, num_classes))
    for each in case.classes:
        found, truth = (predicted == each.label) & counted, labels == each.label
        assert (each.predicted_voxels, each.truth_voxels) == (found.sum(), truth.sum())
        assert each.dice == pytest.approx(naive_dice(predicted, labels, each.label))
        if found.any() and truth.any():
            expected = naive_distances(found, truth, spacing_mm)
            assert (each.hd95_mm, each.assd_mm, each.nsd) == pytest.approx(expected, rel=1e-6)
        else:
            assert each.hd95_mm is each.assd_mm is None
            assert each.nsd == each.dice  # 0, or None where neither has the class


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [((7, 6), (0.8, 2.5)), ((6, 5, 4), (0.8, 1.5, 4.0)), ((1, 9), (1, 1)), ((3, 4, 1), (1, 2, 3))],
)
def test_distances_against_all_pairs(shape, spacing_mm):
    """Labels that touch the border, with ignored voxels, in many small pieces."""
    for seed in range(2):
        rng = np.random.default_rng(seed)
        labels, predicted = rng.integers(-1, 4, shape), rng.integers(0, 4, shape)
        check_against_naive(predicted, labels, 4, spacing_mm)


def test_distances_of_solid_shapes_against_all_pairs():
    """Shapes with an inside, far from each other and from the border: where cropping matters."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels, predicted = np.zeros((2, 17, 19), int)
        for values in (labels, predicted):
            for k in (1, 2):
                top, left = rng.integers(0, 11, 2)
                values[top : top + rng.integers(3, 7), left : left + rng.integers(3, 7)] = k
        check_against_naive(predicted, labels, 3, (0.5, 1.5))


def test_distances_on_every_small_pair():
    """All pairs of masks of 2 x 2 voxels: every kind of empty, missed and invented class."""
    masks = [np.reshape(bits, (2, 2)) for bits in itertools.product(range(2), repeat=4)]
    pairs = [*itertools.combinations_with_replacement(masks, 2), *((m, masks[0]) for m in masks)]
    for predicted, labels in pairs:  # distances are the same both ways
        check_against_naive(predicted, labels, 2, (1.0, 3.0))


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize("shape", [(20, 30), (12, 14, 9)])
def test_against_the_whole_of_monai(shape):
    """The one-call functions on whole images, where `score` crops and searches once."""
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    rng = np.random.default_rng(0)
    labels, predicted = (ndimage.uniform_filter(rng.random(shape), 5) > 0.5 for _ in range(2))
    spacing_mm = (0.7, 1.3, 2.1)[: len(shape)]
    [found] = score(predicted.astype(int), labels.astype(int), 2, spacing_mm).classes
    masks = [torch.from_numpy(mask)[None, None] for mask in (predicted, labels)]
    options = {"include_background": True, "spacing": spacing_mm}
    hd95 = compute_hausdorff_distance(*masks, percentile=95, **options)
    assd = compute_average_surface_distance(*masks, symmetric=True, **options)
    assert found.hd95_mm == pytest.approx(float(hd95), rel=1e-6)
    assert found.assd_mm == pytest.approx(float(assd), rel=1e-6)
    for tolerance_mm in (0.5, 1.5):
        nsd = compute_surface_dice(*masks, class_thresholds=[tolerance_mm], **options)
        [found] = score(
            predicted.astype(int), labels.astype(int), 2, spacing_mm, tolerance_mm=tolerance_mm
        ).classes
        assert 0 < found.nsd < 1
        assert found.nsd == pytest.approx(float(nsd), rel=1e-6)
    with pytest.raises(RWLossError, match="tolerance above 0"):
        score(labels, labels, 2, tolerance_mm=0)


def test_a_shift_has_its_own_length():
    """A line moved by two voxels of 1.5 mm: every distance is 3 mm."""
    labels, predicted = np.zeros((2, 9, 9), int)
    labels[3, 2:7] = predicted[5, 2:7] = 1
    [line] = score(predicted, labels, 2, (1.5, 0.5)).classes
    assert (line.dice, line.hd95_mm, line.assd_mm) == (0.0, 3.0, 3.0)
    assert line.state == "both"


def test_the_percentile_forgives_a_twentieth():
    """One voxel of 41 lies 20 mm off: HD95 does not see it, ASSD does."""
    labels = np.zeros((30, 60), int)
    labels[5, 10:50] = 1
    predicted = labels.copy()
    predicted[25, 30] = 1
    [line] = score(predicted, labels, 2, (1.0, 1.0)).classes
    assert line.hd95_mm == 0.0
    assert line.assd_mm == pytest.approx(20 / 81)


def test_states():
    labels = np.array([[0, 1, 2, 0, 0, 0]])
    predicted = np.array([[0, 1, 0, 3, 0, 0]])
    case = score(predicted, labels, 5, (1.0, 2.0), name="case")
    assert [each.state for each in case.classes] == ["both", "missed", "false alarm", "empty"]
    assert [each.dice for each in case.classes] == [1.0, 0.0, 0.0, None]
    assert [each.hd95_mm for each in case.classes] == [0.0, None, None, None]
    assert (case.name, case.spacing_mm) == ("case", (1.0, 2.0))
    assert case.diagonal_mm == pytest.approx(math.hypot(1, 12))


def test_what_is_ignored_counts_nowhere():
    """Not for a class that only lies there, and not as a surface."""
    labels = np.array([[-1, -1, 1, 1, 0, 0]])
    predicted = np.array([[2, 1, 1, 1, 0, 0]])
    first, second = score(predicted, labels, 3, (1.0, 1.0)).classes
    assert (first.dice, first.hd95_mm, first.predicted_voxels) == (1.0, 0.0, 2)
    assert second.state == "empty"
    # A prediction of no class is wrong where the truth has one.
    [first] = score(np.array([[0, 1, -1, -1]]), np.array([[0, 1, 1, 1]]), 2).classes
    assert first.dice == 0.5


def test_any_integer_type():
    for dtype in ("u1", "i2", "u2", "i8", "u8"):
        labels, predicted = (
            np.random.default_rng(seed).integers(0, 3, (5, 6)).astype(dtype) for seed in range(2)
        )
        wanted = score(predicted.astype(int), labels.astype(int), 3)
        assert score(predicted, labels, 3) == wanted, dtype


def test_without_distances():
    labels = np.array([[0, 1, 1, 2]])
    first, second = score(labels, labels, 3, metrics=["dice"]).classes
    assert first.values == second.values == {"dice": 1.0}
    with pytest.raises(AttributeError, match="hd95_mm' was not measured"):
        _ = first.hd95_mm


def test_what_cannot_be_scored():
    square = np.zeros((2, 2), int)
    for predicted, labels, spacing_mm, message in (
        (np.zeros((2, 3), int), np.zeros((3, 2), int), None, r"\(2, 3\) and labels \(3, 2\)"),
        (np.zeros(3, int), np.zeros(3, int), None, "2 or 3 axes"),
        (square + 3, square, None, "the prediction has the class 3"),
        (square + 0.5, square, None, "the prediction does not hold integer labels"),
        (square, square - np.inf, None, "the truth does not hold integer labels"),
        (square, square + np.nan, None, "the truth does not hold integer labels"),
        (square, square + 255, None, "the truth has the class 255"),
        (square, square, (1.0,), "expected 2 lengths above 0"),
        (square, square, (1.0, 0.0), "lengths above 0"),
    ):
        with pytest.raises(RWLossError, match=message):
            score(predicted, labels, 3, spacing_mm)


# --- Means over cases


def case(name, **classes):
    return CaseScore(name, (1.0, 1.0), 50.0, tuple(classes.values()))


FOUND = ClassScore(1, 10, 10, {"dice": 0.8, "hd95_mm": 2.0, "assd_mm": 1.0})
FOUND_TOO = ClassScore(1, 10, 12, {"dice": 0.6, "hd95_mm": 4.0, "assd_mm": 2.0})
MISSED = ClassScore(1, 10, 0, {"dice": 0.0})
FALSE_ALARM = ClassScore(1, 0, 5, {"dice": 0.0})
EMPTY = ClassScore(1, 0, 0)
CASES = zip("abcde", (FOUND, FOUND_TOO, MISSED, FALSE_ALARM, EMPTY), strict=True)
ALL = Scores(tuple(case(name, one=one) for name, one in CASES), ("background", "lesion"))


def test_every_case_is_counted_once_and_missed_classes_are_0_in_the_mean_of_dice_alone():
    [lesion] = ALL.summary()
    assert (lesion.label, lesion.name, lesion.cases) == (1, "lesion", 5)
    assert (lesion.both, lesion.missed, lesion.false_alarms, lesion.empty) == (2, 1, 1, 1)
    assert (lesion.dice.n, lesion.dice.mean) == (4, pytest.approx(1.4 / 4))
    assert (lesion.hd95_mm.n, lesion.hd95_mm.mean, lesion.hd95_mm.median) == (2, 3.0, 3.0)
    assert (lesion.assd_mm.n, lesion.assd_mm.mean) == (2, 1.5)


def test_a_penalty_puts_missed_classes_and_false_alarms_in_the_means():
    for penalty, each in ((10.0, 10.0), (0.0, 0.0), ("diagonal", 50.0)):
        [lesion] = ALL.summary(penalty)
        assert lesion.hd95_mm.n == lesion.assd_mm.n == 4
        assert lesion.hd95_mm.mean == pytest.approx((2 + 4 + 2 * each) / 4)
        assert lesion.assd_mm.mean == pytest.approx((1 + 2 + 2 * each) / 4)
        assert (lesion.missed, lesion.false_alarms, lesion.dice.n) == (1, 1, 4)
    for penalty in ("edge", -1.0, math.nan, math.inf):
        with pytest.raises(RWLossError, match="expected a penalty of 0 mm or more"):
            ALL.summary(penalty)


def test_missing_more_never_looks_better_with_a_penalty_of_the_diagonal():
    missing = Scores((case("a", one=FOUND), case("b", one=MISSED)), ALL.class_names)
    finding = Scores((case("a", one=FOUND), case("b", one=FOUND_TOO)), ALL.class_names)
    [worse], [better] = missing.summary("diagonal"), finding.summary("diagonal")
    assert worse.hd95_mm.mean > better.hd95_mm.mean
    [without], [_] = missing.summary(), finding.summary()
    assert without.hd95_mm.mean < better.hd95_mm.mean  # what the counts are there for
    assert (without.hd95_mm.n, without.missed) == (1, 1)


def test_nothing_to_average():
    [lesion] = Scores((case("a", one=EMPTY),), ALL.class_names).summary("diagonal")
    assert lesion.dice == lesion.hd95_mm == Statistic(0, None, None, None)
    assert (lesion.cases, lesion.empty) == (1, 1)
    [none] = Scores((), ALL.class_names).summary()
    assert none.cases == none.dice.n == 0


def test_statistics():
    assert Statistic.of([3.0]) == Statistic(1, 3.0, 3.0, None)
    found = Statistic.of([4.0, 1.0, 1.0])
    assert (found.n, found.mean, found.median) == (3, 2.0, 1.0)
    assert found.std == pytest.approx(math.sqrt(3))
    for value in (math.nan, math.inf):
        with pytest.raises(RWLossError, match="expected finite values"):
            Statistic.of([1.0, value])
