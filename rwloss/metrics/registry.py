"""The metrics by name: title, unit, direction, and the rule for a class that one side lacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.metrics import lesions, overlap, surface, topology
from rwloss.metrics.class_pair import ClassPair
from rwloss.words import nearest

AT = "_at_"
"""Between the name of a metric and its own tolerance: nsd_at_2."""


@dataclass(frozen=True)
class Metric:
    """One metric: how it is computed, and how to read it.

    name: in files and options. title: in tables. higher_is_better: None if neither is better. unit:
    "mm" for distances (voxels without a spacing), else empty. range: in words. missed, false_alarm:
    its value if only the truth, or only the prediction, has the class. A distance then has none,
    but takes the penalty of the means, which is the diagonal of the image in studies. If neither
    has the class, no metric has a value. needs: a module that must be installed. compute: from both
    masks to the value.
    """

    name: str
    title: str
    compute: Callable[[ClassPair], float | None]
    higher_is_better: bool | None = True
    unit: str = ""
    range: str = "0 to 1"
    missed: str = "0"
    false_alarm: str = "0"
    needs: str = ""

    @property
    def is_distance(self) -> bool:
        """Whether it has no value where one side lacks the class, and a penalty can take it."""
        return self.unit == "mm"


def _distance(name: str, title: str, compute: Callable[[ClassPair], float | None]) -> Metric:
    return Metric(
        name,
        title,
        compute,
        higher_is_better=False,
        unit="mm",
        range="0 and above",
        missed="none",
        false_alarm="none",
    )


def _betti(number: int, parts: str) -> Metric:
    return Metric(
        f"betti_{number}_error",
        f"Betti-{number} error",
        partial(topology.betti_error, number=number),
        higher_is_better=False,
        range="0 and above",
        missed=f"{parts} of the truth, 1 or more",
        false_alarm=f"{parts} of the prediction, 1 or more",
    )


_MEASURED = (
    Metric("dice", "Dice", overlap.dice),
    Metric("iou", "IoU", overlap.iou),
    _distance("hd95_mm", "HD95", surface.hd95_mm),
    _distance("hd_mm", "HD", surface.hd_mm),
    _distance("assd_mm", "ASSD", surface.assd_mm),
    Metric("nsd", "NSD", surface.nsd),
    Metric("surface_dice", "surface Dice", surface.surface_dice, needs="monai"),
    Metric("boundary_iou", "boundary IoU", overlap.boundary_iou),
    Metric("cl_dice", "clDice", overlap.cl_dice, needs="skimage"),
    _betti(0, "components"),
    _betti(1, "holes or tunnels"),
    _betti(2, "cavities"),
    Metric("lesion_f1", "lesion F1", lesions.lesion_f1),
    Metric("lesion_precision", "lesion precision", lesions.lesion_precision),
    Metric("lesion_recall", "lesion recall", lesions.lesion_recall, false_alarm="none"),
    Metric(
        "relative_volume_error",
        "volume error",
        overlap.relative_volume_error,
        higher_is_better=False,
        range="0 and above",
        missed="1",
        false_alarm="1",
    ),
    Metric(
        "relative_volume_difference",
        "volume difference",
        overlap.relative_volume_difference,
        higher_is_better=None,
        range="-1 and above",
        missed="-1",
        false_alarm="1",
    ),
)
METRICS: Mapping[str, Metric] = {each.name: each for each in _MEASURED}
"""All metrics by name, in the order of tables."""

DEFAULT = ("dice", "iou", "hd95_mm", "hd_mm", "assd_mm", "nsd", "relative_volume_error")
"""Cheap metrics that need no extra package."""

_WITH_TOLERANCE = {"nsd": surface.nsd, "surface_dice": surface.surface_dice}
_PACKAGES = {"monai": ("MONAI", "train"), "skimage": ("scikit-image", "skeleton")}


def find(name: str) -> Metric:
    """The metric of this name, such as "iou", or "nsd_at_2" for a tolerance of 2 mm.

    Raises RWLossError for an unknown one, with the nearest name.
    """
    if name in METRICS:
        return METRICS[name]
    base, _, tolerance = name.partition(AT)
    if base in _WITH_TOLERANCE and _is_length(tolerance):
        title = f"{METRICS[base].title} at {tolerance}"
        compute = partial(_WITH_TOLERANCE[base], tolerance_mm=float(tolerance))
        return replace(METRICS[base], name=name, title=title, compute=compute)
    raise RWLossError(
        f"there is no metric {name!r}{nearest(name, METRICS) or '.'} Known: {', '.join(METRICS)}; "
        "nsd and surface_dice with a tolerance, such as nsd_at_2; all; default"
    )


def _is_length(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def select(names: Iterable[str], tolerances_mm: Iterable[float] = ()) -> tuple[str, ...]:
    """Names of metrics, each once and in the order of tables.

    names: "default" and "all" stand for several; one text holds names separated by commas.
    tolerances_mm: nsd and surface_dice, where chosen,
    are added at each of these.
    Raises RWLossError for an unknown name, and for none.

    >>> select(["default", "cl_dice"], [2])[-4:]
    ('nsd', 'nsd_at_2', 'cl_dice', 'relative_volume_error')
    """
    names = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    groups = {"default": DEFAULT, "all": tuple(METRICS)}
    chosen = {each for name in names for each in groups.get(name, (name,))}
    chosen |= {
        f"{base}{AT}{length:.15g}"
        for base in chosen & {*_WITH_TOLERANCE}
        for length in tolerances_mm
    }
    if not chosen:
        raise RWLossError("expected at least one metric, such as dice, default or all")
    return known({name: find(name) for name in chosen})


def known(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that are of metrics, in the order of tables. Others are left out."""
    found, order = [], list(METRICS)
    for name in dict.fromkeys(names):
        base, _, tolerance = name.partition(AT)
        if base in METRICS and (
            not tolerance or (base in _WITH_TOLERANCE and _is_length(tolerance))
        ):
            found.append((order.index(base), float(tolerance or 0), name))
    return tuple(name for *_, name in sorted(found))


