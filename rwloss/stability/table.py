"""Reports of several maps side by side, as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from rwloss.stability.report import StabilityReport, StabilityShares
from rwloss.words import class_names as names_for
from rwloss.words import percent

_WIDEST = 28  # letters of a map's text above its column; longer texts go above the table

_SHARES = {
    "violating": "violating voxels",
    "pushed_up": "wrong classes pushed up",
    "pushed_down": "true classes pushed down",
    "wrong_way_mass": "wrong-way mass",
}


def table(reports: Mapping[str, StabilityReport], class_names: Sequence[str] = ()) -> str:
    """Reports of the same cases, by the text of their maps -> lines of text, one column per map.

    Shares that are 0 in every map are not split by class and distance.
    """
    legend, heads = [], []
    for number, text in enumerate(reports, 1):
        heads.append(text if len(text) <= _WIDEST else f"map {number}")
        if len(text) > _WIDEST:
            legend.append(f"map {number}: {text}")
    rows = [("", heads), *_rows(list(reports.values()), class_names)]
    first = max(len(label) for label, cells in rows if cells)
    widths = [max(len(cells[i]) for _, cells in rows if cells) for i in range(len(heads))]
    lines = [
        "  ".join(
            [label.ljust(first), *(cell.rjust(w) for cell, w in zip(cells, widths, strict=False))]
        ).rstrip()
        for label, cells in rows
    ]
    return "\n".join([*legend, *([""] if legend else []), *lines])


def _rows(
    reports: Sequence[StabilityReport], class_names: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    names, first = names_for(reports[0].num_classes, class_names), reports[0]
    yield "stable voxels", [percent(report.stable) for report in reports]
    yield "flat voxels", [percent(report.flat) for report in reports]
    for share, label in _SHARES.items():
        yield label, [percent(getattr(report, share)) for report in reports]
    yield "value range", [" .. ".join(map(_short, report.value_range)) for report in reports]
    yield "gradient norm", [_gradient_norm(report) for report in reports]
    for share, label in _SHARES.items():
        if not any(getattr(report, share) for report in reports):
            continue
        yield f"{label}, by true class", []
        for k, name in enumerate(names):
            yield f"  {name}", [_cell(report.by_class[k], share) for report in reports]
        if first.by_distance:
            yield f"{label}, by distance to the edge", []
        for name in first.by_distance:
            yield f"  {name}", [_cell(report.by_distance[name], share) for report in reports]
    yield "pull ratio (least of a case)", []
    for k, name in list(enumerate(names))[1:]:
        missing = first.num_images - int(first.images_with[k])
        absent = f" (absent from {missing} of {first.num_images})" if missing else ""
        pulls = [(_short(report.pull[k], 2), _short(report.least_pull[k], 2)) for report in reports]
        yield f"  {name}{absent}", [f"{pull} ({least})" for pull, least in pulls]
    yield "positive to negative mass, by channel", []
    for k, name in enumerate(names):
        yield f"  {name}", [_short(report.positive_to_negative[k], 2) for report in reports]


def _gradient_norm(report: StabilityReport) -> str:
    norms = report.gradient_norms
    if not len(norms):
        return "-"
    spread = report.gradient_spread
    return _short(float(norms.mean())) + ("" if math.isnan(spread) else f" ±{percent(spread)}")


def _cell(part: StabilityShares, share: str) -> str:
    return percent(getattr(part, share)) if part.voxels else "-"


def _short(value: float, digits: int = 3) -> str:
    """A number in a few digits.

    >>> [_short(value) for value in (42.1782, 0.00024531, float("nan"), float("inf"))]
    ['42.2', '0.000245', '-', 'inf']
    """
    return "-" if math.isnan(value) else f"{value:.{digits}g}"
