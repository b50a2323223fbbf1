"""What a page does not tell: the folders of the machine that it was made on."""

from __future__ import annotations

import re
from pathlib import Path

# The last part of an absolute path says which file; the rest says whose machine it was.
_QUOTED = re.compile(r"""(["'])(?:[A-Za-z]:)?[/\\](?:[^"'\n]*[/\\])?([^"'/\\\n]*)[/\\]*\1""")
_BARE = re.compile(
    r"(?<![\w.:/\\'\"<~-])(?:/|[A-Za-z]:[/\\])(?:[^\s/\\'\":;,]+[/\\])*([^\s/\\'\":;,]+)"
)


def without_paths(text: str, *known: str | Path) -> str:
    """A text with only the last part of every absolute path.

    known: files and folders that are shortened wherever they stand. Other paths are found between
    quotation marks, or up to the next space. The home folder becomes ~.

    >>> without_paths("cannot read '/srv/ann/data/a b.nii' or /tmp/x/y.txt; 1/2 of it")
    "cannot read 'a b.nii' or y.txt; 1/2 of it"
    """
    names: dict[str, str] = {}
    for path in map(Path, known):
        names |= {str(each): each.name for each in (path, path.absolute(), path.resolve())}
    names |= {str(Path.home()): "~"}
    # What lies inside another is shortened first. A single part, such as DATA, tells nothing.
    for whole, name in sorted(names.items(), key=lambda pair: -len(pair[0])):
        if name and whole != name:
            for written in {whole, repr(whole)[1:-1]}:  # as errors write it
                pattern = rf"(?<![\w.~-]){re.escape(written)}(?![\w-]|\.\w)"
                text = f"/{name}".join(re.split(pattern, text))
    return _BARE.sub(r"\1", _QUOTED.sub(r"\1\2\1", text))
