"""Options that several commands share: one spelling, one meaning, one help text."""

from __future__ import annotations

from typing import Annotated

import typer

from rwloss.errors import RWLossError

MapText = Annotated[
    str,
    typer.Option(
        "--map",
        help="Map to make: a name such as rectified, or with parameters such as "
        "\"boundary(convention='valverde')\". `rwloss maps` lists them.",
    ),
]
NumClasses = Annotated[
    int | None,
    typer.Option(
        "--num-classes",
        help="Number of classes, background included; by default that of dataset.json, "
        "else the largest label of the whole data set + 1.",
    ),
]
Spacing = Annotated[
    str | None,
    typer.Option(
        "--spacing",
        help="Voxel spacing in mm, a number an axis in array order, such as 1,1,2.5; for formats "
        "that carry none (PNG, TIFF, NumPy). 1 on every axis by default.",
    ),
]
IgnoreLabel = Annotated[
    int | None,
    typer.Option(
        "--ignore-label",
        help="Label of voxels that belong to no class; maps are 0 there. By default that of "
        "dataset.json.",
    ),
]

Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=0,
        metavar="N",
        help="Worker processes; one a core by default, 0 to work in this one.",
        show_default=False,
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Let a Dask scheduler spread the work over its workers: tcp://HOST:PORT, or local for "
        "one on this machine.",
        show_default=False,
    ),
]
MaxVoxels = Annotated[
    int | None,
    typer.Option(
        "--max-voxels",
        min=1,
        metavar="N",
        help="Refuse label files whose header announces more voxels; 2^31 by default.",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")
]


def parse_spacing(text: str | None) -> tuple[float, ...] | None:
    """A spacing option in mm for each axis.

    >>> parse_spacing("1,1,2.5")
    (1.0, 1.0, 2.5)
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise RWLossError(
            f"expected --spacing as numbers with commas such as 1,1,2.5, got {text!r}"
        ) from error
