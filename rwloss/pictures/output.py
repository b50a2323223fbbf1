"""Where a picture can be written, checked before any work is done for it."""

from __future__ import annotations

from pathlib import Path

from rwloss.errors import RWLossError

FORMATS = ("png", "pdf", "svg")


def check_output(path: Path) -> str:
    """The format of a picture to be written there.

    Raises RWLossError for suffixes other than .png, .pdf and .svg, for a missing folder, for a path
    that is a folder, and without matplotlib.
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