def needed(names: Iterable[str]) -> dict[str, str]:
    """Modules beyond NumPy and SciPy that these metrics need, each with a metric that does."""
    return {needs: name for name in names if (needs := find(name).needs)}


def require(names: Iterable[str]) -> None:
    """Raise RWLossError, with the fix, for a metric whose package is not installed."""
    for module, name in needed(names).items():
        if find_spec(module) is None:
            package, extra = _PACKAGES[module]
            raise RWLossError(
                f"the metric {name} needs {package}, which is not installed: pip install "
                f"'rwloss[{extra}]', or leave the metric out"
            )


def measure(
    predicted: NDArray[Any],
    truth: NDArray[Any],
    metrics: Iterable[str] = ("default",),
    *,
    spacing_mm: Sequence[float] | None = None,
    tolerance_mm: float = 1.0,
) -> dict[str, float | None]:
    """Metrics of one mask against another, by name. (*s), (*s) boolean or 0 and 1; 2-D or 3-D.

    spacing_mm: one length per axis; without it, distances are in voxels. tolerance_mm: of nsd and
    surface_dice. None where a metric has no value; see `Metric`. `rwloss.training.score` does the
    same for each class of label maps. Raises RWLossError for unknown names and wrong shapes.
    predicted, truth: the masks.

    >>> truth = np.zeros((6, 6), bool)
    >>> truth[1:5, 1:5] = True
    >>> measure(np.roll(truth, 1, axis=1), truth, ["iou", "hd_mm"], spacing_mm=(1.0, 2.5))
    {'iou': 0.6, 'hd_mm': 2.5}
    """
    names = select(metrics)
    require(names)
    given = np.asarray(predicted), np.asarray(truth)
    masks = given[0] == 1, given[1] == 1
    shapes = [mask.shape for mask in masks]
    if shapes[0] != shapes[1] or len(shapes[0]) not in {2, 3}:
        raise RWLossError(f"expected two masks of the same 2-D or 3-D shape, got {shapes}")
    if any((array[~mask] != 0).any() for array, mask in zip(given, masks, strict=True)):
        raise RWLossError(
            "expected masks of 0 and 1: compare a label map class by class (labels == 2), or with "
            "rwloss.training.score"
        )
    if not 0 < tolerance_mm < math.inf:
        raise RWLossError(f"expected a tolerance above 0 mm, got {tolerance_mm}")
    spacing = (1.0,) * masks[0].ndim if spacing_mm is None else tuple(map(float, spacing_mm))
    if len(spacing) != masks[0].ndim or not all(0 < length < math.inf for length in spacing):
        raise RWLossError(f"expected {masks[0].ndim} lengths above 0 in spacing_mm, got {spacing}")
    pair = ClassPair(*masks, spacing, shapes[0], tolerance_mm)
    return values_of(pair, names)


def values_of(pair: ClassPair, names: Iterable[str]) -> dict[str, float | None]:
    """The value of each of these metrics; None for all where neither side has the class.

    pair: both masks.
    """
    if not any(pair.voxels):
        return dict.fromkeys(names)
    return {name: find(name).compute(pair) for name in names}
