"""Recompute maps that `verify` found missing, stale or damaged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rwloss import data, maps
from rwloss.data.formats import MAX_VOXELS
from rwloss.errors import RWLossError
from rwloss.precompute.cases import CaseOutcome, Summary
from rwloss.precompute.run import precompute
from rwloss.store import Store
from rwloss.store.manifest import TREE_SUFFIX, read_info, readable_entries, write_entries
from rwloss.store.place import TREE_MARK, place
from rwloss.store.verify import Report


def repair(
    store_path: str | Path,
    report: Report,
    source: str | Path | data.Dataset | None = None,
    expression: str | None = None,
    *,
    jobs: int | None = None,
    max_voxels: int = MAX_VOXELS,
    progress: Callable[[CaseOutcome, int], None] | None = None,
) -> Summary:
    """Recompute the maps that `verify` found missing, stale or damaged; keep the others.

    report: the result of `verify`. source: as for `verify`. expression: of the store; needed only
    for a map from a Python file, because a store must not choose which code runs. Foreign files are
    left alone, because they may be anyone's. Raises RWLossError where map.json is damaged, where no
    dataset is known, or where the expression is another or would run a file.
    """
    where = place(store_path)
    info = read_info(where)
    if expression is not None:
        Store(where).check_map(expression)
    static = maps.parse(info.expression, files=False)  # a file that was named is known now
    source = report.source if source is None else source
    if source is None:
        raise RWLossError(
            f"{report.note or 'no dataset is known'}: name the dataset that the maps of {where} "
            "were made of (--data)"
        )
    dataset = source if isinstance(source, data.Dataset) else data.find(source)
    damaged = {problem.name for problem in report.problems if problem.kind == "damaged"}
    try:
        with where.lock():  # lines that can't be read are removed as well
            entries, _ = readable_entries(where)
            for case in damaged & {case.name for case in dataset.cases}:
                entries.pop(case, None)
                with suppress(OSError):  # a tree without its mark does not count as a map
                    where.remove(f"{case}{TREE_SUFFIX}/{TREE_MARK}")
            write_entries(where, entries.values())
    except OSError as error:
        raise RWLossError(f"{where} can't be written: {error}") from error
    return precompute(
        source,
        store_path,
        static,
        num_classes=info.num_classes - len(info.label_sets),
        spacing_mm=info.spacing_mm,
        ignore_label=info.ignore_label,
        label_sets=info.label_sets,
        format=info.format,
        dtype=info.dtype,
        max_voxels=max_voxels,
        jobs=jobs,
        progress=progress,
    )
