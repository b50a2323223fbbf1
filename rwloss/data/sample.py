"""Small real datasets that are included in rwloss. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from rwloss.errors import RWLossError

SampleName = Literal["hippocampus", "lung_patches"]

_PACKAGE = Path(__file__).resolve().parents[1]


def names() -> tuple[str, ...]:
    """Names of the datasets that are included in rwloss.

    >>> names()
    ('hippocampus', 'lung_patches')
    """
    return get_args(SampleName)


def sample_dir(name: SampleName) -> Path:
    """Folder of one sample in nnU-Net raw layout; it contains its license.

    Raises RWLossError for an unknown name, or if the samples were not installed.

    >>> (sample_dir("hippocampus") / "dataset.json").is_file()
    True
    """
    if name not in names():
        raise RWLossError(f"expected a sample of {', '.join(names())}, got {name!r}")
    # The package's own folder first: a `samples` next to an installed package is another one.
    places = (_PACKAGE / "samples" / name, _PACKAGE.parent / "samples" / name)
    for place in places:
        if (place / "dataset.json").is_file():
            return place
    raise RWLossError(
        f"the sample {name!r} is not in {' nor in '.join(repr(str(place)) for place in places)}: "
        "install rwloss again, from a wheel or from a complete clone"
    )
