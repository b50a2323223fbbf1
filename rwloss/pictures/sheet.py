"""The sheet of a picture: image and labels on the left, a row of channels per map on the right."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from rwloss.pictures.lettering import DPI, FAINT, SMALL, Lettering
from rwloss.pictures.panels import draw_channels, draw_image, draw_labels, legend, panel_size
from rwloss.pictures.picture import Picture

if TYPE_CHECKING:
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
    """Two grids with cells of known size, side by side between title and note.

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

    columns = [*[wide, _GAP] * len(picture.classes), _BAR, _BAR_TEXT]
    names = [lettering.fit(picture.names[k], wide, _HEADER, 2) for k in picture.classes]
    headings = [lettering.fit(row.text, sum(columns), _HEADER, 3, "bold") for row in rows]
    heights = [each for text in headings for each in (_height(text, _HEADER), high, _GAP)]
    heights[0] += max(_height(name, _HEADER) for name in names)

    left = [draw_labels] if picture.image is None else [draw_image, draw_labels]
    legend_high = len(lines) * _LINE * SMALL + _GAP
    if len(rows) == 1:
        left_columns, left_heights = [wide, _GAP] * len(left), [heights[0], high, legend_high]
    else:
        room = (sum(heights) - legend_high) / len(left) - _LINE * _HEADER - _GAP
        scale = min(max(room / high, 1.0), 2.0)
        left_columns = [scale * wide, _GAP]
        left_heights = [*[_LINE * _HEADER, scale * high, _GAP] * len(left), legend_high]

    width = max(sum(left_columns) + _GAP + sum(columns), _NARROWEST)
    title = lettering.fit(picture.title, width, _TITLE, 2)
    note = lettering.fit(picture.note, width, SMALL, 6)
    body = max(sum(heights), sum(left_heights))
    above = _MARGIN + (_height(title, _TITLE) + _GAP if title else 0.0)
    height = above + body + _height(note, SMALL) + _MARGIN
    figure.set_size_inches(width + 2 * _MARGIN, height)

    def grid(from_left: float, heights: list[float], columns: list[float]) -> Any:
        sheet_wide, sheet_high = figure.get_size_inches()
        return figure.add_gridspec(
            nrows=len(heights),
            ncols=len(columns),
            left=from_left / sheet_wide,
            right=(from_left + sum(columns)) / sheet_wide,
            top=1 - above / sheet_high,
            bottom=1 - (above + sum(heights)) / sheet_high,
            wspace=0,
            hspace=0,
            width_ratios=columns,
            height_ratios=heights,
        )

    lettering.write(title, _MARGIN, _MARGIN, _TITLE)
    lettering.write(note, _MARGIN, above + body, SMALL, color=FAINT)
    left_grid = grid(_MARGIN, left_heights, left_columns)
    for number, draw in enumerate(left):
        place = (1, 2 * number) if len(rows) == 1 else (3 * number + 1, 0)
        axes = figure.add_subplot(left_grid[place])
        draw(axes, picture)
        lettering.head(axes, draw.__name__.removeprefix("draw_"), _HEADER, color=FAINT)
    fitted = [(colour, lettering.fit(text, 2 * wide, SMALL, 1)) for colour, text in lines]
    lettering.legend(axes, fitted)

    right = _MARGIN + sum(left_columns) + _GAP
    right_grid = grid(right, heights, columns)
    for number, (row, heading) in enumerate(zip(rows, headings, strict=True)):
        lettering.write(heading, right, above + sum(heights[: 3 * number]), _HEADER, weight="bold")
        panels = [
            figure.add_subplot(right_grid[3 * number + 1, 2 * column])
            for column in range(len(names))
        ]
        bar = figure.add_subplot(right_grid[3 * number + 1, -2])
        draw_channels(panels, bar, picture, row)
        unit = lettering.fit(row.unit, _BAR + _BAR_TEXT + _MARGIN, SMALL, 1)
        lettering.head(bar, unit, SMALL, pad=7)
        for panel, name in zip(panels, names, strict=True) if number == 0 else ():
            lettering.head(panel, name, _HEADER, color=FAINT)
    return figure


def _height(text: str, size: float) -> float:
    """Inches of the lines of a text, size in points."""
    return (text.count("\n") + 1) * _LINE * size
