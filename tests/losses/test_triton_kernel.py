"""The kernel for GPUs against the plain path: on CUDA, or on the CPU by Triton's interpreter."""

import importlib.util
import os

import pytest
import torch
from interpreted import large_tiles
from loss_batches import assert_close, given, given_masks, here, value_and_gradient
from pretend_cuda import PretendCuda

from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.losses import batch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None
    or not (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"),
    reason="no triton, or neither a CUDA device nor TRITON_INTERPRET=1",
)


@pytest.fixture
def compared(monkeypatch):
    """Gives a function that compares value and gradient of a loss with and without the kernels."""

    def compare(loss, logits, *args, relative=1e-6, **keywords):
        monkeypatch.setattr(batch, "_have_kernels", lambda logits, k: True)
        found = value_and_gradient(loss, logits, *args, **keywords)
        monkeypatch.setattr(batch, "_have_kernels", lambda logits, k: False)
        wanted = value_and_gradient(loss, logits.double(), *args, **keywords)
        assert (found[0].dtype, found[1].dtype) == (torch.float32, logits.dtype)
        assert found[1].shape == logits.shape
        assert_close(found[0], wanted[0], 1e-6)
        assert_close(found[1], wanted[1], relative)

    return compare


@pytest.mark.parametrize(
    ("k", "shape"),
    [
        (5, (9, 7)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((3, (9, 7)), (2, (5, 4, 3)))),
    ],
)
def test_compact_and_dense_maps(compared, k, shape):
    logits, labels = given(shape, k, dtype=torch.float32)
    for text in ("rectified", "class_weighted", "boundary", "rectified + 0.1 * boundary"):
        compared(RegionWiseLoss(text), logits, labels)
    stored = maps.get("rectified")(Regions(labels, k))
    compared(RegionWiseLoss("rectified"), logits, labels.long(), stored)
    compared(RegionWiseLoss(), 30 * logits, labels, stored.dense())


def test_several_batches_in_one_call(compared):
    """Each has its own mean, as `by_group` gives for stacked runs."""
    logits, labels = given((9, 7), dtype=torch.float32, size=4)
    weights, spacing = here(torch.tensor([1.0, -2.0])), (1.0, 2.0)
    for text, ignore in (("rectified", None), ("boundary + dice", 3), ("dice", 3)):
        loss = RegionWiseLoss(text, ignore_index=ignore)
        compared(
            lambda x, loss=loss: (weights * loss.by_group(x, labels, None, spacing, 2)).sum(),
            logits,
        )


def test_more_voxels_than_a_program_has(compared):
    logits, labels = given((45, 50), 4, dtype=torch.float32, size=2)
    compared(RegionWiseLoss("rectified", class_weights=(1, 2, 3, 4)), logits, labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_and_written_as_it_is(compared, dtype):
    """The value is exact in float32; the gradient is rounded once."""
    logits, labels = given((9, 7), dtype=torch.float32)
    loss = RegionWiseLoss("rectified", reduction="sum")  # float16 holds gradients of this size
    with torch.autocast(logits.device.type, dtype=torch.bfloat16):
        compared(loss, logits.to(dtype), labels, relative=torch.finfo(dtype).eps)


def test_voxels_that_do_not_count(compared):
    """Ignored ones, a mask, and NaN in their logits."""
    logits, labels = given((9, 7), dtype=torch.float32)
    labels[:, :2], labels[0] = 255, 255
    logits[:, 1, 0, 0] = float("nan")
    mask = here(torch.arange(7) != 3).expand(labels.shape)
    for text in ("rectified", "boundary"):
        compared(RegionWiseLoss(text, ignore_index=255), logits, labels, mask=mask)
    compared(RegionWiseLoss("rectified", ignore_index=255), logits, labels * 0 + 255)


def test_logits_of_any_strides(compared):
    logits, labels = given((5, 4, 3), dtype=torch.float32)
    turned = logits.transpose(2, 4).contiguous().transpose(2, 4)
    every_second = torch.stack([logits, -logits], dim=2)[:, :, 0]
    for strided in (logits.to(memory_format=torch.channels_last_3d), turned, every_second):
        assert not strided.is_contiguous()
        compared(RegionWiseLoss("rectified"), strided, labels)


def test_masks_and_other_terms(compared):
    compared(
        RegionWiseLoss("rectified", activation="sigmoid"), *given_masks((9, 7), dtype=torch.float32)
    )


def test_overlaps(compared):
    """Of images and of the batch, with and without background, ignored voxels and masks."""
    logits, labels = given((9, 7), 5, dtype=torch.float32)
    void = labels.clone()
    void[:, :2] = 255
    compared(RegionWiseLoss("rectified + dice"), logits, labels)
    mask = here(torch.arange(7) != 3).expand(labels.shape)
    compared(RegionWiseLoss("dice", ignore_index=255), logits, void, mask=mask)
    compared(RegionWiseLoss("tversky", batch=True, include_background=False), logits, labels)
    compared(RegionWiseLoss("dice(include_background=False)"), logits.transpose(2, 3), labels.mT)
    masks = given_masks((9, 7), dtype=torch.float32)
    compared(RegionWiseLoss("generalized_dice + dice", activation="sigmoid"), *masks)


class Missed(maps.LossTerm):
    """The share of a class that is missed: of the overlaps it needs one gradient alone."""

    name = "missed"
    takes_overlap = True

    def loss(self, prediction):
        both, _, true = prediction.overlap()
        return 1 - both / (true + 1)


def test_one_gradient_of_the_overlaps(compared):
    logits, labels = given((9, 7), 5, dtype=torch.float32)
    for expression in (Missed(), maps.Rectified() + Missed()):
        compared(RegionWiseLoss(expression), logits, labels)


def test_a_second_derivative_is_refused(monkeypatch):
    logits, labels = given((4, 4), dtype=torch.float32)
    monkeypatch.setattr(batch, "_have_kernels", lambda logits, k: True)
    logits.requires_grad_()
    for text in ("rectified", "dice"):
        loss = RegionWiseLoss(text)(logits, labels)
        (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
        with pytest.raises(RWLossError, match="low_memory=True"):
            gradient.sum().backward()


@pytest.mark.parametrize("device", ["cpu"])
def test_what_the_kernel_is_chosen_for():
    """Logits of 32 bits or fewer on CUDA and maps without a link; all else takes the plain path."""

    def is_chosen(text, logits, target, **settings):
        with large_tiles(target), PretendCuda() as cuda:
            leaf = cuda.tensor(logits).requires_grad_()
            RegionWiseLoss(text, **settings)(leaf, cuda.tensor(target)).backward()
            assert leaf.grad.device.type == "cuda"
        assert not cuda.waits
        return cuda.operations["rwloss::softmax_gradients"] > 0

    logits, labels = given((4, 4), dtype=torch.float32)
    many = torch.zeros(3, 33, 4, 4)
    assert is_chosen("rectified", logits, labels)
    assert is_chosen("rectified", logits.bfloat16(), labels)
    assert is_chosen("rectified", many[:, :32], labels)
    assert is_chosen("dice", logits, labels)
    assert not is_chosen("cross_entropy", logits, labels)
    assert not is_chosen("rectified", many, labels)
    assert not is_chosen("rectified", logits.double(), labels)
    assert not is_chosen("rectified.with_link(0.5)", logits, labels)
    assert not is_chosen("rectified", logits, labels, low_memory=True)
    assert not is_chosen("rectified", logits, labels, include_background=False)
    assert not is_chosen("rectified", logits.softmax(dim=1), labels, activation="none")
