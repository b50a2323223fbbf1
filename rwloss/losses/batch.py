"""One batch, checked once: probabilities, labels, and which voxels count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import einops
import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional

from rwloss.arrays import assertion, fails, in_graphs, may_read, plain_call
from rwloss.errors import RWLossError
from rwloss.losses.label_sets import LabelSets
from rwloss.losses.logit_transforms import LogitTransform, transformed
from rwloss.losses.soft_labels import soft_classes, soft_masks, takes_fractions
from rwloss.maps.expression import Expression
from rwloss.maps.loss_term import Prediction, sum_by_group
from rwloss.regions import (
    IGNORED,
    POSSIBLE_MM,
    Regions,
    SpacingMM,
    SpacingRows,
    check_range,
    checked_image,
    checked_labels,
    not_in_range,
    spacing_rows,
)

if TYPE_CHECKING:
    from rwloss.losses.fused import Overlap

Activation = Literal["softmax", "sigmoid", "none", "masks"]

OTHER_LABELS = "a stored map belongs to other labels than the target"
_ROUNDING = 1e-2  # of bfloat16
_OF_KERNELS = {torch.float16, torch.bfloat16, torch.float32}
_NO_ARGMAX = {torch.bool, torch.uint16, torch.uint32, torch.uint64}  # in torch


class LossInputs(NamedTuple):
    """The arguments of a call besides the logits; lists if each of several outputs has its own.

    regions: the target's, where the target came with its geometry.
    """

    target: Any
    rwmap: Any
    mask: Any
    spacing_mm: SpacingMM | None
    spacing_is_known: bool
    groups: int = 1
    image: Any = None
    regions: Regions | None = None


@dataclass(eq=False)
class LossBatch:
    """The data that all terms of a loss share, at one resolution.

    given (b k *s): logits, or with `normalized` probabilities, as they came. dtype: float32 or
    float64, because sums over 512² voxels overflow float16. whole (b *s): labels, classes or -1
    where ignored. counts (b *s): 1 where a voxel counts, else 0; None where all do. num_values: how
    many values the mean runs over, which is classes times voxels that count. spacings_mm: one row
    for each of b. masks: number of overlapping masks per image, 0 for classes; b then counts images
    times masks, and there are two classes. pooled: whether overlaps are summed over the batch.
    by_class: whether values by class are needed. fused: whether kernels for GPUs compute sums from
    what is given. wants_overlap: whether a term will ask for sums such as Σ p y. unchecked: whether
    labels may still be no classes; map_labels (b *s): those of a stored map, which may still be
    others. groups: of how many batches of equal size this one consists, one after another; if of
    several, means and num_values are those of each group. image (b i *s), where it was given.
    fractions (b k *s): of soft labels, 0 where no voxel counts; labels are the largest then.
    """

    given: Tensor
    dtype: torch.dtype
    normalized: bool
    whole: Tensor
    counts: Tensor | None
    num_values: Tensor | int
    spacings_mm: SpacingRows
    include_background: bool
    masks: int
    pooled: bool
    by_class: bool
    ignoring: bool = False
    fused: bool = False
    wants_overlap: bool = False
    unchecked: bool = False
    map_labels: Tensor | None = None
    groups: int = 1
    image: Tensor | None = None
    sets: tuple[tuple[int, ...], ...] = ()
    fractions: Tensor | None = None
    _regions: Regions | None = None
    _output: Tensor | None = None
    _log_probs: Tensor | None = None
    _prediction: Prediction | None = None
    _hard: LossBatch | None = None
    _overlap: Overlap | None = None

    @property
    def labels(self) -> Tensor:
        """Classes, -1 where ignored. (b *s)."""
        self.check()
        return self.whole

    def check(self) -> None:
        """Check what was left to a kernel, which reads labels anyway, and no kernel has checked."""
        if self.unchecked:
            self.unchecked = False
            check_range(self.whole, self.given.shape[1], ignoring=self.ignoring)
        if self.map_labels is not None:
            others, self.map_labels = self.map_labels, None
            of_labels(others, others, self.whole)

    def finish(self) -> None:
        """Check that too, and free the memory: what a batch keeps refers to the batch."""
        self.check()
        if self.fused and self._prediction is not None:
            self._prediction.forget()
        self._prediction = self._hard = None

    @property
    def output(self) -> Tensor:
        """What is given, in that type, and finite where no voxel counts; made once. (b k *s)."""
        if self._output is None:
            output = self.given.to(self.dtype)
            # NaN or infinity where no voxel counts would spoil sums: 0 times either is NaN. Their
            # sum tells, so that no copy is made of logits that are finite; a GPU would have to
            # wait for it.
            asks = output.device.type == "cpu" and not torch.compiler.is_compiling()
            if self.counts is not None and not (asks and bool(output.detach().sum().isfinite())):
                ignored = self.counts[:, None] == 0
                if self.masks > 1:  # other masks of the image may count there, and see these logits
                    ignored = ignored & ~output.isfinite()
                output = output.masked_fill(ignored, 0.0)
            self._output = output
        return self._output

    @property
    def log_probs(self) -> Tensor:
        """Natural logarithms of the probabilities, computed on first use. (b k *s)."""
        if self._log_probs is None:
            if self.normalized:
                # A probability of exactly 0 has no finite logarithm, and gets no gradient from it.
                self._log_probs = self.output.clamp_min(torch.finfo(self.output.dtype).tiny).log()
            else:
                self._log_probs = functional.log_softmax(self.output, dim=1)
        return self._log_probs

    @property
    def probs(self) -> Tensor:
        """Probabilities. (b k *s)."""
        if self.normalized:
            return self.output
        if self._log_probs is not None:  # one exponential is less work than another softmax
            return self._log_probs.exp()
        return functional.softmax(self.output, dim=1)

    @property
    def classes(self) -> Tensor:
        """Labels as an index, 0 where no class counts (every cost is 0 there). (b *s), int64."""
        labels = self.labels.long()
        return labels if self.counts is None else labels.clamp_min(0)

    @property
    def counted_labels(self) -> Tensor:
        """Labels, -1 where a voxel does not count. (b *s)."""
        if self.counts is None:
            return self.labels
        return self.labels.long().where(self.counts > 0, IGNORED)

    def regions(self) -> Regions:
        """The labels with their geometry, which all terms share; made on first use."""
        return plain_call(self.regions_of, self.labels)

    def regions_of(self, labels: Tensor) -> Regions:
        """The same from the labels as `plain_call` gives them."""
        if self._regions is None:
            image = None if self.image is None else checked_image(self.image.detach(), labels)
            given = self.given.shape[1], self.spacings_mm, None if self.counts is None else IGNORED
            self._regions = Regions.of_checked(labels, *given, image)
        return self._regions

    def seen_by(self, term: Expression) -> LossBatch:
        """The same, with one class per voxel for a term that takes no soft labels."""
        if self.fractions is None or takes_fractions(term):
            return self
        if self._hard is None:
            self._hard = replace(self, fractions=None, _prediction=None)
        return self._hard

    @property
    def prediction(self) -> Prediction:
        """What dynamic terms see."""
        whole = self.whole_prediction
        return whole if self.include_background else whole.without_background

    @property
    def whole_prediction(self) -> Prediction:
        """The prediction with its background, made on first use."""
        if self._prediction is None:
            # A kernel's sums are all that many terms need. Others do without the one-hot truth.
            self._prediction = Prediction.of(
                partial(self._late_log_probs, torch.is_grad_enabled())
                if self.fused
                else self.log_probs,
                (lambda: self.counted_labels) if self.fused else self.counted_labels,
                self.spacings_mm,
                all_count=self.counts is None,
                masks=max(self.masks, 1),
                batch=self.pooled,
                by_class=self.by_class,
                groups=self.groups,
                probs=self.output if self.normalized else None,
                sums=self.overlap if self.fused else None,
                regions=self.regions,
                sets=self.sets,
                is_softmax=not self.normalized,
                shape=self.given.shape,
                fractions=self.fractions,
                late=not torch.compiler.is_compiling(),
            )
        return self._prediction

    def _late_log_probs(self, with_gradient: bool) -> Tensor:
        """Logarithms for a term that may ask for them first where it needs no gradient."""
        with torch.set_grad_enabled(with_gradient):
            return self.log_probs

    def overlap(self) -> Overlap:
        """Σ p y, Σ p and Σ y over the voxels of each image that count, by a kernel. (b k) each."""
        if self._overlap is None:
            self.wants_overlap = True
            self.mean_by_kernel(())
        assert self._overlap is not None
        return self._overlap

    def mean_by_kernel(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Mean over classes and voxels that count of a map. (), or (groups).

        parts: true and other (b *s), or values (b k *s). In the same pass the kernel sums overlaps,
        if any term wants them, and checks what is not checked yet.
        """
        from rwloss.losses.fused import KernelInputs, means_and_overlap

        facts = [not_in_range(self.given.shape[1])] if self.unchecked else []
        facts += [] if self.map_labels is None else [OTHER_LABELS]
        values = self.num_values
        given = KernelInputs(
            self.whole,
            self.counts,
            parts,
            self.map_labels,
            self.ignoring,
            self.groups,
            float(values) if isinstance(values, int) else values.clamp_min(1),
            self.wants_overlap and self._overlap is None,
            assertion(" or ".join(facts)) if facts else None,
        )
        self.unchecked, self.map_labels = False, None
        mean, overlap = means_and_overlap(self.given, given)
        self._overlap = self._overlap if overlap is None else overlap
        return mean

    def mean(self, costs: Tensor) -> Tensor:
        """Mean over classes and voxels that count, of costs summed over classes. (b *s) -> ().

        0 where no voxel counts. With several groups one mean for each, (groups).
        """
        values = self.num_values
        if self.counts is not None and isinstance(values, Tensor):
            costs, values = costs * self.counts, values.clamp_min(1)
        return sum_by_group(costs, self.groups) / values

    def by_image_and_class(self, costs: Tensor) -> Tensor:
        """Parts of that mean, whose own mean it is. (b k *s) -> (b c)."""
        values = self.num_values
        if not self.include_background:
            costs = costs[:, 1:]
        if self.counts is not None and isinstance(values, Tensor):
            costs, values = costs * self.counts[:, None], values.clamp_min(1)
        sums = einops.reduce(costs, "b k ... -> b k", "sum")
        return sums * (sums.numel() / values)


