"""A sheet of paper: text and axes on a figure, in inches from its top left corner."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 150
TITLE, HEADER, SMALL = 11.0, 9.0, 7.5  # points
LINE = 1.35 / 72  # inches of one line of text, for each point of its size
INK, FAINT = "#1a1a1a", "#5a5a5a"


def text_height(text: str, size: float) -> float:
    """Inches of the lines of a text, size in points."""
    return (text.count("\n") + 1) * LINE * size


class Sheet:
    """A figure on which text is measured first and everything is placed by hand.

    matplotlib's own layouts change the size of panels with the text around them.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        """Texts: all that may have letters of any script, to choose fonts that have them."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure(dpi=DPI)
        self._renderer = FigureCanvasAgg(self.figure).get_renderer()  # type: ignore[no-untyped-call]
        self._families, self._missing = _fonts("".join(texts))

    def fit(self, text: str, width: float, size: float, lines: int, **style: Any) -> str:
        """The text in at most so many lines of this width, with … where it had to be cut."""
        text = " ".join(text.split())
        length = max(1, len(text))
        while True:
            wrapped = textwrap.wrap(text, length, max_lines=lines, placeholder="…") or [""]
            widest = max(self._width(line, size, **style) for line in wrapped)
            if length == 1 or widest <= width:
                return "\n".join(wrapped)
            length = max(1, min(length - 1, int(length * width / widest) + 2))

    def resize(self, width: float, height: float) -> None:
        """Give the sheet its size, before anything is placed on it."""
        self.figure.set_size_inches(width, height)

    def text(self, left: float, top: float, text: str, size: float, **style: Any) -> None:
        """Lines of text with their top left corner there."""
        for number, line in enumerate(text.split("\n")):
            # By their baselines: tops would put words with and without tall letters askew.
            x, y = self._at(left, top + (number + 0.75) * LINE * size)
            self._put(x, y, line, size, **style)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes with their top left corner there."""
        x, y = self._at(left, top + height)
        size = self.figure.get_size_inches()
        return self.figure.add_axes((x, y, width / size[0], height / size[1]))

    def save(self, file_format: str) -> bytes:
        """The file, without its date: the same input gives the same bytes."""
        undated: dict[str, dict[str, Any]] = {
            "pdf": {"CreationDate": None},
            "svg": {"Date": None},
        }
        stream = io.BytesIO()
        self.figure.savefig(stream, format=file_format, metadata=undated.get(file_format))
        return stream.getvalue()

    def _at(self, left: float, top: float) -> tuple[float, float]:
        width, height = self.figure.get_size_inches()
        return left / width, 1 - top / height

    def _width(self, line: str, size: float, **style: Any) -> float:
        text = self._put(0, 0, line, size, **style)
        width = text.get_window_extent(self._renderer).width / DPI
        text.remove()
        return float(width)

    def _put(self, x: float, y: float, line: str, size: float, **style: Any) -> Any:
        # A second family is there for its letters, and seldom has them in bold too.
        if len(self._families) > 1:
            style["weight"] = "normal"
        return self.figure.text(
            x,
            y,
            line.translate(self._missing),
            size=size,
            family=self._families,
            parse_math=False,  # a $ in a name is a letter, never the start of a formula
            **{"color": INK, **style},
        )


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
