"""`python -m benchmarks COMMAND`: ratios, and JSON in benchmarks/results/."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.command()
def distance(
    workloads: Annotated[list[str] | None, typer.Argument(help="a, b, c, d; all if none")] = None,
    growth: Annotated[bool, typer.Option(help="The growth table too.")] = True,
) -> None:
    """Maps against the official per-class loop and other transforms."""
    from benchmarks.distance import main

    main(workloads or (), growth=growth)


@app.command()
def loss() -> None:
    """Forward and backward of losses against cross-entropy."""
    from benchmarks.loss import main

    main()


@app.command()
def atlas() -> None:
    """What each term costs against cross-entropy, for docs/atlas.md."""
    from benchmarks.atlas import main

    main()


@app.command()
def precompute() -> None:
    """Volumes a second of the whole command, against the transform alone."""
    from benchmarks.precompute import main

    main()


@app.command()
def step() -> None:
    """One training step, split into its parts."""
    from benchmarks.step import main

    main()


@app.command()
def study() -> None:
    """Training runs per hour, as one stacked model and one by one."""
    from benchmarks.study import main

    main()


@app.command()
def monai() -> None:
    """MONAI's boundary loss against ours, as MONAI's users call them."""
    from benchmarks.monai import main

    main()


@app.command()
def report() -> None:
    """Results, page and exported figures of a study of 1,000 runs."""
    from benchmarks.report import main

    main()


@app.command()
def gpu(
    minutes: Annotated[float, typer.Option(help="Time for all of it.", min=0)] = 9.0,
    part: Annotated[list[str] | None, typer.Option(help="A part to run; may be repeated.")] = None,
) -> None:
    """GPU tests, then distance, loss, step and study on a GPU, each row kept at once."""
    import torch

    from benchmarks.gpu import NO_DEVICE, PARTS, main

    if unknown := set(part or ()) - set(PARTS):
        names = ", ".join(map(repr, PARTS))
        raise typer.BadParameter(f"{', '.join(map(repr, sorted(unknown)))}: the parts are {names}")
    if not torch.cuda.is_available():
        typer.echo(f"Error: {NO_DEVICE}", err=True)
        raise typer.Exit(2)
    raise typer.Exit(bool(main(minutes, part or ())))


@app.command()
def page() -> None:
    """Renew the tables of benchmarks/README.md and docs/atlas.md from the results."""
    from benchmarks.page import main

    main()


if __name__ == "__main__":
    app()
