"""What tests of losses share: batches from a seed, and values beside gradients.

Batches lie on `device`, which tests/losses/conftest.py sets for each test.
"""

from functools import wraps
from inspect import signature
from itertools import product

import torch
from anatomy import batch

DYNAMIC = [
    "cross_entropy",
    "focal",
    "dice",
    "generalized_dice",
    "tversky",
    "focal_tversky",
    "hausdorff_dt",
    "log_hausdorff_dt",
    "soft_cl_dice",
    "active_contour_length",
    "hausdorff_one_sided",
    "generalized_surface",
    "boundary_dou",
    "lovasz_softmax",
    "asymmetric_focal",
    "asymmetric_focal_tversky",
    "unified_focal",
    "poly",
    "mcc",
    "tvmf_dice",
    "svls",
    "top_k",
    "generalized_wasserstein_dice",
]
"""Every dynamic term that ships."""


device = "cpu"


def every(**choices):
    """As `pytest.mark.parametrize` over each of these, but as one test, which takes less time.

    A failure has a note that says which case it was.
    """

    def decorate(test):
        @wraps(test)
        def run(**fixtures):
            for values in product(*choices.values()):
                case = dict(zip(choices, values, strict=True))
                try:
                    test(**case, **fixtures)
                except Exception as error:
                    error.add_note(f"The case was {case}.")
                    raise

        given = signature(test)
        left = [each for name, each in given.parameters.items() if name not in choices]
        run.__signature__ = given.replace(parameters=left)
        return run

    return decorate


def here(values):
    """A tensor or NumPy array as a tensor on the device of the test."""
    return torch.as_tensor(values).to(device)


def as_kind(tensor, kind):
    """The tensor itself, or its values in NumPy memory."""
    return tensor.cpu().numpy() if kind == "numpy" else tensor


def normal(*shape, seed=0, dtype=torch.float32):
    """Random numbers on the device: the same on every device."""
    return here(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def uniform(*shape, seed=0, dtype=torch.float32):
    """Random numbers in 0..1 on the device: the same on every device."""
    return here(torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def given(shape, num_classes=4, dtype=torch.float64, seed=91, size=3):
    """Logits (b k *s) without gradient, and labels (b *s) uint8."""
    logits = 2 * normal(size, num_classes, *shape, seed=seed, dtype=torch.float64)
    return logits.to(dtype), here(batch(seed, shape, num_classes, size))


def given_masks(shape, masks=3, dtype=torch.float64, seed=92, size=2):
    """Logits (b k *s) without gradient, and masks (b k *s) uint8 that overlap."""
    target = torch.stack([here(batch((seed, k), shape, 2, size)) for k in range(masks)], dim=1)
    logits = 2 * normal(size, masks, *shape, seed=seed, dtype=torch.float64)
    return logits.to(dtype), target


def value_and_gradient(loss, logits, *args, **kwargs):
    """Value () on the CPU and gradient (b k *s), or a list of gradients for a list of logits."""
    many = isinstance(logits, (list, tuple))
    leaves = [x.detach().clone().requires_grad_() for x in (logits if many else [logits])]
    value = loss(leaves if many else leaves[0], *args, **kwargs)
    gradients = torch.autograd.grad(value, leaves)
    return value.detach().cpu(), list(gradients) if many else gradients[0]


def assert_close(found, wanted, relative=2e-6):
    """Close relative to the largest value wanted."""
    found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
    assert found.shape == wanted.shape
    largest = wanted.abs().max().item() if wanted.numel() else 0.0
    torch.testing.assert_close(found, wanted, rtol=relative, atol=relative * largest)


def assert_same(found, wanted, relative=2e-6):
    """Values and gradients, as `value_and_gradient` gives them, are close."""
    assert_close(found[0], wanted[0], relative)
    for one, other in zip(
        *(g if isinstance(g, list) else [g] for g in (found[1], wanted[1])), strict=True
    ):
        assert_close(one, other, relative)


def one_hot(labels, num_classes):
    """(b *s) -> (b k *s), 0 in every class where no class is meant."""
    classes = torch.arange(num_classes, device=labels.device).reshape(
        1, -1, *[1] * (labels.ndim - 1)
    )
    return (labels[:, None].long() == classes).double()
