"""The nearest known name, for messages about an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """A question to put behind an error: the known names that look like this one, or nothing.

    >>> nearest("rectifed", ["rectified", "boundary"])
    ": did you mean 'rectified'?"
    """
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f": did you mean {' or '.join(map(repr, close))}?" if close else ""
