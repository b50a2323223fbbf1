"""The written-out gradients against plain autograd and finite differences."""

import pytest
import torch
from loss_batches import here

from rwloss.losses.costs import dense_sum, linked_sum

QS = [0.0, 0.3, 1.0]


def inputs(dtype=torch.float64, shape=(4, 3), k=3):
    seed = torch.Generator().manual_seed(7)
    logits = (3 * torch.randn(2, k, *shape, generator=seed)).to(dtype)
    labels = torch.randint(0, k, (2, *shape), generator=seed)
    weight = torch.rand(2, *shape, generator=seed).to(dtype)
    weight[0, 0] = 0.0
    values = torch.randn(2, k, *shape, generator=seed).to(dtype)
    return here(logits).requires_grad_(), here(labels), here(weight), here(values)


def plain_linked(logits, labels, weight, q):
    log_true = torch.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
    loss = -log_true if q == 0 else (1 - torch.exp(q * log_true)) / q
    return (weight * loss).sum()


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2)])
def test_linked_sum(q, low_memory, shape):
    logits, labels, weight, _ = inputs(shape=shape)

    def ours(logits):
        return linked_sum(logits, labels, weight, q, low_memory=low_memory)

    wanted = plain_linked(logits, labels, weight, q)
    torch.testing.assert_close(ours(logits), wanted)
    [found] = torch.autograd.grad(5 * ours(logits), logits)
    [expected] = torch.autograd.grad(5 * wanted, logits)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(ours, logits)
    if low_memory or q != 1.0:
        assert torch.autograd.gradgradcheck(ours, logits)


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("one_number", [False, True])
def test_dense_sum(low_memory, one_number):
    logits, _, scale, values = inputs()
    scale = here(torch.tensor(0.25, dtype=torch.float64)) if one_number else scale

    def ours(logits):
        return dense_sum(logits, values, scale, low_memory=low_memory)

    wanted = ((torch.softmax(logits, dim=1) * values).sum(dim=1) * scale).sum()
    torch.testing.assert_close(ours(logits), wanted)
    [found] = torch.autograd.grad(5 * ours(logits), logits)
    [expected] = torch.autograd.grad(5 * wanted, logits)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(ours, logits)
    if low_memory:
        assert torch.autograd.gradgradcheck(ours, logits)


@pytest.mark.parametrize("low_memory", [False, True])
def test_a_graph_can_be_walked_twice(low_memory):
    logits, labels, weight, values = inputs()
    total = linked_sum(logits, labels, weight, low_memory=low_memory) + dense_sum(
        logits, values, weight, low_memory=low_memory
    )
    [first] = torch.autograd.grad(total, logits, retain_graph=True)
    [second] = torch.autograd.grad(total, logits)
    assert torch.equal(first, second)


def test_weights_below_zero():
    """A map that violates the principle has some; the linear cost knows no difference."""
    logits, labels, weight, _ = inputs()
    for low_memory in (False, True):
        found = linked_sum(logits, labels, -weight, low_memory=low_memory)
        torch.testing.assert_close(found, -plain_linked(logits, labels, weight, 1.0))


@pytest.mark.parametrize("q", QS)
def test_margins_of_200(q):
    """p_t underflows in float32: the link's loss and gradient do not."""
    logits = here(torch.tensor([[[[200.0, 0.0]], [[0.0, 200.0]]]])).requires_grad_()
    labels = here(torch.tensor([[[1, 1]]]))
    value = linked_sum(logits, labels, here(torch.ones(1, 1, 2)), q)
    [gradient] = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert gradient.isfinite().all()
    wanted = {0.0: 200.0, 0.3: 1 / 0.3, 1.0: 1.0}[q]
    assert float(value.detach()) == pytest.approx(wanted)
    if q == 0.0:
        torch.testing.assert_close(gradient[0, :, 0, 0], here(torch.tensor([1.0, -1.0])))


def test_less_is_kept_with_low_memory():
    logits, labels, weight, values = inputs()
    for low_memory in (False, True):
        for value in (
            linked_sum(logits, labels, weight, low_memory=low_memory),
            dense_sum(logits, values, weight, low_memory=low_memory),
        ):
            kept = [tensor for tensor in value.grad_fn.saved_tensors if tensor is not logits]
            of_its_own = [t for t in kept if t.shape == logits.shape and t is not values]
            assert len(of_its_own) == (0 if low_memory else 1)
