"""When two texts describe the same map: whatever their order, but nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from rwloss import RWLossError, RWMap, maps
from rwloss.maps.identity import check_map_of

SAME = [
    ("rectified + boundary", "boundary + rectified"),
    ("boundary - 0.5 * rectified", "-0.5*rectified(scope='image') + 1.0*boundary"),
    ("(rectified + boundary).stabilized()", "(boundary + rectified).stabilized()"),
    ("(rectified + class_weighted).with_link(0.5)", "(class_weighted + rectified).with_link(.5)"),
    (
        "blend(dice, rectified + boundary)",
        "blend(dice, boundary + rectified, step=0.01)",
    ),
    ("boundary + boundary", "2 * boundary"),
    ("2 * file('/a/b.py:C') + dice", "2 * file('../x/b.py:C') + dice"),
]
DIFFERENT = [
    ("rectified + boundary", "boundary + 2 * rectified"),
    ("rectified + boundary", "boundary"),
    ("rectified + boundary", "boundary - rectified"),
    ("rectified + boundary", "(boundary + rectified).stabilized()"),
    ("rectified.with_link(0.5) + boundary", "boundary + rectified.with_link(0.4)"),
    ("rectified + boundary", "boundary(convention='valverde') + rectified"),
    ("blend(dice, boundary)", "blend(boundary, dice)"),
    ("2 * file('/a/b.py:C') + dice", "2 * file('/a/b.py:D') + dice"),
    ("2 * file('/a/b.py:C') + dice", "2 * file('/a/c.py:C') + dice"),
    ("unknown + rectified", "rectified + unknown"),  # nobody knows what that is
]


def test_the_order_of_terms_does_not_count():
    for one, other in SAME:
        for pair in ((one, other), (other, one)):
            assert maps.is_same(*pair), pair
            assert maps.is_map_of(*pair), pair
        if "file" not in one:
            assert maps.parse(one) == maps.parse(other), one
            assert hash(maps.parse(one)) == hash(maps.parse(other)), one
    for one, other in DIFFERENT:
        for pair in ((one, other), (other, one)):
            assert not maps.is_same(*pair), pair
            assert not maps.is_map_of(*pair), pair


def test_numbers_stand_for_a_rule_on_a_dataset():
    weights, rule = "weights=(1, 2.5)", "weights='dataset_inverse'"
    for text in (
        "rectified({})",
        "boundary + 2 * rectified(scope='component', {})",
        "(boundary + class_weighted({})).stabilized()",
        "class_weighted(weights=(3, 4)) + class_weighted({})",
    ):
        held, wanted = text.format(weights), text.format(rule)
        turned = " + ".join(reversed(wanted.split(" + "))) if text[0] != "(" else wanted
        for needed in (wanted, turned):
            assert maps.is_map_of(held, needed), needed
            assert not maps.is_same(held, needed), needed
            assert not maps.is_map_of(needed, held), needed  # a store holds no rule
        for other in ("weights='inverse'", "beta=0.5, weights=(1, 2.5)"):
            assert not maps.is_map_of(text.format(other), wanted), other
    wanted = "rectified(weights='dataset_inverse') + rectified(weights=(1, 2))"
    assert maps.is_map_of("rectified(weights=(1, 2)) + rectified(weights=(7, 8))", wanted)
    assert not maps.is_map_of("rectified(weights=(3, 4)) + rectified(weights=(7, 8))", wanted)


def test_no_file_is_executed(tmp_path):
    """A file that was named is compared as parsed, any other as text."""
    (tmp_path / "mine.py").write_text(
        "from rwloss import maps\n"
        "class Mine(maps.Rectified):\n"
        "    name = 'mine_of_identity'\n"
        "    size: float = 1.0\n"
    )
    text = f"file('{tmp_path}/mine.py:Mine') + boundary"
    other = f"boundary + file('{tmp_path}/mine.py:Mine', size=1.0)"
    assert not maps.is_same(text, other)
    maps.parse(text)
    assert maps.is_same(text, other)


def test_a_map_of_something_else_is_refused():
    labels, part = np.zeros((1, 2, 2), int), np.zeros((1, 2, 2))

    def of(expression):
        return RWMap.compact(labels, 2, part, part, expression=expression)

    for held, wanted in ((None, "boundary"), ("rectified", None), (*reversed(SAME[0]),)):
        check_map_of(of(held), wanted)
    for held, wanted in DIFFERENT:
        with pytest.raises(RWLossError) as error:
            check_map_of(of(held), wanted)
        assert str(error.value) == (
            f"the map belongs to {held}, but a map of {wanted} is needed: make it again with "
            f"{wanted!r}, or use it with {held!r}"
        )
