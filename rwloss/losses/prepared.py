"""Maps made beside the network's forward pass, on a CUDA stream of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from einops import rearrange
from torch import Tensor

from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression
from rwloss.regions import Regions, SpacingMM, spacing_rows
from rwloss.rwmap import RWMap


@dataclass(frozen=True, eq=False)
class PreparedMap:
    """A map that a side stream may still be making: `wait` before anything uses it."""

    rwmap: RWMap
    made: torch.cuda.Event | None
    """What the side stream records after the map; None for a map made at once, on the CPU."""

    def wait(self) -> RWMap:
        """The map. Work given to the GPU from now on follows it; the CPU does not wait."""
        if self.made is not None:
            stream = torch.cuda.current_stream(self.rwmap.labels.device)
            stream.wait_event(self.made)
            for tensor in (self.rwmap.labels, *self.rwmap.parts):
                tensor.record_stream(stream)  # its memory is free only after this stream's work
        return self.rwmap


@torch.no_grad()
def prepared(
    expression: Expression | None,
    target: Tensor,
    num_classes: int,
    spacing_mm: SpacingMM | None,
    ignore_label: int | None,
    *,
    masks: bool,
) -> PreparedMap:
    """The map of the static part, made on the side stream of the target's device, or on the CPU.

    target: labels (b *s), or masks (b k *s), which may overlap.
    """
    part = expression.static_part if expression else None
    if part is None:
        raise RWLossError(f"{expression} has no static part: there is no map to prepare")
    rows = spacing_rows(spacing_mm, (len(target), *target.shape[1 + masks :]))
    if masks:
        rows = tuple(row for row in rows for _ in range(target.shape[1]))
    with _beside(target) as stream:
        labels = rearrange(target, "b m ... -> (b m) ...") if masks else target
        rwmap = part(Regions(labels, num_classes, rows, ignore_label))
        return PreparedMap(rwmap, stream.record_event() if stream else None)


@contextmanager
def _beside(target: Tensor) -> Iterator[torch.cuda.Stream | None]:
    """Run what is inside on a side stream that may read the target; on the CPU on none."""
    if target.device.type != "cuda":
        yield None
        return
    stream = _side_stream(target.device)
    stream.wait_stream(torch.cuda.current_stream(target.device))  # the target may be on its way
    target.record_stream(stream)
    with torch.cuda.stream(stream):
        yield stream


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
