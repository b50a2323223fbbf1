"""A report in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rwloss.stability.report import StabilityReport, StabilityShares
from rwloss.words import class_names as names_for
from rwloss.words import listed, percent

VANISHES_BELOW = 0.01
"""Pull ratio below which `verdict` says that a class can vanish.

A rule of thumb from a few training runs (hippocampus slices and a phantom of four classes, 2 or 3
seeds each): classes with a ratio of 0.003 or less were lost or born late, those of 0.02 and more
were kept, except for one seed on which cross-entropy lost the same class.
"""

CAUTION = (
    "The principle is neither necessary nor sufficient for good training: Dice violates it almost "
    "everywhere with three classes or more and trains well; and the push of every fixed map on a "
    "class carries the probability of that class, so a stable map does not bring back a class "
    "whose probability has gone to 0."
)


def verdict(
    report: StabilityReport,
    class_names: Sequence[str] = (),
    *,
    probs: str = "uniform",
    is_static: bool = True,
) -> str:
    """One sentence: stable or violating (where and how much), and whether a class can vanish.

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
    parts.append(_vanishing(report, names, is_static=is_static))
    if report.absent:
        parts.append(f"not in these labels: {listed([names[k] for k in report.absent])}")
    text = "; ".join(filter(None, parts))
    return f"{text[0].upper()}{text[1:]}."


def _principle(
    report: StabilityReport, names: Sequence[str], probs: str, *, is_static: bool
) -> str:
    whole, at = report.total, f"{probs} probabilities"
    if report.violating == 0:
        if report.flat == 1:
            return "flat: all classes cost the same at every voxel, so there is no gradient"
        when = "whatever the prediction" if is_static else f"at {at}"
        flat = f" ({percent(report.flat)} of the voxels have no push at all)" if report.flat else ""
        return f"stable: no push goes the wrong way, {when}{flat}"
    pushed = [
        (whole.pushed_up, "of the wrong classes are pushed up"),
        (whole.pushed_down, "of the true classes are pushed down"),
    ]
    text = f"violating at {percent(report.violating)} of the voxels"
    if not whole.wrong_way_mass:
        where = "" if report.violating == 1 else f", {_where(report, names)}"
        return f"{text}{where}, but no push goes the wrong way at {at}"
    shown = [f"{percent(share)} {what}" for share, what in pushed if share]
    mass = f"{percent(whole.wrong_way_mass)} of the push goes the wrong way"
    return f"{text}; at {at} {listed([*shown, mass])}, {_where(report, names)}"


def _where(report: StabilityReport, names: Sequence[str]) -> str:
    """The class and the distance at which the largest share goes the wrong way."""
    share = "wrong_way_mass" if report.wrong_way_mass else "violating"

    def worst(parts: Iterable[tuple[str, StabilityShares]]) -> tuple[str, str]:
        name, part = max(parts, key=lambda each: getattr(each[1], share))
        return name, percent(getattr(part, share))

    name, there = worst(zip(names, report.by_class, strict=True))
    text = f"worst at voxels of {name} ({there})"
    if report.by_distance:
        distance, there = worst(report.by_distance.items())
        text += f" and {_DISTANCE_TEXTS[distance]} ({there})"
    return text


_DISTANCE_TEXTS = {
    "edge": "at the edge",
    "to 2": "within 2 voxels of the edge",
    "to 5": "2 to 5 voxels from the edge",
    "deeper": "more than 5 voxels from the edge",
}


def _vanishing(report: StabilityReport, names: Sequence[str], *, is_static: bool) -> str:
    if not is_static:
        return (
            "its map changes with the prediction, so pull ratios at one prediction do not tell "
            "whether a class can vanish"
        )
    pull = report.pull
    known = [int(k) for k in np.argsort(pull) if not np.isnan(pull[k])]
    if not known:
        return ""
    weak = [k for k in known if pull[k] < VANISHES_BELOW]
    if not weak:
        least = known[0]
        return (
            f"no class looks likely to vanish (least pull ratio {pull[least]:.2g}, {names[least]})"
        )
    return (
        f"{listed([names[k] for k in weak])} can vanish (pull ratio "
        f"{listed([f'{pull[k]:.2g}' for k in weak])}, below {VANISHES_BELOW:g})"
    )
