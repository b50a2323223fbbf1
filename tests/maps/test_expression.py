"""Weighted sums of terms: their form, their maps, and what of them can be stored."""

import numpy as np
import pytest
from anatomy import batch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    expressions,
    few,
    generators,
    seeds,
    weighted_sums,
)

from rwloss import Regions, RWLossError, maps
from rwloss.maps import ActiveContour, Boundary, ClassWeighted, CrossEntropy, Dice, Rectified
from rwloss.maps.expression import Leaf, Sum

RECTIFIED, BOUNDARY, CONTOUR = Rectified(), Boundary(), ActiveContour()
DICE, CROSS_ENTROPY = Dice(), CrossEntropy()
LINKED = RECTIFIED.with_link(0.5)
BLEND = maps.blend(DICE, BOUNDARY)
BOTH_STATIC = maps.blend(RECTIFIED, BOUNDARY)
REGIONS = Regions(batch(81, (9, 8)), 4, (0.8, 2.5))
PROBS = np.random.default_rng(81).dirichlet(np.ones(4), size=(3, 9, 8)).transpose(0, 3, 1, 2)


def dense(expression, probs=PROBS):
    return np.asarray(expression(REGIONS, probs).dense())


# --- The form: flat, equal terms together, zeros gone


@pytest.mark.parametrize(
    ("made", "terms"),
    [
        (RECTIFIED + BOUNDARY, ((1, RECTIFIED), (1, BOUNDARY))),
        (BOUNDARY + RECTIFIED, ((1, BOUNDARY), (1, RECTIFIED))),
        (RECTIFIED - BOUNDARY, ((1, RECTIFIED), (-1, BOUNDARY))),
        (-RECTIFIED, ((-1, RECTIFIED),)),
        (2 * RECTIFIED, ((2, RECTIFIED),)),
        (RECTIFIED * 2, ((2, RECTIFIED),)),
        (RECTIFIED + Rectified(), ((2, RECTIFIED),)),
        (RECTIFIED + BOUNDARY + DICE, ((1, RECTIFIED), (1, BOUNDARY), (1, DICE))),
        (RECTIFIED + (BOUNDARY + DICE), ((1, RECTIFIED), (1, BOUNDARY), (1, DICE))),
        (
            3 * (RECTIFIED - 2 * (BOUNDARY - DICE)),
            ((3, RECTIFIED), (-6, BOUNDARY), (6, DICE)),
        ),
        (RECTIFIED + BOUNDARY - RECTIFIED + DICE, ((1, BOUNDARY), (1, DICE))),
        (RECTIFIED + 0 * BOUNDARY + 0 * DICE + BOUNDARY * 0.5, ((1, RECTIFIED), (0.5, BOUNDARY))),
        (0 * RECTIFIED, ((0, RECTIFIED),)),
        (2 * LINKED + LINKED, ((3, LINKED),)),
        (BLEND + BLEND, ((2, BLEND),)),
        (np.float64(0.5) * RECTIFIED, ((0.5, RECTIFIED),)),
        (RECTIFIED * np.float32(0.5), ((0.5, RECTIFIED),)),
        (RECTIFIED * np.int64(3), ((3, RECTIFIED),)),
    ],
    ids=str,
)
def test_sums_are_flat_and_merged(made, terms):
    assert made == Sum(terms)
    assert all(type(weight) is float for weight, _ in made.terms)


def test_a_single_term_of_weight_one_is_the_term():
    assert 1 * RECTIFIED is RECTIFIED
    assert RECTIFIED + BOUNDARY - BOUNDARY == RECTIFIED
    assert -1 * (-RECTIFIED) == RECTIFIED
    assert 0.5 * RECTIFIED + 0.5 * RECTIFIED == RECTIFIED


def test_terms_of_other_parameters_stay_apart():
    made = Boundary("valverde") + Boundary() + Rectified(scope="component") + Rectified()
    assert len(made.terms) == 4


def test_a_stabilized_term_is_another_term():
    made = BOUNDARY + BOUNDARY.stabilized()
    assert [str(term) for _, term in made.terms] == ["boundary", "boundary.stabilized()"]


def test_equality_of_all_kinds():
    kinds = [RECTIFIED, 2 * RECTIFIED, RECTIFIED.stabilized(), LINKED, RECTIFIED.with_link(0.4)]
    kinds += [BLEND, maps.blend(DICE, BOUNDARY, "steal"), maps.blend(DICE, BOUNDARY, alpha=0.02)]
    assert len(set(kinds)) == len(kinds)
    assert maps.blend("dice", "boundary") == BLEND
    assert maps.Linked(Rectified(), 0.5) == LINKED
    assert len({Rectified(clip_mm=2), Rectified(clip_mm=2.0)}) == 1


