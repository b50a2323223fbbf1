"""Reports in plain words: a sentence about one map, and a table of several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from rwloss.stability.report import StabilityReport, StabilityShares
from rwloss.words import class_names as names_for
from rwloss.words import listed, percent

VANISHES_BELOW = 0.01
"""Pull ratio below which `verdict` says that a class can vanish.

A rule of thumb. Of the recorded runs with learning rates up to 0.004 it names 74 % of the lost
classes, and 13 % of those that survived; at higher rates 60 % and 3 %.
"""

CAUTION = (
    "The principle is neither necessary nor sufficient for good training: Dice violates it almost "
    "everywhere with three classes or more and trains well; and a map that obeys it, but has a "
    "pull exponent of 1 like every fixed map, does not bring back a class whose probability has "
    "gone to 0."
)
"""What no number of a map can promise."""

_DISTANCE_TEXTS = {
    "edge": "at the edge",
    "to 2": "within 2 voxels of the edge",
    "to 5": "2 to 5 voxels from the edge",
    "deeper": "more than 5 voxels from the edge",
}
_SHARES = {
    "violating": "violating voxels",
    "pushed_up": "wrong classes pushed up",
    "pushed_down": "true classes pushed down",
    "wrong_way_mass": "wrong-way mass",
}
_WIDEST = 28  # letters of a map's text above its column; longer texts go above the table


def verdict(
    report: StabilityReport,
    class_names: Sequence[str] = (),
    *,
    probs: str = "uniform",
    is_static: bool = True,
) -> str:
    """One sentence: what goes the wrong way, whether a class can vanish and come back, and weights.

    class_names: of classes 0, 1, ...; a class without one is called "class k". probs: the name
    of the report's probabilities. is_static: False for an expression with dynamic terms, whose map
    changes with the prediction.
    """
    if report.total.voxels == 0:
        return "Nothing to check: no voxel belongs to a class."
    names = names_for(report.num_classes, class_names)
    parts = [_principle(report, names, probs, is_static=is_static)]
    if report.not_finite:
        hold = "voxel holds" if report.not_finite == 1 else "voxels hold"
        parts.append(f"{report.not_finite} {hold} NaN or infinity")
    # The map of a dynamic term at one prediction does not show this; its expression does.
    if is_static or not np.isnan(report.dead_pulls).all():
        parts.append(_vanishing(report, names))
    parts += [_coming_back(report), _weights(report)]
    if report.absent:
        parts.append(f"not in these labels: {listed([names[k] for k in report.absent])}")
    text = "; ".join(filter(None, parts))
    return f"{text[0].upper()}{text[1:]}."


def _principle(
    report: StabilityReport, names: Sequence[str], probs: str, *, is_static: bool
) -> str:
    whole, at = report.total, f"at {probs} probabilities"
    if whole.violating == 0:
        if whole.flat == 1:
            return "flat: all classes cost the same at every voxel, so there is no gradient"
        when = ", whatever the prediction" if is_static else f" {at}"
        flat = f" ({percent(whole.flat)} of the voxels have no push at all)" if whole.flat else ""
        return f"stable: no push goes the wrong way{when}{flat}"
    if not whole.wrong_way_mass:
        return (
            f"no push goes the wrong way {at}, but one can at others "
            f"(at {percent(whole.violating)} of the voxels)"
        )
    mass = percent(whole.wrong_way_mass)
    return f"{mass} of the push goes the wrong way {at}, {_where(report, names)}"


def _where(report: StabilityReport, names: Sequence[str]) -> str:
    """The class and the distance at which the largest share goes the wrong way."""

    def worst(parts: Iterable[tuple[str, StabilityShares]]) -> tuple[str, str]:
        name, part = max(parts, key=lambda each: each[1].wrong_way_mass)
        return name, percent(part.wrong_way_mass)

    name, there = worst(zip(names, report.by_class, strict=True))
    text = f"most at voxels of {name} ({there})"
    if report.by_distance:
        distance, there = worst(report.by_distance.items())
        text += f" and {_DISTANCE_TEXTS[distance]} ({there})"
    return text


def _vanishing(report: StabilityReport, names: Sequence[str]) -> str:
    pull = report.pull
    known = [int(k) for k in np.argsort(pull) if not np.isnan(pull[k])]
    weak = [k for k in known if pull[k] < VANISHES_BELOW]
    if weak:
        return (
            f"{listed([names[k] for k in weak])} can vanish (pull ratio "
            f"{listed([f'{pull[k]:.2g}' for k in weak])}, below {VANISHES_BELOW:g})"
        )
    if not known:
        return ""
    least = f"{pull[known[0]]:.2g}, {names[known[0]]}"
    return f"no class looks likely to vanish (least pull ratio {least})"


def _coming_back(report: StabilityReport) -> str:
    """The meaning of the pull exponents; empty if none is known."""
    known = report.pull_exponent[~np.isnan(report.pull_exponent)]
    if not len(known):
        return ""
    if known.max() < 0.05:
        what = "pulled back with full strength"
    else:
        what = "pulled back weakly" if known.min() < 0.9 else "hardly pulled back"
    return f"a class that has died is {what} (pull exponent {_exponents(report)})"


def _exponents(report: StabilityReport) -> str:
    """The pull exponent of all classes, or the smallest and the largest if they differ."""
    known = report.pull_exponent[~np.isnan(report.pull_exponent)]
    # Adding 0 turns -0 into 0.
    shown = dict.fromkeys(f"{round(value, 2) + 0.0:g}" for value in sorted(known))
    ends = [*shown][:: max(1, len(shown) - 1)]
    return " .. ".join(ends) or "-"


def _weights(report: StabilityReport) -> str:
    """Effective weights, largest first; empty if there is only one term."""
    weights = sorted(report.effective_weights.items(), key=lambda item: -item[1])
    if not weights:
        return ""
    (first, most), *others = weights
    rest = [f"{text} {percent(share)}" for text, share in others]
    return listed([f"{first} has {percent(most)} of the gradient norm", *rest])


def table(reports: Mapping[str, StabilityReport], class_names: Sequence[str] = ()) -> str:
    """Reports of the same cases, by the text of their maps -> lines of text, one column per map.

    Shares that are 0 in every map are not split by class and distance.
    """
    long = {text: f"map {i}" for i, text in enumerate(reports, 1) if len(text) > _WIDEST}
    heads = [long.get(text, text) for text in reports]
    rows = [("", heads), *_rows(list(reports.values()), class_names)]
    first = max(len(label) for label, cells in rows if cells)
    widths = [max(len(cells[i]) for _, cells in rows if cells) for i in range(len(heads))]
    lines = [f"{head}: {text}" for text, head in long.items()]
    lines += [""] if long else []
    for label, cells in rows:
        right = (cell.rjust(width) for cell, width in zip(cells, widths, strict=False))
        lines.append("  ".join([label.ljust(first), *right]).rstrip())
    return "\n".join(lines)


def _rows(
    reports: Sequence[StabilityReport], class_names: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    """Label and cells of each row of the table, most important first; a heading has no cells."""
    names, first = names_for(reports[0].num_classes, class_names), reports[0]
    yield _SHARES["wrong_way_mass"], [percent(report.wrong_way_mass) for report in reports]
    yield "pull ratio (least of a case)", []
    for k, name in list(enumerate(names))[1:]:
        missing = first.num_images - int(first.images_with[k])
        absent = f" (absent from {missing} of {first.num_images})" if missing else ""
        pulls = [(_short(report.pull[k], 2), _short(report.least_pull[k], 2)) for report in reports]
        yield f"  {name}{absent}", [f"{pull} ({least})" for pull, least in pulls]
    yield "pull exponent", [_exponents(report) for report in reports]
    weights = [report.effective_weights for report in reports]
    terms = dict.fromkeys(text for each in weights for text in each)
    if terms:
        yield "part of the gradient norm", []
    for text in terms:
        yield f"  {text}", [percent(each[text]) if text in each else "-" for each in weights]
    yield "", []
    yield "stable voxels", [percent(report.stable) for report in reports]
    yield "flat voxels", [percent(report.flat) for report in reports]
    for share, label in _SHARES.items():
        if share != "wrong_way_mass":
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
    yield "positive to negative mass, by channel", []
    for k, name in enumerate(names):
        yield f"  {name}", [_short(report.positive_to_negative[k], 2) for report in reports]


def _gradient_norm(report: StabilityReport) -> str:
    if not report.num_images:
        return "-"
    spread = report.gradient_spread
    shown = "" if math.isnan(spread) else f" ±{percent(spread)}"
    return _short(float(report.gradient_norms.mean())) + shown


def _cell(part: StabilityShares, share: str) -> str:
    return percent(getattr(part, share)) if part.voxels else "-"


def _short(value: float, digits: int = 3) -> str:
    """A number in a few digits, "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}g}"
