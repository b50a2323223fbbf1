"""The file of a picture: where one can be written, checked first, and writing it whole."""

from __future__ import annotations

from pathlib import Path

from rwloss.errors import RWLossError
from rwloss.files.atomic import whole_file

FORMATS = ("png", "pdf", "svg")


def check_output(path: Path) -> str:
    """The format of a picture to be written there, before any work is done for it.

    Raises RWLossError for another suffix than .png, .pdf and .svg, for a folder that is not there,
    for a path that is a folder, and without matplotlib.
    """
    file_format = path.suffix.lower().removeprefix(".")
    if file_format not in FORMATS:
        raise RWLossError(
            f"expected a picture that ends with .{', .'.join(FORMATS)}, got {str(path)!r}"
        )
    if path.is_dir():
        raise RWLossError(f"cannot write {str(path)!r}: it is a folder")
    if not path.parent.is_dir():
        raise RWLossError(
            f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}; make it first"
        )
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise RWLossError(
            "pictures need matplotlib, which is not installed: pip install 'rwloss[report]'"
        ) from error
    return file_format


def write(path: Path, content: bytes) -> None:
    """Replace the file whole: a reader sees the old picture or the new one."""
    try:
        with whole_file(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise RWLossError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
