"""Generators with one fault each: they fail the checks that are about that fault, and no other."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from rwloss import Regions, RWMap, maps, testing
from rwloss.maps import LossTerm, MapGenerator, MapTags

FLIP, MOVES = frozenset({"flip"}), frozenset({"flip", "rot90"})


def compact(regions, true, other=1.0):
    other = regions.full(other) if isinstance(other, float) else other
    return RWMap.compact(regions.labels, regions.num_classes, true, other)


def starts(regions, labels):
    """1 where the voxel before, along the last axis, has another label. (b *s), float32."""
    found = np.zeros(labels.shape, dtype=np.float32)
    found[..., 1:] = labels[..., 1:] != labels[..., :-1]
    xp = regions.xp
    return xp.asarray(found)


class SaysStable(maps.Boundary):  # wrong classes have different values
    name = "says_stable"
    tags = MapTags(stable=True, commutes_with=MOVES)


class SaysCrop(maps.Rectified):  # relative to the deepest voxel of the image
    name = "says_crop"
    tags = MapTags(unit="unitless", commutes_with=MOVES | {"crop"})


class SaysAnySpacing(maps.Rectified):  # relative, but distances have a direction
    name = "says_any_spacing"
    tags = MapTags(unit="unitless", commutes_with=MOVES, uses_spacing=False)


class SaysNeverBelowZero(MapGenerator):  # -d
    name = "says_never_below_zero"
    tags = MapTags(signed=False, unit="mm", commutes_with=MOVES)

    def compute(self, regions):
        return compact(regions, -regions.depth_mm, 0.0)


class SaysShear(maps.ActiveContour):  # a move that nobody knows
    name = "says_shear"
    tags = MapTags(commutes_with=frozenset({"shear"}))


class SaysFlip(MapGenerator):  # looks to one side only
    name = "says_flip"
    tags = MapTags(unit="unitless", commutes_with=FLIP)

    def compute(self, regions):
        return compact(regions, starts(regions, np.asarray(regions.labels)))


class SaysRot90(MapGenerator):  # looks along one axis only
    name = "says_rot90"
    tags = MapTags(unit="unitless", commutes_with=MOVES)

    def compute(self, regions):
        labels = np.asarray(regions.labels)
        before = np.asarray(starts(regions, labels))
        after = np.flip(np.asarray(starts(regions, np.flip(labels, -1))), -1)
        return compact(regions, regions.xp.asarray(before + after))


class MeasuresPlace(MapGenerator):  # costs more further down
    name = "measures_place"

    def compute(self, regions):
        xp, size = regions.xp, regions.labels.shape
        down = xp.reshape(xp.arange(size[1], dtype=xp.float32), (1, -1, *[1] * (len(size) - 2)))
        return compact(regions, regions.full(0.0), regions.full(1.0) + down)


class OfTheBatch(MapGenerator):  # divides by the deepest voxel of all images
    name = "of_the_batch"
    tags = MapTags(stable=True, unit="unitless", commutes_with=MOVES)

    def compute(self, regions):
        deepest = max(float(regions.xp.max(regions.depth_mm)), 1e-6)
        return compact(regions, -regions.depth_mm / deepest)


class InPlace(MapGenerator):  # turns the sign of the regions' own depth
    name = "in_place"
    tags = MapTags(unit="mm", commutes_with=MOVES)

    def compute(self, regions):
        depth_mm = regions.depth_mm
        depth_mm *= -1.0
        return compact(regions, depth_mm, 0.0)


class InVoxels(MapGenerator):  # says mm and knows no spacing
    name = "in_voxels"
    tags = MapTags(unit="mm", commutes_with=MOVES)

    def compute(self, regions):
        ignore = None if regions.ignored is None else -1
        voxels = Regions(regions.labels, regions.num_classes, None, ignore).depth_mm
        return compact(regions, -voxels, 0.0)


class DividesByRest(MapGenerator):  # infinite where a class fills the image
    name = "divides_by_rest"

    def compute(self, regions):
        xp = regions.xp
        counts = xp.astype(regions.counts, xp.float32)
        rest = xp.sum(counts, axis=1, keepdims=True) - counts
        with np.errstate(divide="ignore"):
            return compact(regions, -regions.per_voxel(1.0 / rest))


class Overflows(MapGenerator):  # exp(d), beyond any float for coarse spacing
    name = "overflows"

    def compute(self, regions):
        with np.errstate(over="ignore"):
            return compact(regions, -regions.xp.exp(regions.depth_mm))


class NumpyOnly(MapGenerator):  # gives NumPy values for torch labels
    name = "numpy_only"

    def compute(self, regions):
        values = np.zeros(regions.labels.shape, dtype=np.float32)
        return compact(regions, values, values + 1)


class Wraps(MapGenerator):  # computes in the type of the labels: 2 times 128 is 0 in uint8
    name = "wraps"

    def compute(self, regions):
        labels = np.asarray(regions.labels)
        return compact(regions, starts(regions, labels * np.array(128, dtype=labels.dtype)))


class DislikesClassOne(MapGenerator):  # class 1 is another class than 2 or 3
    name = "dislikes_class_one"

    def compute(self, regions):
        xp = regions.xp
        return compact(regions, -xp.astype(regions.mask(1), xp.float32))


CALLS = itertools.count()


class Drifts(MapGenerator):  # a little more at each call
    name = "drifts"

    def compute(self, regions):
        return compact(regions, regions.full(0.0), regions.full(1 + 2e-7 * next(CALLS)))


class NamedLikeAnother(maps.ActiveContour):  # its text is that of another map
    name = "rectified"


def in_a_function():
    class OutOfReach(maps.ActiveContour):  # a worker process can't import it
        name = "out_of_reach"

    return OutOfReach()


class BatchDice(LossTerm):  # dice over all voxels of all images
    name = "batch_dice"
    tags = MapTags(unit="unitless", commutes_with=MOVES)

    def loss(self, prediction):
        both = (prediction.probs * prediction.one_hot).sum()
        return 1 - 2 * both / (prediction.probs.sum() + prediction.one_hot.sum() + 1e-5)


class BelowItsMinimum(LossTerm):  # goes down to -1, and does not say so
    name = "below_its_minimum"

    def loss(self, prediction):
        return -(prediction.probs * prediction.one_hot).sum() / prediction.num_counted


class CountsIgnored(LossTerm):  # squares the mean of all probabilities, ignored or not
    name = "counts_ignored"

    def loss(self, prediction):
        return (prediction.log_probs.exp().flatten(2).mean(dim=2) ** 2).mean()


class SeesGreyValues(maps.MapGenerator):
    """Says nothing of the image that it needs."""

    name = "sees_grey_values"

    def compute(self, regions):
        true = -abs(regions.image[:, 0])
        return RWMap.compact(regions.labels, regions.num_classes, true, regions.full(1.0))


class DependsOnScale(SeesGreyValues):
    """Another scanner, another map."""

    name = "depends_on_scale"
    tags = maps.MapTags(uses_image=True, unit="HU")


class SaysNarrow(maps.Rectified):  # its values begin at -1
    name = "says_narrow"
    tags = replace(maps.Rectified.tags, limits=(0.0, 1.0))


class SaysCompact(maps.Boundary):
    name = "says_compact"
    tags = replace(maps.Boundary.tags, compact=True)


class SaysStableWithTwo(maps.SVLS):  # the neighbors' classes are pulled up
    name = "says_stable_with_two"
    tags = replace(maps.SVLS.tags, stable_with_two=True)


class SaysLittleOfDice(maps.Dice):  # it can be 1, and holds with two classes
    name = "says_little_of_dice"
    tags = replace(maps.Dice.tags, limits=(0.0, 0.5), stable_with_two=False)


class SaysPullFades(maps.MCC):  # by the root alone
    name = "says_pull_fades"
    tags = replace(maps.MCC.tags, pull_exponent=1.0)


WRONG = [
    (SaysNarrow(), {"check_limits"}),
    (SaysCompact(), {"check_compact"}),
    (SaysStableWithTwo(), {"check_stable_with_two"}),
    (SaysLittleOfDice(), {"check_limits", "check_stable_with_two"}),
    (SaysPullFades(), {"check_pull_exponent"}),
    (DependsOnScale(), {"check_image_scale"}),
    (SaysStable(), {"check_stable"}),
    (SaysCrop(), {"check_crops"}),
    (SaysAnySpacing(), {"check_spacing_unused"}),
    (SaysNeverBelowZero(), {"check_never_below_zero"}),
    (SaysShear(), {"check_tags"}),
    (SaysFlip(), {"check_flips", "check_ball", "check_single_voxel"}),
    (SaysRot90(), {"check_quarter_turns", "check_axis_order", "check_ball"}),
    (MeasuresPlace(), {"check_half_space", "check_slab"}),
    (OfTheBatch(), {"check_batch_is_single"}),
    (InPlace(), {"check_input_untouched"}),
    (InVoxels(), {"check_spacing_scale"}),
    (DividesByRest(), {"check_edge_cases"}),
    (Overflows(), {"check_finite"}),
    (NumpyOnly(), {"check_numpy_is_torch"}),
    (Wraps(), {"check_label_types"}),
    (DislikesClassOne(), {"check_relabelling"}),
    (Drifts(), {"check_determinism"}),
    (NamedLikeAnother(), {"check_text"}),
    (in_a_function(), {"check_pickle"}),
    (BatchDice(), {"check_batch_is_single"}),
    (BelowItsMinimum(), {"check_minimum"}),
    (CountsIgnored(), {"check_ignored_voxels"}),
]


@pytest.mark.parametrize(("generator", "wanted"), WRONG, ids=lambda value: type(value).__name__)
def test_it_fails_the_checks_of_its_fault_and_no_other(generator, wanted):
    results = testing.run_map_checks(generator, raise_on_failure=False)
    failed = {result.name: result.message for result in results if result.state == "failed"}
    assert failed.keys() == wanted, failed


def test_an_image_is_only_for_maps_that_say_so():
    """Without the tag no caller would know that the map needs one."""
    results = testing.run_map_checks(SeesGreyValues(), raise_on_failure=False)
    assert "check_edge_cases" in {result.name for result in results if result.state == "failed"}


def test_every_check_can_fail():
    assert set().union(*(checks for _, checks in WRONG)) == set(testing.CHECKS)
