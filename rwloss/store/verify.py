"""Whether a store is unchanged since it was written, and matches the current labels."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from rwloss import data, maps
from rwloss.data.formats import MAX_VOXELS
from rwloss.errors import RWLossError
from rwloss.maps.registry import built_in_kind
from rwloss.regions import IGNORED
from rwloss.store import ManifestEntry, Store, labels_digest, manifest
from rwloss.store.encoding import NIFTI_SUFFIX
from rwloss.store.manifest import MANIFEST_FILE, MAP_FILE, MapInfo, PartName, Term
from rwloss.store.place import Bucket, place
from rwloss.store.store import damaged_files
from rwloss.work.tasks import run_tasks

ProblemKind: TypeAlias = Literal["missing", "stale", "foreign", "damaged"]
KINDS: tuple[ProblemKind, ...] = get_args(ProblemKind)


@dataclass(frozen=True)
class Problem:
    """A problem of a case or a file, by its name.

    missing: a case of the dataset or of the manifest has no map, or not all of it. stale: the
    labels differ from those that the map was made of, or the image of a map that uses it; or, of
    map.json, a term of rwloss has other values in this version. foreign: the file belongs to no
    case of the dataset; it does no harm. damaged: bytes, shapes or values are not those that were
    written.
    """

    kind: ProblemKind
    name: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The result of `verify`.

    source: the dataset that the labels were compared with; where they were not compared it is None,
    and `note` says why. expression: "" where map.json is damaged. cases: number of cases in the
    store or in the dataset. leftovers: temporary files of a run that was stopped or is still
    running; they are harmless. uncompared: terms of files and of other packages, whose code was not
    compared, because a store must not choose which code runs: `Store.check_map` does.
    """

    store: str
    expression: str
    source: str | None
    cases: int
    problems: tuple[Problem, ...] = field(repr=False)
    leftovers: tuple[str, ...] = ()
    note: str = ""
    seconds: float = 0.0
    uncompared: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every map exists and is valid; foreign files don't count."""
        return all(problem.kind == "foreign" for problem in self.problems)

    @property
    def repairable(self) -> bool:
        """Whether there are maps that `repair` can recompute."""
        of_store = any(problem.name == MAP_FILE for problem in self.problems)
        return not (of_store or self.is_complete)

    @cached_property
    def counts(self) -> dict[ProblemKind, int]:
        """Number of problems of each kind."""
        kinds = [problem.kind for problem in self.problems]
        return {kind: kinds.count(kind) for kind in KINDS}


def verify(
    store_path: str | Path,
    source: str | Path | data.Dataset | None = None,
    *,
    jobs: int | None = None,
    max_voxels: int = MAX_VOXELS,
    progress: Callable[[bool, int], None] | None = None,
) -> Report:
    """Read every map of a store, and compare digests, shapes, values and labels. Writes nothing.

    store_path: a folder, or an fsspec address. source: the dataset that the maps were made of, as
    for `precompute`; by default that of the latest run. jobs: worker processes, by default one per
    core; 0 works in this process. progress: called after each case with whether it is fine, and the
    number of cases.

    Raises RWLossError where there is no store, or `source` is not a dataset.

    >>> from rwloss.precompute import precompute
    >>> summary = precompute(data.sample_dir("lung_patches"), "maps", "rectified", jobs=0)
    >>> verify("maps", jobs=0).counts
    {'missing': 0, 'stale': 0, 'foreign': 0, 'damaged': 0}
    """
    started = time.monotonic()
    where = place(store_path)
    try:
        store = Store(where)
    except RWLossError as error:
        if not {MAP_FILE, MANIFEST_FILE} & set(where.names()):
            raise
        problem = Problem("damaged", MAP_FILE, f"{error}: make the maps in another folder")
        return Report(str(where), "", None, 0, (problem,))
    dataset, found_at, note = _dataset(manifest.last_start(where).get("source"), source)
    cases = {} if dataset is None else {case.name: case for case in dataset.cases}
    entries, unreadable = manifest.readable_entries(where)
    unlisted = manifest.find_unlisted(where, entries)
    if isinstance(where, Bucket):  # nothing is appended there: complete trees count
        entries, unlisted = entries | unlisted, {}
    problems, uncompared = _of_code(store.info)
    if MANIFEST_FILE not in where.names():
        problems.append(Problem("damaged", MANIFEST_FILE, "is missing"))
    for number, why in unreadable.items():
        problems.append(Problem("damaged", MANIFEST_FILE, f"line {number} can't be read: {why}"))
    for name in unlisted:
        why = "its map is complete, but the manifest does not list it"
        problems.append(Problem("missing", name, why))
    failures = manifest.read_failures(where)
    for name in cases.keys() - entries.keys() - unlisted.keys():
        why = f"; the last run failed: {failures[name]}" if name in failures else ""
        problems.append(Problem("missing", name, f"it has no map{why}"))
    for name in entries.keys() - cases.keys() if dataset is not None else ():
        problems.append(Problem("foreign", name, "the dataset has no such case"))
    owned = manifest.OWN_FILES.union(*(entry.files for entry in (entries | unlisted).values()))
    for name in cases.keys() - entries.keys():  # what an interrupted run may have left
        parts = (f"{name}_{part}{NIFTI_SUFFIX}" for part in get_args(PartName))
        owned = owned.union(parts, [f"{name}{manifest.TREE_SUFFIX}"])
    for name in set(where.names()) - owned:
        problems.append(Problem("foreign", name, "it belongs to no case"))
    checks = [
        MapCheck(store, entry, cases.get(case), max_voxels)
        for case, entry in sorted(entries.items())
    ]
    for found in run_tasks(checks, jobs=jobs):
        problems += found
        if progress is not None:
            progress(not found, len(checks))
    return Report(
        store=str(where),
        expression=store.expression,
        source=found_at,
        cases=len(entries.keys() | cases.keys()),
        problems=tuple(sorted(problems, key=lambda found: (KINDS.index(found.kind), found.name))),
        leftovers=tuple(where.leftovers()),
        note=note,
        seconds=time.monotonic() - started,
        uncompared=uncompared,
    )


