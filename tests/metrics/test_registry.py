"""Names, rules and edge cases that all metrics share."""

import importlib.util
import math

import numpy as np
import pytest

from rwloss import RWLossError, metrics
from rwloss.metrics import METRICS, ClassPair

EMPTY = np.zeros((7, 8), bool)
SQUARE = EMPTY.copy()
SQUARE[2:5, 2:6] = True
RING = SQUARE.copy()
RING[3, 3:5] = False


def cube(of_slice, depth=6):
    """A slice as the inner slices of a volume. (h w) -> (depth h w)."""
    volume = np.zeros((depth, *of_slice.shape), bool)
    volume[1:-1] = of_slice
    return volume


def measured(predicted, truth, **options):
    return metrics.measure(predicted, truth, ["all"], **options)


@pytest.mark.parametrize("name", METRICS)
def test_the_best_value_is_that_of_a_copy(name):
    for mask in (SQUARE, RING, cube(RING), EMPTY | True, cube(SQUARE)[:, :, :4]):
        value = measured(mask, mask, spacing_mm=(0.5, 1.0, 2.0)[: mask.ndim])[name]
        if name == "betti_2_error" and mask.ndim == 2:
            assert value is None
        else:
            assert value == (1.0 if METRICS[name].higher_is_better else 0.0)


RULES = {"0": 0.0, "1": 1.0, "-1": -1.0, "none": None}


@pytest.mark.parametrize("name", METRICS)
def test_a_class_that_one_side_lacks_follows_the_rule(name):
    """The value that the registry states; for Betti errors the number of parts, and at least 1."""
    metric = METRICS[name]
    for shape in (SQUARE, cube(RING)):
        for rule, pair in (
            (metric.missed, (EMPTY if shape.ndim == 2 else shape & False, shape)),
            (metric.false_alarm, (shape, EMPTY if shape.ndim == 2 else shape & False)),
        ):
            value = measured(*pair)[name]
            if name.startswith("betti"):
                number = int(name[6])
                numbers = metrics.betti_numbers(shape)
                wanted = max(numbers[number], 1) if number < shape.ndim else None
                assert value == wanted
            else:
                assert value == RULES[rule]
        nothing = measured(shape & False, shape & False)
        assert nothing == dict.fromkeys(METRICS)


def test_no_missed_class_has_the_best_value():
    """Else a model that predicts nothing could lead a table; distances take the penalty."""
    for name, value in measured(EMPTY, SQUARE).items():
        best = 1.0 if METRICS[name].higher_is_better else 0.0
        assert value != best, name
        if value is None:
            assert METRICS[name].is_distance or name == "betti_2_error"


def test_single_voxels():
    """Two voxels, in one place and three columns apart, at the border of an anisotropic image."""
    one, other = np.zeros((2, 3, 5), bool)
    one[0, 0] = other[0, 3] = True
    assert measured(one, one)["cl_dice"] == 1
    apart = measured(one, other, spacing_mm=(1.0, 0.5), tolerance_mm=1.5)
    wanted = {"dice": 0, "iou": 0, "hd95_mm": 1.5, "hd_mm": 1.5, "assd_mm": 1.5, "nsd": 1}
    wanted |= {"surface_dice": 1, "boundary_iou": 0, "cl_dice": 0, "lesion_f1": 0}
    wanted |= {"betti_0_error": 0, "relative_volume_error": 0}
    assert {name: apart[name] for name in wanted} == wanted


def test_cropping_changes_nothing():
    rng = np.random.default_rng(0)
    for shape in ((9, 11), (7, 8, 6)):
        masks = [rng.random(shape) > 0.6 for _ in range(2)]
        spacing = (0.7, 1.1, 2.0)[: len(shape)]
        padded = [np.pad(mask, [(3, 1), *[(2, 2)] * (len(shape) - 1)]) for mask in masks]
        names = [name for name in METRICS if name != "surface_dice"]
        whole, cropped = (
            metrics.values_of(ClassPair(*pair, spacing, (40,) * len(shape)), names)
            for pair in (padded, masks)
        )
        assert whole == cropped
        wide, tight = (
            metrics.measure(*pair, ["surface_dice"], spacing_mm=spacing)["surface_dice"]
            for pair in (padded, masks)
        )
        assert wide == pytest.approx(tight, rel=1e-9)


def test_names():
    assert metrics.select(["dice", "iou", "dice"]) == ("dice", "iou")
    assert metrics.select(["all"]) == tuple(METRICS)
    assert metrics.select("iou, dice") == ("dice", "iou")
    assert set(metrics.select(["default"])) == set(metrics.DEFAULT) < set(METRICS)
    wanted = ("nsd", "nsd_at_0.5", "nsd_at_2", "surface_dice_at_10")
    assert metrics.select(["surface_dice_at_10", "nsd"], [2, 0.5]) == wanted
    assert metrics.known(["state", "nsd_at_2", "hd_mm", "nsd_at_x", "dice_at_2"]) == (
        "hd_mm",
        "nsd_at_2",
    )
    assert metrics.find("nsd_at_2").title == "NSD at 2"
    for wrong, message in (
        ("hd95", "did you mean 'hd95_mm'"),
        ("dice_at_2", "no metric 'dice_at_2'"),
        ("nsd_at_-1", "no metric 'nsd_at_-1'"),
        ("nsd_at_inf", "no metric 'nsd_at_inf'"),
    ):
        with pytest.raises(RWLossError, match=message):
            metrics.find(wrong)
    with pytest.raises(RWLossError, match="expected at least one metric"):
        metrics.select([])


def test_a_package_that_is_missing_is_named_with_the_fix(monkeypatch):
    monkeypatch.setattr("rwloss.metrics.registry.find_spec", lambda _: None)
    metrics.require(metrics.DEFAULT)
    for name, fix in (("cl_dice", "scikit-image.*skeleton"), ("surface_dice_at_3", "MONAI.*train")):
        with pytest.raises(RWLossError, match=fix):
            metrics.measure(SQUARE, SQUARE, [name])


def test_what_cannot_be_measured():
    for predicted, truth, spacing, message in (
        (SQUARE, SQUARE[1:], None, "same 2-D or 3-D shape"),
        (SQUARE[0], SQUARE[0], None, "same 2-D or 3-D shape"),
        (SQUARE, SQUARE, (1.0,), "expected 2 lengths"),
        (SQUARE, SQUARE, (1.0, math.inf), "expected 2 lengths"),
    ):
        with pytest.raises(RWLossError, match=message):
            metrics.measure(predicted, truth, spacing_mm=spacing)
    for no_mask in (SQUARE * 2, SQUARE * -1, np.where(SQUARE, 1, np.nan), SQUARE * 0.5):
        with pytest.raises(RWLossError, match=r"expected masks of 0 and 1: .*score"):
            metrics.measure(SQUARE, no_mask)
    for length in (0, -1, math.nan, math.inf):
        with pytest.raises(RWLossError, match="expected a tolerance above 0 mm"):
            metrics.measure(SQUARE, SQUARE, ["nsd"], tolerance_mm=length)
    assert metrics.measure(SQUARE * 1.0, SQUARE * 1, "dice") == {"dice": 1.0}


def test_modules_that_metrics_need_have_these_names():
    for name in METRICS:
        if needs := METRICS[name].needs:
            assert importlib.util.find_spec(needs) is not None, name
