"""Reports of several maps side by side, as plain text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from rwloss.stability.report import StabilityReport, StabilityShares
from rwloss.words import class_names as names_for
from rwloss.words import percent

_WIDEST = 28  # letters of a map's text above its column; longer ones stand above the table

_SHARES = {
    "violating": "violating voxels",
    "pushed_up": "wrong classes pushed up",
    "pushed_down": "true classes pushed down",
    "wrong_way_mass": "wrong-way mass",
}


def table(reports: Mapping[str, StabilityReport], class_names: Sequence[str] = ()) -> str:
    """Reports of the same cases by the text of their maps -> lines of text, a column for each.

    Shares that are 0 in every map are not split by class and distance.
    """
    legend = [
        f"map {number}: {text}" for number, text in enumerate(reports, 1) if len(text) > _WIDEST
    ]
    heads = [
        text if len(text) <= _WIDEST else f"map {number}" for number, text in enumerate(reports, 1)
    ]
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
    names = names_for(reports[0].num_classes, class_names)

    def cells(figure: Callable[[StabilityReport], str]) -> list[str]:
        return [figure(report) for report in reports]

    yield "stable voxels", cells(lambda report: percent(report.stable))
    yield "flat voxels", cells(lambda report: percent(report.flat))
    for share, label in _SHARES.items():
        yield label, cells(lambda report, share=share: percent(getattr(report, share)))  # type: ignore[misc]
    yield "value range", cells(lambda report: " .. ".join(_short(v) for v in report.value_range))
    yield "gradient norm", cells(_gradient_norm)
    for share, label in _SHARES.items():
        if not any(getattr(report, share) for report in reports):
            continue
        yield f"{label}, by true class", []
        for k, name in enumerate(names):
            yield f"  {name}", cells(lambda r, k=k, share=share: _cell(r.by_class[k], share))  # type: ignore[misc]
        if reports[0].by_distance:
            yield f"{label}, by distance to the edge", []
        for name in reports[0].by_distance:
            yield f"  {name}", cells(lambda r, d=name, share=share: _cell(r.by_distance[d], share))  # type: ignore[misc]
    yield "pull ratio (least of a case)", []
    for k, name in list(enumerate(names))[1:]:
        missing = reports[0].num_images - int(reports[0].images_with[k])
        absent = f" (absent from {missing} of {reports[0].num_images})" if missing else ""
        yield (
            f"  {name}{absent}",
            cells(lambda r, k=k: f"{_short(r.pull[k], 2)} ({_short(r.least_pull[k], 2)})"),  # type: ignore[misc]
        )
    yield "positive to negative mass, by channel", []
    for k, name in enumerate(names):
        yield f"  {name}", cells(lambda r, k=k: _short(r.positive_to_negative[k], 2))  # type: ignore[misc]


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
