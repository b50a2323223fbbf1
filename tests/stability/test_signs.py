"""The signs of life of each class, against a plain loop over voxels."""

import json

import pytest
import torch

from rwloss.arrays import read_all
from rwloss.stability.report import number
from rwloss.stability.signs import class_signs, sign_values, signs_of


def plain(probs, labels, gradient):
    """Every figure by a loop over classes."""
    counted = labels >= 0
    of_all = int(counted.sum())
    best = probs.argmax(dim=1)
    found = {}
    for k in range(probs.shape[1]):
        own, others = labels == k, counted & (labels != k)
        up = -gradient[:, k][own].clamp_max(0).sum()
        figures = {
            "true_volume": int(own.sum()) / max(1, of_all),
            "predicted_volume": int((best[counted] == k).sum()) / max(1, of_all),
            "own_probability": float(probs[:, k][own].mean()),
            "other_probability": float(probs[:, k][others].mean()),
            "gradient_share": float(
                gradient.abs().sum(dim=1)[own].sum()
                / gradient.abs().sum(dim=1)[counted].sum().clamp_min(1e-30)
            ),
            "live_pull": float(up / gradient[:, k][others].clamp_min(0).sum()),
        }
        for name, value in figures.items():
            found.setdefault(name, []).append(number(value))
    return found


def test_signs_against_a_plain_loop(device):
    """Class 3 is in no image; without any voxel there are no probabilities."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 3, (2, 6, 5), generator=generator)
    probs = torch.randn(2, 4, 6, 5, generator=generator).softmax(dim=1)
    gradient = torch.randn(2, 4, 6, 5, generator=generator)
    for target in (labels, torch.full_like(labels, -1), torch.zeros_like(labels)):
        found = class_signs(*(each.to(device) for each in (probs, target, gradient)))
        wanted = plain(probs, target, gradient)
        assert found.keys() == wanted.keys()
        for name, values in wanted.items():
            for one, other in zip(found[name], values, strict=True):
                assert one == (pytest.approx(other) if isinstance(other, float) else other), name
        json.dumps(found, allow_nan=False)
    assert "live_pull" not in class_signs(probs, labels)


def test_groups_are_batches_of_their_own():
    """In the last group no voxel counts; in the first, class 2 is nowhere."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 3, (6, 6, 5), generator=generator)
    labels[:2].clamp_(max=1)
    labels[4:] = -1
    probs = torch.randn(6, 3, 6, 5, generator=generator).softmax(dim=1)
    gradient = torch.randn(6, 3, 6, 5, generator=generator)
    found = read_all(sign_values(probs, labels, gradient, groups=3))
    for group in range(3):
        own = slice(2 * group, 2 * group + 2)
        assert signs_of(found, group) == class_signs(probs[own], labels[own], gradient[own])


def test_live_pull_is_the_pull_ratio_at_this_prediction():
    """Of cross-entropy where a class is as probable everywhere as it is frequent: 1."""
    labels = torch.zeros(1, 10, 10, dtype=torch.long)
    labels[:, :2, :5] = 1
    logits = torch.tensor([0.9, 0.1]).log()[None, :, None, None].expand(1, 2, 10, 10).clone()
    logits.requires_grad_()
    torch.nn.functional.cross_entropy(logits, labels).backward()
    signs = class_signs(logits.softmax(dim=1), labels, logits.grad)
    assert signs["live_pull"] == pytest.approx([1, 1])
    assert signs["own_probability"] == signs["other_probability"] == pytest.approx([0.9, 0.1])
