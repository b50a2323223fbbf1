"""Is a store still what it was, and of the labels as they are now? And making good what is not."""

from __future__ import annotations

import os
import re
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from rwloss import data
from rwloss.data.formats import MAX_VOXELS
from rwloss.errors import RWLossError
from rwloss.files.atomic import TEMPORARY_PREFIX
from rwloss.precompute import Outcome, Summary, precompute
from rwloss.regions import IGNORED
from rwloss.store import Entry, MapInfo, Store, labels_digest, nifti
from rwloss.store.journal import last_start, read_failures
from rwloss.store.manifest import (
    MANIFEST_FILE,
    MAP_FILE,
    TREE_SUFFIX,
    PartName,
    find_unlisted,
    read_info,
    readable_entries,
    write_entries,
)
from rwloss.store.place import TREE_MARK, Bucket, Folder, Place, place
from rwloss.store.writing import OWN_FILES, damaged_files, files_of
from rwloss.work.tasks import run_tasks

Kind: TypeAlias = Literal["missing", "stale", "foreign", "damaged"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be. name: of the case, or of the file.

    missing: a case of the data set or of the manifest has no map, or not all of it. stale: the
    labels are others than those that the map was made of. foreign: no case of the data set owns
    it. damaged: bytes, shapes or values are not those that were written.
    """

    kind: Kind
    name: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What was found in a store.

    source: the data set that its labels were compared with; None, and `note` says why, where they
    were not compared. expression: "" where map.json is damaged. cases: number of cases that were
    looked at, in store or data set. leftovers: temporary files of a run that was stopped, or that
    is under way; harmless.
    """

    store: str
    expression: str
    source: str | None
    cases: int
    problems: tuple[Problem, ...] = field(repr=False)
    leftovers: tuple[str, ...] = ()
    note: str = ""
    seconds: float = 0.0

    @property
    def repairable(self) -> bool:
        """Whether `repair` has something to make again."""
        return bool(self.expression) and any(problem.kind != "foreign" for problem in self.problems)

    @cached_property
    def counts(self) -> dict[Kind, int]:
        """Number of problems of each kind."""
        kinds = [problem.kind for problem in self.problems]
        return {kind: kinds.count(kind) for kind in KINDS}


Progress: TypeAlias = Callable[[bool, int], None]


def verify(
    store_path: str | Path,
    source: str | Path | data.Dataset | None = None,
    *,
    jobs: int | None = None,
    max_voxels: int = MAX_VOXELS,
    progress: Progress | None = None,
) -> Report:
    """Read every map of a store again; compare digests, shapes, values and labels. Writes nothing.

    store_path: a folder, or an fsspec address. source: the data set that the maps were made of, as
    for `precompute`; by default that of the newest run. jobs: worker processes, by default one a
    core; 0 works in this process. progress: called after each case with whether it is as it should
    be, and the number of cases.

    Raises RWLossError where there is no store, or `source` is no data set.

    >>> from rwloss.precompute import precompute
    >>> summary = precompute(data.sample_dir("lung_patches"), "maps", "rectified", jobs=0)
    >>> verify("maps", jobs=0).counts
    {'missing': 0, 'stale': 0, 'foreign': 0, 'damaged': 0}
    """
    started = time.monotonic()
    where = place(store_path)
    try:
        info = read_info(where)
    except RWLossError as error:
        if not {MAP_FILE, MANIFEST_FILE} & set(where.names()):
            raise
        problem = Problem("damaged", MAP_FILE, f"{error}: make the maps in another folder")
        return Report(str(where), "", None, 0, (problem,))
    found_at = last_start(where).get("source") if source is None else source
    dataset, note = _data_set(found_at, is_asked=source is not None)
    contents = _Contents.read(where, info, dataset)
    problems = [*contents.problems()]
    tasks = contents.checks(max_voxels)
    for found in run_tasks(tasks, jobs=jobs):
        problems += found
        if progress is not None:
            progress(not found, len(tasks))
    return Report(
        store=str(where),
        expression=info.expression,
        source=None if dataset is None else _text(found_at),
        cases=len({*contents.entries, *contents.cases}),
        problems=tuple(sorted(problems, key=lambda found: (KINDS.index(found.kind), found.name))),
        leftovers=_leftovers(where),
        note=note,
        seconds=time.monotonic() - started,
    )


def repair(
    store_path: str | Path,
    report: Report,
    source: str | Path | data.Dataset | None = None,
    *,
    jobs: int | None = None,
    max_voxels: int = MAX_VOXELS,
    progress: Callable[[Outcome, int], None] | None = None,
) -> Summary:
    """Make the maps anew that `verify` found missing, stale or damaged; the others stay.

    report: what `verify` found. source: as for `verify`. Foreign files are left alone: they may be
    anyone's. Raises RWLossError where map.json is damaged, where no data set is known, or for a
    map that is a Python file: a store must not choose which code is run.
    """
    where = place(store_path)
    info = read_info(where)
    if runs_a_file(info.expression):
        raise RWLossError(
            f"the map of {where} comes from a Python file ({info.expression}): if you trust that "
            "file, run `rwloss precompute` with this map again, which makes good what is not whole"
        )
    source = report.source if source is None else source
    if source is None:
        raise RWLossError(
            f"{report.note or 'no data set is known'}: name the data set that the maps of {where} "
            "were made of (--data)"
        )
    dataset = source if isinstance(source, data.Dataset) else data.find(source)
    damaged = {problem.name for problem in report.problems if problem.kind == "damaged"}
    try:
        _strike(where, damaged & {case.name for case in dataset.cases})
    except OSError as error:
        raise RWLossError(f"{where} can't be written: {error}") from error
    return precompute(
        source,
        store_path,
        info.expression,
        num_classes=info.num_classes,
        spacing_mm=info.spacing_mm,
        ignore_label=info.ignore_label,
        format=info.format,
        dtype=info.dtype,
        max_voxels=max_voxels,
        jobs=jobs,
        progress=progress,
    )


def runs_a_file(expression: str) -> bool:
    """Whether to parse this text may run a Python file. Text of a store is not the user's own.

    >>> runs_a_file("rectified + dice"), runs_a_file("rectified + file('mine.py:Mine')")
    (False, True)
    """
    # However it is written: Python reads identifiers in the form NFKC.
    return re.search(r"\.py:|\bfile\b", unicodedata.normalize("NFKC", expression)) is not None


@dataclass(frozen=True)
class Check:
    """One map, read again. case: of the data set; None where labels are not compared."""

    place: Place
    info: MapInfo
    entry: Entry
    case: data.Case | None
    max_voxels: int

    def __call__(self) -> tuple[Problem, ...]:
        """What is wrong with it."""
        return tuple(self._problems())

    def died(self) -> tuple[Problem, ...]:
        """The answer where a worker process died over it."""
        return (self._problem("damaged", "a worker process died while it read this case"),)

    def _problem(self, kind: Kind, reason: str) -> Problem:
        return Problem(kind, self.entry.case, reason)

    def _problems(self) -> Iterator[Problem]:
        try:
            yield from self._damage()
        except Exception as error:  # whatever four libraries raise for a file that they can't read
            yield self._problem("damaged", str(error) or type(error).__name__)
        if self.case is None:
            return
        try:
            volume = data.read_labels(
                self.case.labels, spacing_mm=self.info.spacing_mm, max_voxels=self.max_voxels
            )
        except RWLossError as error:
            yield self._problem("stale", f"its labels can't be compared: {error}")
            return
        spacing_mm = volume.spacing_mm or (1.0,) * volume.labels.ndim
        if labels_digest(volume.labels, spacing_mm, volume.affine) != self.entry.labels_sha256:
            yield self._problem("stale", "its labels, or their spacing, changed after it was made")

    def _damage(self) -> Iterator[Problem]:
        wrong = damaged_files(self.place, self.entry)
        if wrong:
            kind: Kind = "missing" if "is missing" in wrong.values() else "damaged"
            yield self._problem(kind, "; ".join(f"{name} {what}" for name, what in wrong.items()))
        else:
            yield from (self._problem("damaged", reason) for reason in self._nonsense())

    def _nonsense(self) -> Iterator[str]:
        """What is wrong with a map whose bytes are those that were written."""
        if self.entry.num_classes != self.info.num_classes:
            yield (
                f"the manifest says {self.entry.num_classes} classes, "
                f"{MAP_FILE} {self.info.num_classes}"
            )
        store = Store(self.place)
        store.entries = {self.entry.case: self.entry}  # the manifest is long, and may be damaged
        rwmap = store[self.entry.case]
        if not np.all((rwmap.labels >= IGNORED) & (rwmap.labels < rwmap.num_classes)):
            yield f"its labels are no classes of 0..{rwmap.num_classes - 1}"
        for name, values in zip(rwmap.part_names, rwmap.parts, strict=True):
            if not np.isfinite(values).all():
                yield f"{name} has values that are not finite"


@dataclass(frozen=True)
class _Contents:
    """What lies in a store beside what should. cases: of the data set by name, if it is known.

    unlisted: whole trees that a stopped run has not put into the manifest yet.
    """

    place: Place
    info: MapInfo
    entries: dict[str, Entry]
    unlisted: dict[str, Entry]
    unread: dict[int, str]
    cases: dict[str, data.Case]
    is_compared: bool

    @classmethod
    def read(cls, where: Place, info: MapInfo, dataset: data.Dataset | None) -> _Contents:
        """Manifest and data set side by side."""
        entries, unread = readable_entries(where)
        unlisted = find_unlisted(where, entries)
        if isinstance(where, Bucket):  # no manifest grows there: trees that are whole count
            entries, unlisted = entries | unlisted, {}
        cases = {} if dataset is None else {case.name: case for case in dataset.cases}
        return cls(where, info, entries, unlisted, unread, cases, dataset is not None)

    def checks(self, max_voxels: int) -> list[Check]:
        """A task for each map that the manifest lists."""
        return [
            Check(self.place, self.info, entry, self.cases.get(case), max_voxels)
            for case, entry in sorted(self.entries.items())
        ]

    def problems(self) -> Iterator[Problem]:
        """What can be said without reading a map."""
        if MANIFEST_FILE not in (names := self.place.names()):
            yield Problem("damaged", MANIFEST_FILE, "is missing")
        for number, reason in self.unread.items():
            yield Problem("damaged", MANIFEST_FILE, f"line {number} can't be read: {reason}")
        failures = read_failures(self.place)
        for case in self.unlisted:
            yield Problem("missing", case, "its map is whole, but the manifest does not list it")
        for case in self.cases.keys() - self.entries.keys() - self.unlisted.keys():
            why = f"; the last run failed: {failures[case]}" if case in failures else ""
            yield Problem("missing", case, f"it has no map{why}")
        if self.is_compared:
            for case in self.entries.keys() - self.cases.keys():
                yield Problem("foreign", case, "the data set has no such case")
        for name in set(names) - self._owned():
            yield Problem("foreign", name, "no case owns it")

    def _owned(self) -> set[str]:
        """Names of files that belong to the store, to a case, or to one whose map is missing."""
        owned = set(OWN_FILES)
        for entry in (self.entries | self.unlisted).values():
            owned |= files_of(entry)
        for case in self.cases.keys() - self.entries.keys():
            owned |= {f"{case}_{part}{nifti.SUFFIX}" for part in get_args(PartName)}
            owned.add(f"{case}{TREE_SUFFIX}")
        return owned


def _strike(where: Place, cases: Iterable[str]) -> None:
    """Take cases out of the manifest, and lines that can't be read, so that they are made anew."""
    with where.lock():
        entries, _ = readable_entries(where)
        for case in cases:
            entries.pop(case, None)
            with suppress(OSError):  # a tree without its mark is not taken for a map
                where.remove(f"{case}{TREE_SUFFIX}/{TREE_MARK}")
        write_entries(where, entries.values())


def _data_set(source: Any, *, is_asked: bool) -> tuple[data.Dataset | None, str]:
    """The data set to compare with, or why there is none."""
    if isinstance(source, data.Dataset):
        return source, ""
    if is_asked:
        return data.find(source), ""
    if not isinstance(source, str):
        return None, "the log names no data set"
    try:
        return data.find(source), ""
    except RWLossError as error:
        return None, str(error)


def _text(source: Any) -> str:
    return str(source.root) if isinstance(source, data.Dataset) else os.path.abspath(source)


def _leftovers(where: Place) -> tuple[str, ...]:
    if not isinstance(where, Folder):
        return ()
    names = os.listdir(where.path)
    return tuple(sorted(name for name in names if name.startswith(TEMPORARY_PREFIX)))
