"""Files of JSON lines that grow and survive a killed process."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rwloss.files.atomic import open_regular


def json_line(fields: dict[str, Any]) -> bytes:
    """A line of JSON. File names that are not Unicode come back from `json.loads` as they were.

    Numbers that are not finite become null, because JSON has none.
    """
    text = json.dumps(_finite(fields), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_finite, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_line(path: Path, line: bytes, *, sync: bool = False) -> None:
    """Add a line to a file in one write, and take a part of one back.

    A part of a line that a killed process left becomes a line of its own. sync: the line is on the
    disk when this returns. Raises OSError, also for a pipe, and for a symbolic link: it may lead to
    a file of someone else.
    """
    with open(path, "a+b", buffering=0, opener=_open_own) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            if sync:
                os.fsync(file.fileno())
        except BaseException:
            file.truncate(size)
            raise


def _open_own(path: str, flags: int) -> int:
    try:
        return open_regular(path, flags | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link", path) from error
        raise


def parsed_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines. Lines that can't be read are skipped.

    >>> list(parsed_lines(b'{"case": "a"}\\n[1]\\n{"ca'))
    [{'case': 'a'}]
    """
    for line in content.splitlines():
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict):
            yield fields
