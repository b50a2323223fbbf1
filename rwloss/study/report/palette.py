"""A colour for each map, the same wherever the map is shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

REFERENCE = "#7d7d7d"
"""Grey: what the others are measured against."""

# Okabe & Ito's colours, told apart with every common form of colour blindness, the palest last.
# Each has a contrast of 3 or more on one of the page's two backgrounds, and of 2 on the other.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dashdot", "longdashdot")
"""Of lines: the next one when all colours have been used. Dotted is a run that is not done."""

SIGNS = ("", "-open", "-dot", "-open-dot")
"""The same of points: what follows the name of Plotly's symbol."""

CLASS_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#F0E442")
"""Of classes in pictures, those of `rwloss show`."""


@dataclass(frozen=True)
class Look:
    """How a map is drawn. round: how often all colours have been used before."""

    colour: str
    round: int = 0

    @property
    def dash(self) -> str:
        """Of its lines."""
        return DASHES[self.round % len(DASHES)]

    @property
    def sign(self) -> str:
        """Of its points."""
        return SIGNS[self.round % len(SIGNS)]


def looks(names: Iterable[str], reference: str | None) -> dict[str, Look]:
    """The look of each map, another for each of up to 24 beside the reference.

    >>> looks(["boundary", "dice_ce"], "dice_ce")
    {'boundary': Look(colour='#0072B2', round=0), 'dice_ce': Look(colour='#7d7d7d', round=0)}
    """
    found: dict[str, Look] = {}
    place = 0
    for name in names:
        if name == reference:
            found[name] = Look(REFERENCE)
        else:
            round_, index = divmod(place, len(COLOURS))
            found[name] = Look(COLOURS[index], round_)
            place += 1
    return found
