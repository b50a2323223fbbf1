"""The record of a step: what the loss, its gradient and the prediction are like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rwloss.arrays import read_all
from rwloss.losses import RegionWiseLoss
from rwloss.regions import IGNORED
from rwloss.stability.diagnosis import reports, stability_sums
from rwloss.stability.loss_call import LossCall, map_of_gradient
from rwloss.stability.report import number
from rwloss.stability.signs import sign_values, signs_of
from rwloss.training.patches import TrainingBatch

_OF_MAP = ("stable", "violating", "pushed_up", "pushed_down", "wrong_way_mass")


def step_figures(
    loss: RegionWiseLoss,
    network: nn.Module,
    logits: Tensor,
    batch: TrainingBatch,
    scale: float = 1.0,
    *,
    is_only: bool = True,
) -> dict[str, Any]:
    """The record of one step, after backward and before the optimizer. logits (b k *s) with grad.

    With several outputs, logits are those of full resolution. scale: that of the gradients.
    is_only: whether these are all outputs, so that their gradient is that of their loss.

    excess: how far the loss is above its minimum for these maps. gradient_norm: L2 norm of the
    gradient of all weights, before clipping. boundary_weight: of a blend with schedule
    "gradient_share"; absent without one. One value per class: see
    `rwloss.stability.signs.class_signs`. stable, violating, pushed_up, pushed_down, wrong_way_mass
    and pull: see `rwloss.stability.StabilityReport`, at these probabilities, as from
    `rwloss.stability.Monitor`.

    With several processes, the first records its own part of the batch.
    """
    head = _wide(logits.detach())
    given: dict[str, Any] = {"spacing_mm": batch.spacings_mm, "image": batch.images}
    excess = loss.excess(head, batch.labels, batch.rwmap, **given)
    gradient = torch.zeros_like(head) if logits.grad is None else logits.grad / scale
    of_loss = gradient
    if not is_only or gradient.dtype != head.dtype:  # of 16 bits it would be too coarse for a map
        call = LossCall(loss, head, batch.labels, (batch.rwmap,), given)
        _, _, of_loss = call.gradient()
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    norm = nn.utils.get_total_norm(gradients).to(head.device) / scale
    stacked = (each[None] for each in (head, gradient, batch.labels, excess, norm, of_loss))
    [row] = figures_of([loss], *stacked)
    return row


@torch.no_grad()
def figures_of(
    losses: Sequence[RegionWiseLoss],
    logits: Tensor,
    gradient: Tensor,
    labels: Tensor,
    excess: Tensor,
    norms: Tensor,
    of_loss: Tensor | None = None,
) -> list[dict[str, Any]]:
    """The records of m steps of as many losses, with one read from the device.

    logits (m b k *s), and the gradient with respect to them; labels (m b *s); excess (m); norms
    (m): of the gradients of the weights. of_loss: the gradient where these logits are the only
    output, if others were too.
    """
    members, num_classes = len(losses), logits.shape[2]
    of_loss = gradient if of_loss is None else of_loss
    head, push, of_map = (_wide(each).flatten(0, 1) for each in (logits, gradient, of_loss))
    labels = labels.masked_fill(labels >= num_classes, IGNORED)  # without label sets
    counts = (labels != IGNORED).flatten(1).sum(dim=1)
    labels = labels.flatten(0, 1)
    # Whatever the network says where no voxel counts would spoil sums if it is not finite.
    probs = head.masked_fill((labels == IGNORED)[:, None], 0.0).softmax(dim=1)
    rwmap = map_of_gradient(labels, of_map, probs, counts * num_classes)
    signs = sign_values(probs, labels, push, groups=members)
    sums = stability_sums(rwmap, probs, groups=members)
    found = read_all({"excess": excess, "gradient_norm": norms, **signs, **sums})
    rows = []
    for member, (loss, report) in enumerate(zip(losses, reports(found), strict=True)):
        total = report.total
        rows.append(
            {
                "excess": float(found["excess"][member]),
                **({} if loss.share is None else {"boundary_weight": loss.share.weight}),
                "gradient_norm": float(found["gradient_norm"][member]),
                **signs_of({name: found[name] for name in signs}, member),
                **{name: getattr(total, name) for name in _OF_MAP},
                "pull": [number(value) for value in report.pull],
            }
        )
    return rows


def _wide(values: Tensor) -> Tensor:
    """Values in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
