"""Generators from functions: the signature is the list of parameters."""

from __future__ import annotations

import dataclasses
import pickle
import re
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pytest
import torch
from annotated_types import Gt

import rwloss
from rwloss import RWLossError, RWMap, maps, testing
from rwloss.maps import registry

if TYPE_CHECKING:
    from torch import Tensor

    from rwloss import Regions as OnlyForTypeCheckers


def flat_map(regions, true, other=1.0):
    return RWMap.compact(
        regions.labels, regions.num_classes, regions.full(true), regions.full(other)
    )


TAGS = maps.MapTags(
    stable=True, unit="unitless", commutes_with=frozenset({"flip", "rot90", "crop"})
)


@maps.register("flat_for_tests", tags=TAGS, citation="Nobody, 2026")
def flat(
    regions: OnlyForTypeCheckers,
    depth: Annotated[float, Gt(0)],
    form: Literal["low", "high"] = "low",
    *,
    other: float | None = None,
) -> RWMap:
    """Minus `depth` at the true class.

    The second paragraph.
    """
    return flat_map(regions, -depth if form == "low" else -2 * depth, other or 1.0)


# Not known to the process: the tests of names would count it.
del registry._registered["flat_for_tests"]


def test_it_is_a_generator_class_like_any_other():
    assert issubclass(flat, maps.MapGenerator)
    assert dataclasses.is_dataclass(flat)
    assert flat.__doc__.startswith("Minus `depth` at the true class.\n\nThe second")
    assert (flat.__module__, flat.__qualname__) == (__name__, "flat")
    assert (flat.name, flat.tags, flat.citation) == ("flat_for_tests", TAGS, "Nobody, 2026")
    assert maps.parameters(flat) == {
        "depth": Annotated[float, Gt(0)],
        "form": Literal["low", "high"],
        "other": float | None,
    }
    assert flat(2).depth == 2.0
    assert flat(2) == flat(depth=2.0, form="low") != flat(3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        flat(2).depth = 3


def test_text_reads_back():
    registry.add(flat)
    assert str(flat(2, other=3)) == "flat_for_tests(depth=2.0, other=3.0)"
    assert maps.parse("2 * flat_for_tests(depth=2, form='high')") == 2 * flat(2, "high")
    assert maps.get("flat_for_tests", depth=1) == flat(1)
    assert "flat_for_tests" in maps.names()
    assert maps.origin("flat_for_tests").endswith("test_function.py:flat")


def test_parameters_are_checked():
    registry.add(flat)
    for given, message in [
        ({}, r"flat_for_tests needs depth: flat_for_tests\(depth=...\)"),
        ({"depth": "deep"}, "flat_for_tests.depth='deep'.: must be a finite number greater than 0"),
        ({"depth": -1}, "flat_for_tests.depth=-1.: must be a finite number greater than 0"),
        ({"depth": 1, "form": "lo"}, "must be 'low' or 'high'"),
        ({"dept": 1}, "no parameter 'dept': did you mean 'depth'.*It has: depth, form, other"),
        ({"depth": 1, "regions": 2}, "no parameter 'regions'"),
    ]:
        with pytest.raises(RWLossError, match=message):
            maps.get("flat_for_tests", **given)
        text = ", ".join(f"{name}={value!r}" for name, value in given.items())
        with pytest.raises(RWLossError, match=message):
            maps.parse(f"flat_for_tests({text})")


def test_it_travels_by_name():
    assert pickle.loads(pickle.dumps(flat(2))) == flat(2)


def test_they_pass_the_kit():
    for term in (flat(2), flat(1, "high", other=0.5), log_cosh_dice(), log_cosh_dice(smooth=1.0)):
        testing.run_map_checks(term)


def test_the_map_is_checked_like_any_other():
    @maps.register("nan_for_tests")
    def broken(regions):
        return flat_map(regions, np.nan)

    with pytest.raises(RWLossError, match="nan_for_tests: `true` has values that are not finite"):
        broken()(rwloss.Regions(np.array([[[0, 1]]]), 2))


# --- Losses of probabilities


@maps.register(
    "log_cosh_dice_for_tests",
    tags=maps.MapTags(unit="unitless", commutes_with=frozenset({"flip", "rot90"})),
)
def log_cosh_dice(probs: Tensor, truth: Tensor, smooth: Annotated[float, Gt(0)] = 1e-5) -> Tensor:
    """log cosh (1 - Dice). (b c)."""
    both, size = (probs * truth).flatten(2).sum(2), (probs + truth).flatten(2).sum(2)
    return (1 - (2 * both + smooth) / (size + smooth)).cosh().log()


del registry._registered["log_cosh_dice_for_tests"]


def test_a_loss_is_a_term_like_any_other():
    registry.add(log_cosh_dice)
    assert issubclass(log_cosh_dice, maps.LossTerm)
    term = maps.parse("log_cosh_dice_for_tests(smooth=1)")
    assert term == log_cosh_dice(1) == pickle.loads(pickle.dumps(term))
    assert str(0.5 * term + maps.Dice()) == "0.5 * log_cosh_dice_for_tests(smooth=1.0) + dice"
    assert not term.is_static
    with pytest.raises(RWLossError, match=r"smooth=0\): must be a finite number greater than 0"):
        maps.get("log_cosh_dice_for_tests", smooth=0)
    logits, target = torch.randn(2, 3, 5, 6), torch.randint(3, (2, 5, 6))
    value = rwloss.RegionWiseLoss("rectified + log_cosh_dice_for_tests(smooth=1)")(logits, target)
    rest = rwloss.RegionWiseLoss("rectified")(logits, target)
    prediction = maps.Prediction.of(logits.log_softmax(1), target, ((1.0, 1.0),) * 2)
    torch.testing.assert_close(value - rest, term.value(prediction), rtol=1e-5, atol=1e-6)


def test_minimum_and_one_number():
    @maps.register("gain_for_tests", minimum=-1.0)
    def gain(probs, truth, scale: float = 1.0):
        return -scale * (probs * truth).sum() / truth.sum().clamp_min(1)

    assert gain.minimum == -1.0
    target = torch.tensor([[[0, 1]]])
    prediction = maps.Prediction.of(torch.zeros(1, 2, 1, 2), target, ((1.0, 1.0),))
    assert gain().value(prediction) == -1


# --- Signatures that are refused


NEITHER = (
    r"expected \(regions: Regions, ...\) as the first argument of a map, or "
    r"\(probs: Tensor, truth: Tensor, ...\) as the first two of a loss"
)
REFUSED = {
    "probs: Tensor, truth: Tensor, alpha=1.0": "alpha has no type",
    "probs: Tensor, truth: Tensor, minimum: float = 1.0": "'minimum' has another meaning in maps",
    "regions, *depths: float": (
        r"\*depths: .*float.* can't be a parameter of a map: a parameter needs a name and a type"
    ),
    "regions, **depths: float": r"\*\*depths: .*float.* can't be a parameter",
    "regions, depth: float, /": "depth: .*float.* can't be a parameter",
    "": NEITHER,
    "*, regions": NEITHER,
    "image: np.ndarray, labels: np.ndarray": NEITHER,
    "probs: Tensor, alpha: float = 1.0": NEITHER,
    "regions, depth=1.0": "depth has no type: write, for example, depth: float",
    "regions, depth: flaot = 1.0": "can't be read .name 'flaot' is not defined.: import it",
    "regions, unit: float = 1.0": "'unit' has another meaning in maps: rename the parameter",
    "regions, name: str = 'x'": "'name' has another meaning in maps",
    "regions, depths: list[float] = []": "mutable default <class 'list'> for field depths",
}


@pytest.mark.parametrize(("signature", "message"), REFUSED.items(), ids=REFUSED)
def test_signature_that_is_refused(signature, message):
    written = "from __future__ import annotations\n"
    exec(written + f"def refused({signature}): pass", scope := {"__name__": "my_module"})
    with pytest.raises(RWLossError, match=rf"my_module:refused: .*{message}"):
        maps.register("refused")(scope["refused"])
    assert "refused" not in maps.names()


def test_name_that_no_expression_could_hold():
    for name in ["my-map", "1st", "", "a b", "class", "file", "blend", "with_link"]:
        with pytest.raises(RWLossError, match="name: expected a name of letters, digits and _"):
            maps.register(name)(lambda regions: None)


def test_wrong_use_of_the_decorator():
    with pytest.raises(RWLossError, match=r'write @maps.register\("name"\)'):
        maps.register(flat_map)
    with pytest.raises(RWLossError, match=r"is for functions, got <class .*: a class needs no"):
        maps.register("rectified_too")(maps.Rectified)


def test_type_that_cannot_be_checked():
    @maps.register("of_arrays_for_tests")
    def of_arrays(regions, weights: object = None, place: np.ndarray = None):
        pass

    with pytest.raises(RWLossError, match=r"of place can't be checked \(.*ndarray.* is no such"):
        of_arrays()


# --- Two with one name


def made_by(function, module="some.module"):
    function.__module__ = module
    return maps.register("twice_for_tests")(function)


def plain(regions):
    pass


def test_another_function_of_that_name_is_an_error_that_names_both():
    def first(regions):
        pass

    made_by(first)
    with pytest.raises(RWLossError, match="two maps are named 'twice_for_tests'") as caught:
        made_by(plain)
    assert re.search(r"some.module:.*\.first and .*:plain: rename one", str(caught.value))
    assert maps.load("twice_for_tests").__qualname__.endswith("first")
    assert made_by(first) is maps.load("twice_for_tests")  # again: it takes its own place


def test_a_name_of_a_package_is_taken():
    with pytest.raises(RWLossError, match="two maps are named 'rectified'") as caught:
        maps.register("rectified")(plain)
    assert "rwloss.maps.static.rectified:Rectified of rwloss" in str(caught.value)
    assert ":plain" in str(caught.value)