def make_batch(
    logits: Tensor,
    given: LossInputs,
    *,
    activation: Activation,
    ignore_index: int | None,
    include_background: bool,
    pooled: bool = False,
    by_class: bool = False,
    low_memory: bool = False,
    sets: LabelSets | None = None,
    transform: LogitTransform | None = None,
    soft: bool = False,
) -> LossBatch:
    """Check logits, target, mask and spacing against each other, and bring them to one form."""
    normalized, num_sets = activation in {"none", "masks"}, 0 if sets is None else len(sets)
    masks = logits.shape[1] if activation in {"sigmoid", "masks"} else 0
    num_classes = 2 if masks else logits.shape[1]
    _check_classes(num_classes, normalized=normalized)
    dtype, fractions = torch.float64 if logits.dtype == torch.float64 else torch.float32, None
    if given.regions is not None:
        labels = labels_of(given.regions, logits, num_classes + num_sets, masks)
        ignore_index = None if given.regions.ignore_label is None else IGNORED
    elif soft:
        labels, fractions = _soft_target(logits, given.target, dtype, ignore_index, masks=masks > 0)
    else:
        labels = _hard_target(logits, given.target, ignore_index, masks=masks > 0)
        labels = (
            labels
            if sets is None
            else sets.renumbered(labels, num_classes, ignore_index, whole_labels)
        )
        ignore_index = ignore_index if sets is None or ignore_index is None else IGNORED
    output = logits.to(dtype) if normalized or masks else logits
    plain = low_memory or normalized or sets is not None or fractions is not None
    fused = not plain and _have_kernels(logits, num_classes)
    unchecked = fused and given.regions is None and not may_read(logits)
    if not fused:
        labels = whole_labels(
            labels, num_classes + num_sets, ignore_index, output.detach() if normalized else None
        )
    elif given.regions is None:
        labels = checked_labels(labels, num_classes, ignore_index, in_range=not unchecked)
    keep = None if given.mask is None else as_voxel_mask(logits, given.mask)
    if masks:
        # Each channel becomes a two-class problem of its own: softmax([0, x]) is [1 - sigmoid(x),
        # sigmoid(x)], so that overlapping masks need no other code.
        output = rearrange(output, "b m ... -> (b m) ...")
        complement = 1 - output if normalized else torch.zeros_like(output)
        output = torch.stack([complement, output], dim=1)
        keep = None if keep is None else repeat(keep, "b ... -> (b m) ...", m=masks)
    if ignore_index is not None:
        belongs = labels != IGNORED
        keep = belongs if keep is None else keep & belongs
    counts = None if keep is None else keep.to(dtype)
    if fractions is not None and counts is not None:
        fractions = fractions * counts[:, None]
    if transform is not None:
        output = transformed(transform, output.to(dtype), labels, counts)
    image = given.image
    if image is not None:
        check_tensor("image", image, logits)
        image = repeat(image, "b ... -> (b m) ...", m=masks) if masks else image
    log_probs = None
    if sets is not None:
        output = output.to(dtype)
        if counts is not None:  # NaN there would spoil the gradient
            output = output.masked_fill(counts[:, None] == 0, 0.0)
        log_probs = sets.extended(functional.log_softmax(output, dim=1))
        output, normalized = log_probs.exp(), True
    return LossBatch(
        output,
        dtype,
        normalized=normalized,
        whole=labels,
        counts=counts,
        num_values=(num_classes - (0 if include_background else 1))
        * (
            labels.numel() // given.groups if counts is None else sum_by_group(counts, given.groups)
        ),
        spacings_mm=_rows(logits, given, masks),
        include_background=include_background,
        masks=masks,
        pooled=pooled,
        ignoring=ignore_index is not None,
        fused=fused,
        unchecked=unchecked,
        by_class=by_class or given.groups > 1,
        groups=given.groups,
        image=image,
        sets=() if sets is None else sets.classes,
        fractions=fractions,
        _regions=given.regions,
        _log_probs=log_probs,
    )


