"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# A folder may hold files that a killed run left half written: this prefix tells them apart.
TEMPORARY_PREFIX = ".rwloss-part-"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it takes the place of `path` when the block ends well.

    The temporary file lies in the same folder (a rename across file systems is a copy), keeps the
    suffixes (writers choose the format by them), and is removed when the block fails.
    """
    handle, name = tempfile.mkstemp(
        prefix=TEMPORARY_PREFIX, suffix="".join(path.suffixes[-2:]), dir=path.parent
    )
    os.close(handle)
    part = Path(name)
    try:
        yield part
        # mkstemp makes private files; a store is as readable as the umask says.
        part.chmod(0o666 & ~_umask())
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            part.unlink()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
