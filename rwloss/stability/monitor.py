"""The diagnostics of a live training run, from its real probabilities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einops import rearrange

from rwloss.errors import RWLossError
from rwloss.regions import IGNORED, Regions
from rwloss.rwmap import RWMap
from rwloss.stability.diagnosis import check
from rwloss.stability.report import StabilityReport, number

if TYPE_CHECKING:
    from torch import Tensor

    from rwloss.losses.batch import LossBatch


class Monitor:
    """Diagnostics of a training run, every 50 steps.

    `monitor(loss, logits, target, ...)` takes the arguments of the loss, and evaluates the loss
    once more on a detached copy of the logits: this does not affect the run. The gradient g of the
    loss gives its map at this prediction, whatever the loss consists of (stored maps, dynamic
    terms, schedules, links, class weights): g_k / p_k is z_k minus the expected cost Σ_j p_j z_j,
    and a constant changes no gradient. So the figures are those of `check` with the real
    probabilities. Value range and positive to negative mass are those of this map.

    every: steps between samples, from the first step on. by_distance: also split by distance to
    the edge, which costs a distance transform per sample.
    history: a row per sample, with the step, the loss and all figures of
    `StabilityReport.figures`; `write` saves it as JSON lines.

    Any loss of (logits, target) works. If it has the attributes ignore_index, activation and
    spacing_mm of `RegionWiseLoss`, they are used. With several outputs (deep supervision), the
    first one is examined.

    >>> import torch
    >>> from rwloss import maps
    >>> logits, target = torch.zeros(1, 3, 4, 4), torch.arange(16).reshape(1, 4, 4) % 3
    >>> monitor = Monitor(every=2)
    >>> for step in range(4):
    ...     report = monitor(torch.nn.CrossEntropyLoss(), logits, target)
    >>> [(row["step"], round(row["loss"], 2), row["violating"]) for row in monitor.history]
    [(0, 1.1, 0.0), (2, 1.1, 0.0)]
    """

    def __init__(self, *, every: int = 50, by_distance: bool = True) -> None:
        """Check the interval; the class documents it."""
        if every < 1:
            raise RWLossError(f"expected every of 1 step or more, got {every}")
        self.every = int(every)
        self.by_distance = by_distance
        self.history: list[dict[str, Any]] = []
        self._calls = 0

    def __call__(
        self, loss: Any, logits: Any, target: Any, *more: Any, step: int | None = None, **given: Any
    ) -> StabilityReport | None:
        """The report of this step, or None between samples.

        logits (b k *s), target and all further arguments as for the loss.
        step: number of the step, 0 for the first; by default the number of earlier calls.
        """
        step = self._calls if step is None else int(step)
        self._calls += 1
        if step % self.every:
            return None
        value, head, gradient = _gradient(loss, logits, target, more, given)
        batch = _batch(loss, head, target, given)
        rwmap, regions = _as_map(batch, gradient), None
        if self.by_distance:
            regions = Regions(rwmap.labels, rwmap.num_classes, batch.spacings_mm, IGNORED)
        report = check(rwmap, batch.probs, regions=regions)
        self.history.append({"step": step, "loss": number(value), **report.figures()})
        return report

    def write(self, path: str | Path) -> None:
        """Write the history as JSON lines, one per row."""
        text = "".join(json.dumps(row) + "\n" for row in self.history)
        Path(path).write_text(text, encoding="utf-8")


def _gradient(
    loss: Any, logits: Any, target: Any, more: tuple[Any, ...], given: dict[str, Any]
) -> tuple[float, Tensor, Tensor]:
    """Value of the loss, the first output, and the loss's gradient by it. (b k *s) each."""
    import torch

    from rwloss.losses.gradient_share import uncounted

    many = isinstance(logits, (list, tuple))
    with torch.inference_mode(False), torch.enable_grad(), uncounted():
        outputs = [
            # float32 at least: a gradient in float16 would underflow.
            each.detach().to(torch.promote_types(each.dtype, torch.float32)).clone()
            for each in (logits if many else [logits])
        ]
        head = outputs[0].requires_grad_()
        value = loss(outputs if many else head, target, *more, **given).sum()
        if not value.requires_grad:
            return float(value), head.detach(), torch.zeros_like(head)
        (gradient,) = torch.autograd.grad(value, head, allow_unused=True, materialize_grads=True)
    return float(value.detach()), head.detach(), gradient


def _batch(loss: Any, head: Tensor, target: Any, given: dict[str, Any]) -> LossBatch:
    """The first output with its labels, mask and spacing, as `RegionWiseLoss` sees them."""
    from rwloss.losses.batch import LossInputs, make_batch

    activation: Any = getattr(loss, "activation", "softmax")
    target, spacing = _first(target), given.get("spacing_mm")
    spacing = getattr(loss, "spacing_mm", None) if spacing is None else spacing
    if activation not in {"sigmoid", "masks"} and target.shape == head.shape:
        target = target.float().argmax(dim=1)  # other losses may take soft targets
    return make_batch(
        head,
        LossInputs(target, None, _first(given.get("mask")), spacing, spacing is not None),
        activation=activation,
        ignore_index=getattr(loss, "ignore_index", None),
        include_background=True,
        pooled=False,
    )


def _as_map(batch: LossBatch, gradient: Tensor) -> RWMap:
    """The map that has this gradient by the head. (b k *s), or (b·k 2 *s) for masks."""
    import torch

    if batch.masks:  # each channel is two classes, [0, x] or [1 - p, p]; logits push the other too
        gradient = rearrange(gradient, "b m ... -> (b m) ...")
        other = torch.zeros_like(gradient) if batch.normalized else -gradient
        gradient = torch.stack([other, gradient], dim=1)
    if not batch.normalized:  # else the gradient by probabilities is the map
        # Where a probability is 0 in float32, so is its gradient.
        gradient = gradient / batch.probs.clamp_min(1e-30)
    scale = max(gradient.shape[1], int(batch.num_values))
    return RWMap.from_dense(batch.counted_labels, gradient * scale)


def _first(given: Any) -> Any:
    return given[0] if isinstance(given, (list, tuple)) else given
