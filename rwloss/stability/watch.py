"""Watch a training run with one line: alarms for any loss module of (logits, target)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rwloss.errors import RWLossError
from rwloss.stability.alarm import SAMPLES, Alarm, Alarms
from rwloss.stability.loss_call import LossCall

if TYPE_CHECKING:
    from torch.nn import Module

_PROBABILITIES = (
    "the loss takes the softmax itself, and is given probabilities (with sum 1 in every voxel): "
    "pass the outputs of the network before its softmax, or use activation='none'"
)
_log = logging.getLogger("rwloss.stability")


class Watch:
    """Warns of classes that are dying or will not be born, while a loss module is used in training.

    `Watch(loss, steps=1000)` is enough: it counts calls of the loss in training (its logits need a
    gradient), and samples about 60 of them per run. It changes neither the loss nor the gradient.
    It needs only the logits and the labels: from them it takes the volume and the probabilities of
    each class; and, in a few batches, the pull of the loss on each class, for which the loss is
    evaluated at other logits. It also warns, once, of probabilities in place of logits. Works with
    any loss of (logits, target) that is a torch module.

    steps: calls of the loss in the whole run. class_names: of classes 0, 1, ... activation,
    ignore_index: "softmax" or "sigmoid", and the label that does not count, if the loss has no such
    attribute. tell: called with each warning; by default the logger "rwloss.stability". If the
    inputs cannot be read, the watch ends with one warning; training continues.

    alarms: those raised so far. remove() ends the watch.

    >>> import torch
    >>> loss = torch.nn.CrossEntropyLoss()
    >>> watch = Watch(loss, steps=60)
    >>> labels = torch.zeros(1, 8, 8, dtype=torch.long)
    >>> labels[:, :2] = 1
    >>> for step in range(60):
    ...     value = loss(torch.randn(1, 2, 8, 8, requires_grad=True), labels)
    >>> watch.step, len(watch.alarms) <= 1
    (60, True)
    """

    def __init__(
        self,
        loss: Module,
        *,
        steps: int,
        class_names: Sequence[str] = (),
        activation: str | None = None,
        ignore_index: int | None = None,
        tell: Callable[[str], object] = _log.warning,
    ) -> None:
        """Start watching; the class documents the arguments."""
        if not hasattr(loss, "register_forward_hook"):
            raise RWLossError(
                f"expected a loss that is a torch.nn.Module, got {type(loss).__name__}: for a "
                "function use rwloss.stability.Monitor(steps=...)"
            )
        self.step = 0
        self._alarms = Alarms(steps, class_names)
        self._every = max(1, steps // SAMPLES)
        self._tell = tell
        self._assumed = {"activation": activation, "ignore_index": ignore_index}
        self._busy = False
        self._handle = loss.register_forward_hook(self._look, with_kwargs=True)

    @property
    def alarms(self) -> list[Alarm]:
        """The alarms raised so far, at most one per class."""
        return self._alarms.raised

    def remove(self) -> None:
        """End the watch."""
        self._handle.remove()

    def _look(
        self, loss: Module, args: tuple[Any, ...], given: Mapping[str, Any], value: Any
    ) -> None:
        """The hook. `_busy`: the loss is being evaluated for the watch itself."""
        if self._busy or not getattr(value, "requires_grad", False):
            return
        self.step += 1
        if self.step % self._every and self.step != 1:
            return
        self._busy = True
        try:
            named = dict(given)
            by_name = [named.pop(name) for name in [*given][: 2 - len(args)]]
            logits, target, *more = *args, *by_name
            call = LossCall(loss, logits, target, tuple(more), named, self._assumed)
            if self.step == 1 and call.is_given_probabilities():
                self._tell(f"rwloss: {_PROBABILITIES}")
            for alarm in self._alarms.look(self.step, call):
                self._tell(f"rwloss: {alarm}")
        except Exception as error:  # whatever a loss raises at other logits must not end a run
            self.remove()
            self._tell(f"rwloss: no alarms in this run ({type(error).__name__}: {error})")
        finally:
            self._busy = False