def test_only_expressions_add_and_only_numbers_multiply():
    for other in [1, 0.5, None, "boundary", True]:
        with pytest.raises(TypeError):
            RECTIFIED + other
        with pytest.raises(TypeError):
            other - RECTIFIED
    for factor in [True, None, "2", 1j, RECTIFIED, (2,)]:
        with pytest.raises(TypeError):
            RECTIFIED * factor


def test_weights_are_finite():
    for factor in [np.inf, -np.inf, np.nan, 10**400, -(10**5000)]:
        with pytest.raises(RWLossError, match="expected a finite weight for rectified"):
            factor * RECTIFIED
    with pytest.raises(RWLossError, match="expected a finite weight for boundary, got inf"):
        1e200 * (RECTIFIED + 1e200 * BOUNDARY)
    with pytest.raises(RWLossError, match="expected a finite weight for rectified, got -inf"):
        -1e308 * RECTIFIED - 1e308 * RECTIFIED


# --- The map of a sum is the sum of the maps


@few
@given(weighted_sums(generators, st.floats(-3, 3)), seeds)
def test_map_of_a_sum(expression, rng):
    labels = rng.integers(0, 3, (2, 4, 5))
    regions = Regions(labels, 3, (1.0, 2.5))
    probs = rng.dirichlet(np.ones(3), size=(2, 4, 5)).transpose(0, 3, 1, 2)
    pairs = expression.terms if isinstance(expression, Sum) else ((1.0, expression),)
    parts = [(weight, np.asarray(term(regions, probs).dense())) for weight, term in pairs]
    wanted = sum(weight * values.astype(float) for weight, values in parts)
    found = np.asarray(expression(regions, probs).dense())
    size = max(1.0, *(abs(weight) * np.abs(values).max() for weight, values in parts))
    np.testing.assert_allclose(found, wanted, atol=1e-6 * size)


def test_sum_of_compact_maps_is_compact():
    assert (RECTIFIED - 2 * CONTOUR + ClassWeighted())(REGIONS).is_compact
    assert not (RECTIFIED + BOUNDARY)(REGIONS).is_compact


def test_a_dynamic_sum_needs_probabilities():
    with pytest.raises(RWLossError, match="dice is dynamic"):
        (RECTIFIED + DICE)(REGIONS)


# --- What is static


@pytest.mark.parametrize(
    ("expression", "static"),
    [
        (RECTIFIED, True),
        (RECTIFIED + BOUNDARY, True),
        ((RECTIFIED - BOUNDARY).stabilized(), True),
        (DICE, False),
        (RECTIFIED + DICE, False),
        ((RECTIFIED + DICE).stabilized(), False),
        (LINKED, False),
        (RECTIFIED + LINKED, False),
        (BOTH_STATIC, False),
        (maps.blend(RECTIFIED, BOUNDARY, "constant"), False),
    ],
    ids=str,
)
def test_is_static(expression, static):
    assert expression.is_static == static


STATIC_PARTS = [
    (RECTIFIED, "rectified"),
    (2 * RECTIFIED - BOUNDARY, "2 * rectified - boundary"),
    (DICE, None),
    (DICE + 2 * CROSS_ENTROPY, None),
    (2 * RECTIFIED + DICE, "2 * rectified"),
    (DICE - RECTIFIED, "-rectified"),
    (LINKED, "rectified"),
    (2 * LINKED + DICE, "2 * rectified"),
    (2 * LINKED + 3 * CONTOUR.with_link(0.5), "2 * rectified + 3 * active_contour"),
    ((RECTIFIED + 2 * CONTOUR).with_link(0), "rectified + 2 * active_contour"),
    (BLEND, "boundary"),
    (3 * BLEND, "3 * boundary"),
    (maps.blend(DICE, 2 * BOUNDARY + RECTIFIED), "2 * boundary + rectified"),
    (maps.blend(DICE, LINKED), "rectified"),
    (maps.blend(DICE, BOUNDARY, step=None), "boundary"),
    (maps.blend(DICE, CROSS_ENTROPY), None),
    (maps.blend(BLEND, CROSS_ENTROPY), "boundary"),
    (BOUNDARY.stabilized() + DICE, "boundary.stabilized()"),
    ((BOUNDARY + DICE).stabilized(), None),
    ((BOUNDARY + DICE).stabilized() + RECTIFIED, "rectified"),
    (0 * RECTIFIED + DICE, None),
]


@pytest.mark.parametrize(("expression", "text"), STATIC_PARTS, ids=str)
def test_static_part(expression, text):
    found = expression.static_part
    assert (None if found is None else str(found)) == text
    assert found is None or found.is_static


