"""Text on a figure: of any script, and cut to the room that it has."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
SMALL = 7.5  # points
INK, FAINT = "#1a1a1a", "#5a5a5a"


class Lettering:
    """Measures text on a figure, and knows the fonts that can draw it.

    texts: all that may have letters of any script.
    """

    def __init__(self, figure: Figure, texts: Iterable[str]) -> None:
        """Choose the fonts."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self._figure = figure
        self._renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
        self._families, self._missing = _fonts("".join(texts))

    def fit(self, text: str, width: float, size: float, lines: int, weight: str = "normal") -> str:
        """The text in at most this many lines of this width in inches, with … where it was cut."""
        text = " ".join(text.split()).translate(self._missing)
        style = self._style(size, weight=weight)
        length = max(1, len(text))
        while True:
            wrapped = textwrap.wrap(text, length, max_lines=lines, placeholder="…") or [""]
            measured = self._figure.text(0, 0, "\n".join(wrapped), **style)
            widest = float(measured.get_window_extent(self._renderer).width) / DPI
            measured.remove()
            if length == 1 or widest <= width:
                return "\n".join(wrapped)
            length = max(1, min(length - 1, int(length * width / widest) + 2))

    def write(self, text: str, left: float, top: float, size: float, **style: str) -> None:
        """Put fitted text on the figure, with its top left corner there. Inches."""
        width, height = self._figure.get_size_inches()
        at = left / width, 1 - (top + 0.12 * size / 72) / height
        self._figure.text(*at, text, va="top", linespacing=1.3, **self._style(size, **style))

    def head(self, axes: Axes, text: str, size: float, pad: float = 3, **style: str) -> None:
        """Put fitted text above axes; size and pad in points."""
        settings = self._style(size, **style)
        axes.set_title(text, loc="left", pad=pad, linespacing=1.3, **settings)

    def legend(self, axes: Axes, lines: Sequence[tuple[str, str]]) -> None:
        """Put colours with their fitted texts below axes."""
        from matplotlib.patches import Patch

        legend = axes.legend(
            handles=[Patch(facecolor=colour, label=text) for colour, text in lines],
            loc="upper left",
            bbox_to_anchor=(0, -0.03),
            fontsize=SMALL,
            borderaxespad=0,
            borderpad=0,
            frameon=False,
            handlelength=0.8,
            handleheight=0.8,
            labelspacing=0.45,
        )
        for text in legend.get_texts():
            text.update(self._style(SMALL))

    def _style(self, size: float, color: str = INK, weight: str = "normal") -> dict[str, Any]:
        return {
            "fontsize": size,
            "color": color,
            # A second family is there for its letters, and seldom has them in bold too.
            "fontweight": weight if len(self._families) == 1 else "normal",
            "fontfamily": self._families,
            "parse_math": False,  # a $ in a name is a letter, never the start of a formula
        }


def _fonts(text: str) -> tuple[list[str], dict[int, str]]:
    """Font families that can draw the text, and a box for each character that none can."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    def characters(file: str) -> set[int]:
        return set(get_font(file).get_charmap())

    families = ["DejaVu Sans"]  # comes with matplotlib
    regular, bold = (
        characters(findfont(FontProperties(family=families, weight=weight)))
        for weight in ("normal", "bold")
    )
    missing = {ord(c) for c in text if not c.isspace()} - (regular & bold)
    for font in fontManager.ttflist if missing else ():
        if font.weight not in {400, "normal"} or font.style != "normal":
            continue
        if not font.name.startswith("Last Resort") and (found := missing & characters(font.fname)):
            families.append(font.name)
            missing -= found
    return families, dict.fromkeys(missing, "□")
