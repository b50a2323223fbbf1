"""Triton's interpreter made quick enough for tests: fewer, larger tiles, and scans in NumPy."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest


def needs_triton(device: str) -> None:
    """Skip the test where Triton's kernels don't run: on "cpu" they need the interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("TRITON_INTERPRET is not 1: Triton compiles for a GPU here")


@contextmanager
def large_tiles(labels) -> Iterator[None]:
    """One program for many lines: to the interpreter all programs cost about the same.

    Does nothing where the interpreter does not run.
    """
    if os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None:
        yield
        return
    from rwloss.distance import triton_lines, triton_signed

    size = labels.shape[1:]
    rows, voxels = _power_of_2(max(size)), _power_of_2(min(math.prod(size), 4096))
    lines = _power_of_2(math.prod(labels.shape) // max(1, *size))
    with (
        patch.object(triton_lines, "TILE", (rows, min(lines, 2**17 // rows))),
        patch.object(triton_lines, "LINES", (min(lines, 2**17 // rows), rows)),
        patch.object(triton_signed, "BLOCK", voxels),
        fast_calls(),
    ):
        yield


@contextmanager
def fast_calls() -> Iterator[None]:
    """The interpreter without what takes most of its time. Does nothing where it does not run."""
    if os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None:
        yield
        return
    from triton.runtime.interpreter import InterpretedFunction, ScanOps, interpreter_builder

    # Each sum of integers is checked for overflow, which takes twice its time.
    unchecked = replace(interpreter_builder.options, sanitize_overflow=False)
    with (
        patch.object(ScanOps, "generic_scan", _scan),
        patch.object(InterpretedFunction, "__call__", _call),
        patch.object(interpreter_builder, "options", unchecked),
    ):
        yield


def _power_of_2(number: int) -> int:
    return int(1 << max(number - 1, 0).bit_length())


def _scan(self, given):
    """`ScanOps.generic_scan` for the two combinations of the kernels: it goes number by number."""
    [values] = given
    larger = "larger" in self.combine_fn.fn.__name__
    scanned = (np.maximum if larger else np.minimum).accumulate(values.handle.data, axis=self.axis)
    return [self.to_tensor(scanned, values.dtype)]


def _call(self, *args, **kwargs):
    """`InterpretedFunction.__call__`: it replaces all of Triton's functions again at each call."""
    if self.fn.__module__ not in _ready:
        from triton.runtime.interpreter import _patch_lang

        _patch_lang(self.fn)
        _ready.add(self.fn.__module__)
    return self.rewrite()(*args, **kwargs)


_ready: set[str] = set()