def _check_classes(num_classes: int, *, normalized: bool) -> None:
    """Raise RWLossError for one class alone."""
    if num_classes < 2:
        raise RWLossError(
            "expected probabilities of 2 classes or more, got 1: stack [1 - p, p], or give logits "
            'and activation="sigmoid"'
            if normalized
            else "expected logits with 2 classes or more for the softmax, got 1: its softmax is "
            "always 1; give the network an output for the background too, or use "
            'activation="sigmoid"'
        )


def _rows(logits: Tensor, given: LossInputs, masks: int) -> SpacingRows:
    """One spacing for each of (b), or of (b m)."""
    if given.regions is not None:
        return given.regions.spacings_mm
    rows = batch_spacings(given.spacing_mm, logits.shape[0], logits.ndim - 2)
    return tuple(row for row in rows for _ in range(masks)) if masks else rows


def _have_kernels(logits: Tensor, num_classes: int) -> bool:
    """Whether the kernels of losses/triton_kernel.py take these logits.

    A compiler has its own, and torch.func can't look into them.
    """
    fits = logits.device.type == "cuda" and logits.dtype in _OF_KERNELS and num_classes <= 32
    if not fits or not logits.numel() or torch.compiler.is_compiling():
        return False
    return _has_triton() and not torch._C._are_functorch_transforms_active()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


