"""Where everything is on the sheet: image and labels on the left, the rows of maps on the right."""

from __future__ import annotations

from rwloss.pictures.panels import draw_channels, draw_image, draw_labels, legend, panel_size
from rwloss.pictures.picture import Picture
from rwloss.pictures.sheet import FAINT, HEADER, LINE, SMALL, TITLE, Sheet, text_height

_MARGIN, _GAP, _BAR = 0.12, 0.1, 0.6  # inches; the bar with its numbers and its unit
_NARROWEST = 4.0  # inches, for title and note


def render(picture: Picture, file_format: str) -> bytes:
    """The file of a picture."""
    import matplotlib.style

    # A user's matplotlibrc (LaTeX text, dark background) must not change the picture.
    with matplotlib.style.context(["default", {"svg.hashsalt": "rwloss"}]):
        return _compose(picture).save(file_format)


def _compose(picture: Picture) -> Sheet:
    """Place everything.

    With one map, image and labels stand beside each other, level with its channels; with several
    they stand below each other, as large as the rows leave room for.
    """
    names = [picture.names[k] for k in picture.classes]
    lines = legend(picture)
    row_texts = [row.text for row in picture.rows]
    units = [row.unit for row in picture.rows]
    sheet = Sheet([picture.title, *row_texts, *names, *units, *(text for _, text in lines)])
    wide, high = panel_size(picture)

    names = [sheet.fit(name, wide, HEADER, lines=2) for name in names]
    maps_wide = len(names) * (wide + _GAP) + _BAR
    row_texts = [sheet.fit(text, maps_wide, HEADER, 3, weight="bold") for text in row_texts]
    names_high = max(text_height(name, HEADER) for name in names)
    rows_high = names_high + sum(text_height(text, HEADER) + high + _GAP for text in row_texts)

    pictures = [("image", draw_image)] if picture.image is not None else []
    pictures.append(("labels", draw_labels))
    heading = LINE * HEADER
    legend_high = len(lines) * LINE * SMALL + _GAP
    beside = len(row_texts) == 1
    if beside:
        lower = names_high + text_height(row_texts[0], HEADER) - heading
        scale, left_high = 1.0, rows_high + legend_high
    else:
        room = rows_high - legend_high - len(pictures) * (heading + _GAP)
        lower, scale = 0.0, min(max(room / (len(pictures) * high), 1.0), 2.0)
        left_high = legend_high + len(pictures) * (heading + scale * high + _GAP)
    left_wide = (len(pictures) if beside else 1) * (scale * wide + _GAP)

    inner = max(left_wide + _GAP + maps_wide, _NARROWEST)
    title = sheet.fit(picture.title, inner, TITLE, 2)
    note = sheet.fit(picture.note, inner, SMALL, 6)
    top = _MARGIN + (text_height(title, TITLE) + _GAP if title else 0.0)
    bottom = top + max(rows_high, left_high)
    sheet.resize(inner + 2 * _MARGIN, bottom + text_height(note, SMALL) + _MARGIN)
    sheet.text(_MARGIN, _MARGIN, title, TITLE)
    sheet.text(_MARGIN, bottom, note, SMALL, color=FAINT)

    left, at = _MARGIN, top + lower
    for name, draw in pictures:
        sheet.text(left, at, name, HEADER, color=FAINT)
        draw(sheet.axes(left, at + heading, scale * wide, scale * high), picture)
        legend_place = left, at + (heading + scale * high + _GAP / 2)
        if beside:
            left = left + scale * wide + _GAP
        else:
            at = at + heading + scale * high + _GAP
    _draw_legend(sheet, lines, *legend_place, scale * wide)

    _draw_rows(sheet, picture, row_texts, names, _MARGIN + left_wide + _GAP, top)
    return sheet


def _draw_legend(
    sheet: Sheet, lines: list[tuple[str, str]], left: float, top: float, wide: float
) -> None:
    for colour, text in lines:
        swatch = sheet.axes(left, top + 0.2 * SMALL / 72, 0.7 * SMALL / 72, 0.7 * SMALL / 72)
        swatch.set(facecolor=colour, xticks=[], yticks=[], frame_on=colour != "none")
        swatch.spines[:].set_visible(False)
        fitted = sheet.fit(text, wide - LINE * SMALL, SMALL, 1)
        sheet.text(left + LINE * SMALL, top, fitted, SMALL)
        top += LINE * SMALL


def _draw_rows(
    sheet: Sheet, picture: Picture, texts: list[str], names: list[str], left: float, top: float
) -> None:
    """The maps from the top down, the names of the classes above the channels of the first."""
    wide, high = panel_size(picture)
    *columns, bar = (left + number * (wide + _GAP) for number in range(len(names) + 1))
    for row, text in zip(picture.rows, texts, strict=True):
        sheet.text(left, top, text, HEADER, weight="bold")
        top += text_height(text, HEADER)
        if row is picture.rows[0]:
            names_high = max(text_height(name, HEADER) for name in names)
            for column, name in zip(columns, names, strict=True):
                lower = top + names_high - text_height(name, HEADER)
                sheet.text(column, lower, name, HEADER, color=FAINT)
            top += names_high
        panels = [sheet.axes(column, top, wide, high) for column in columns]
        draw_channels(panels, sheet.axes(bar, top, 0.1, high), picture, row)
        sheet.text(bar, top - 1.3 * LINE * SMALL, row.unit, SMALL)
        top += high + _GAP
