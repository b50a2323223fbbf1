"""`rwloss verify`: whether a store is complete and matches the current labels."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwloss.cli import options as opt
from rwloss.cli.listing import print_failures, print_table, printable
from rwloss.cli.precompute import as_fields
from rwloss.cli.progress import Progress, progress
from rwloss.words import count_of, listed

if TYPE_CHECKING:
    from rwloss.precompute import Summary
    from rwloss.store.verify import Report


def verify(
    store: Annotated[str, typer.Argument(metavar="STORE")],
    source: Annotated[str | None, typer.Option("--data", metavar="DATA")] = None,
    with_repair: Annotated[bool, typer.Option("--repair")] = False,
    map_text: Annotated[str | None, opt.MapText] = None,
    strict: Annotated[bool, typer.Option("--strict")] = False,
    jobs: opt.Jobs = None,
    max_voxels: opt.MaxVoxels = opt.MAX_VOXELS,
    as_json: opt.AsJson = False,
) -> None:
    """Check a store of maps against its manifest and the labels.

    Reads every map. Names those that are missing, stale (the labels have changed), foreign (the
    file belongs to no case) or damaged (bytes, shapes or values have changed); exit code 1 if there
    are any except foreign ones. map.json is stale if this version of rwloss makes other maps.
    Writes nothing without --repair.

    store: Folder or URL of a store of maps.
    source: Dataset of the maps; by default that of the latest run.
    with_repair: Recompute missing, stale and damaged maps. Foreign files are only named.
    map_text: Map of the store, to check that it is still this one. A Python file or a package that
    it names is executed, and its code is compared too; --repair needs it for the map of a file.
    strict: Exit code 1 for foreign files too.
    """
    from rwloss.precompute.repair import repair
    from rwloss.store import open as open_store
    from rwloss.store.verify import verify as run

    def what_is_left(shown: Progress) -> str:
        done = sum(pace.done for pace in shown.paces.values())
        return f"after {count_of(done, 'case')}; run the same command again"

    if map_text is not None:  # before what takes long
        open_store(store).check_map(map_text)
    with progress(what_is_left, "with problems") as shown:

        def checked(phase: str) -> Report:
            found = run(
                store,
                source,
                jobs=jobs,
                progress=lambda good, total: shown.step(phase, total, failed=not good),
                max_voxels=max_voxels,
            )
            return found if map_text is None else replace(found, uncompared=())

        first = report = checked("checked")
        summary = None
        if with_repair and first.repairable:
            summary = repair(
                store,
                first,
                source,
                map_text,
                jobs=jobs,
                progress=lambda outcome, total: shown.step(
                    "repaired", total, failed=outcome.state == "failed"
                ),
                max_voxels=max_voxels,
            )
            report = checked("checked again")
    if as_json:
        typer.echo(json.dumps(_as_fields(first, report, summary)))
    else:
        _print(first, report, summary)
        if report.uncompared:
            names = printable(listed(report.uncompared))
            typer.echo(f"The code of {names} was not compared: name the map with --map")
    if not report.is_complete or (strict and report.problems):
        raise typer.Exit(1)


def _as_fields(first: Report, report: Report, summary: Summary | None) -> dict[str, Any]:
    """What --json prints: the remaining problems, and those before a repair."""
    return {
        "store": report.store,
        "expression": report.expression,
        "data": report.source,
        "cases": report.cases,
        "counts": report.counts,
        "problems": _listed(report),
        "leftovers": report.leftovers,
        "note": report.note,
        "uncompared": report.uncompared,
        "seconds": round(report.seconds, 3),
        "repair": summary and {**as_fields(summary), "problems_before": _listed(first)},
    }


def _listed(report: Report) -> list[dict[str, str]]:
    return [asdict(problem) for problem in report.problems]


def _print(first: Report, report: Report, summary: Summary | None) -> None:
    if summary is not None:
        _print_problems(first)
        again, kept = count_of(summary.made, "map"), f"{summary.kept:,}"
        typer.echo(f"{again} recomputed, {kept} kept, in {summary.seconds:.1f} s.")
        failed = [(each.case, each.reason) for each in summary.failed]
        print_failures(failed, len(summary.outcomes))
    _print_problems(report)
    for name in report.leftovers:
        typer.echo(f"{printable(name)} was left by an interrupted run: the next run removes it")
    where, seconds = printable(report.store), f"({report.seconds:.1f} s)"
    maps = f"{count_of(report.cases, 'map')} of {printable(report.expression)} in {where}"
    if report.is_complete:
        what = "all complete" + ("" if report.note else " and up to date with the labels")
        if foreign := report.counts["foreign"]:
            what += f"; {foreign:,} foreign {'is' if foreign == 1 else 'are'} left alone"
    else:
        found = [f"{number:,} {kind}" for kind, number in report.counts.items() if number]
        what = f"{count_of(len(report.problems), 'problem')}, {', '.join(found)}"
    typer.echo(f"{maps if report.expression else where}: {what} {seconds}")
    if report.note:
        typer.echo(
            f"Labels were not compared ({printable(report.note)}): name their dataset with --data"
        )
    if report.repairable and summary is None:
        typer.echo("`rwloss verify --repair` recomputes missing, stale and damaged maps")


def _print_problems(report: Report) -> None:
    print_table([(problem.kind, problem.name, problem.reason) for problem in report.problems])
