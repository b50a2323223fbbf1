"""What a target may look like."""

import re

import pytest
import torch
from anatomy import batch

from rwloss import RWLossError
from rwloss.losses import as_labels

SHAPES = [(6, 7), (4, 5, 3)]
TYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float32]


def given(shape, num_classes=4):
    labels = torch.as_tensor(batch(81, shape, num_classes)).long()
    return torch.zeros(3, num_classes, *shape), labels


def one_hot(labels, num_classes=4):
    return torch.nn.functional.one_hot(labels, num_classes).movedim(-1, 1)


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
    labels = torch.as_tensor(batch(82, (4, 4), 4, size=4)).long()
    logits = torch.zeros(4, 4, 4, 4)
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
    with pytest.raises(RWLossError, match=re.escape(message)):
        as_labels(logits, spoil(one_hot(labels).float()))


def test_one_voxel_that_is_not_one_hot():
    logits, labels = given((6, 7))
    target = one_hot(labels)
    target[1, :, 2, 3] = torch.tensor([1, 0, 1, 0])
    with pytest.raises(RWLossError, match="is not one-hot: expected a single 1 per voxel"):
        as_labels(logits, target)


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
    with pytest.raises(RWLossError, match=re.escape(message)):
        as_labels(logits, torch.zeros(shape))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 4, 6), (3, 4, 6, 7, 8, 9)], ids=str)
def test_logits_without_classes_or_space(shape):
    with pytest.raises(RWLossError, match=r"expected logits \(b k \*s\) with \*s 2-D or 3-D, got"):
        as_labels(torch.zeros(shape), torch.zeros(3, 6, 7))