@pytest.mark.parametrize(
    ("expression", "parts"),
    [
        (RECTIFIED + LINKED, ["rectified", "rectified"]),
        (LINKED + RECTIFIED.with_link(0.4), ["rectified", "rectified"]),
        (RECTIFIED + BLEND, ["rectified", "boundary"]),
        (BOTH_STATIC, ["rectified", "boundary"]),
        (BLEND + maps.blend(DICE, BOUNDARY, "steal"), ["boundary", "boundary"]),
        (maps.blend(BOTH_STATIC, DICE), ["rectified", "boundary"]),
        (maps.blend(DICE, RECTIFIED + LINKED), ["rectified", "rectified"]),
    ],
    ids=str,
)
def test_one_map_cannot_stand_for_all(expression, parts):
    groups = expression.static_groups()
    assert [str(group.term) for group in groups] == parts
    with pytest.raises(RWLossError, match="different links or schedules, so one stored map can't"):
        expression.static_part  # noqa: B018


def test_groups_know_link_and_factor():
    at = {"epoch": 30, "total": None}
    expression = 2 * maps.blend(DICE, 3 * LINKED + BOUNDARY) + 5 * CONTOUR + RECTIFIED
    groups = expression.static_groups(**at)
    found = [(str(group.term), group.link) for group in groups]
    assert found == [
        ("6 * rectified", 0.5),
        ("2 * boundary", None),
        ("5 * active_contour + rectified", None),
    ]
    np.testing.assert_allclose([group.factor for group in groups], [0.3, 0.3, 1.0])


def test_factors_of_nested_blends_multiply():
    nested = maps.blend(DICE, maps.blend(RECTIFIED, BOUNDARY, "steal"))
    factors = {str(g.term): g.factor for g in nested.static_groups(epoch=20)}
    assert factors == pytest.approx({"rectified": 0.2 * 0.8, "boundary": 0.2 * 0.21})


def test_leaves_of_a_sum():
    expression = 2 * (DICE - 3 * BLEND)
    leaves = expression.leaves(epoch=25)
    assert [(leaf.term, leaf.weight) for leaf in leaves] == [(DICE, 2), (DICE, -6), (BOUNDARY, -6)]
    np.testing.assert_allclose([leaf.factor for leaf in leaves], [1, 0.75, 0.25])
    assert expression.dynamic_leaves(epoch=25) == leaves[:2]
    assert RECTIFIED.leaves() == (Leaf(RECTIFIED),)


@few
@given(expressions, st.sampled_from([0, 1, 42]))
def test_every_leaf_is_static_in_one_group_or_dynamic(expression, epoch):
    leaves = expression.leaves(epoch, 100)
    assert not any(isinstance(leaf.term, Sum | maps.Blend | maps.Linked) for leaf in leaves)
    dynamic = expression.dynamic_leaves(epoch, 100)
    groups = expression.static_groups(epoch, 100)
    assert list(dynamic) == [leaf for leaf in leaves if not leaf.term.is_static]
    grouped = [leaf.term for group in groups for leaf in group.term.leaves()]
    assert set(grouped) <= {leaf.term for leaf in leaves if leaf.term.is_static}
    assert bool(groups) == (len(dynamic) < len(leaves))
    assert all(group.term.is_static for group in groups)
    assert expression.is_static == (
        not dynamic and all(not leaf.schedule and leaf.link is None for leaf in leaves)
    )


# --- Stabilized


def test_stabilized_maps():
    rwmap = BOUNDARY.stabilized()(REGIONS)
    assert rwmap.is_compact
    np.testing.assert_array_equal(rwmap.dense(), BOUNDARY(REGIONS).stabilized().dense())
    np.testing.assert_array_equal(dense(RECTIFIED.stabilized()), dense(RECTIFIED))
    np.testing.assert_array_equal(dense(BOUNDARY.stabilized().stabilized()), rwmap.dense())


def test_stabilizing_a_sum_is_not_summing_stabilized():
    together = dense((BOUNDARY - RECTIFIED).stabilized())
    apart = dense(BOUNDARY.stabilized() + (-RECTIFIED).stabilized())
    assert np.abs(together - apart).max() > 0.1


def test_stabilized_holds_no_link_or_schedule():
    for inner in [LINKED, BLEND, RECTIFIED + LINKED, DICE - 2 * BLEND]:
        with pytest.raises(RWLossError, match=r"has a schedule or a link inside .stabilized\(\)"):
            inner.stabilized()


# --- Units


@pytest.mark.parametrize(
    ("expression", "unit"),
    [
        (BOUNDARY, "mm"),
        (2 * BOUNDARY, "mm"),
        (BOUNDARY.stabilized(), "mm"),
        (RECTIFIED + CONTOUR, "unitless"),
        (RECTIFIED + BOUNDARY, ""),
        (LINKED, "unitless"),
        (BLEND, ""),
        (Boundary(normalize="max") + RECTIFIED, "unitless"),
        (maps.HausdorffDT(alpha=1.5), "mm^1.5"),
        (maps.ActiveContourLength(), "1/mm"),
    ],
    ids=str,
)
def test_unit(expression, unit):
    assert expression.unit == unit
