"""`rwloss verify`: is a store still what it was, and of the labels as they are now?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwloss.cli.listing import print_table, printable
from rwloss.cli.options import AsJson, Jobs, MaxVoxels
from rwloss.cli.precompute import as_fields, print_failures
from rwloss.cli.progress import interruptible, progress
from rwloss.words import count_of

if TYPE_CHECKING:
    from rwloss.precompute import Summary
    from rwloss.store.verify import Report


def verify(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="Folder or address of a store of maps.")
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="The data set that the maps were made of; by default that of the newest run.",
            show_default=False,
        ),
    ] = None,
    mend: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Make missing, stale and damaged maps again. Foreign files are named, never "
            "removed.",
        ),
    ] = False,
    jobs: Jobs = None,
    max_voxels: MaxVoxels = None,
    as_json: AsJson = False,
) -> None:
    """Read every map of a store again, and compare it with its manifest and with the labels.

    Names maps that are missing, stale (the labels changed), foreign (no case owns the file) or
    damaged (other bytes, shapes or values than were written); exit code 1 if there are any. Writes
    nothing without --repair.
    """
    from rwloss.precompute.repair import repair
    from rwloss.store.verify import verify as run

    limit = {} if max_voxels is None else {"max_voxels": max_voxels}
    done = 0

    def told() -> str:
        return f"after {count_of(done, 'case')}; run the same command again"

    with interruptible(told), progress("with problems") as shown:

        def counted(phase: str, total: int, *, failed: bool) -> None:
            nonlocal done
            done += 1
            shown.step(phase, total, failed=failed)

        def checked(phase: str) -> Report:
            return run(
                store,
                source,
                jobs=jobs,
                progress=lambda good, total: counted(phase, total, failed=not good),
                **limit,
            )

        first = report = checked("checked")
        summary = None
        if mend and first.repairable:
            summary = repair(
                store,
                first,
                source,
                jobs=jobs,
                progress=lambda outcome, total: counted(
                    "repaired", total, failed=outcome.state == "failed"
                ),
                **limit,
            )
            report = checked("checked again")
    if as_json:
        typer.echo(json.dumps(_as_fields(first, report, summary)))
    else:
        _tell(first, report, summary)
    if report.problems:
        raise typer.Exit(1)


def _as_fields(first: Report, report: Report, summary: Summary | None) -> dict[str, Any]:
    """What --json prints: problems as they are now; those before a repair beside it."""
    return {
        "store": report.store,
        "expression": report.expression,
        "data": report.source,
        "cases": report.cases,
        "counts": report.counts,
        "problems": _listed(report),
        "leftovers": report.leftovers,
        "note": report.note,
        "seconds": round(report.seconds, 3),
        "repair": summary and {**as_fields(summary), "problems_before": _listed(first)},
    }


def _listed(report: Report) -> list[dict[str, str]]:
    return [
        {"kind": problem.kind, "name": problem.name, "reason": problem.reason}
        for problem in report.problems
    ]


def _tell(first: Report, report: Report, summary: Summary | None) -> None:
    if summary is not None:
        _tell_problems(first)
        again, kept = count_of(summary.made, "map"), f"{summary.kept:,}"
        typer.echo(f"{again} made again, {kept} left as they are, in {summary.seconds:.1f} s.")
        print_failures(summary)
    _tell_problems(report)
    for name in report.leftovers:
        typer.echo(f"{printable(name)} was left by a run that was stopped: the next one removes it")
    where, seconds = printable(report.store), f"({report.seconds:.1f} s)"
    maps = f"{count_of(report.cases, 'map')} of {printable(report.expression)} in {where}"
    if report.problems:
        found = [f"{number:,} {kind}" for kind, number in report.counts.items() if number]
        problems = f"{count_of(len(report.problems), 'problem')}, {', '.join(found)}"
        typer.echo(f"{maps if report.expression else where}: {problems} {seconds}")
    elif report.note:
        typer.echo(f"{maps}: each is whole {seconds}")
    else:
        typer.echo(f"{maps}: each is whole, and of the labels as they are now {seconds}")
    if report.note:
        typer.echo(
            f"Labels were not compared ({printable(report.note)}): name their data set with --data"
        )
    if report.repairable and summary is None:
        typer.echo("`rwloss verify --repair` makes what is missing, stale or damaged again")


def _tell_problems(report: Report) -> None:
    print_table([(problem.kind, problem.name, problem.reason) for problem in report.problems])