# --- Forms of a target


def _hard_target(
    logits: Tensor, target: Tensor, ignore_index: int | None, *, masks: bool
) -> Tensor:
    """Labels (b *s) or masks (b·k *s) of a target in any of its shapes."""
    if masks:
        return rearrange(as_masks(logits, target, ignore_index), "b m ... -> (b m) ...")
    return as_labels(logits, target, ignore_index)


def _soft_target(
    logits: Tensor, target: Tensor, dtype: torch.dtype, ignore_index: int | None, *, masks: bool
) -> tuple[Tensor, Tensor | None]:
    """The same for the largest fractions, and the fractions (b k *s) if the target has them."""
    check_tensor("target", target, logits)
    if masks and logits.shape[1] == 1 and target.shape == logits[:, 0].shape:
        target = target[:, None]
    if target.shape != logits.shape:  # labels, or wrong
        return _hard_target(logits, target, ignore_index, masks=masks), None
    if masks:
        return soft_masks(rearrange(target.to(dtype), "b m ... -> (b m) ..."), ignore_index)
    return soft_classes(target.to(dtype), ignore_index)


def check_logits(logits: Tensor) -> None:
    """Logits must be (b k *s) with *s 2-D or 3-D."""
    check_tensor("logits", logits, logits)
    if logits.ndim not in {4, 5}:
        raise RWLossError(
            f"expected logits (b k *s) with *s 2-D or 3-D, got shape {tuple(logits.shape)}"
        )


