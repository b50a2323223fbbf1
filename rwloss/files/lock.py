"""One writer at a time: a lock that the system releases when its holder dies."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from rwloss.errors import RWLossError
from rwloss.files.journal import read_regular

LOCK_FILE = ".rwloss-lock"


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. Raises RWLossError that names the holder if there is one.

    The lock (flock) ends with its process. A leftover lock file locks nothing.
    """
    from filelock import FileLock, Timeout

    path = folder / LOCK_FILE
    # No soft lock on systems without flock: it would outlive a killed holder.
    lock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise RWLossError(
            f"another run is writing to {folder} ({_holder(path)}): wait for it to end, or name "
            "another folder"
        ) from error
    except (OSError, NotImplementedError) as error:
        if path.is_symlink():
            raise RWLossError(f"{path} is a link, and is not followed: remove it") from error
        raise RWLossError(
            f"{folder} can't be locked ({error}): name a folder where files can be written, on a "
            "file system with locks"
        ) from error
    try:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
        with suppress(OSError):  # on a full disk the lock still holds
            # Not replaced but overwritten: the lock is on this very file.
            path.write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):  # where open files can't be removed
            path.unlink()
        lock.release()


def _holder(path: Path) -> str:
    try:
        found = json.loads(read_regular(path))
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "process unknown"