def _of_code(info: MapInfo) -> tuple[list[Problem], tuple[str, ...]]:
    """Terms of rwloss itself that have other values now, and the names of the other terms."""
    # A file may have the name of a term of rwloss.
    of_rwloss = [
        term
        for term in info.terms
        if built_in_kind(term.name) and not term.revision.startswith("sha256:")
    ]
    others = dict.fromkeys(term.name for term in info.terms if term not in of_rwloss)
    now = [Term(name=term.name, revision=maps.revision(maps.load(term.name))) for term in of_rwloss]
    changed = info.model_copy(update={"terms": tuple(of_rwloss)}).changed_code(now)
    problems = [
        Problem("stale", MAP_FILE, f"it has {each}: make the maps in another folder")
        for each in changed
    ]
    return problems, tuple(others)


@dataclass(frozen=True)
class MapCheck:
    """Reads one map. case: of the dataset; None if labels are not compared."""

    store: Store
    entry: ManifestEntry
    case: data.Case | None
    max_voxels: int

    def __call__(self) -> tuple[Problem, ...]:
        """What is wrong with it."""
        return tuple(self._problems())

    def died(self) -> tuple[Problem, ...]:
        """The result if worker processes died on it."""
        return (self._problem("damaged", "a worker process died while it read this case"),)

    def _problem(self, kind: ProblemKind, reason: str) -> Problem:
        return Problem(kind, self.entry.case, reason)

    def _problems(self) -> Iterator[Problem]:
        try:
            yield from self._damage()
        except Exception as error:  # several libraries raise many kinds for a file they can't read
            yield self._problem("damaged", str(error) or type(error).__name__)
        if self.case is None:
            return
        try:
            volume = data.read_labels(
                self.case.labels, spacing_mm=self.store.info.spacing_mm, max_voxels=self.max_voxels
            )
            what, image = "labels, or their spacing,", None
            if self.store.info.uses_image:
                what = "image, its labels, or their spacing,"
                image = data.read_case_image(self.case, volume.labels.shape)
        except RWLossError as error:
            yield self._problem("stale", f"its files can't be compared: {error}")
            return
        spacing_mm = volume.spacing_mm or (1.0,) * volume.labels.ndim
        digest = labels_digest(volume.labels, spacing_mm, volume.affine, image)
        if digest != self.entry.labels_sha256:
            yield self._problem("stale", f"its {what} changed after it was made")

    def _damage(self) -> Iterator[Problem]:
        """The errors of its bytes, or else of its values."""
        if wrong := damaged_files(self.store.place, self.entry):
            kind: ProblemKind = "missing" if "is missing" in wrong.values() else "damaged"
            yield self._problem(kind, "; ".join(f"{name} {what}" for name, what in wrong.items()))
            return
        k, expected = self.entry.num_classes, self.store.info.num_classes
        if k != expected:
            yield self._problem("damaged", f"the manifest says {k} classes, {MAP_FILE} {expected}")
        rwmap = self.store.read_entry(self.entry)
        if not np.all((rwmap.labels >= IGNORED) & (rwmap.labels < k)):
            yield self._problem("damaged", f"its labels are not classes of 0..{k - 1}")
        for name, part in zip(rwmap.part_names, rwmap.parts, strict=True):
            if not np.isfinite(part).all():
                yield self._problem("damaged", f"{name} has values that are not finite")


def _dataset(logged: Any, asked: Any) -> tuple[data.Dataset | None, str | None, str]:
    """The dataset to compare with and its path; or None and the reason.

    logged: the dataset of the latest run. asked: the dataset that the caller names; it must exist.
    """
    if isinstance(asked, data.Dataset):
        return asked, str(asked.root), ""
    if asked is not None:
        return data.find(asked), os.path.abspath(asked), ""
    if not isinstance(logged, str):
        return None, None, "the log names no dataset"
    try:
        return data.find(logged), os.path.abspath(logged), ""
    except RWLossError as error:
        return None, None, str(error)