def check_tensor(what: str, given: object, logits: Tensor) -> None:
    """Raises RWLossError for what is not a tensor, or not on the device of the logits."""
    if not isinstance(given, Tensor):
        raise RWLossError(
            f"expected {what} as a tensor, got {type(given).__name__}: a list is for deep "
            "supervision, where the logits are one too; for arrays use torch.as_tensor"
        )
    if given.device != logits.device:
        raise RWLossError(
            f"{what} is on {given.device}, logits are on {logits.device}: move it with "
            f"{what}.to(logits.device)"
        )


def as_labels(logits: Tensor, target: Tensor, ignore_index: int | None = None) -> Tensor:
    """Convert a target (b *s), (b 1 *s) or one-hot (b k *s) to labels (b *s), for logits (b k *s).

    ignore_index: the label of voxels that are 0 in all channels of a one-hot target, unless it is
    the number of a channel. Raises RWLossError that names both shapes when they do not fit, and for
    a (b k *s) target that is not one-hot.
    """
    check_logits(logits)
    check_tensor("target", target, logits)
    batch, k, *spatial = logits.shape
    if list(target.shape) == [batch, *spatial]:
        return target
    if list(target.shape) == [batch, 1, *spatial]:
        return target[:, 0]
    if target.shape != logits.shape:
        raise RWLossError(
            f"target {tuple(target.shape)} does not fit logits {tuple(logits.shape)}: expected "
            f"labels {(batch, *spatial)}, {(batch, 1, *spatial)}, or one-hot {(batch, k, *spatial)}"
        )
    if target.dtype in _NO_ARGMAX:
        target = target.long()
    labels = target.argmax(dim=1)
    if ignore_index is None or 0 <= ignore_index < k:
        return one_hot_labels(labels, target, False)
    return one_hot_labels(labels.where(target.any(dim=1), ignore_index), target, True)


@in_graphs("(Tensor labels, Tensor target, bool may_be_empty) -> Tensor")
def one_hot_labels(labels: Tensor, target: Tensor, may_be_empty: bool) -> Tensor:
    """The labels (b *s), if the target (b k *s) has a single 1 there and 0 elsewhere."""
    one_hot = torch.zeros_like(target).scatter_(1, target.argmax(dim=1, keepdim=True), 1)
    if may_be_empty:
        one_hot = one_hot * target.any(dim=1, keepdim=True)
    if fails(one_hot == target, "a target of as many channels as the logits is not one-hot"):
        raise RWLossError(
            f"target {tuple(target.shape)} has as many channels as the logits but is not one-hot: "
            "expected a single 1 per voxel and 0 elsewhere; pass labels (b *s), or "
            'activation="sigmoid" for masks that overlap'
        )
    return labels


def labels_of(regions: Regions, logits: Tensor, num_classes: int, masks: int) -> Tensor:
    """Labels (b *s) of a target that is Regions; of masks (b·m *s), as `Regions.from_masks`."""
    check_logits(logits)
    check_tensor("regions.labels", regions.labels, logits)
    expected = (logits.shape[0] * max(masks, 1), *logits.shape[2:])
    if (tuple(regions.labels.shape), regions.num_classes) != (expected, num_classes):
        raise RWLossError(
            f"the target is {regions}, which does not fit logits {tuple(logits.shape)}: expected "
            f"labels {expected} of {num_classes} classes"
        )
    labels: Tensor = regions.labels
    return labels


def as_masks(logits: Tensor, target: Tensor, ignore_index: int | None = None) -> Tensor:
    """Masks (b k *s) of 0 and 1, one for each channel; they may overlap.

    ignore_index: a third value that is allowed. Raises RWLossError for another shape than that of
    the logits, or for other values.
    """
    check_logits(logits)
    check_tensor("target", target, logits)
    if logits.shape[1] == 1 and target.shape == logits[:, 0].shape:
        target = target[:, None]
    if target.shape != logits.shape:
        raise RWLossError(
            f"target {tuple(target.shape)} does not fit logits {tuple(logits.shape)}: with "
            'activation="sigmoid" expected a mask of 0 and 1 for each channel'
        )
    return binary_masks(target, ignore_index)


