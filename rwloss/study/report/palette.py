"""A colour for each map, the same wherever the map is shown."""

from __future__ import annotations

from collections.abc import Iterable

REFERENCE = "#7d7d7d"
"""Grey: what the others are measured against."""

# Okabe & Ito's colours, told apart with every common form of colour blindness, the palest last.
# Each has a contrast of 3 or more on one of the page's two backgrounds, and of 2 on the other.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot")
"""Of lines: the next one when all colours have been used."""

CLASS_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#F0E442")
"""Of classes in pictures, those of `rwloss show`."""


def colours(names: Iterable[str], reference: str | None) -> dict[str, tuple[str, str]]:
    """Colour and dash of each map.

    >>> colours(["boundary", "dice_ce"], "dice_ce")
    {'boundary': ('#0072B2', 'solid'), 'dice_ce': ('#7d7d7d', 'solid')}
    """
    found, place = {}, 0
    for name in names:
        if name == reference:
            found[name] = (REFERENCE, DASHES[0])
        else:
            round_, index = divmod(place, len(COLOURS))
            found[name] = (COLOURS[index], DASHES[round_ % len(DASHES)])
            place += 1
    return found
