"""What `rwloss maps` and the atlas say of a term: no more than its class says, and all of it."""

from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field, PositiveFloat, conint

from rwloss import RWMap, maps
from rwloss.errors import RWLossError
from rwloss.maps.facts import facts, in_words, split

built_ins = pytest.mark.parametrize("name", maps.names())


class Bare(maps.MapGenerator):
    """Nothing but the map.

    scale: what it is multiplied by.
    """

    scale: float
    name: ClassVar[str] = "bare"

    def compute(self, regions):
        return RWMap.compact(regions.labels, 2, regions.full(-self.scale), regions.full(0.0))


def test_what_a_plug_in_does_not_say_is_unknown():
    found = facts(Bare)
    assert (found.form, found.principle, found.range, found.unit) == (None, None, None, "")
    assert (found.citation, found.official_code, found.used_by) == ("", "", ())
    [scale] = found.parameters
    assert (scale.required, scale.default, scale.meaning) == (
        True,
        None,
        "what it is multiplied by.",
    )
    assert found.description == "Nothing but the map."


@built_ins
def test_a_built_in_says_everything(name):
    found = facts(maps.load(name))
    assert found.name == name
    assert None not in (found.form, found.principle, found.range)
    assert found.citation
    assert all(parameter.meaning for parameter in found.parameters), found.parameters
    assert not any(f" {parameter.name}: " in found.description for parameter in found.parameters)
    if found.kind == "static":
        assert not found.ingredient
        assert (found.range[0] is not None and found.range[0] >= 0) == (not found.signed)
    else:
        assert found.range[0] == maps.load(name).minimum


def test_split_leaves_other_colons_alone():
    doc = """First: a line.

    Of `gain`: nothing. gain: with a ratio of 2:1; low, high: the ends.
    Over two lines (see above: here).

    Unitless; compact.
    """
    kept, meanings = split(doc, ["gain", "low", "high"])
    assert kept.split("\n\n")[:2] == ["First: a line.", "Of `gain`: nothing."]
    assert kept.endswith("Unitless; compact.\n    ")
    assert meanings == {
        "gain": "with a ratio of 2:1.",
        "low": "the ends. Over two lines (see above: here).",
        "high": "the ends. Over two lines (see above: here).",
    }
    assert split("No: parameters.", []) == ("No: parameters.", {})


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (PositiveFloat, "float > 0"),
        (Annotated[float, Field(ge=0, lt=1)], "float >= 0, < 1"),
        (Literal["a", "b"], "'a' | 'b'"),
        (tuple[PositiveFloat, ...] | None, "tuple[float > 0, ...] | None"),
        (bool, "bool"),
        (conint(gt=0), "int > 0"),
        (Annotated[float | None, Field(gt=0)], "float > 0 | None"),
    ],
)
def test_types_in_words(annotation, words):
    assert in_words(annotation) == words


def test_a_limit_that_is_unknown():
    class Even(maps.MapGenerator):
        name = "even_for_tests"
        number: Annotated[int, Field(multiple_of=2)] = 2

        def compute(self, regions):
            raise NotImplementedError

    with pytest.raises(
        RWLossError, match=r"of number can't be checked \(the limit MultipleOf"
    ) as of:
        facts(Even)
    with pytest.raises(RWLossError) as made:
        Even()
    assert str(of.value) == str(made.value)
