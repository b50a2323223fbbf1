"""The live record against formulas written out."""

import pytest
import torch

from rwloss import RegionWiseLoss
from rwloss.training import Batch
from rwloss.training.record import Recorder


def recorded(text, labels, logits):
    """Figures of a network that is its logits alone, and the gradient by them."""

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = torch.nn.Parameter(logits)

    network = Logits()
    out = network.logits * 1.0
    out.retain_grad()
    loss = RegionWiseLoss(text, ignore_index=-1)
    spacings = ((1.0, 1.0),) * len(labels)
    value = loss(out, labels, spacing_mm=spacings)
    value.backward()
    batch = Batch(torch.zeros(len(labels), 1, *labels.shape[1:]), labels, spacings)
    return Recorder(loss).figures(network, out, batch), out.grad, value


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 3, (2, 6, 5), generator=generator)
    return labels, torch.randn(2, 3, 6, 5, generator=generator)


@pytest.mark.parametrize("text", ["rectified", "boundary + dice"])
def test_figures_by_counting(batch, text):
    labels, logits = batch
    figures, gradient, _ = recorded(text, labels, logits)
    assert figures["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-5)
    push = gradient.abs().sum(dim=1)
    counted = (labels >= 0).sum()
    for k in range(3):
        share = push[labels == k].sum() / push.sum()
        assert figures["gradient_share"][k] == pytest.approx(float(share), rel=1e-5)
        truth = (labels == k).sum() / counted
        assert figures["true_volume"][k] == pytest.approx(float(truth), rel=1e-6)
        found = ((logits.argmax(1) == k) & (labels >= 0)).sum() / counted
        assert figures["predicted_volume"][k] == pytest.approx(float(found), rel=1e-6)
    for name in ("gradient_share", "true_volume", "predicted_volume"):
        assert sum(figures[name]) == pytest.approx(1)


def test_excess_and_wrong_way_mass(batch):
    labels, logits = batch
    figures, _, value = recorded("rectified", labels, logits)
    loss = RegionWiseLoss("rectified", ignore_index=-1)
    best = torch.nn.functional.one_hot(labels.clamp_min(0), 3).movedim(-1, 1) * 1000.0
    least = loss(best, labels)
    assert figures["excess"] == pytest.approx(float(value.detach() - least), rel=1e-4)
    assert figures["wrong_way_mass"] == 0
    assert figures["violating"] == 0
    assert recorded("boundary", labels, logits)[0]["wrong_way_mass"] > 0
    assert len(figures["pull"]) == 3
    assert figures["pull"][0] is None


def test_a_batch_without_counted_voxels_is_no_accident():
    labels = torch.full((1, 4, 4), -1)
    figures, _, _ = recorded("rectified", labels, torch.zeros(1, 3, 4, 4))
    assert figures["gradient_share"] == [0.0, 0.0, 0.0]
    assert figures["gradient_norm"] == 0
