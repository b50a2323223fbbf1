"""Train several runs as one model: stacked weights, one forward and one backward pass for all."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from rwloss.losses import RegionWiseLoss
from rwloss.maps import Expression, MapGenerator, Stabilized
from rwloss.rwmap import RWMap
from rwloss.training import loop
from rwloss.training.figures import figures_of
from rwloss.training.inference import Dice, Networks, is_out_of_memory
from rwloss.training.loop import TrainingState, check_finite, learning_rate
from rwloss.training.patches import TrainingBatch, batches_of_step
from rwloss.training.settings import RunSettings
from rwloss.training.stacked_networks import logits_of_each, networks_of, stacked_weights

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_BUILT_IN = ("rwloss.maps.static.", "rwloss.maps.dynamic.")

_HOST_BYTES = 2**28  # of weights and moments that are copied from a GPU at once

_logger = logging.getLogger("rwloss")


@dataclass(frozen=True, eq=False)
class Given:
    """What a stack makes for a member where it saves a checkpoint.

    dice: of its validation; None if there was none, or it failed. weights, optimizer: what the
    network's and the optimizer's state_dict hold, on the host.
    """

    dice: Dice | None
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]


@dataclass(eq=False)
class Member:
    """One run of a stack: the arguments of `loop.train_steps`.

    Members that share the object `batches` share each batch. Those that share `loss` are evaluated
    in one call; one with schedule "gradient_share" has its own weight, and is not shared. settings:
    may differ in seed, map and learning rate. on_failure: called with the error that ends only this
    member. give: called before after_step where that saves a checkpoint, and with None after it.
    """

    network: nn.Module
    loss: RegionWiseLoss
    batches: Callable[[int], TrainingBatch]
    optimizer: torch.optim.Optimizer
    settings: RunSettings
    state: TrainingState
    record: Callable[[int, dict[str, Any]], None]
    after_step: Callable[[int, float | None], None]
    on_failure: Callable[[Exception], None]
    give: Callable[[Given | None], None] = lambda given: None
    has_failed: bool = False

    def attempt(self, call: Callable[..., Any], *args: Any, halves: bool = True) -> Any:
        """The result of a call; if it raises, the member has failed, and the others continue.

        halves: an out-of-memory error is raised, so that the stack is halved.
        """
        try:
            return call(*args)
        except Exception as error:
            if halves and is_out_of_memory(error):
                raise
            self.fail(error)
            return None

    def fail(self, error: Exception) -> None:
        """End this member."""
        if not self.has_failed:
            self.has_failed = True
            _forget_frames(error)
            self.on_failure(error)

    @property
    def is_training(self) -> bool:
        """Whether steps are left to do."""
        return not self.has_failed and self.state.step < self.settings.steps


def train_stack(
    fabric: Fabric,
    members: Sequence[Member],
    validate: Callable[[Networks], list[Dice]] | None = None,
) -> None:
    """Train all members to their last step, each as `loop.train_steps` trains it alone.

    validate: the mean Dice of several networks; by default members validate themselves.

    Members whose last checkpoint is of a later step join when the others have reached it. A member
    whose loss is not finite, or that fails in another way, ends alone. If memory does not suffice,
    the two halves of the members are trained in turn.
    """
    groups = [[member for member in members if member.is_training]]
    while groups:
        group, problem = groups.pop(0), None
        try:
            _train(fabric, group, validate)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            problem = str(error)
        # Not inside `except`, where the error still holds the tensors of the step.
        group = [member for member in group if member.is_training]
        if problem is None or not group:
            continue
        if len(group) == 1:
            group[0].fail(torch.OutOfMemoryError(problem))
            continue
        half = (len(group) + 1) // 2
        _logger.warning("out of memory with %d runs together: %d from here", len(group), half)
        gc.collect()  # the error held the graph, too
        for member in group:
            _separate(member)
        torch.cuda.empty_cache()
        groups[:0] = [group[:half], group[half:]]


def _train(
    fabric: Fabric,
    members: Sequence[Member],
    validate: Callable[[Networks], list[Dice]] | None,
) -> None:
    """Train all members to the end, in a new stack whenever one joins or ends."""
    while todo := [member for member in members if member.is_training]:
        step = min(member.state.step for member in todo)
        stack = _Stack(fabric, [member for member in todo if member.state.step == step], validate)
        later = [member.state.step for member in todo if member.state.step > step]
        until = min(later, default=todo[0].settings.steps)
        try:
            while stack.is_whole and stack.step < until:
                stack.advance()
        finally:
            stack.end()


class _Stack:
    """Members at the same step. Their networks and optimizers hold views of the stacked tensors.

    weights, average and square (m p): m members, all p weights of one in the order of its
    parameters, and the moments of Adam.
    """

    def __init__(
        self,
        fabric: Fabric,
        members: Sequence[Member],
        validate: Callable[[Networks], list[Dice]] | None = None,
    ) -> None:
        """Stack the weights and the states of the optimizers."""
        self.validate = validate
        # Members with the same map are adjacent, so that their logits are one slice.
        losses = list(dict.fromkeys(member.loss for member in members))
        self.members = sorted(members, key=lambda member: losses.index(member.loss))
        self.fabric, first = fabric, self.members[0]
        self.settings, self.optimizer, self.network = first.settings, first.optimizer, first.network
        self.step = first.state.step
        named = dict(self.network.named_parameters())
        self.shapes = {name: weight.shape for name, weight in named.items()}
        self.sizes = [weight.numel() for weight in named.values()]
        self.weights = stacked_weights(member.network for member in self.members)
        self.average, self.square = (
            torch.stack([_moment(member, name) for member in self.members])
            for name in ("exp_avg", "exp_avg_sq")
        )
        self.count = torch.tensor(float(self.step))
        for row, member in enumerate(self.members):
            views = (
                self._views(values[row]) for values in (self.weights, self.average, self.square)
            )
            for weight, own, average, square in zip(
                member.network.parameters(), *views, strict=True
            ):
                weight.data = own
                state = {"step": self.count, "exp_avg": average, "exp_avg_sq": square}
                member.optimizer.state[weight] = state
        # (steps m 1), copied to the device once, because each copy would make the host wait.
        steps = range(self.step + 1, self.settings.steps + 1)
        rates = [[learning_rate(each.settings, step) for each in self.members] for step in steps]
        self.rates = torch.tensor(rates, dtype=self.weights.dtype).to(self.weights.device)[
            :, :, None
        ]
        self.first_step = self.step
        self.waiting: list[Tensor] = []  # losses that are not read yet, (m) each
        self.passes: Callable[[Tensor, Tensor], Tensor] | None = None  # `_forward`, or its graph

    def _views(self, flat: Tensor) -> Iterator[Tensor]:
        """The parameters of one member from all its weights. (p) -> one by one."""
        parts = torch.split(flat, self.sizes)
        return (part.view(shape) for part, shape in zip(parts, self.shapes.values(), strict=True))

    @property
    def is_whole(self) -> bool:
        """Whether all members are training."""
        return not any(member.has_failed for member in self.members)

    def advance(self) -> None:
        """One step of all members. If one fails before the weights change, there is no step."""
        figures = self._step()
        if figures is not None:  # tensors of the step are gone, which would hold its graph
            self._tell(self.step, figures)

    def _step(self) -> list[dict[str, Any]] | None:
        """The figures of a recorded step, else none; None if there was no step."""
        step, settings, began = self.step + 1, self.settings, time.monotonic()
        makers = list(dict.fromkeys(member.batches for member in self.members))
        made = dict(zip(makers, batches_of_step(makers, step), strict=True))
        batches = [made[member.batches] for member in self.members]
        for member in self.members:
            _set_step(member, step)
        weights = self.weights.detach().requires_grad_()
        images = torch.stack([batch.images for batch in batches])
        if self.passes is None:
            self.passes = self._passes(weights, images)
        logits = self.passes(weights, images)
        values = self._losses(logits, batches)
        is_recorded, is_free = settings.records(step), loop.is_free_to_read(values)
        if is_recorded or is_free:
            self.read()
            for member, value in zip(self.members, values.tolist(), strict=True):
                member.attempt(check_finite, value, step, member.settings)
        if not self.is_whole:
            return None
        wanted = [weights, *([logits] if is_recorded else [])]
        gradient, *push = torch.autograd.grad(values.sum(), wanted)
        figures: list[dict[str, Any]] = []
        if is_recorded:
            figures = self._figures(gradient, logits.detach(), push[0], batches)
            if not self.is_whole:
                return None
        self._update(gradient)
        self.waiting.append(values.detach())
        self.step = step
        self.count.fill_(step)
        for member in self.members:
            member.state.step = step
            member.state.seconds += (time.monotonic() - began) / len(self.members)
            if member.loss.share is not None:
                member.state.share = member.loss.share.state
        if is_free or settings.pauses_after(step):
            self.read()
        return figures

    def _tell(self, step: int, figures: Sequence[dict[str, Any]]) -> None:
        """Call each member after a step. figures: those of a recorded step, else none."""
        members = [member for member in self.members if not member.has_failed]
        values = [None if self.waiting else member.state.losses[-1] for member in members]
        for member, row in zip(self.members, figures, strict=False):
            if not member.has_failed:
                record = {"losses": member.state.losses, **row}
                member.attempt(member.record, step, record, halves=False)
                member.state.losses = []
        saves = self.settings.saves(step)
        found = self._validated() if saves and self.settings.validates(step) else {}
        told = dict(zip(map(id, members), values, strict=True))
        for start in range(0, len(self.members), self._copied_at_once):
            rows = slice(start, start + self._copied_at_once)
            moved = [self.weights, self.average, self.square] if saves else []
            # Few copies from a GPU, instead of one for each tensor of each member.
            host = [values[rows].cpu() for values in moved]
            for at, member in enumerate(self.members[rows]):
                if member.has_failed:
                    continue
                if saves:
                    own = [tensors[at] for tensors in host]
                    member.give(self._given(member, found.get(id(member)), *own))
                member.attempt(member.after_step, step, told[id(member)], halves=False)
                member.give(None)

    def _validated(self) -> dict[int, Dice]:
        """The mean Dice of each member that has not failed, by its id.

        Empty if that fails: each member then validates itself, and may fail alone.
        """
        rows = [row for row, member in enumerate(self.members) if not member.has_failed]
        if self.validate is None or not rows:
            return {}
        try:
            weights = self.weights if len(rows) == len(self.members) else self.weights[rows]
            found = self.validate(networks_of(self.fabric, self.network, weights))
        except Exception as error:
            _logger.warning("runs cannot be validated together (%s): they take turns", error)
            self._drop_graph()  # which leaves them more memory; the next step makes another
            return {}
        return {id(self.members[row]): dice for row, dice in zip(rows, found, strict=True)}

    def _given(
        self, member: Member, dice: Dice | None, weights: Tensor, average: Tensor, square: Tensor
    ) -> Given:
        """For a member, of its weights and moments (p) on the host."""
        optimizer = member.optimizer.state_dict()
        moments = zip(self._views(average), self._views(square), strict=True)
        optimizer["state"] = {
            at: {"step": self.count, "exp_avg": one, "exp_avg_sq": other}
            for at, (one, other) in enumerate(moments)
        }
        return Given(dice, dict(zip(self.shapes, self._views(weights), strict=True)), optimizer)

    @property
    def _copied_at_once(self) -> int:
        """How many members' weights and moments are copied to the host together."""
        of_one = 3 * self.weights[0].numel() * self.weights.element_size()
        return max(_HOST_BYTES // of_one, 1)

    def read(self) -> None:
        """Give each member its unread losses. A loss that is not finite ends the member."""
        rows = torch.stack(self.waiting, dim=1).tolist() if self.waiting else []
        self.waiting = []
        for member, losses in zip(self.members, rows, strict=False):
            for at, loss in enumerate(losses, start=self.step + 1 - len(losses)):
                member.attempt(check_finite, loss, at, member.settings)
            if not member.has_failed:
                member.state.losses += losses

    def end(self) -> None:
        """Read the last losses, and give back the memory of the graph, and of members that
        failed."""
        self._drop_graph()
        self.read()
        for member in self.members:
            if member.has_failed:
                _separate(member)

    def _drop_graph(self) -> None:
        """Give back its memory."""
        has_graph, self.passes = self.passes not in {None, self._forward}, None
        if has_graph:  # torch defines a class for it, which a cycle of references keeps
            gc.collect()

    def _passes(self, weights: Tensor, images: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """`_forward`, whose passes forward and backward on a GPU are one CUDA graph each.

        They are thousands of small kernels, which a GPU computes faster than a host starts them.
        Weights and images keep their memory and shape from step to step, as a graph demands. Its
        results are overwritten by the next call.
        """
        if images.device.type != "cuda":
            return self._forward
        # Once without a graph: kernels are compiled and loaded.
        torch.autograd.grad(self._forward(weights, images).sum(), [weights])
        given = weights.detach().requires_grad_(), images.clone()
        # Warming up would use `given` on another stream than the graph does, which torch warns of.
        made: Any = torch.cuda.make_graphed_callables(self._forward, given, num_warmup_iters=0)
        return cast("Callable[[Tensor, Tensor], Tensor]", made)

    def _forward(self, weights: Tensor, images: Tensor) -> Tensor:
        """weights (m p), images (m b c *s) -> logits (m b k *s), float32 at least."""
        self.network.train()
        logits = logits_of_each(self.fabric, self.network, weights, images, 0)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _losses(
        self, logits: Tensor, batches: Sequence[TrainingBatch], *, excess: bool = False
    ) -> Tensor:
        """The loss of each member, (m): one call per map. excess: how far it is above its least."""
        values: list[Tensor] = []
        for _, same in groupby(self.members, key=lambda member: id(member.loss)):
            own = list(same)
            rows = slice(len(values), len(values) + len(own))
            values += _of_one_map(own, logits[rows], batches[rows], excess=excess)
        return torch.stack(values)

    def _figures(
        self, gradient: Tensor, logits: Tensor, push: Tensor, batches: Sequence[TrainingBatch]
    ) -> list[dict[str, Any]]:
        """The record of each member, as from `step_figures`."""
        with torch.no_grad():
            excess = self._losses(logits, batches, excess=True)
        norms = torch.linalg.vector_norm(gradient, dim=1)
        losses = [member.loss for member in self.members]
        labels = torch.stack([batch.labels for batch in batches])
        given = losses, logits, push, labels, excess, norms
        try:
            return figures_of(*given)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            _logger.debug("the figures of a stack fail together: %s", error)
        found: list[dict[str, Any]] = []
        for row, member in enumerate(self.members):
            own = member.attempt(figures_of, *(each[row : row + 1] for each in given))
            found += own or [{}]
        return found

    @torch.no_grad()
    def _update(self, gradient: Tensor) -> None:
        """Clip, and step as torch's Adam and AdamW do. The memory of the gradient is used up.

        No memory is allocated, so that a step is never done partly.
        """
        [group, *_] = self.optimizer.param_groups
        (beta, beta_of_square), decay = group["betas"], group["weight_decay"]
        rate, step = self.rates[self.step - self.first_step], self.step + 1
        if (limit := self.settings.gradient_clip) is not None:
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((limit / (norm + 1e-6)).clamp_(max=1.0))
        if decay and isinstance(self.optimizer, torch.optim.AdamW):
            self.weights.mul_(1 - rate * decay)
        elif decay:
            gradient.add_(self.weights, alpha=decay)
        self.average.lerp_(gradient, 1 - beta)
        self.square.mul_(beta_of_square).addcmul_(gradient, gradient, value=1 - beta_of_square)
        torch.sqrt(self.square, out=gradient)
        gradient.div_(math.sqrt(1 - beta_of_square**step)).add_(group["eps"])
        torch.div(self.average, gradient, out=gradient)
        self.weights.sub_(gradient.mul_(rate / (1 - beta**step)))


def _set_step(member: Member, step: int) -> None:
    """Set what depends on the number of the step, counted from 1."""
    loss, settings = member.loss, member.settings
    if loss.share is not None:  # as it was after the last step that was done
        loss.share.resume(member.state.share or [0, 1.0])
    loss.set_epoch((step - 1) // settings.steps_per_epoch, settings.num_epochs)
    for group in member.optimizer.param_groups:
        group["lr"] = learning_rate(settings, step)


def _of_one_map(
    members: Sequence[Member],
    logits: Tensor,
    batches: Sequence[TrainingBatch],
    *,
    excess: bool = False,
) -> list[Tensor]:
    """The loss of each of the members, which share it. logits (m b k *s) -> m times ().

    In one call if the terms allow it. If that fails, each is called separately, to find which fail.
    excess: how far the loss is above its minimum.
    """
    loss = members[0].loss
    if len(members) > 1 and _looks_at_images_alone(loss.expression):
        try:
            labels, rwmap, spacings_mm = _joined(batches)
            flat = logits.flatten(0, 1)
            images = torch.cat([batch.images for batch in batches]) if loss.uses_image else None
            given = flat, labels, rwmap, spacings_mm, len(members), images
            return list(loss.by_group(*given, excess=excess))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            _logger.debug("the runs of a map fail together: %s", error)
    values = []
    for member, own, batch in zip(members, logits, batches, strict=True):
        value = member.attempt(_of_one, loss.excess if excess else loss, own, batch)
        values.append(own.new_zeros(()) if value is None else value)
    return values


def _of_one(loss: Callable[..., Tensor], logits: Tensor, batch: TrainingBatch) -> Tensor:
    return loss(logits, batch.labels, batch.rwmap, spacing_mm=batch.spacings_mm, image=batch.images)


def _joined(
    batches: Sequence[TrainingBatch],
) -> tuple[Tensor, RWMap | None, tuple[tuple[float, ...], ...]]:
    """Labels, stored maps and spacings of batches, one after another."""
    labels = torch.cat([batch.labels for batch in batches])
    spacings_mm = tuple(row for batch in batches for row in batch.spacings_mm)
    stored = [batch.rwmap for batch in batches if batch.rwmap is not None]
    if not stored:
        return labels, None, spacings_mm
    parts = tuple(map(torch.cat, zip(*(rwmap.parts for rwmap in stored), strict=True)))
    return labels, RWMap(labels, stored[0].num_classes, parts), spacings_mm


def _looks_at_images_alone(expression: Expression | None) -> bool:
    """Whether the loss of an image is known to depend on others only through the number of voxels.

    True for the built-in terms. The projection of a dynamic term scales it by the whole batch.
    """
    if expression is None or (isinstance(expression, Stabilized) and not expression.is_static):
        return False
    if isinstance(expression, MapGenerator):
        return type(expression).__module__.startswith(_BUILT_IN)
    return all(map(_looks_at_images_alone, expression.inside))


def _moment(member: Member, name: str) -> Tensor:
    """A moment of all weights of a member; 0 before its first step. (p)."""
    states = (member.optimizer.state.get(weight, {}) for weight in member.network.parameters())
    weights = member.network.parameters()
    return torch.cat(
        [
            (state[name] if name in state else torch.zeros_like(weight)).flatten()
            for state, weight in zip(states, weights, strict=True)
        ]
    ).detach()


def _forget_frames(error: BaseException) -> None:
    """Let the memory go that an error holds: through its frames all tensors of the step."""
    _logger.debug("a run of a stack fails", exc_info=error)
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__


def _separate(member: Member) -> None:
    """Give a member its own memory, so that the stack's can be freed."""
    for weight in member.network.parameters():
        weight.data = weight.data.clone()
        state = member.optimizer.state[weight]
        member.optimizer.state[weight] = {name: value.clone() for name, value in state.items()}
