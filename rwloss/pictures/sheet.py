"""The sheet of a picture: image and labels on the left, a row of channels per map on the right."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from rwloss.pictures.lettering import DPI, FAINT, SMALL, Lettering
from rwloss.pictures.panels import draw_channels, draw_image, draw_labels, legend, panel_size
from rwloss.pictures.picture import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    lettering = Lettering(figure, [picture.title, *texts, *picture.names])
    wide, high = panel_size(picture)

    right_wide = len(picture.classes) * (wide + _GAP) + _BAR + _BAR_TEXT
    names = [lettering.fit(picture.names[k], wide, _HEADER, 2) for k in picture.classes]
    headings = [lettering.fit(row.text, right_wide, _HEADER, 3, "bold") for row in rows]
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
    fitted = [(colour, lettering.fit(text, 2 * wide, SMALL, 1)) for colour, text in lines]
    lettering.legend(axes, fitted)

    right, top = _MARGIN + left_wide + _GAP, above
    for row, heading, head in zip(rows, headings, heads, strict=True):
        lettering.write(heading, right, top, _HEADER, weight="bold")
        top += head
        *panels, bar = (
            panel(right + column * (wide + _GAP), top, wide if column < len(names) else _BAR, high)
            for column in range(len(names) + 1)
        )
        draw_channels(panels, bar, picture, row)
        unit = lettering.fit(row.unit, _BAR + _BAR_TEXT + _MARGIN, SMALL, 1)
        lettering.head(bar, unit, SMALL, pad=7)
        for axes, name in zip(panels, names, strict=True) if row is rows[0] else ():
            lettering.head(axes, name, _HEADER, color=FAINT)
        top += high + _GAP
    return figure


def _height(text: str, size: float) -> float:
    """Inches of the lines of a text, size in points."""
    return (text.count("\n") + 1) * _LINE * size
