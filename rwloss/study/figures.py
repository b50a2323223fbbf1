"""Numbers of a study as text."""

from __future__ import annotations

from rwloss.study.rates import Rate
from rwloss.study.statistics import Interval
from rwloss.words import percent

NOTHING = "\N{EN DASH}"
"""Shown for a missing number."""

MINUS = "\N{MINUS SIGN}"

_ROUNDING = 1e-7


def decimal(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """A number with this many digits after the point.

    >>> decimal(0.12345), decimal(0.5, signed=True), decimal(-1e-9), decimal(None) == NOTHING
    ('0.123', '+0.500', '0.000', True)
    """
    if value is None:
        return NOTHING
    return f"{value:{'+' if signed else ''}z.{digits}f}".replace("-", MINUS)


def bounds(found: Interval, *, signed: bool = False) -> str:
    """The ends of an interval.

    >>> bounds(Interval(mean=0.5, low=0.25, high=0.75, n=3))
    '0.250 to 0.750'
    """
    return f"{decimal(found.low, signed=signed)} to {decimal(found.high, signed=signed)}"


def significant(value: float | None) -> str:
    """A number with two significant digits; a nonzero number is never shown as 0.

    >>> [significant(value) for value in (0.0312, 1e-8, 0)]
    ['0.031', '1e-08', '0']
    """
    return NOTHING if value is None else f"{value:.2g}"


def mass(wrong_way_mass: float | None) -> str:
    """A wrong-way mass in percent. Rounding in single precision counts as 0.

    >>> mass(0.04), mass(1e-49)
    ('4.0 %', '0 %')
    """
    if wrong_way_mass is None:
        return NOTHING
    return percent(wrong_way_mass if wrong_way_mass > _ROUNDING else 0.0)


def left_open(found: Rate) -> str:
    """The shares that are compatible with a rate.

    >>> from rwloss.study.rates import rate
    >>> [left_open(rate(count, 3)) for count in (0, 1, 3)]
    ['up to 63 %', '6 to 79 %', '37 % or more']
    """
    low, high = (f"{100 * value:.0f}" for value in (found.low, found.high))
    if not found.count:
        return f"up to {high} %"
    return f"{low} % or more" if found.count == found.of else f"{low} to {high} %"
