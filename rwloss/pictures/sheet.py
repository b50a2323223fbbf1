"""The sheet of a picture: image and labels on the left, a row of channels per map on the right."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

from rwloss.pictures.panels import (
    DPI,
    INK,
    SMALL,
    Picture,
    draw_channels,
    draw_image,
    draw_labels,
    legend,
    panel_size,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAINT = "#5a5a5a"
_TITLE, _HEADER = 11.0, 9.0  # points
_LINE = 1.35 / 72  # inches of one line of text, per point of its size
_MARGIN, _GAP, _BAR, _BAR_TEXT = 0.12, 0.1, 0.1, 0.5  # inches
_NARROWEST = 4.0  # inches, for title and note


def render(picture: Picture, file_format: str) -> bytes:
    """The file of a picture, without its date: the same input gives the same bytes."""
    import matplotlib.style

    undated: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    stream = io.BytesIO()
    # A user's matplotlibrc (LaTeX text, dark background) must not change the picture.
    with matplotlib.style.context(["default", {"svg.hashsalt": "rwloss"}]):
        figure = _compose(picture)
        figure.savefig(stream, format=file_format, metadata=undated.get(file_format))
    return stream.getvalue()


def _compose(picture: Picture) -> Figure:
    """Panels of known size between title and note: image and labels left, channels right.

    With one map, image and labels stand beside each other, level with its channels; with several
    they stand below each other, as large as the rows leave room for.
    """
    from matplotlib.figure import Figure

    # Not constrained layout: it would change the size of panels with the text around them.
    figure = Figure(dpi=DPI)
    rows, lines = picture.rows, legend(picture)
    texts = [text for row in rows for text in (row.text, row.unit)]
    lettering = _Lettering(figure, [picture.title, *texts, *picture.names])
    wide, high = panel_size(picture)

    channels_wide = len(picture.classes) * (wide + _GAP)
    right_wide = channels_wide + _BAR + _BAR_TEXT
    names = [lettering.fit(picture.names[k], wide, _HEADER, 2) for k in picture.classes]
    # Not above the bar, whose highest number and unit are there.
    headings = [lettering.fit(row.text, channels_wide, _HEADER, 3, "bold") for row in rows]
    heads = [_height(text, _HEADER) for text in headings]
    heads[0] += max(_height(name, _HEADER) for name in names)
    right_high = sum(heads) + len(rows) * (high + _GAP)

    left = [draw_labels] if picture.image is None else [draw_image, draw_labels]
    legend_high = len(lines) * _LINE * SMALL
    if len(rows) == 1:
        across, head, scale = len(left), heads[0], 1.0
    else:
        across, head, legend_high = 1, _LINE * _HEADER, legend_high + _GAP
        room = (right_high - legend_high) / len(left) - head - _GAP
        scale = min(max(room / high, 1.0), 2.0)
    cell_wide, cell_high = scale * wide + _GAP, head + scale * high + _GAP
    left_wide, left_high = across * cell_wide, len(left) // across * cell_high + legend_high

    width = max(left_wide + _GAP + right_wide, _NARROWEST)
    title = lettering.fit(picture.title, width, _TITLE, 2)
    note = lettering.fit(picture.note, width, SMALL, 6)
    body = max(right_high, left_high)
    above = _MARGIN + (_height(title, _TITLE) + _GAP if title else 0.0)
    sheet_wide, sheet_high = width + 2 * _MARGIN, above + body + _height(note, SMALL) + _MARGIN
    figure.set_size_inches(sheet_wide, sheet_high)

    def panel(at: float, top: float, wide: float, high: float) -> Axes:
        bottom = 1 - (top + high) / sheet_high
        return figure.add_axes((at / sheet_wide, bottom, wide / sheet_wide, high / sheet_high))

    lettering.write(title, _MARGIN, _MARGIN, _TITLE)
    lettering.write(note, _MARGIN, above + body, SMALL, color=FAINT)
    for number, draw in enumerate(left):
        row_number, column = divmod(number, across)
        top = above + row_number * cell_high + head
        axes = panel(_MARGIN + column * cell_wide, top, scale * wide, scale * high)
        draw(axes, picture)
        lettering.head(axes, draw.__name__.removeprefix("draw_"), _HEADER, color=FAINT)
    lettering.legend(axes, [(c, lettering.fit(text, 2 * wide, SMALL, 1)) for c, text in lines])

    right, top = _MARGIN + left_wide + _GAP, above
    for row, heading, head in zip(rows, headings, heads, strict=True):
        lettering.write(heading, right, top, _HEADER, weight="bold")
        top += head
        *panels, bar = (
            panel(right + column * (wide + _GAP), top, wide if column < len(names) else _BAR, high)
            for column in range(len(names) + 1)
        )
        draw_channels(panels, bar, picture, row)
        unit = lettering.fit(row.unit, _BAR + _BAR_TEXT + _MARGIN, SMALL, 2)
        lettering.head(bar, unit, SMALL, pad=7)
        for axes, name in zip(panels, names, strict=True) if row is rows[0] else ():
            lettering.head(axes, name, _HEADER, color=FAINT)
        top += high + _GAP
    return figure


def _height(text: str, size: float) -> float:
    """Inches of the lines of a text, size in points."""
    return (text.count("\n") + 1) * _LINE * size


class _Lettering:
    """Measures and writes text on a figure, in fonts that can draw its `texts`, of any script."""

    def __init__(self, figure: Figure, texts: list[str]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self._figure = figure
        self._renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
        self._families, self._missing = _fonts("".join(texts))

    def fit(self, text: str, width: float, size: float, lines: int, weight: str = "normal") -> str:
        """The text in at most this many lines of this width in inches, with … where it was cut."""
        text = " ".join(text.split()).translate(self._missing)
        length = max(1, len(text))
        while True:
            wrapped = textwrap.wrap(text, length, max_lines=lines, placeholder="…") or [""]
            measured = self._figure.text(
                0, 0, "\n".join(wrapped), **self.style(size, weight=weight)
            )
            widest = float(measured.get_window_extent(self._renderer).width) / DPI
            measured.remove()
            if length == 1 or widest <= width:
                return "\n".join(wrapped)
            length = max(1, min(length - 1, int(length * width / widest) + 2))

    def write(self, text: str, left: float, top: float, size: float, **style: str) -> None:
        """Put fitted text on the figure, with its top left corner there. Inches."""
        width, height = self._figure.get_size_inches()
        at = left / width, 1 - (top + 0.12 * size / 72) / height
        self._figure.text(*at, text, va="top", linespacing=1.3, **self.style(size, **style))

    def head(self, axes: Axes, text: str, size: float, pad: float = 3, **style: str) -> None:
        """Put fitted text above axes; size and pad in points."""
        axes.set_title(text, loc="left", pad=pad, linespacing=1.3, **self.style(size, **style))

    def legend(self, axes: Axes, lines: list[tuple[str, str]]) -> None:
        """Put colors with their fitted texts below axes."""
        from matplotlib.patches import Patch

        legend = axes.legend(
            handles=[Patch(facecolor=colour, label=text) for colour, text in lines],
            loc="upper left", bbox_to_anchor=(0, -0.03), fontsize=SMALL, frameon=False,
            borderaxespad=0, borderpad=0, handlelength=0.8, handleheight=0.8, labelspacing=0.45,
        )  # fmt: skip
        for text in legend.get_texts():
            text.update(self.style(SMALL))

    def style(self, size: float, color: str = INK, weight: str = "normal") -> dict[str, Any]:
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
    missing = {ord(c) for c in text if not c.isspace()}
    regular, bold = (
        characters(findfont(FontProperties(family=families, weight=weight)))
        for weight in ("normal", "bold")
    )
    missing -= regular & bold
    for font in fontManager.ttflist if missing else ():
        upright = font.weight in {400, "normal"} and font.style == "normal"
        if not upright or font.name.startswith("Last Resort"):
            continue
        if found := missing & characters(font.fname):
            families.append(font.name)
            missing -= found
    return families, dict.fromkeys(missing, "□")
