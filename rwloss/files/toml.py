"""TOML as the files of runs and studies hold it: read with a clear error, values written."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rwloss.errors import RWLossError
from rwloss.files.atomic import whole_file


def read(path: Path) -> dict[str, Any]:
    """What a TOML file holds. Raises RWLossError, naming the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RWLossError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise RWLossError(f"{str(path)!r} is not valid TOML: {error}") from error


def dumps(values: Mapping[str, Any]) -> str:
    """Values as TOML; those that are None are left out, because TOML has no null.

    >>> print(dumps({"steps": 600, "out": None, "maps": {"rw": "rectified"}}), end="")
    steps = 600
    <BLANKLINE>
    [maps]
    rw = "rectified"
    """
    import tomli_w

    return tomli_w.dumps({name: value for name, value in values.items() if value is not None})


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write a TOML file, whole or not at all; values that are None are left out."""
    with whole_file(path) as part:
        part.write_text(dumps(values), encoding="utf-8")
