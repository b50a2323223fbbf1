"""Launches that cost the host little: what is compiled once, and copied once, and when not."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from rwloss.distance import triton_launch
from rwloss.distance.triton_launch import Launch, constant_rows


class Compiled:
    """What Triton compiles: it takes all arguments in order, constants too."""

    def __init__(self, calls):
        self.calls = calls

    def __getitem__(self, grid):
        return lambda *args: self.calls.append((grid, *args))


class Kernel:
    """A kernel with two tensors, a number and two constants."""

    arg_names = ("one", "two", "number", "FIRST", "SECOND")

    def __init__(self):
        self.asked, self.calls = [], []

    def __getitem__(self, grid):
        def run(*args, **keywords):
            self.asked.append((grid, args, keywords))
            return Compiled(self.calls)

        return run


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr("triton.compiler.CompiledKernel", Compiled)
    monkeypatch.setattr(triton_launch, "_TAKES_ALL", True)
    return Kernel()


def test_triton_looks_at_arguments_of_a_kind_once(kernel):
    """Then the compiled kernel gets them all, in the order of its signature."""
    launch = Launch(kernel, (7,), (3,), SECOND=True, FIRST=5, num_warps=8)
    one, two = torch.zeros(4), torch.ones(4)
    for _ in range(3):
        launch(one, two)
    [(grid, args, keywords)] = kernel.asked
    assert grid == (7, 1, 1)
    assert args == (one, two, 3)
    assert keywords == {"FIRST": 5, "SECOND": True, "num_warps": 8, "enable_fp_fusion": True}
    assert kernel.calls == [((7, 1, 1), one, two, 3, 5, True)] * 2


def test_it_looks_again_at_other_types_and_addresses(kernel):
    """A kernel that was compiled for addresses of 16 bytes reads that many at a time."""
    launch = Launch(kernel, (1, 2), (3,), FIRST=1, SECOND=2)
    wide = torch.zeros(8)
    for one in (wide, wide[4:], wide[1:], wide.int(), wide[2:]):
        launch(one, wide)
    assert len(kernel.asked) == 3  # wide, at another address, of another type


@pytest.mark.parametrize("older", [True, False])
def test_what_triton_does_not_compile_goes_through_it(kernel, monkeypatch, older):
    """Older versions, and the interpreter, whose calls return nothing."""
    if older:
        monkeypatch.setattr(triton_launch, "_TAKES_ALL", False)
    else:
        monkeypatch.setattr("triton.compiler.CompiledKernel", Kernel)
    launch = Launch(kernel, (1,), (3,), FIRST=1, SECOND=2)
    for _ in range(2):
        launch(torch.zeros(1), torch.zeros(1))
    assert len(kernel.asked) == 2
    assert not kernel.calls


def test_rows_are_copied_once_for_a_device():
    made = []

    def make(rows):
        made.append(rows)
        return np.array(rows, dtype=np.float32)

    like, rows = torch.zeros(1), ((1.0, 2.0), (3.0, 4.0))
    first, second = constant_rows(make, (rows,), like)
    assert [first.tolist(), second.tolist()] == [[1.0, 2.0], [3.0, 4.0]]
    assert constant_rows(make, (rows,), like)[0] is first
    constant_rows(make, (rows[:1],), like)
    assert made == [rows, rows[:1]]


def test_no_result_is_a_kept_row(device):
    """What is kept would change with a result that its owner changes."""
    from interpreted import needs_triton

    from rwloss import distance

    needs_triton(device)
    for shape in ((2, 1, 1), (2, 3, 4)):
        labels = torch.zeros(shape, dtype=torch.uint8, device=device)
        for _ in range(2):
            depth = distance.depth_mm(labels, [(2.0, 3.0)] * 2, engine="triton")
            assert bool((depth == 2.0).all())
            depth.fill_(9.0)
            distance.signed_distances_mm(labels, 2, [(2.0, 3.0)] * 2, engine="triton").fill_(9.0)
