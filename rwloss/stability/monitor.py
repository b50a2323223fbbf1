"""Diagnostics of a running training run, from its actual probabilities."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from rwloss.errors import RWLossError
from rwloss.regions import IGNORED, Regions
from rwloss.stability.alarm import Alarm, Alarms
from rwloss.stability.diagnosis import check
from rwloss.stability.loss_call import LossCall, as_map
from rwloss.stability.report import StabilityReport, number

_log = logging.getLogger("rwloss.stability")


class Monitor:
    """Diagnostics of a training run, every 50 steps.

    `monitor(loss, logits, target, ...)` takes the arguments of the loss, and evaluates the loss
    once more on a detached copy of the logits: this does not affect the run. The gradient g of the
    loss gives its map at this prediction, whatever the loss consists of (stored maps, dynamic
    terms, schedules, links, class weights): g_k / p_k is z_k minus the expected cost Σ_j p_j z_j,
    and a constant changes no gradient. So the numbers are those of `check` at the actual
    probabilities. Value range and positive to negative mass are those of this map.

    every: steps between samples, from the first step on. by_distance: also split by distance to
    the edge, which costs a distance transform per sample.
    steps: of the whole run. If given, `alarms` holds a warning for each class that is dying or will
    not be born, which also goes to the logger "rwloss.stability". This needs about 60 samples per
    run. `Watch` only does this, without a call at each step. history: a row per sample, with the
    step, the loss and all numbers of `StabilityReport.figures`; `write` saves it as JSON lines.

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

    def __init__(
        self, *, every: int = 50, by_distance: bool = True, steps: int | None = None
    ) -> None:
        """Check the arguments, which the class documents."""
        if every < 1:
            raise RWLossError(f"expected every of 1 step or more, got {every}")
        self.every = int(every)
        self.by_distance = by_distance
        self.history: list[dict[str, Any]] = []
        self._alarms = None if steps is None else Alarms(steps)
        self._calls = 0

    @property
    def alarms(self) -> list[Alarm]:
        """The alarms raised so far, at most one per class."""
        return [] if self._alarms is None else self._alarms.raised

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
        call = LossCall(loss, logits, target, more, given)
        value, head, gradient = call.gradient()
        batch = call.batch(head)
        rwmap, regions = as_map(batch, gradient), None
        if self.by_distance:
            regions = Regions(rwmap.labels, rwmap.num_classes, batch.spacings_mm, IGNORED)
        report = check(rwmap, batch.probs, regions=regions)
        self.history.append({"step": step, "loss": number(float(value)), **report.figures()})
        if self._alarms is not None:
            for alarm in self._alarms.look(step + 1, call):
                _log.warning("rwloss: %s", alarm)
        return report

    def write(self, path: str | Path) -> None:
        """Write the history as JSON lines, one per row."""
        text = "".join(json.dumps(row) + "\n" for row in self.history)
        Path(path).write_text(text, encoding="utf-8")
