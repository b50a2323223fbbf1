"""How far a call walks: calls from one file of a package into another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any


@dataclass(frozen=True)
class CallPath:
    """files: that were entered. moves: calls into a file from outside it."""

    files: int
    moves: int


def calls_between_files(call: Callable[[], object], package: ModuleType) -> CallPath:
    """Files of the package that the second call enters, and how often it moves between them.

    A move is a call whose nearest caller within the package is in another file; the first one
    comes from outside.
    """
    call()  # imports and caches are not counted
    assert package.__file__
    root = str(Path(package.__file__).parent)
    files, moves = set(), 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal moves
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(root):
            return
        files.add(file)
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(root):
            caller = caller.f_back
        moves += caller is None or caller.f_code.co_filename != file

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(before)
    return CallPath(len(files), moves)
