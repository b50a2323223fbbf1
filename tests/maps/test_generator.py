"""The checks around a generator's maths."""

import copy
import dataclasses
import pickle
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import pytest
from anatomy import batch
from annotated_types import Gt

from rwloss import Regions, RWLossError, RWMap, maps
from rwloss.maps.generator import build


@dataclass(frozen=True)
class Made(maps.MapGenerator):
    """A generator that returns what it is given."""

    name: ClassVar[str] = "made"
    result: object = None

    def __post_init__(self):
        """Take anything."""

    def compute(self, regions):
        return self.result


@dataclass(frozen=True)
class WithParameters(maps.MapGenerator):
    """A generator with one parameter of each kind."""

    sigma_mm: float = 1.0
    steps: int = 3
    mode: Literal["in", "out"] = "in"
    weights: tuple[float, ...] = ()

    name: ClassVar[str] = "with_parameters"

    def compute(self, regions):
        return RWMap.compact(
            regions.labels, regions.num_classes, regions.full(self.sigma_mm), regions.full(0.0)
        )


REGIONS = Regions(batch(71, (4, 5)), 4)
ONES = np.ones((3, 4, 5), dtype=np.float32)


def fails(message, result):
    with pytest.raises(RWLossError, match=message):
        Made(result)(REGIONS)


def test_result_that_does_not_fit():
    fails("made.compute returned ndarray: expected an RWMap", ONES)
    of_three = RWMap.compact(REGIONS.labels, 3, ONES, ONES)
    fails("made.compute returned 3 classes, the regions have 4", of_three)
    of_one = RWMap.compact(REGIONS.labels[:1], 4, ONES[:1], ONES[:1])
    fails(r"made.compute returned \(1, 4, 5\) labels, the regions have \(3, 4, 5\)", of_one)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_result_that_is_not_finite(bad):
    values = np.ones((3, 4, 4, 5), dtype=np.float32)
    values[1, 2, 3, 4] = bad
    fails("made: `values` has values that are not finite", RWMap.from_dense(REGIONS.labels, values))
    broken = ONES.copy()
    broken[0, 0, 0] = bad
    fails("made: `other` has values", RWMap.compact(REGIONS.labels, 4, ONES, broken))


def test_result_in_half_precision(kind):
    regions = Regions(kind(REGIONS.labels), 4)
    half = kind(ONES.astype(np.float16))
    with pytest.raises(RWLossError, match=r"made: `true` is .*float16: expected float32"):
        Made(RWMap.compact(regions.labels, 4, half, half))(regions)


def test_ignored_voxels_become_zero(kind):
    labels = batch(72, (4, 5)).astype(np.int64)
    labels[:, 1, 2:] = -1
    regions = Regions(kind(labels), 4, ignore_label=-1)
    compact = RWMap.compact(regions.labels, 4, kind(ONES), kind(2 * ONES))
    for made in (compact, RWMap.from_dense(regions.labels, kind(np.ones((3, 4, 4, 5))))):
        found = Made(made)(regions).dense()
        assert not found[:, :, 1, 2:].any()
        assert (found != 0).sum() == 3 * 4 * (20 - 3)


def test_result_carries_the_labels_of_the_regions():
    copy = RWMap.compact(REGIONS.labels.copy(), 4, ONES, ONES)
    assert Made(copy)(REGIONS).labels is REGIONS.labels


def test_tags_take_any_set_of_moves():
    tags = maps.MapTags(commutes_with={"flip"})
    assert tags == maps.MapTags(commutes_with=frozenset({"flip"}))
    assert hash(tags) == hash(maps.MapTags(commutes_with={"flip": 1}.keys()))
    assert tags == maps.MapTags(commutes_with="flip")


def test_parameters_are_brought_to_their_type():
    made = WithParameters(sigma_mm=2, weights=[1, 2])
    assert repr(made.sigma_mm) == "2.0"
    assert made.weights == (1.0, 2.0)


def test_parameter_of_the_wrong_type():
    for name, value in [
        ("sigma_mm", "wide"),
        ("steps", 1.5),
        ("mode", "up"),
        ("weights", 1.0),
        ("steps", None),
    ]:
        with pytest.raises(RWLossError, match=rf"with_parameters\({name}={value!r}\): must be "):
            WithParameters(**{name: value})


