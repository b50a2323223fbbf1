"""Write files atomically: they appear complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rwloss.errors import RWLossError

# The next file would fail too: no space, no quota, or a file system that became read-only.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
# A killed run may leave half-written files in a folder: this prefix identifies them.
TEMPORARY_PREFIX = ".rwloss-part-"


def temporary(folder: Path, suffix: str = "") -> Path:
    """A path in this folder that nothing else uses."""
    return folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{suffix}"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it replaces `path` when the block succeeds.

    The temporary file is in the same folder (a rename across file systems is a copy), keeps the
    suffixes (writers choose the format by them), and is removed if the block fails.
    """
    part = temporary(path.parent, "".join(path.suffixes[-2:]))
    try:
        part.touch(exist_ok=False)
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def naming_write_errors(path: Path, fix: str) -> Iterator[None]:
    """Turn an OSError of the block into an RWLossError with the path, the reason and the fix."""
    try:
        yield
    except OSError as error:
        raise RWLossError(
            f"cannot write {str(path)!r} ({error.strerror or error}): {fix}"
        ) from error


def write_text(path: Path, text: str, fix: str = "free some space, or use another folder") -> None:
    """Write a text file in UTF-8, atomically.

    Raises RWLossError that says why it cannot be written, and the fix.
    """
    with naming_write_errors(path, fix), whole_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="")
