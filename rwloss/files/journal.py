"""Append-only files of JSON lines that survive a killed process."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

_NO_WAIT, _NO_LINK = getattr(os, "O_NONBLOCK", 0), getattr(os, "O_NOFOLLOW", 0)


def _regular(path: str, flags: int, more: int = 0) -> int:
    """Open a regular file, without waiting for a writer."""
    if more and os.path.islink(path):
        name = os.path.basename(path)
        raise OSError(errno.ELOOP, f"{name} is a link, which is not followed: remove it", path)
    descriptor = os.open(path, flags | _NO_WAIT | more, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode) or stat.S_ISDIR(os.fstat(descriptor).st_mode):
        return descriptor  # a folder has an error of its own
    os.close(descriptor)
    raise OSError(errno.EINVAL, f"{os.path.basename(path)} is not a regular file", path)


def json_line(fields: dict[str, Any]) -> bytes:
    """A line of JSON. File names that are not Unicode survive a round trip through `json.loads`.

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


def read_regular(path: Path) -> bytes:
    """Read the bytes of a file. Raises OSError, also for a pipe or a device, which may never
    end."""
    with open(path, "rb", opener=_regular) as file:
        return file.read()


def append_line(path: Path, line: bytes, *, sync: bool = False) -> None:
    """Append a line to a file in one write; a partial write is undone. Raises OSError.

    A link is not followed, because it may come with a folder from someone else. A partial line left
    by a killed process becomes a separate line. sync: the line is on disk when this returns.
    """
    with open(path, "a+b", buffering=0, opener=partial(_regular, more=_NO_LINK)) as file:
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


def parsed_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines. Lines that can't be read are skipped.

    >>> list(parsed_lines(b'{"case": "a"}\\n[1]\\n{"ca'))
    [{'case': 'a'}]
    """
    for line in content.splitlines():
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict):
            yield fields
