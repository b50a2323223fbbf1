"""Blends: weights by the epoch against the published strategies, and how a loss follows them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from anatomy import batch

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps
from rwloss.maps import Blend, Boundary, Dice, Rectified, blend

EPOCHS = [0, 1, 50, 98, 99, 100, 200]
# (weight of the region loss, of the boundary map) at these epochs, worked out by hand
WEIGHTS = {
    "rebalance": [(1, 0), (0.99, 0.01), (0.5, 0.5), (0.02, 0.98), *[(0.01, 0.99)] * 3],
    "constant": [(1, 0.01)] * 7,
    "increase": [(1, 0.01), (1, 0.02), (1, 0.51), (1, 0.99), *[(1, 1)] * 3],
    "steal": [
        (1, 0.01),
        (0.99, 0.02),
        (0.5, 0.51),
        (0.1, 0.99),
        (0.1, 1.0),
        (0.1, 1.01),
        (0.1, 2.01),
    ],
}


@pytest.mark.parametrize("schedule", WEIGHTS)
def test_weights_by_hand(schedule):
    made = blend("dice", "boundary", schedule)
    found = [made.weights(epoch) for epoch in EPOCHS]
    np.testing.assert_allclose(found, WEIGHTS[schedule], rtol=0, atol=1e-12)
    assert [made.weights(epoch, total=7) for epoch in EPOCHS] == found


FORMULAS = {
    "rebalance": lambda e, s, a: (max(0.01, 1 - s * e), 1 - max(0.01, 1 - s * e)),
    "constant": lambda e, s, a: (1, a),
    "increase": lambda e, s, a: (1, min(1, a + s * e)),
    "steal": lambda e, s, a: (max(0.1, 1 - s * e), a + s * e),
}


@pytest.mark.parametrize("schedule", FORMULAS)
@pytest.mark.parametrize(("alpha", "step"), [(0.01, 0.01), (0.1, 0.002), (0, 0.25), (0.5, 0)])
def test_weights_by_the_documented_formula(schedule, alpha, step):
    made = blend("dice", "boundary", schedule, alpha, step)
    for epoch in range(0, 250, 7):
        wanted = FORMULAS[schedule](epoch, step, alpha)
        assert made.weights(epoch) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("total", [2, 10, 100, 1000])
def test_without_a_step_the_whole_way_takes_the_run(total):
    last = total - 1
    assert blend("dice", "boundary", step=None).weights(0, total) == (1, 0)
    rebalance = blend("dice", "boundary", step=None).weights(last, total)
    assert rebalance == pytest.approx((0.01, 0.99))
    increase = blend("dice", "boundary", "increase", step=None).weights(last, total)
    assert increase == pytest.approx((1, 1))
    steal = blend("dice", "boundary", "steal", step=None).weights(last, total)
    assert steal == pytest.approx((0.1, 1))
    middle = blend("dice", "boundary", step=None).weights(last // 2, total)
    assert middle[1] == pytest.approx(0.99 * (last // 2) / last, abs=1e-12)


def test_a_pause_and_a_cosine_ramp():
    paused = blend("dice", "boundary", "increase", alpha=0.1, start=20)
    plain = blend("dice", "boundary", "increase", alpha=0.1)
    assert [paused.weights(epoch) for epoch in (0, 20)] == [(1, 0.1), (1, 0.1)]
    assert [paused.weights(20 + e) for e in EPOCHS] == [plain.weights(e) for e in EPOCHS]
    wave = blend("dice", "boundary", "rebalance", ramp="cosine", step=None, start=1)
    assert wave.weights(1, 12) == (1, 0)
    assert wave.weights(11, 12) == pytest.approx((0.01, 0.99))
    assert wave.weights(6, 12)[1] == pytest.approx(0.495)
    assert wave.weights(3, 12)[1] == pytest.approx(0.495 * (1 - np.cos(np.pi / 5)))
    for total in (2, None):
        with pytest.raises(RWLossError, match="a total of 3 epochs or more"):
            wave.weights(2, total)
    text = "blend(dice, boundary, schedule='rebalance', step=None, start=1, ramp='cosine')"
    assert str(maps.parse(text)) == str(wave) == text


def test_a_run_of_a_hundred_epochs_is_the_papers_step():
    for schedule in WEIGHTS:
        paper, spread = (blend("dice", "boundary", schedule, step=step) for step in (0.01, None))
        for epoch in range(100):
            assert spread.weights(epoch, 100) == pytest.approx(paper.weights(epoch))


def test_a_step_of_none_needs_the_number_of_epochs():
    made = blend("dice", "boundary", step=None)
    for total in (None, 0, 1):
        with pytest.raises(RWLossError, match=r"call loss.set_epoch\(epoch, total=...\) with a"):
            made.weights(1, total)


def test_what_needs_the_number_of_epochs():
    assert blend("dice", "boundary", step=None).needs_total
    assert (Rectified() + 2 * blend("dice", "boundary", step=None)).needs_total
    assert blend(blend("dice", "boundary", "steal", step=None), "rectified").needs_total
    assert not blend("dice", "boundary").needs_total
    assert not blend("dice", "boundary", "constant", step=None).needs_total
    assert not Rectified().needs_total


def test_the_first_epoch_needs_no_number_of_epochs():
    """So that the static part, the unit and the map can be told before training."""
    made = blend("rectified", "boundary", step=None)
    assert made.weights(0) == (1, 0)
    regions = Regions(batch(91, (6, 7)), 4)
    np.testing.assert_array_equal(made(regions).dense(), Rectified()(regions).dense())
    assert blend("dice", "boundary", step=None).static_part == Boundary()


@pytest.mark.parametrize("schedule", WEIGHTS)
def test_map_of_the_first_epoch(schedule):
    regions = Regions(batch(91, (6, 7)), 4)
    made = blend(Rectified(), Boundary(), schedule, alpha=0.25)
    region, boundary = made.weights(0)
    wanted = region * Rectified()(regions).dense() + boundary * Boundary()(regions).dense()
    np.testing.assert_allclose(made(regions).dense(), wanted, rtol=1e-6)


# --- What it takes


def test_unknown_schedules():
    for schedule in ["rebalanced", "", None, 1, ["steal"]]:
        with pytest.raises(RWLossError, match=r"unknown schedule .* There are: rebalance, consta"):
            blend("dice", "boundary", schedule)
    with pytest.raises(RWLossError, match="did you mean 'steal'"):
        blend("dice", "boundary", "steel")


@pytest.mark.parametrize("name", ["alpha", "step"])
def test_numbers_that_are_none(name):
    for value in [-0.01, np.nan, np.inf, "1", True, 1j, 10**400, (0.1,)]:
        with pytest.raises(RWLossError, match=f"blend: expected .*{name}"):
            blend("dice", "boundary", **{name: value})
    with pytest.raises(RWLossError, match="blend: expected alpha"):
        blend("dice", "boundary", alpha=None)


def test_sides_are_maps():
    for side in [1, None, ["dice"], Dice]:
        with pytest.raises(RWLossError, match="blend: expected a map as region, got"):
            blend(side, "boundary")
        with pytest.raises(RWLossError, match="blend: expected a map as boundary, got"):
            blend("dice", side)
    with pytest.raises(RWLossError, match="blend: expected a map as region, got 'dice'"):
        Blend("dice", Boundary())


def test_numbers_become_floats():
    assert str(blend("dice", "boundary", alpha=1)) == str(blend("dice", "boundary", alpha=1.0))
    made = blend("dice", "boundary", alpha=np.float32(0.5), step=np.int64(0))
    assert (type(made.alpha), type(made.step)) == (float, float)


# --- How a loss follows


@dataclass(frozen=True)
class Counted(maps.MapGenerator):
    """A map of ones that counts how often it is made."""

    name: ClassVar[str] = "counted"
    made: ClassVar[list[int]] = []

    def compute(self, regions):
        self.made.append(len(regions.labels))
        return RWMap.compact(
            regions.labels, regions.num_classes, regions.full(0.0), regions.full(1.0)
        )


LABELS = torch.as_tensor(batch(92, (6, 7)).astype(int))
LOGITS = torch.randn(3, 4, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("schedule", WEIGHTS)
def test_loss_is_the_weighted_sum_of_losses(schedule):
    loss = RegionWiseLoss(blend("generalized_dice", "boundary", schedule))
    parts = [RegionWiseLoss(text)(LOGITS, LABELS) for text in ("generalized_dice", "boundary")]
    for epoch, (region, boundary) in zip(EPOCHS, WEIGHTS[schedule], strict=True):
        loss.set_epoch(epoch)
        wanted = region * parts[0] + boundary * parts[1]
        assert float(loss(LOGITS, LABELS)) == pytest.approx(float(wanted), rel=1e-6)


def test_a_map_of_weight_zero_is_not_made():
    Counted.made.clear()
    loss = RegionWiseLoss(blend("dice", Counted()))
    first = loss(LOGITS, LABELS)
    assert Counted.made == []
    assert float(first) == pytest.approx(float(RegionWiseLoss("dice")(LOGITS, LABELS)))
    loss.set_epoch(1)
    loss(LOGITS, LABELS)
    assert Counted.made == [3]


def test_a_loss_of_weight_zero_is_not_computed():
    def broken(probs, truth):
        raise AssertionError("computed")

    loss = RegionWiseLoss(blend(Rectified(), maps.from_loss(broken)))
    loss(LOGITS, LABELS)
    loss.set_epoch(1)
    with pytest.raises(AssertionError, match="computed"):
        loss(LOGITS, LABELS)


def test_a_stored_map_takes_the_place_of_the_boundary():
    loss = RegionWiseLoss(blend("dice", "boundary"))
    stored = Boundary()(Regions(LABELS, 4))
    for epoch in (0, 1, 60):
        loss.set_epoch(epoch)
        found = loss(LOGITS, LABELS, stored)
        assert float(found) == pytest.approx(float(loss(LOGITS, LABELS)), rel=1e-9)


def test_before_the_first_epoch_of_a_spread_schedule():
    loss = RegionWiseLoss(blend("dice", "boundary", step=None))
    with pytest.raises(RWLossError, match=r"loss.set_epoch\(epoch, total=...\)"):
        loss(LOGITS, LABELS)
    loss.set_epoch(0, total=10)
    assert loss(LOGITS, LABELS).isfinite()


def test_epochs_below_zero():
    with pytest.raises(RWLossError, match="expected an epoch of 0 or more, got -1"):
        RegionWiseLoss("rectified").set_epoch(-1)
