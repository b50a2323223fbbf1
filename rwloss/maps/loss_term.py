"""Dynamic terms: losses of probabilities, and their maps at a prediction."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import einops

from rwloss.arrays import Array, as_tensor, constants, fails, from_numpy, is_torch, to_numpy
from rwloss.errors import RWLossError
from rwloss.maps.generator import MapGenerator
from rwloss.regions import IGNORED, Regions, SpacingRows
from rwloss.rwmap import RWMap
from rwloss.words import count_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Prediction:
    """Probabilities and truth: the input of a loss of probabilities.

    log_probs (b c *s): natural logarithms of the probabilities, float32 or float64. one_hot
    (b c *s): 1 at the true class; all 0 where no class counts. spacings_mm: one row per image. The
    channels c are the classes, or the classes without the background. is_soft: whether `one_hot`
    has fractions of classes, for terms that say `takes_soft_labels`.

    masks: overlapping masks per image; b then counts images times masks. batch: overlaps are those
    of the whole batch. by_class: whether values by class are needed, beside their mean. groups: of
    how many batches of equal size this one consists; their losses are the means of their own rows.
    sets: of partial labels, the classes that each of the last channels is the sum of. is_softmax:
    whether probabilities sum to 1 at any logits, so that each of two classes tells the other's; a
    map is a derivative by each alone. has_background: whether channel 0 is the background.
    """

    _log_probs: Tensor | Callable[[], Tensor]
    _one_hot: Tensor | Callable[[], Tensor]
    _counted: Tensor | Callable[[], Tensor] | None
    spacings_mm: SpacingRows
    _: KW_ONLY
    shape: tuple[int, ...]  # (b c *s)
    has_background: bool = True
    masks: int = 1
    batch: bool = False
    by_class: bool = True
    groups: int = 1
    _probs: Tensor | None = None  # as given, where they were
    is_softmax: bool = False
    is_soft: bool = False
    _late: bool = False
    _log_rest: Tensor | Callable[[], Tensor] | None = None
    sets: tuple[tuple[int, ...], ...] = ()
    _regions: Regions | Callable[[], Regions] | None = None
    _sums: Callable[[], tuple[Tensor, Tensor, Tensor]] | None = None  # of all classes, by a kernel
    # `functools.cached_property` has a lock, which no compiled graph can hold.
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def log_probs(self) -> Tensor:
        """Natural logarithms of the probabilities. (b c *s)."""
        return self._made("_log_probs")

    @property
    def one_hot(self) -> Tensor:
        """1 at the true class; all 0 where no class counts. (b c *s)."""
        return self._made("_one_hot")

    def _made(self, name: str) -> Tensor:
        """A field, which may be a function, if `_late`, until somebody asks for it."""
        found = getattr(self, name)
        if not (self._late and callable(found)):
            return cast("Tensor", found)
        if name not in self._kept:
            self._kept[name] = found()
        return cast("Tensor", self._kept[name])

    @property
    def all_count(self) -> bool:
        """Whether every voxel counts, so that nothing has to be multiplied by `counted`."""
        return self._counted is None

    @property
    def counted(self) -> Tensor:
        """1 where the voxel counts, else 0. (b 1 *s)."""
        if self._counted is None:
            return self.log_probs.new_ones(()).expand_as(self.log_probs[:, :1])
        return self._made("_counted")

    @property
    def probs(self) -> Tensor:
        """Probabilities, 0 at voxels that do not count; computed once. (b c *s)."""
        if "probs" not in self._kept:
            probs = self.log_probs.exp() if self._probs is None else self._probs
            self._kept["probs"] = probs if self._counted is None else probs * self.counted
        return cast("Tensor", self._kept["probs"])

    @property
    def log_rest(self) -> Tensor:
        """log (1 - p), exact where p is near 1, and finite; computed once. (b c *s)."""
        if self._log_rest is not None:  # that of the other class
            return self._made("_log_rest")
        if "log_rest" not in self._kept:
            rest = (-self.log_probs.expm1()).clamp_min(1e-30)
            self._kept["log_rest"] = rest.log()
        return cast("Tensor", self._kept["log_rest"])

    @property
    def num_counted(self) -> Tensor:
        """Number of voxels that count in the whole batch, at least 1; computed once. ().

        With several groups, for each row that of its group, times the number of groups. (b 1).
        """
        if "num_counted" not in self._kept:
            found = sum_by_group(self.counted, self.groups).clamp_min(1.0)
            if self.groups > 1:
                found = einops.repeat(
                    found * self.groups, "g -> (g b) 1", b=len(self.counted) // self.groups
                )
            self._kept["num_counted"] = found
        return cast("Tensor", self._kept["num_counted"])

    @property
    def regions(self) -> Regions:
        """Labels (b *s) of all classes with spacing, image and geometry, shared by all terms.

        NumPy arrays or tensors: `tensor` brings either beside the probabilities.
        """
        assert self._regions is not None  # `of` sets it
        return self._regions if isinstance(self._regions, Regions) else self._regions()

    def tensor(self, values: Array) -> Tensor:
        """Values of `regions` as a constant, on the device of the probabilities."""
        constant: Tensor = as_tensor(values).to(self.log_probs.device).detach()
        return constant

    @property
    def image(self) -> Tensor:
        """The image in the type of the probabilities. (b i *s), with i its channels."""
        return self.tensor(self.regions.image).to(self.log_probs.dtype)

    @property
    def without_background(self) -> Prediction:
        """The same without channel 0, if that is the background; made once."""
        if not self.has_background:
            return self
        if "others" not in self._kept:
            batch, channels, *size = self.shape
            made: dict[str, Any] = {"_log_probs": lambda: self._split[1]}
            if self.is_softmax and channels == 2:
                made["_log_rest"] = lambda: self._split[0]
            if not callable(self._log_probs):  # then nothing here refers to this prediction
                made = {name: make() for name, make in made.items()}
            whole = self._one_hot
            self._kept["others"] = replace(
                self,
                **made,
                _one_hot=(lambda: whole()[:, 1:]) if callable(whole) else whole[:, 1:],
                shape=(batch, channels - 1, *size),
                has_background=False,
                _probs=None if self._probs is None else self._probs[:, 1:],
            )
        return cast("Prediction", self._kept["others"])

    @property
    def _split(self) -> tuple[Tensor, Tensor]:
        """Logarithms of channel 0 and of the others: one operation has a gradient in one piece."""
        if "split" not in self._kept:
            import torch

            self._kept["split"] = torch.split(self.log_probs, [1, self.shape[1] - 1], dim=1)
        return cast("tuple[Tensor, Tensor]", self._kept["split"])

    def forget(self) -> None:
        """Free what was kept, which may refer to this prediction."""
        self._kept.clear()

    def at_true(self, values: Tensor) -> Tensor:
        """Values at the true class, 0 elsewhere (even where a value is infinite). (b c *s)."""
        return values.masked_fill(self.one_hot == 0, 0.0)

    @property
    def allowed(self) -> Tensor:
        """1 where the voxel may be of the class: the true one, or one of its set. (b c *s).

        All 1 in the channels of sets themselves, which are no classes.
        """
        if not self.sets:
            return self.one_hot
        classes = self.one_hot.shape[1] - len(self.sets)
        allowed = self.one_hot.clone()
        allowed[:, classes:] = self.counted
        for place, members in enumerate(self.sets, start=classes):
            allowed[:, list(members)] += self.one_hot[:, place : place + 1]
        return allowed.clamp_max(1.0)

    @property
    def marginal(self) -> Prediction:
        """The classes without the sets; each of n classes of a voxel's set has the n-th part.

        Of the set's probability, and of the truth: the one way to make a loss of one class per
        voxel blind to how a set's probability is spread (Fidon et al., MICCAI 2021, arXiv
        2107.03846).
        """
        classes = self.shape[1] - len(self.sets)
        log_probs, truth = self.log_probs[:, :classes], self.one_hot[:, :classes]
        for place, members in enumerate(self.sets, start=classes):
            inside = constants([float(k in members) for k in range(classes)], truth)
            inside = inside.reshape(-1, *[1] * (truth.ndim - 2)) * self.one_hot[:, place, None]
            share = self.log_probs[:, place, None] - math.log(len(members))
            log_probs = share.where(inside > 0, log_probs)
            truth = truth + inside / len(members)
        return replace(
            self,
            _log_probs=log_probs,
            _one_hot=truth,
            _counted=None if self._counted is None else self.counted,
            shape=tuple(truth.shape),
            sets=(),
            is_softmax=False,
            _probs=None,
            _late=False,
        )

    @property
    def true_class(self) -> Tensor:
        """Channel of the true class, 0 where no class counts; computed once. (b 1 *s)."""
        if "labels" in self._kept:
            self._kept["true_class"] = self._kept.pop("labels")()[:, None].long()
        if "true_class" not in self._kept:
            self._kept["found"], self._kept["true_class"] = self.one_hot.max(dim=1, keepdim=True)
        return cast("Tensor", self._kept["true_class"])

    @property
    def true_log_probs(self) -> Tensor:
        """Logarithm of the true class's probability, 0 where no class counts. (b *s)."""
        at_true = self.log_probs.gather(1, self.true_class)[:, 0]
        if self._counted is None and self.has_background:
            return at_true
        return at_true.masked_fill(self._kept["found"][:, 0] == 0, 0.0)

    def sum_space(self, values: Tensor) -> Tensor:
        """Sum over the voxels of each image and class. (b c *s) -> (b c)."""
        return values.sum(dim=tuple(range(2, values.ndim)))

    def overlap(self, power: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Σ p y, Σ p^power and Σ y^power over the voxels of each image and class. (b c) each.

        With `batch` they are those of all images together, the same for each. With soft labels Σ p
        y is Σ min(p, y), unless the power is 2: then twice that is the sum of the others if p is y
        everywhere, and else less (Wang et al., MICCAI 2023, arXiv 2303.16296).

        power: of p and y in these sums.
        """
        if self._sums is not None and power == 1:
            first = 0 if self.has_background else 1
            both, predicted, true = (self._pooled(sums[:, first:]) for sums in self._sums())
            return both, predicted, true
        probs, truth = self.probs, self.one_hot
        both = probs.minimum(truth) if self.is_soft and power == 1 else probs * truth
        predicted = probs if power == 1 else probs**power
        truth = truth if power == 1 else truth**power
        return self.pooled_sum(both), self.pooled_sum(predicted), self.pooled_sum(truth)

    def pooled_sum(self, values: Tensor) -> Tensor:
        """As `sum_space`; with `batch` the sums of all images, the same for each. -> (b c)."""
        return self._pooled(self.sum_space(values))

    def _pooled(self, sums: Tensor) -> Tensor:
        """Sums (b c) of each image, or with `batch` those of all."""
        if not self.batch:
            return sums
        whole = einops.reduce(sums, "(b m) c -> m c", "sum", m=self.masks)
        return einops.repeat(whole, "m c -> (b m) c", b=len(sums) // self.masks)

    def class_weights(self, weight: Sequence[float]) -> Tensor:
        """Of `weight`, with one number per class, those of the channels. (c).

        Raises RWLossError for another number of weights than classes, and for weights all 0.
        """
        channels = self.shape[1]
        num_classes = channels if self.has_background else channels + 1
        if len(weight) != num_classes:
            raise RWLossError(
                f"weight has {count_of(len(weight), 'number')}, and there are {num_classes} "
                "classes: give one number per class, the background's too (overlapping masks have "
                "two classes, outside and inside)"
            )
        own = list(weight[num_classes - channels :])
        if not any(own):
            raise RWLossError("weight is 0 for every class that counts: the loss would be 0")
        chosen: Tensor = constants(own, self.log_probs)
        return chosen

    def true_weights(self, weight: Sequence[float]) -> Tensor:
        """The weight of the true class, 0 where no class counts. (b *s). Raises as above."""
        return einops.einsum(self.one_hot, self.class_weights(weight), "b c ..., c -> b ...")

    def mean_space(self, values: Tensor) -> Tensor:
        """Each image's and class's part of the mean over voxels that count. (b c *s) -> (b c).

        values: 0 where no voxel counts. The mean of the result is Σ values / (c · voxels that
        count in the batch): an image in which few voxels count has a small part.
        """
        return self.sum_space(values) * self._share(len(values))

    def mean_true(self, values: Tensor) -> Tensor:
        """As `mean_space`, for values at the true class alone: Σ values / voxels that count."""
        return self.sum_space(values) * self._share(len(values) * values.shape[1])

    def expected(self, cost: Callable[[Tensor], Tensor]) -> Tensor:
        """The cost of each voxel, from log p of the true class. (b *s).

        With soft labels the expected cost, Σ_k y_k cost(log p_k).
        """
        if not self.is_soft:
            return cost(self.true_log_probs)
        return self._expected_by_class(cost).sum(dim=1)

    def _expected_by_class(self, cost: Callable[[Tensor], Tensor]) -> Tensor:
        """What each class adds to it, y_k cost(log p_k). (b c *s)."""
        return self.one_hot * self.at_true(cost(self.log_probs))

    def mean_expected(
        self, cost: Callable[[Tensor], Tensor], weight: Sequence[float] | None = None
    ) -> Tensor:
        """The mean of `expected` costs over voxels that count. (b c), or () as below.

        weight: one number per class, by which the cost of a voxel of that class is multiplied.
        """
        if not self.is_soft:
            costs = cost(self.true_log_probs)
            if not self.all_count:  # a cost may not be 0 where p is 1
                costs = costs * self.counted[:, 0]
            return self.mean_by_true_class(
                costs if weight is None else costs * self.true_weights(weight)
            )
        costs = self._expected_by_class(cost)
        if weight is not None:
            weights = self.class_weights(weight)
            costs = costs * weights.reshape(-1, *[1] * (costs.ndim - 2))
        return self.mean_by_class(costs)

    def mean_by_class(self, costs: Tensor) -> Tensor:
        """As `mean_true`, or one number () where nobody asks for the classes. (b c *s)."""
        return self.mean_true(costs) if self.by_class else costs.sum() * self._share(1)

    def mean_by_true_class(self, values: Tensor) -> Tensor:
        """As `mean_true`, for one value per voxel (b *s), 0 where no class counts. (b c), or ().

        One number where nobody asks for the classes, which takes less time.
        """
        if not self.by_class:
            return values.sum() * self._share(1)
        # Not a product with `one_hot`: a value may be infinite.
        by_class = self.one_hot.new_zeros(self.one_hot.shape)
        return self.mean_true(by_class.scatter_(1, self.true_class, values[:, None]))

    def _share(self, number: int) -> Tensor | float:
        """`number` by the number of voxels that count."""
        if self._counted is None:  # a plain number: no operation on a tensor, no wait for a GPU
            return number * self.log_probs.shape[1] / max(self.log_probs.numel(), 1)
        return number / self.num_counted

    @classmethod
    def of(
        cls,
        log_probs: Tensor | Callable[[], Tensor],
        labels: Tensor | Callable[[], Tensor],
        spacings_mm: SpacingRows,
        *,
        shape: tuple[int, ...] | None = None,
        include_background: bool = True,
        all_count: bool = False,
        masks: int = 1,
        batch: bool = False,
        by_class: bool = True,
        groups: int = 1,
        probs: Tensor | None = None,
        sums: Callable[[], tuple[Tensor, Tensor, Tensor]] | None = None,
        regions: Regions | Callable[[], Regions] | None = None,
        sets: tuple[tuple[int, ...], ...] = (),
        is_softmax: bool = False,
        fractions: Tensor | None = None,
        late: bool = False,
    ) -> Prediction:
        """From log_probs (b k *s) and labels (b *s), in which -1 marks voxels that don't count.

        all_count: no label is -1. probs: the probabilities, where they are not exp(log_probs).
        sums: gives Σ p y, Σ p and Σ y (b k), if they are computed elsewhere. regions: the labels
        with their geometry, or what gives them; by default they are made of `labels`. fractions (b
        k *s): of each class, 0 where no class counts, instead of the labels. masks, batch,
        by_class, groups, sets, is_softmax: as the fields of `Prediction`. log_probs: natural
        logarithms. late: make what follows from the labels only if a term needs it. Then log_probs
        and labels may be functions, if `shape` (b k *s) and `regions` are given.
        """
        import torch

        log_probs_of, labels_of = _as_function(log_probs), _as_function(labels)

        def one_hot() -> Tensor:
            if fractions is not None:
                return fractions
            index, like = labels_of()[:, None], log_probs_of()
            if all_count:
                return torch.zeros_like(like).scatter_(1, index.long(), 1.0)
            classes = torch.arange(like.shape[1], device=like.device)
            return (index == classes.reshape(1, -1, *[1] * (like.ndim - 2))).to(like.dtype)

        def counted() -> Tensor:
            return (labels_of()[:, None] != IGNORED).to(log_probs_of().dtype)

        made = cls(
            log_probs,
            _once(one_hot) if late else one_hot(),
            None if all_count else counted if late else counted(),
            spacings_mm,
            shape=log_probs_of().shape if shape is None else shape,
            _late=late,
            masks=masks,
            batch=batch,
            by_class=by_class,
            groups=groups,
            _probs=probs,
            sets=sets,
            is_softmax=is_softmax,
            is_soft=fractions is not None,
            _sums=sums,
            _regions=Regions.of_checked(
                labels_of(), log_probs_of().shape[1], spacings_mm, None if all_count else IGNORED
            )
            if regions is None
            else regions,
        )
        if all_count:
            made._kept["labels"] = labels_of
        return made if include_background else made.without_background

    def with_log_probs(self, log_probs: Tensor) -> Prediction:
        """The same truth with other probabilities. log_probs (b c *s)."""
        # All that follows from those of before goes with them.
        of_before: dict[str, Any] = {"_probs": None, "_log_rest": None, "_sums": None}
        return replace(self, _log_probs=log_probs, is_softmax=False, **of_before)


def _as_function(made: Tensor | Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A function that is called once; a tensor as one."""
    import torch

    return (lambda: made) if isinstance(made, torch.Tensor) else _once(made)


def _once(make: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """What a function gives, which is called once. `functools.cache` takes longer to make."""
    kept: list[Tensor] = []

    def made() -> Tensor:
        if not kept:
            kept.append(make())
        return kept[0]

    return made


@dataclass(frozen=True)
class LossTerm(MapGenerator):
    """A loss of probabilities as a term. A subclass sets `name` and defines `loss`.

    Its map is the derivative of the loss by the probabilities, detached and scaled so that the
    mean over batch, classes and voxels of p·z has the loss's gradient.

    include_background: False leaves class 0 out of this term: its mean is over the K - 1 others.
    """

    include_background: bool = field(default=True, kw_only=True)

    # The least value of the loss: `RegionWiseLoss.excess` is the loss minus its minimum.
    minimum: ClassVar[float] = 0.0
    # Whether `prepare` computes something of the labels that the loss needs.
    needs_geometry: ClassVar[bool] = False
    # Whether `loss` looks at the true class alone, or at `allowed`: see `Prediction.sets`. Or
    # "marginal": it gets `Prediction.marginal`.
    takes_label_sets: ClassVar[Literal[False, True, "marginal"]] = False
    # Whether `loss` asks for `prediction.overlap()`: a kernel sums it in one pass with the map.
    takes_overlap: ClassVar[bool] = False
    # Whether `loss` is right for fractions of classes too: see `Prediction.is_soft`.
    takes_soft_labels: ClassVar[bool] = False
    _is_checked: ClassVar[bool] = False  # an instance remembers that its loss was finite

    @property
    def is_static(self) -> bool:
        """False: the map depends on the probabilities."""
        return False

    def __getstate__(self) -> dict[str, object]:
        """The parameters, without what use has left."""
        return {name: value for name, value in vars(self).items() if name != "_is_checked"}

    @abstractmethod
    def loss(self, prediction: Prediction) -> Tensor:
        """The loss by image and class, differentiable in `prediction.log_probs`. (b c).

        The mean of these values is the loss. A loss of the whole batch may be one number instead,
        of shape ().
        """

    def prepare(self, regions: Regions) -> None:
        """Compute the geometry of the labels that `loss` needs, which the regions keep."""

    def by_image_and_class(self, prediction: Prediction) -> Tensor:
        """The checked loss by image and class. (b c); one number for all where `loss` gives one."""
        return self.checked_loss(prediction).expand(prediction.shape[:2])

    def value(self, prediction: Prediction) -> Tensor:
        """The loss as one number. ()."""
        return reduced([self.checked_loss(prediction)])

    def checked_loss(self, prediction: Prediction) -> Tensor:
        """The loss by image and class, (b c), or as one number ().

        Raises RWLossError that names the term and what is wrong with its `loss`.
        """
        import torch

        marginal = prediction.sets and self.takes_label_sets == "marginal"
        seen = prediction.marginal if marginal else prediction
        seen = seen if self.include_background else seen.without_background
        if getattr(self.tags, "uses_image", False):  # tags may be wrong: the kit says so
            self.expect_image(seen.regions.image)
        loss, shape = self.loss(seen), tuple(seen.shape[:2])
        # Number by number: torch.compile takes no tuple of sizes that vary to be in another.
        if not isinstance(loss, torch.Tensor) or not (
            loss.ndim == 0
            or (loss.ndim == 2 and loss.shape[0] == shape[0] and loss.shape[1] == shape[1])
        ):
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else repr(loss)
            raise RWLossError(
                f"{self.name}: its loss must be a tensor with one value per image and class "
                f"{shape}, or one number (), got {got}"
            )
        if not loss.requires_grad and torch.is_grad_enabled() and seen.log_probs.requires_grad:
            raise RWLossError(
                f"{self.name}: its loss does not depend on the probabilities, or was computed "
                "without gradient (detached, or through NumPy)"
            )
        if not self._is_checked and not torch.compiler.is_compiling():  # only once per term
            wrong = (
                f"{self.name}: its loss is not finite (NaN or infinity), but every probability is"
            )
            if fails(loss.isfinite().all() | ~seen.log_probs.isfinite().all(), wrong):
                raise RWLossError(wrong)
            object.__setattr__(self, "_is_checked", True)
        if seen is prediction or not loss.ndim:
            return loss
        # 0 for the background and sets, the others so much larger that the mean over all is theirs.
        num_others, channels = loss.shape[1], prediction.shape[1]
        first = int(seen.has_background < prediction.has_background)
        padding = first, channels - num_others - first
        return torch.nn.functional.pad(loss, padding) * (channels / num_others)

    def make(self, regions: Regions, probs: Array | None) -> RWMap:
        """The checked map at a prediction."""
        return self._checked(self.compute(regions, probs), regions)

    def compute(self, regions: Regions, probs: Array | None = None) -> RWMap:
        """Map values at a prediction. labels (b *s), probs (b k *s) -> dense map (b k *s)."""
        if probs is None:
            raise RWLossError(
                f"{self.name} is dynamic, its map depends on the prediction: call it with probs "
                "(b k *s); `rwloss precompute` takes static maps only"
            )
        import torch

        labels, given = as_tensor(regions.labels), as_tensor(probs)
        expected = (labels.shape[0], regions.num_classes, *labels.shape[1:])
        if tuple(given.shape) != tuple(expected):
            raise RWLossError(f"{self.name}: probs {tuple(given.shape)}, expected {expected}")
        wide = torch.promote_types(given.dtype, torch.float32)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(given.device.type, enabled=False),
        ):
            # A loss may divide by a probability: 1e-30 keeps the quotient finite in float32.
            leaf = given.detach().clone().to(wide).clamp_min(1e-30).requires_grad_()
            labels = labels.to(leaf.device, torch.int64, copy=True)
            prediction = Prediction.of(leaf.log(), labels, regions.spacings_mm, regions=regions)
            value = self.value(prediction)
            (gradient,) = torch.autograd.grad(
                value, leaf, allow_unused=True, materialize_grads=True
            )
        values = gradient * (regions.num_classes * prediction.num_counted)
        if is_torch(regions.labels):
            return RWMap.from_dense(regions.labels, values.to(regions.labels.device))
        return RWMap.from_dense(regions.labels, from_numpy(to_numpy(values), regions.labels))


def reduced(losses: Sequence[Tensor], groups: int = 1) -> Tensor:
    """The sum of losses, each of them the mean of (b c) or one number (). -> ().

    groups: the mean is that of each of so many groups of rows, if more than one. -> (groups).
    """
    whole = [loss for loss in losses if loss.ndim == 0]
    by_class = [loss for loss in losses if loss.ndim > 0]
    if by_class:
        total = reduce(add, by_class)
        mean = total.mean() if groups == 1 else total.reshape(groups, -1).mean(dim=1)
        whole.append(mean)
    return reduce(add, whole)


def sum_by_group(values: Tensor, groups: int) -> Tensor:
    """The sum of each of so many groups of rows, (groups); of all values, (), if it is one."""
    if groups == 1:
        return values.sum()
    return einops.reduce(values, "(g b) ... -> g", "sum", g=groups)
