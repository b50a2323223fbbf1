"""TOML files of runs and studies: read with clear errors, written atomically, validated by a
model."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from rwloss.errors import RWLossError
from rwloss.files.atomic import whole_file
from rwloss.files.journal import read_regular
from rwloss.words import settings_error


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises RWLossError, which names the file."""
    try:
        return tomllib.loads(read_regular(path).decode("utf-8"))
    except OSError as error:
        raise RWLossError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise RWLossError(f"{str(path)!r} is not valid TOML: {error}") from error


def inline_table(text: Any) -> Any:
    """The table in a text such as "a = 1, b = [2, 3]"; other values are returned unchanged.

    Raises ValueError for other text.

    >>> inline_table("strides=[2, 2], norm='batch'")
    {'strides': [2, 2], 'norm': 'batch'}
    """
    if not isinstance(text, str):
        return text
    try:
        return tomllib.loads(f"table = {{{text}}}")["table"]
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"must be like 'name=1, other=[2, 3]' ({error})") from error


def dumps(values: Mapping[str, Any]) -> str:
    """Values as TOML; None is left out, because TOML has no null.

    >>> print(dumps({"steps": 600, "out": None, "maps": {"rw": "rectified"}}), end="")
    steps = 600
    <BLANKLINE>
    [maps]
    rw = "rectified"
    """
    import tomli_w

    return tomli_w.dumps({name: value for name, value in values.items() if value is not None})


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write a TOML file atomically; values that are None are left out."""
    with whole_file(path) as part:
        part.write_text(dumps(values), encoding="utf-8")


class TomlSettings(BaseModel):
    """Settings from options and a TOML file. Unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def of(cls, where: str, values: Mapping[str, Any]) -> Self:
        """Settings from values. Raises RWLossError that names the invalid one, after `where`."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise RWLossError(settings_error(where, error, cls.model_fields)) from error

    @classmethod
    def read(cls, path: Path, **changes: Any) -> Self:
        """The settings of a TOML file, with changes. Raises RWLossError, which names the file."""
        return cls.of(repr(str(path)), {**read(path), **changes})

    def write(self, path: Path) -> None:
        """Write a TOML file atomically; values that are None are left out."""
        write(path, self.model_dump())
