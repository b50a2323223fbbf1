"""The look of each map, the same wherever the map is shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

REFERENCE = "#7d7d7d"
"""Grey, for the map that the others are compared with."""

# Okabe & Ito's colours, told apart with every common form of colour blindness, the palest last.
# Each has a contrast of 3 or more on one of the page's two backgrounds, and of 2 on the other.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "9px,9px", "9px,3px,3px,3px", "15px,6px,3px,6px")
"""Of lines, as Plotly and SVG read them: the next one when all colours have been used. Dotted lines
are runs that are not done."""

SIGNS = ("", "-open", "-dot", "-open-dot")
"""The same for points: endings of the names of Plotly's symbols."""


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
    """The look of each map; up to 24 maps beside the reference all look different.

    >>> looks(["boundary", "dice_ce"], "dice_ce")
    {'boundary': Look(colour='#0072B2', round=0), 'dice_ce': Look(colour='#7d7d7d', round=0)}
    """
    found: dict[str, Look] = {}
    for name in names:
        round_, index = divmod(len(found.keys() - {reference}), len(COLOURS))
        found[name] = Look(REFERENCE) if name == reference else Look(COLOURS[index], round_)
    return found
