"""Files of JSON lines that grow and survive a killed process."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def json_line(fields: dict[str, Any]) -> bytes:
    """A line of JSON. File names that are not Unicode come back from `json.loads` as they were."""
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def append_line(path: Path, line: bytes, *, sync: bool = False) -> None:
    """Add a line to a file in one write, and take a part of one back. Raises OSError.

    A part of a line that a killed process left becomes a line of its own. sync: the line is on the
    disk when this returns.
    """
    with path.open("a+b", buffering=0) as file:
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
        except ValueError:
            continue
        if isinstance(fields, dict):
            yield fields
