"""Maps and geometry computed in parallel with the forward pass, on a separate CUDA stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from einops import rearrange, repeat
from torch import Tensor

from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression
from rwloss.maps.loss_term import LossTerm
from rwloss.regions import Regions, SpacingMM, spacing_rows
from rwloss.rwmap import RWMap


@dataclass(frozen=True, eq=False)
class PreparedMap:
    """A map that a side stream may still be computing: call `wait` before using it.

    regions: the target with the geometry that dynamic terms need; a loss takes it as its target.
    """

    rwmap: RWMap | None
    regions: Regions
    made: torch.cuda.Event | None
    """The event that the side stream records after the map; None for a map made at once, on the
    CPU."""

    def wait(self) -> RWMap | None:
        """The map, if there are static terms. Later work on the GPU follows it; the CPU does not
        wait.
        """
        if self.made is not None:
            stream = torch.cuda.current_stream(self.regions.labels.device)
            stream.wait_event(self.made)
            tensors = [self.regions.labels, *(self.rwmap.parts if self.rwmap else ())]
            for tensor in tensors:
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
    image: Tensor | None = None,
) -> PreparedMap:
    """The map of the static part, made on the side stream of the target's device, or on the CPU.

    target: labels (b *s), or masks (b k *s), which may overlap. image: (b i *s).
    """
    part = expression.static_part if expression else None
    leaves = expression.dynamic_leaves(0, 1) if expression else ()
    terms = [leaf.term for leaf in leaves if isinstance(leaf.term, LossTerm)]
    terms = [term for term in terms if term.needs_geometry]
    if part is None and not terms:
        raise RWLossError(
            f"{expression} has no static part, and no term that needs geometry: there is nothing "
            "to prepare"
        )
    rows = spacing_rows(spacing_mm, (len(target), *target.shape[1 + masks :]))
    if masks:
        rows = tuple(row for row in rows for _ in range(target.shape[1]))
    with _beside(target) as stream:
        labels = rearrange(target, "b m ... -> (b m) ...") if masks else target
        if image is not None and masks:
            image = repeat(image, "b ... -> (b m) ...", m=target.shape[1])
        regions = Regions(labels, num_classes, rows, ignore_label, image)
        for term in terms:
            term.prepare(regions)
        rwmap = part(regions) if part else None
        return PreparedMap(rwmap, regions, stream.record_event() if stream else None)


@contextmanager
def _beside(target: Tensor) -> Iterator[torch.cuda.Stream | None]:
    """Run the block on a side stream that may read the target; on the CPU, without a stream."""
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