def test_generators_are_values():
    assert WithParameters(steps=4) == WithParameters(steps=4) != WithParameters()
    assert len({WithParameters(), WithParameters(), WithParameters(steps=4)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        WithParameters().steps = 5


def test_text_gives_what_differs_from_the_defaults():
    assert str(WithParameters()) == "with_parameters"
    assert str(WithParameters(steps=4, mode="out")) == "with_parameters(steps=4, mode='out')"


def test_parameters_are_listed_in_order():
    assert maps.parameters(WithParameters) == {
        "sigma_mm": float,
        "steps": int,
        "mode": Literal["in", "out"],
        "weights": tuple[float, ...],
    }


@dataclass(frozen=True)
class Limited(maps.MapGenerator):
    """Parameters with limits, and without a default."""

    tau_mm: Annotated[float, Gt(0)]
    steps: int
    power: float = 1.0

    name: ClassVar[str] = "limited"

    def compute(self, regions):
        raise NotImplementedError


def test_parameters_without_a_default_are_asked_for():
    with pytest.raises(RWLossError) as caught:
        build(Limited, {"power": 2.0})
    assert str(caught.value) == "limited needs tau_mm and steps: limited(tau_mm=..., steps=...)"
    assert str(build(Limited, {"tau_mm": 1, "steps": 2})) == "limited(tau_mm=1.0, steps=2)"


def test_limits_in_annotations_are_kept():
    with pytest.raises(RWLossError, match=r"limited\(tau_mm=0\): .* number greater than 0"):
        Limited(tau_mm=0, steps=1)
    assert maps.parameters(Limited)["tau_mm"] == Annotated[float, Gt(0)]


class Plain(maps.MapGenerator):
    """A subclass without the decorator."""

    name = "plain"
    size_mm: float = 1.0
    unit_of_nothing: "ClassVar[NoSuchType]" = 3  # noqa: F821

    def compute(self, regions):
        return RWMap.compact(
            regions.labels, regions.num_classes, regions.full(-self.size_mm), regions.full(0.0)
        )


class Plainer(Plain):
    """A subclass of such a subclass."""

    name = "plainer"
    steps: int = 2


class Misordered(Plain):
    """A parameter without a default after one with a default."""

    name = "misordered"
    steps: int


def test_a_subclass_is_a_frozen_dataclass_without_the_decorator():
    assert maps.parameters(Plainer) == {"size_mm": float, "steps": int}
    assert repr(Plain(2)) == "Plain(size_mm=2.0)"
    assert Plain(2) == Plain(2.0) != Plain()
    assert str(Plain(2)) == "plain(size_mm=2.0)"
    assert pickle.loads(pickle.dumps(Plain(2))) == copy.copy(Plain(2)) == Plain(2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Plain().size_mm = 3.0
    with pytest.raises(RWLossError, match=r"size_mm='wide'\): must be a finite number"):
        Plain("wide")
    with pytest.raises(RWLossError, match="Misordered: non-default argument 'steps' follows"):
        Misordered(steps=1)


@pytest.mark.parametrize(
    ("base", "word"),
    [(maps.MapGenerator, "name"), (maps.LossTerm, "minimum"), (maps.MapGenerator, "tags")],
)
def test_what_belongs_to_the_class_is_no_parameter(base, word):
    with pytest.raises(
        RWLossError, match=rf"Mine: {word} belongs to the class, .* ClassVar\[...\]"
    ):
        type("Mine", (base,), {"__annotations__": {word: str}, word: "mine"})


def test_a_generator_needs_a_name():
    class Nameless(maps.MapGenerator):
        def compute(self, regions):
            raise NotImplementedError

    with pytest.raises(RWLossError, match=r"Nameless has no name .* name: ClassVar\[str\] = '"):
        Nameless()


def test_type_that_is_not_there():
    @dataclass(frozen=True)
    class Untyped(Limited):
        weight: "NoSuchType" = 1.0  # noqa: F821

    with pytest.raises(RWLossError, match=r"Untyped: the type of a parameter .*'NoSuchType'"):
        Untyped(tau_mm=1, steps=1)
