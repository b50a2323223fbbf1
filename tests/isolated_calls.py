"""Functions that another process can import, for tests of isolated calls."""

from __future__ import annotations

import os


def process_id() -> int:
    return os.getpid()


def print_and_add(a: int, b: int) -> int:
    print("from Python", flush=True)
    os.write(1, b"from the system\n")
    return a + b


def refuse(error: Exception) -> None:
    raise error


class Unpicklable(Exception):
    def __init__(self, number: int, more: str) -> None:
        super().__init__(number)


def raise_unpicklable(number: int) -> None:
    raise Unpicklable(number, "more")