@in_graphs("(Tensor target, int? ignore_index) -> Tensor")
def binary_masks(target: Tensor, ignore_index: int | None) -> Tensor:
    """The masks, if they hold 0, 1 and `ignore_index` alone."""
    fine = (target == 0) | (target == 1)
    if ignore_index is not None:  # compared wide: torch wraps what a narrow type can't hold
        fine |= target.double() == ignore_index
    if fails(fine, "a mask has another value than 0 and 1"):
        raise RWLossError(
            f"expected masks of 0 and 1, got {float(target[~fine][0]):g}: with activation="
            '"sigmoid" every channel is a mask; for class labels use activation="softmax"'
        )
    return target


@in_graphs(
    "(Tensor labels, int num_classes, int? ignore_index, Tensor? probs=None) -> Tensor",
    dtype=torch.int64,
)
def whole_labels(
    labels: Tensor, num_classes: int, ignore_index: int | None, probs: Tensor | None = None
) -> Tensor:
    """Labels as whole numbers of 0..num_classes-1, and -1 where ignored. (b *s).

    Raises RWLossError that names the offending value, of labels or of probabilities outside 0..1.
    """
    if probs is not None:
        outside = (probs < -_ROUNDING) | (probs > 1 + _ROUNDING)
        if fails(~outside, "a probability is not in 0..1"):
            raise RWLossError(
                f"expected probabilities of 0 to 1, got {float(probs[outside][0]):g}: with "
                'activation="none" the network must give probabilities; for logits use '
                'activation="softmax" or activation="sigmoid"'
            )
    checked: Tensor = checked_labels(labels, num_classes, ignore_index)
    return checked


@in_graphs("(Tensor part, Tensor labels, Tensor target) -> Tensor")
def of_labels(part: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """The part of a map, if it is of the labels of the target."""
    if fails(labels.long() == target.long(), OTHER_LABELS):
        raise RWLossError(
            "the map was made from other labels than the target: it must be cropped, flipped and "
            "rotated together with the image, or made on the fly"
        )
    return part


def as_voxel_mask(logits: Tensor, mask: Tensor) -> Tensor:
    """Which voxels count, (b *s) boolean, from 0 and 1 as (b *s), (b 1 *s) or (1 1 *s)."""
    check_tensor("mask", mask, logits)
    batch, _, *spatial = logits.shape
    if mask.ndim == logits.ndim and list(mask.shape[1:]) == [1, *spatial] and len(mask) == 1:
        mask = mask.expand(batch, *mask.shape[1:])
    if list(mask.shape) == [batch, 1, *spatial]:
        mask = mask[:, 0]
    if list(mask.shape) != [batch, *spatial]:
        raise RWLossError(
            f"mask {tuple(mask.shape)} does not fit logits {tuple(logits.shape)}: expected "
            f"{(batch, *spatial)}, {(batch, 1, *spatial)} or {(1, 1, *spatial)}"
        )
    return mask if mask.dtype == torch.bool else zeros_and_ones(mask)


@in_graphs("(Tensor mask) -> Tensor", dtype=torch.bool)
def zeros_and_ones(mask: Tensor) -> Tensor:
    """The mask as boolean, if it holds 0 and 1 alone. A boolean one needs no such check."""
    fine = (mask == 0) | (mask == 1)
    if fails(fine, "the mask of voxels that count has another value than 0 and 1"):
        raise RWLossError(
            f"expected a mask of 0 and 1, got {float(mask[~fine][0]):g}: a voxel counts or it does "
            "not; pass mask > 0.5, or mask > 0 to count every voxel that has some weight"
        )
    return mask != 0


def batch_spacings(spacing_mm: SpacingMM | None, batch: int, axes: int) -> SpacingRows:
    """One spacing per image, checked by `spacing_rows`, whose NumPy no compiled graph can hold."""
    if not torch.compiler.is_compiling():
        return spacing_rows(spacing_mm, (batch, *(0,) * axes))
    spacing: Any = (1.0,) * axes if spacing_mm is None else spacing_mm
    rows = spacing if isinstance(spacing[0], (tuple, list)) else [spacing] * batch
    low, high = POSSIBLE_MM
    if len(rows) != batch or any(
        len(row) != axes or not all(low <= mm <= high for mm in row) for row in rows
    ):
        raise RWLossError(f"expected a spacing in mm for each of {axes} axes, got {spacing}")
    return tuple(map(tuple, rows))
