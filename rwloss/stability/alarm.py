"""Alarms for a training run: a class that is dying, or will not be born."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from rwloss.errors import RWLossError
from rwloss.stability.fitted import FloatArray, Logistic, fitted
from rwloss.stability.loss_call import LossCall
from rwloss.stability.report import ratio
from rwloss.stability.signs import ClassSigns
from rwloss.words import class_names as names_for

REMEDY = (
    "stop, and try another learning rate, or add what the loss lacks: + dice, + cross_entropy, or "
    ".with_link(0.3) to a stable map"
)

SAMPLES = 60
"""Samples per recorded run; a watched run is sampled as often."""

LOOKS = (0.1, 0.2, 0.4, 0.7)
"""Fractions of a run at which its classes are judged."""

_MEASURED = 4  # batches with a class in which its pull is measured, over which it is added up


@dataclass(frozen=True)
class Alarm:
    """A class that is probably lost. class_index: its number; risk: estimated probability.

    dying: whether the network predicted it more before than now; otherwise it is not being born.
    own_probability: mean probability of the class at its own voxels. pull: its pull ratio, as in
    `StabilityReport.pull`.
    """

    step: int
    class_index: int
    name: str
    risk: float
    own_probability: float
    pull: float
    dying: bool

    def __str__(self) -> str:
        """A line for a log, with the remedy."""
        what = "is dying" if self.dying else "is not being born"
        return (
            f"step {self.step}: {self.name} {what} (risk {self.risk:.2f}; mean probability at its "
            f"own voxels {self.own_probability:.2g}, pull ratio {self.pull:.2g}): {REMEDY}"
        )


@dataclass(eq=False)
class Alarms:
    """Collects the signs of each class over a run of `steps` steps, and judges them at LOOKS.

    class_names: of classes 0, 1, ...; the background, 0, is never judged. raised: alarms so far, at
    most one per class.
    """

    steps: int
    class_names: Sequence[str] = ()
    raised: list[Alarm] = field(default_factory=list)
    _samples: list[ClassSigns] = field(default_factory=list)
    _pulls: list[tuple[FloatArray, FloatArray]] = field(default_factory=list)
    _looked: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a run without steps."""
        if self.steps < 1:
            raise RWLossError(f"expected a run of 1 step or more, got {self.steps}")

    def look(self, step: int, call: LossCall) -> list[Alarm]:
        """Sample one call of the loss, and return the alarms that it raises. step: counted from
        1."""
        signs = call.signs()
        here = np.array([float(volume or 0) > 0 for volume in signs["true_volume"]])
        measured = sum((up != 0 for up, _ in self._pulls), np.zeros(len(here)))
        if (here & (measured < _MEASURED))[1:].any():
            self._pulls.append(call.pulls())
        return self.add(step, signs, self.pull)

    @property
    def pull(self) -> FloatArray:
        """The pull ratio of each class over the batches in which it was measured. (k)."""
        up, down = (np.sum(sums, axis=0) for sums in zip(*self._pulls, strict=True))
        return ratio(up, down)

    def add(self, step: int, signs: ClassSigns, pull: FloatArray) -> list[Alarm]:
        """The alarms that a sample raises. step: counted from 1. signs: see `class_signs`.

        pull: ratio of each class (k), NaN if unknown.
        """
        self._samples.append(signs)
        due = [look for look in LOOKS if self._looked < look <= step / self.steps]
        if not due:
            return []
        self._looked = due[-1]
        names = names_for(len(signs["own_probability"]), self.class_names)
        alarmed = {alarm.class_index for alarm in self.raised}
        found = []
        for k in range(1, len(names)):
            now = features_of(self._samples, k)
            if k in alarmed or now is None or np.isnan(pull[k]):
                continue
            now["pull"] = float(pull[k])
            risk = judge(due[-1]).risk(now)
            if risk > judge(due[-1]).threshold:
                dying = self._was_predicted(k) and now["trend"] < 1
                shown = now["own_probability"], now["pull"]
                found.append(Alarm(step, k, names[k], risk, *shown, dying=dying))
        self.raised += found
        return found

    def _was_predicted(self, k: int) -> bool:
        """Whether more of the class was predicted in an earlier sample than in the last one."""
        volumes = [float(each["predicted_volume"][k] or 0) for each in self._samples]
        return max(volumes) > volumes[-1]


@dataclass(frozen=True, eq=False)
class Judge:
    """The model of one look: the risk, from the signs that it names, and the threshold of an
    alarm."""

    model: Logistic
    threshold: float

    def risk(self, signs: Mapping[str, float]) -> float:
        """Probability that a class with these signs is lost."""
        return float(self.model.probability(scaled(signs, self.model.names)[None])[0])


@cache
def judge(look: float) -> Judge:
    """The judge of a look, as fitted to recorded runs."""
    found = fitted()["alarm"]["looks"][f"{look:g}"]
    return Judge(Logistic.read(found["model"]), found["threshold"])


def scaled(signs: Mapping[str, float], names: Sequence[str]) -> FloatArray:
    """Logarithms of the named signs, within bounds. (names)."""
    return np.log([min(max(signs[name], 1e-6), 1e3) for name in names])


def features_of(samples: Sequence[ClassSigns], k: int) -> dict[str, float] | None:
    """The signs of class k by name, from the samples of a run so far; None if it was not seen.

    own_probability: mean over the last third of the samples. trend: the same divided by that of the
    third before. contrast: the same divided by the mean probability at all other voxels.
    predicted_volume: divided by the true one. All over samples that have voxels of the class.
    """
    size = max(1, len(samples) // 3)
    last, earlier = (
        [each for each in some if each["own_probability"][k] is not None]
        for some in (samples[-size:], samples[-2 * size : -size])
    )
    if not (last and earlier):
        return None

    def mean(name: str, some: Sequence[ClassSigns] = last) -> float:
        return math.fsum(float(each[name][k] or 0) for each in some) / len(some)

    now = mean("own_probability")
    return {
        "own_probability": now,
        "trend": now / max(mean("own_probability", earlier), 1e-9),
        "contrast": now / max(mean("other_probability"), 1e-9),
        "predicted_volume": mean("predicted_volume") / max(mean("true_volume"), 1e-9),
    }
