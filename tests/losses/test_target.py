"""What a target may look like."""

import re

import loss_batches
import pytest
import torch

from rwloss import RegionWiseLoss, RWLossError
from rwloss.losses import as_labels

SHAPES = [(6, 7), (4, 5, 3)]
TYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float32]


def given(shape):
    logits, labels = loss_batches.given(shape)
    return logits, labels.long()


def one_hot(labels):
    return loss_batches.one_hot(labels, 4).long()


def refused(message, logits, target):
    """By each kind of loss too."""
    for loss in (as_labels, RegionWiseLoss("rectified"), RegionWiseLoss("dice")):
        with pytest.raises(RWLossError, match=re.escape(message)):
            loss(logits, target)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_labels(shape, dtype):
    logits, labels = given(shape)
    assert torch.equal(as_labels(logits, labels.to(dtype)), labels.to(dtype))
    assert torch.equal(as_labels(logits, labels[:, None].to(dtype)), labels.to(dtype))


@pytest.mark.parametrize("dtype", [*TYPES, torch.bool, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_hot(shape, dtype):
    logits, labels = given(shape)
    assert torch.equal(as_labels(logits, one_hot(labels).to(dtype)), labels)


def test_sizes_that_could_be_taken_for_each_other():
    """As many classes as rows, columns and images."""
    logits, labels = loss_batches.given((4, 4), size=4)
    for target in (labels, labels[:, None], one_hot(labels)):
        assert torch.equal(as_labels(logits, target), labels)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t * 0.9,
        lambda t: t * 2,
        torch.zeros_like,
        torch.ones_like,
        lambda t: torch.softmax(t, dim=1),
        lambda t: t * torch.nan,
        lambda t: -t,
    ],
    ids=["soft", "two", "nothing", "everything", "probabilities", "nan", "negative"],
)
def test_channels_that_are_not_one_hot(spoil):
    logits, labels = given((6, 7))
    message = "target (3, 4, 6, 7) has as many channels as the logits but is not one-hot"
    refused(message, logits, spoil(one_hot(labels).float()))


def test_one_voxel_that_is_not_one_hot():
    logits, labels = given((6, 7))
    target = one_hot(labels)
    target[1, ::2, 2, 3], target[1, 1::2, 2, 3] = 1, 0
    refused("is not one-hot: expected a single 1 per voxel", logits, target)


@pytest.mark.parametrize(
    "shape",
    [(3, 6), (3, 7, 6), (2, 6, 7), (3, 2, 6, 7), (3, 4, 7, 6), (1, 1, 6, 7), (6, 7), (3, 6, 7, 1)],
    ids=str,
)
def test_shape_that_does_not_fit_names_both(shape):
    logits, _ = given((6, 7))
    message = (
        f"target {shape} does not fit logits (3, 4, 6, 7): expected labels (3, 6, 7), "
        "(3, 1, 6, 7), or one-hot (3, 4, 6, 7)"
    )
    refused(message, logits, loss_batches.here(torch.zeros(shape)))
