"""Distance maps of other programs, read as a store: MIST's, or those next to nnU-Net's data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss import maps
from rwloss.errors import RWLossError
from rwloss.regions import Regions, spacing_text
from rwloss.rwmap import RWMap
from rwloss.store.manifest import MapInfo
from rwloss.store.place import Folder
from rwloss.store.store import Store, checked_region
from rwloss.words import count_of, nearest

_MIST_SUFFIXES = (".npy", ".nii.gz", ".nii")
_NNUNET_SUFFIXES = ("_dist.npy", "_dist.npz", "_dist.b2nd")
_CONVENTIONS = tuple(
    str(maps.get("boundary", convention=convention, normalize=normalize))
    for convention, normalize in product(
        ("maurer", "kervadec", "valverde", "edge"), ("none", "max", "sides")
    )
)


@dataclass(frozen=True)
class Layout:
    """Where a program keeps labels and maps. files: of each case, (labels, map).

    channel: axis of the classes in a map. conventions: what its maps may be, as expressions.
    """

    program: str
    channel: int
    conventions: tuple[str, ...]
    files: Mapping[str, tuple[Path, Path]]


def layout_of(folder: Path) -> Layout | None:
    """The layout of a folder from another program; None if it has no maps of a known kind.

    MIST: labels/CASE.npy (*s 1) and dtms/CASE.npy (*s k), or NIfTI. nnU-Net: CASE.npz with `seg`,
    CASE_seg.npy or CASE_seg.b2nd (1 *s), and CASE_dist.npy, .npz or .b2nd (k *s) beside them.
    """
    if (folder / "dtms").is_dir() and (folder / "labels").is_dir():
        found = _pairs(folder / "dtms", _MIST_SUFFIXES, folder / "labels", _MIST_SUFFIXES)
        return Layout("MIST", -1, tuple(c for c in _CONVENTIONS if "maurer" in c), found)
    found = _pairs(folder, _NNUNET_SUFFIXES, folder, ("_seg.npy", "_seg.b2nd", ".npz"))
    return Layout("nnU-Net", 0, _CONVENTIONS, found) if found else None


def _pairs(
    maps_in: Path, map_suffixes: Sequence[str], labels_in: Path, label_suffixes: Sequence[str]
) -> dict[str, tuple[Path, Path]]:
    """Files of labels and map by case, sorted. Raises RWLossError for a map without labels."""
    pairs = {}
    for file in sorted(maps_in.iterdir()) if maps_in.is_dir() else ():
        suffix = next(filter(file.name.endswith, map_suffixes), None)
        if suffix is None:
            continue
        case = file.name.removesuffix(suffix)
        labels = [labels_in / f"{case}{each}" for each in label_suffixes]
        labels = [each for each in labels if each.is_file()]
        if not labels:
            raise RWLossError(
                f"{file} has no labels: expected {labels_in / case}"
                f"{' or '.join(label_suffixes)} of the same case"
            )
        pairs[case] = (labels[0], file)
    return pairs


class OtherStore(Store):
    """Maps of another program, read like a `Store`: distances to each class (k *s).

    path: MIST's folder of NumPy files, or nnU-Net's preprocessed folder with CASE_dist files (see
    `layout_of`). expression: what the maps are, `boundary` with its convention; by default found
    out: the one convention whose maps of the stored labels are equal to 1e-5. A multiple of it,
    such as "0.01 * boundary", multiplies what is read. spacing_mm: at which the distances were
    measured; by default 1, distances in voxels.

    Each map is compared with its labels when it is read, by its signs. A class that is absent, or
    that fills the image, has 0 everywhere, as in `boundary`, whatever the file has there.
    The maps have no spacing of their own.

    Raises RWLossError where no convention fits, or several do, or files can't be read.
    """

    def __init__(
        self,
        path: str | Path,
        expression: str | None = None,
        spacing_mm: Sequence[float] | None = None,
    ) -> None:
        """Find the cases and their convention: one map is computed per convention, or more."""
        folder = Path(path)
        layout = layout_of(folder)
        if layout is None or not layout.files:
            raise RWLossError(
                f"{folder} holds no maps of another program: expected MIST's dtms/CASE.npy and "
                "labels/CASE.npy, or CASE_dist.npy next to nnU-Net's CASE.npz or CASE_seg.npy"
            )
        self.place, self.layout = Folder(folder), layout
        self.given_spacing_mm = None if spacing_mm is None else tuple(map(float, spacing_mm))
        self._present: dict[str, list[int]] = {}
        self._factor, stated = 1.0, None
        if expression is not None:
            stated, self._factor = self._stated(expression)
        found = self._convention(stated)
        num_classes = self._values(next(iter(self)))[1].shape[layout.channel]
        self.info = MapInfo(
            expression=found if self._factor == 1 else str(self._factor * maps.parse(found)),
            num_classes=num_classes,
            engine=layout.program,
            versions={},
        )

    def __iter__(self) -> Iterator[str]:
        """Case names, sorted."""
        return iter(self.layout.files)

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.layout.files)

    def __contains__(self, case: object) -> bool:
        """Whether there is a map of the case; reads none."""
        return case in self.layout.files

    def read(self, case: str, region: Sequence[slice] | None = None) -> RWMap:
        """The map of one case, or the part in `region`. Like `Store.read`."""
        if case not in self:
            raise KeyError(f"no case {case!r} in {self.place}{nearest(case, list(self))}")
        labels, stored = self._values(case)
        if case not in self._present:
            self._present[case] = [k for k in np.unique(labels).tolist() if k >= 0]
        present = self._present[case] if len(self._present[case]) > 1 else []
        axes = labels.ndim
        cut = (slice(None),) * axes
        if region is not None:
            cut = checked_region(region, case, labels.shape)
        whole = (slice(None),)
        index = (*whole, *cut) if self.layout.channel == 0 else (*cut, *whole)
        values = np.moveaxis(np.asarray(stored[index], np.float32), self.layout.channel, 0)
        labels = np.ascontiguousarray(labels[cut])
        kept = np.zeros(values.shape, np.float32)
        kept[present] = values[present]
        if len(kept) != self.info.num_classes:
            raise RWLossError(
                f"{self.layout.files[case][1]} has {count_of(len(kept), 'class')}, and the first "
                f"map {self.info.num_classes}: make the map again"
            )
        if not np.isfinite(kept).all():
            raise RWLossError(
                f"{self.layout.files[case][1]} has values that are not finite: make the map again"
            )
        for k in present:
            if not np.array_equal(kept[k] <= 0, labels == k):
                raise RWLossError(
                    f"{self.layout.files[case][1]} was made from other labels than "
                    f"{self.layout.files[case][0]}: its class {k} is not where it is 0 or below; "
                    "make the map again"
                )
        kept *= np.float32(self._factor)
        return RWMap(labels[None], len(kept), (kept[None],), self.expression)

    def spacing_mm(self, case: str) -> tuple[float, ...]:
        """Spacing at which the distances were measured, 1 in voxels."""
        return self.given_spacing_mm or (1.0,) * self._values(case)[0].ndim

    def check_made_of(
        self,
        case: str,
        labels: NDArray[Any],
        spacing_mm: Sequence[float],
        labels_sha256: str,
    ) -> None:
        """As of a `Store`. Maps without a unit fit any spacing of the same proportions."""
        if not np.array_equal(self._values(case)[0], labels):
            raise RWLossError(
                f"the map of case {case!r} was made from other labels than the case has: "
                f"{self.layout.program} must have stored them without cropping or resampling"
            )
        measured = self.spacing_mm(case)
        ratios = [now / then for now, then in zip(spacing_mm, measured, strict=True)]
        ratios = [each for each, size in zip(ratios, labels.shape, strict=True) if size > 1]
        is_relative = maps.parse(self.expression, files=False).unit == "unitless"
        if not np.allclose(ratios, ratios[0] if is_relative else 1.0, rtol=1e-3):
            raise RWLossError(
                f"the distances of case {case!r} were measured at {spacing_text([measured])}, and "
                f"the case has {spacing_text([tuple(spacing_mm)])}"
            )

    def _values(self, case: str) -> tuple[NDArray[Any], Any]:
        """Labels (*s) of a case, and its map, opened but not read: (k *s), or (*s k)."""
        label_file, map_file = self.layout.files[case]
        labels = np.asarray(_opened(label_file, "seg"))
        stored = _opened(map_file, "dist")
        one = -1 if self.layout.channel else 0
        if labels.ndim == stored.ndim and labels.shape[one] == 1:
            labels = labels.squeeze(one)
        shape = list(stored.shape)
        k = shape.pop(self.layout.channel)
        if shape != list(labels.shape) or labels.ndim not in {2, 3} or k < 2:
            raise RWLossError(
                f"{map_file} {tuple(stored.shape)} does not fit the labels {labels.shape} of "
                f"{label_file}: expected a distance per class, the background's too"
            )
        if np.dtype(stored.dtype).kind != "f":
            raise RWLossError(
                f"{map_file} holds {stored.dtype}: distances truncated to integers are not a "
                f"map; precompute it"
            )
        labels = np.where(labels == -1, 0, labels)  # nnU-Net: outside of the cropped image
        return Regions.single(labels, k).labels[0], stored

    def _stated(self, expression: str) -> tuple[str, float]:
        """One of the conventions, and the factor that the expression gives it."""
        leaf, *more = maps.parse(expression, files=False).leaves()
        if more or leaf.link is not None or str(leaf.term) not in _CONVENTIONS:
            raise RWLossError(
                f"maps of {self.layout.program} are distances, not {expression}: expected one of "
                f"{', '.join(_CONVENTIONS)}, or a multiple of it"
            )
        return str(leaf.term), leaf.scale

    def _convention(self, stated: str | None) -> str:
        """The convention whose maps equal those of the files; see the class."""
        candidates = self.layout.conventions if stated is None else (stated,)
        for case in sorted(self, key=lambda case: self.layout.files[case][1].stat().st_size):
            errors = {text: self._largest_error(case, text) for text in candidates}
            candidates = tuple(text for text, error in errors.items() if error <= 1)
            if not candidates:
                tried = stated or f"boundary in any convention of {self.layout.program}"
                raise RWLossError(
                    f"{self.layout.files[case][1]} is not the map of its labels: {tried}, measured "
                    f"at {spacing_text([self.spacing_mm(case)])}, has other values. Say at which "
                    "spacing it was made (spacing_mm=, `train --spacing`), or precompute the maps"
                )
            if len(candidates) == 1:
                return candidates[0]
        raise RWLossError(
            f"the maps in {self.place} may be {' or '.join(candidates)}, which are the same "
            "for these labels: say which (expression=, `train --map`)"
        )

    def _largest_error(self, case: str, text: str) -> float:
        """Largest difference of a map from the expression's, as a multiple of what is allowed."""
        labels, stored = self._values(case)
        k = stored.shape[self.layout.channel]
        values = np.moveaxis(np.asarray(stored[...], np.float32), self.layout.channel, 0)
        wanted = maps.parse(text)(Regions.single(labels, k, self.spacing_mm(case))).dense()[0]
        present = np.unique(labels)
        if len(present) == 1:
            return 0.0
        allowed = max(1e-5, float(np.finfo(stored.dtype).eps))
        apart = np.abs(values[present] - wanted[present])
        return float((apart / (allowed * np.maximum(1, np.abs(wanted[present])))).max())


def _opened(file: Path, key: str) -> Any:
    """The array of a file, read when it is indexed where the format allows that."""
    try:
        if file.name.endswith(".npy"):
            return np.load(file, mmap_mode="r", allow_pickle=False)
        if file.name.endswith(".npz"):
            return np.load(file, allow_pickle=False)[key]
        if file.name.endswith(".b2nd"):
            return import_module("blosc2").open(str(file), mode="r")
        image: Any = import_module("nibabel").load(file)
        return image.dataobj
    except ImportError as error:
        raise RWLossError(f"{file} needs the package blosc2: pip install blosc2") from error
    except Exception as error:
        raise RWLossError(f"{file} can't be read: {error}") from error
