"""Squared distances in torch: the whole batch and all labels at once, on the tensor's device.

Exact and separable, one axis after the other. Along an axis, with r the number of steps to the
nearest voxel of another label on the same line and f the result so far:

    D(i) = min( (spacing r(i))², min over j of f(j) + spacing² (i - j)² )

No label is compared in the second term. Where j has the label of i, f(j) is a distance to another
label, so the sum is one too. Where it has another, the sum is no less than the distance to j, and
the first term is no more than that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Most numbers in one table of pairs, of which two are alive at a time: 128 MiB.
_MOST = 2**24


def squared_to_other_label_mm2(
    labels: Tensor, spacings_mm: Sequence[tuple[float, ...]], *, all_pairs: bool | None = None
) -> Tensor:
    """Squared distance in mm² of each voxel to the nearest voxel of another label.

    labels (b *s), any integer type, with a spacing for each image -> (b *s) float32 on the same
    device; infinite in an image that holds one label only.
    all_pairs: take the minimum over all pairs of a line at once (best on a GPU), or offset by
    offset until nothing nearer is possible (best on the CPU). None chooses by the device.
    """
    if all_pairs is None:
        all_pairs = labels.device.type != "cpu"
    squared: Tensor | None = None
    for axis in range(1, labels.ndim):
        values = [row[axis - 1] ** 2 for row in spacings_mm]
        squares = torch.tensor(values, dtype=torch.float32)
        squares = squares.to(labels.device, non_blocking=True)  # keeps nobody waiting
        squares = squares.reshape(1, -1, *[1] * (labels.ndim - 2))  # with lines (n b ...)
        # The axis goes first, so that neighbors along it are whole blocks of memory apart.
        lines = labels.movedim(axis, 0)
        on_line = _steps_to_other_label(lines.contiguous()).square_().mul_(squares)
        if squared is None:
            nearest = on_line
        else:
            before = squared.movedim(axis, 0).contiguous()
            take = _minimum_of_all_pairs if all_pairs else _minimum_by_offsets
            nearest = take(before, on_line, squares)
        squared = nearest.movedim(0, axis)
    assert squared is not None
    return squared.contiguous()


def _steps_to_other_label(lines: Tensor) -> Tensor:
    """Steps along the first axis to the nearest other label. (n ...) -> (n ...) float32, or inf."""
    n = len(lines)
    index = torch.arange(n, dtype=torch.float32, device=lines.device)
    index = index.reshape(-1, *[1] * (lines.ndim - 1))
    changed = lines[1:] != lines[:-1]
    none = index.new_full((), torch.inf)
    # Where a run begins (except at the edge of the image), and the last such place so far.
    begins = torch.where(changed, index[1:], -none)
    before = torch.cat([(-none).expand(1, *lines.shape[1:]), begins.cummax(dim=0).values])
    ends = torch.where(changed, index[:-1], none)
    after = torch.cat([ends.flip(0).cummin(dim=0).values.flip(0), none.expand(1, *lines.shape[1:])])
    return torch.minimum(index - before, after - index) + 1


def _minimum_by_offsets(before: Tensor, on_line: Tensor, squares: Tensor) -> Tensor:
    """min(on_line, min over j of before(j) + squares (i - j)²) along the first axis. (n ...)."""
    n = len(before)
    nearest = torch.minimum(before, on_line)
    # A line without any finite number stays infinite: it must not keep the search going.
    live = torch.isfinite(nearest).any(dim=0)
    if not live.any():
        return nearest
    smallest = float(squares.min())
    # Infinity beyond both ends, so that every offset is one operation on whole lines.
    end = before.new_full((n, *before.shape[1:]), torch.inf)
    padded = torch.cat([end, before, end])
    candidate = torch.empty_like(before)
    for offset in range(1, n):
        # No candidate from here on is below smallest * offset².
        if offset % 8 == 1 and float(nearest.amax(dim=0)[live].max()) <= smallest * offset**2:
            break
        after, ahead = n + offset, n - offset
        torch.minimum(padded[after : after + n], padded[ahead : ahead + n], out=candidate)
        candidate.add_(squares * offset**2)
        torch.minimum(nearest, candidate, out=nearest)
    return nearest


def _minimum_of_all_pairs(before: Tensor, on_line: Tensor, squares: Tensor) -> Tensor:
    """The same by reductions over pairs (i, j), in parts that keep memory bounded. (n ...)."""
    n = len(before)
    index = torch.arange(n, dtype=torch.float32, device=before.device)
    lines = before.reshape(n, -1).T  # (l j)
    scale = squares.expand(1, *before.shape[1:]).reshape(-1)
    reached = torch.empty_like(lines)
    rows = max(1, _MOST // n)
    for top in range(0, n, rows):
        steps = (index[top : top + rows, None] - index).square_()  # (i j)
        at_once = max(1, _MOST // steps.numel())
        for first in range(0, len(lines), at_once):
            part = slice(first, first + at_once)
            sums = scale[part, None, None] * steps
            sums += lines[part, None, :]
            reached[part, top : top + rows] = sums.amin(dim=2)
    return torch.minimum(reached.T.reshape(before.shape), on_line)
