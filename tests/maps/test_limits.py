"""The check of parameters against pydantic, which is the reference."""

from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Any, Literal, NewType

import numpy as np
import pytest
from annotated_types import Interval, Len, Unit
from pydantic import (
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveFloat,
    TypeAdapter,
    ValidationError,
    confloat,
    conint,
    constr,
)
from typing_extensions import TypeAliasType

from rwloss.maps import limits
from rwloss.maps.facts import in_words
from rwloss.maps.limits import requirement


def checked(kind, value):
    return limits.checked({"x": kind}, {"x": value})["x"]


KINDS: list[Any] = [
    float,
    int,
    bool,
    str,
    None,
    object,
    Any,
    Literal["a", "b"],
    Literal["a", None, "1"],
    float | None,
    float | int,
    int | float,
    bool | float,
    str | bool | None,
    tuple[float, ...],
    tuple[int, float],
    tuple[float | None, ...],
    tuple[tuple[float, ...], ...] | Literal["a"],
    PositiveFloat,
    FiniteFloat,
    PositiveFloat | None,
    tuple[PositiveFloat, ...] | Literal["a"],
    Annotated[float, Field(ge=0, lt=1, description="a share")],
    Annotated[int, Interval(gt=0, le=3)],
    Annotated[float | None, Field(gt=0)],
    Annotated[float, Unit("mm")],
    conint(gt=0),
    tuple[confloat(ge=0, lt=1), ...],
    NewType("Share", Annotated[float, Field(le=1)]),
    TypeAliasType("Text", str | None),
]
VALUES: list[Any] = [
    0,
    1,
    2,
    -1,
    0.0,
    1.0,
    0.5,
    -0.5,
    3,
    4,
    10**400,
    float("nan"),
    float("inf"),
    True,
    False,
    None,
    "a",
    "1",
    "",
    b"a",
    (),
    (1,),
    (1, 2),
    (1.5, 2),
    (0.0, 1.0),
    (1, None),
    ((1, 2), (0.5,)),
    ((1,), 2),
    {1.0},
    {"a": 1},
    1j,
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_same_values_fit_as_with_pydantic(kind):
    adapter = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))
    for value in VALUES:
        try:
            wanted = adapter.validate_python(value, strict=True)
        except ValidationError:
            with pytest.raises(ValueError, match=r"."):
                checked(kind, value)
        else:
            found = checked(kind, value)
            assert repr(found) == repr(wanted), (value, found)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_words_of_a_requirement(kind):
    assert requirement(kind)
    assert in_words(kind)


def test_a_large_limit_keeps_its_digits():
    kind = Annotated[int, limits.Limit(le=16777217)]
    assert requirement(kind) == "a whole number at most 16777217"
    assert in_words(kind) == "int <= 16777217"


def test_numbers_of_numpy_become_those_of_python():
    assert repr(checked(float, np.float32(0.5))) == "0.5"
    assert repr(checked(int | float, np.int64(3))) == "3"
    assert repr(checked(tuple[float, ...], [np.float64(1), np.int32(2)])) == "(1.0, 2.0)"
    with pytest.raises(ValueError, match="True or False"):
        checked(bool, np.int64(1))


def test_a_fraction_becomes_a_float_if_there_is_one():
    assert repr(checked(float, Fraction(1, 4))) == "0.25"
    for kind in (float, int, float | None):
        with pytest.raises(limits.Misfit, match="number"):
            checked(kind, Fraction(10**400))


def test_text_of_numpy_and_of_an_enum_becomes_plain_text():
    class Mode(StrEnum):
        FAST = "fast"

    for value in (np.str_("fast"), Mode.FAST):
        for kind in (str, Any, Literal["slow", "fast"], float | str):
            assert repr(checked(kind, value)) == "'fast'"


@pytest.mark.parametrize(
    "kind",
    [
        list[float],
        dict,
        Annotated[tuple[float, ...], Len(1)],
        Annotated[int, Field(multiple_of=2)],
        Annotated[float, lambda value: value],
        constr(min_length=1),
    ],
)
def test_what_cannot_be_checked_is_refused(kind):
    with pytest.raises(TypeError):
        checked(kind, ())
    with pytest.raises(TypeError):
        checked(kind | None, None)
