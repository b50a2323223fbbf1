"""Written-out gradients against plain autograd; first and second derivatives, and torch.func."""

import loss_batches
import pytest
import torch
from loss_batches import every, given_masks, here, value_and_gradient

from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.losses.costs import dense_sum, linear_sum


def given(shape=(3, 2)):
    return loss_batches.given(shape, num_classes=3, size=2)


def inputs(shape=(4, 3)):
    seed = torch.Generator().manual_seed(7)
    logits = 3 * torch.randn(2, 3, *shape, generator=seed, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, *shape), generator=seed)
    weight = torch.rand(2, *shape, generator=seed, dtype=torch.float64)
    weight[0, 0] = 0.0
    values = torch.randn(2, 3, *shape, generator=seed, dtype=torch.float64)
    return here(logits).requires_grad_(), here(labels), here(weight), here(values)


def plain_linear(logits, labels, weight):
    return (weight * (1 - torch.softmax(logits, dim=1).gather(1, labels[:, None])[:, 0])).sum()


def check_derivatives(ours, wanted, logits, *, twice):
    """Value and gradient are those of plain autograd, and of finite differences."""
    torch.testing.assert_close(ours(logits), wanted)
    [found] = torch.autograd.grad(5 * ours(logits), logits)
    [expected] = torch.autograd.grad(5 * wanted, logits)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(ours, logits, fast_mode=True)
    assert not twice or torch.autograd.gradgradcheck(ours, logits, fast_mode=True)


@every(shape=[(4, 3), (2, 3, 2)])
def test_linear_sum(shape):
    logits, labels, weight, _ = inputs(shape)
    wanted = plain_linear(logits, labels, weight)
    check_derivatives(lambda x: linear_sum(x, labels, weight), wanted, logits, twice=False)


@every(low_memory=[False, True], one_number=[False, True])
def test_dense_sum(low_memory, one_number):
    logits, _, scale, values = inputs()
    scale = here(torch.tensor(0.25, dtype=torch.float64)) if one_number else scale
    check_derivatives(
        lambda x: dense_sum(x, values, scale, low_memory=low_memory),
        ((torch.softmax(logits, dim=1) * values).sum(dim=1) * scale).sum(),
        logits,
        twice=low_memory,
    )


def test_sums_that_a_network_needs():
    logits, labels, weight, values = inputs()
    linear, dense = linear_sum(logits, labels, weight), dense_sum(logits, values, weight)
    low = dense_sum(logits, values, weight, low_memory=True)
    # Nothing of the size of the logits is kept but the probabilities, or the logits themselves.
    for value, number in ((linear, 1), (dense, 1), (low, 0)):
        kept = [t for t in value.grad_fn.saved_tensors if t is not logits and t is not values]
        assert sum(t.shape == logits.shape for t in kept) == number
    # A graph can be walked twice.
    total = linear + dense + low
    [first] = torch.autograd.grad(total, logits, retain_graph=True)
    [second] = torch.autograd.grad(total, logits)
    assert torch.equal(first, second)
    # A map that violates the principle has weights below 0; the linear cost knows no difference.
    found = linear_sum(logits, labels, -weight)
    torch.testing.assert_close(found, -plain_linear(logits, labels, weight))


@every(q=[0.0, 0.3, 1.0], low_memory=[False, True])
def test_margins_of_200(q, low_memory):
    """p_t underflows in float32: the link's loss and gradient do not."""
    logits = here(torch.tensor([[[[200.0, 0.0]], [[0.0, 200.0]]]]))
    labels = here(torch.tensor([[[1, 1]]]))
    loss = RegionWiseLoss(f"active_contour.with_link({q})", low_memory=low_memory)
    value, gradient = value_and_gradient(loss, logits, labels)
    assert gradient.isfinite().all()
    assert float(4 * value) == pytest.approx({0.0: 200.0, 0.3: 1 / 0.3, 1.0: 1.0}[q])
    if q == 0.0:
        torch.testing.assert_close(4 * gradient[0, :, 0, 0], here(torch.tensor([1.0, -1.0])))


# --- Of the loss


@every(
    text=[
        "rectified",
        "boundary",
        "rectified.with_link(0)",
        "rectified.with_link(0.5)",
        "dice",
        "cross_entropy",
        "rectified + 0.5 * dice + boundary",
    ],
    include_background=[True, False],
)
def test_first_and_second_derivatives(text, include_background):
    logits, labels = given()
    loss = RegionWiseLoss(text, include_background=include_background, low_memory=True)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, labels), logits, fast_mode=True)


@every(text=["rectified", "rectified.with_link(0.5)", "dice"])
def test_derivatives_with_stored_map_mask_and_sigmoid(text):
    logits, masks = given_masks((3, 2), masks=2)
    stored = maps.Rectified()(Regions(masks.flatten(0, 1), 2)) if "rect" in text else None
    mask = here(torch.tensor([[1, 0], [1, 1], [0, 1]])).expand(2, 3, 2)
    loss = RegionWiseLoss(text, activation="sigmoid", low_memory=True)
    logits.requires_grad_()

    def masked(x):
        return loss(x, masks, stored, mask=mask)

    assert torch.autograd.gradcheck(masked, logits, fast_mode=True)
    assert torch.autograd.gradgradcheck(masked, logits, fast_mode=True)


@every(text=["rectified + dice", "boundary"], low_memory=[True, False])
def test_gradient_penalty(text, low_memory):
    """A norm of the gradient as part of a loss: right with low memory, refused without."""
    logits, labels = given()
    logits.requires_grad_()
    value = RegionWiseLoss(text, low_memory=low_memory)(logits, labels)
    [gradient] = torch.autograd.grad(value, logits, create_graph=True)
    penalty = gradient.square().sum()
    if low_memory:
        assert torch.autograd.grad(penalty, logits)[0].any()
        return
    with pytest.raises(RWLossError, match=r"second derivative.*low_memory=True"):
        torch.autograd.grad(penalty, logits)


STATIC = ["rectified", "boundary", "rectified.with_link(0.5)", "rectified + dice"]


@every(text=[*STATIC, "hausdorff_dt", "(dice + boundary).stabilized()"])
def test_gradients_by_torch_func(text):
    """Maps are made from labels on the fly, in NumPy where the engine is; stored ones too."""
    logits, labels = given((5, 4))
    for ignore_index in (None, 2):
        loss = RegionWiseLoss(text, ignore_index=ignore_index)
        static = loss.expression.static_part
        stored = static and static(Regions(labels, 3, ignore_label=ignore_index))
        for rwmap in (None, stored):
            [wanted] = torch.autograd.grad(loss(logits.requires_grad_(), labels, rwmap), logits)
            found = torch.func.grad(lambda x, r=rwmap, loss=loss: loss(x, labels, r))(logits)
            assert torch.equal(found, wanted)
    if text not in STATIC:
        return
    low = RegionWiseLoss(text, low_memory=True)

    def norm(x):
        return torch.func.grad(lambda x: low(x, labels))(x).square().sum()

    [gradient] = torch.autograd.grad(low(logits, labels), logits, create_graph=True)
    [wanted] = torch.autograd.grad(gradient.square().sum(), logits)
    torch.testing.assert_close(torch.func.grad(norm)(logits), wanted)
