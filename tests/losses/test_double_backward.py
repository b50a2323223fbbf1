"""Second derivatives, for gradient penalties and Hessian-vector products."""

import pytest
import torch
from loss_batches import given, given_masks, here

from rwloss import Regions, RegionWiseLoss, RWLossError, maps


@pytest.mark.parametrize(
    "text",
    [
        "rectified",
        "boundary",
        "rectified.with_link(0)",
        "rectified.with_link(0.5)",
        "dice",
        "cross_entropy",
        "rectified.with_link(0.5) + boundary + dice",
    ],
)
@pytest.mark.parametrize("include_background", [True, False])
def test_first_and_second_derivatives(text, include_background):
    logits, labels = given((2, 2), num_classes=3, size=2)
    labels[0, 0] = 255
    loss = RegionWiseLoss(
        text, include_background=include_background, ignore_index=255, low_memory=True
    )
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, labels), logits)


@pytest.mark.parametrize("text", ["rectified", "rectified.with_link(0.5)", "dice"])
def test_stored_map_mask_and_sigmoid(text):
    logits, masks = given_masks((3, 2), masks=2)
    stored = maps.Rectified()(Regions(masks.flatten(0, 1), 2)) if "rect" in text else None
    mask = here(torch.tensor([[1, 0], [1, 1], [0, 1]])).expand(2, 3, 2)
    loss = RegionWiseLoss(text, activation="sigmoid", low_memory=True)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, masks, stored, mask=mask), logits)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, masks, stored, mask=mask), logits)


def test_gradient_penalty():
    """The use of it: a norm of the gradient as part of a loss."""
    logits, labels = given((5, 4))
    logits.requires_grad_()
    value = RegionWiseLoss("rectified + dice", low_memory=True)(logits, labels)
    [gradient] = torch.autograd.grad(value, logits, create_graph=True)
    [second] = torch.autograd.grad(gradient.square().sum(), logits)
    assert second.isfinite().all()
    assert second.any()


@pytest.mark.parametrize("text", ["rectified", "boundary"])
def test_without_low_memory_it_says_so(text):
    logits, labels = given((5, 4))
    logits.requires_grad_()
    value = RegionWiseLoss(text)(logits, labels)
    with pytest.raises(RWLossError, match="low_memory=True"):
        torch.autograd.grad(value, logits, create_graph=True)
