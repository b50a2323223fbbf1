"""Maps made beside the forward pass: the loss is that of maps made on the fly."""

from contextlib import nullcontext

import pytest
import torch
from interpreted import large_tiles
from loss_batches import assert_close, given, given_masks
from pretend_cuda import PretendCuda

from rwloss import RegionWiseLoss, RWLossError
from rwloss.losses import prepared as module


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("text", ["rectified + dice", "boundary.stabilized()"])
def test_loss_is_that_of_a_map_made_on_the_fly(device, text, activation):
    softmax = activation == "softmax"
    logits, target = (given if softmax else given_masks)((6, 5), dtype=torch.float32)
    logits, target = logits.to(device), target.to(device)
    target[0, ..., 0] = 255
    loss = RegionWiseLoss(text, spacing_mm=(0.8, 2.5), activation=activation, ignore_index=255)
    prepared = loss.prepare(target, num_classes=logits.shape[1] if softmax else 2)
    assert torch.equal(loss(logits, target, prepared.wait()), loss(logits, target))


def test_nothing_to_prepare():
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    for loss in (RegionWiseLoss("dice"), RegionWiseLoss()):
        with pytest.raises(RWLossError, match="there is nothing to prepare"):
            loss.prepare(labels, 2)
    with pytest.raises(RWLossError, match="label 3 found"):
        RegionWiseLoss("rectified").prepare(labels + 3, 2)


class Stream:
    """Notes what a stream is told."""

    def __init__(self, name, notes):
        self.name, self.notes = name, notes

    def __getattr__(self, method):
        if method not in {"wait_stream", "wait_event", "record_event"}:
            raise AttributeError(method)

        def told(*given):
            names = [getattr(each, "name", each) for each in given]
            self.notes.append(" ".join([self.name, method, *names]))
            return "made"

        return told


def test_order_of_streams(monkeypatch):
    """Side waits for the target, makes the map and records it; the usual stream waits for that."""
    notes = []
    usual, side = (Stream(name, notes) for name in ("usual", "side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: usual)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(module, "_side_stream", lambda _: side)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda _, stream: notes.append(f"kept for {stream.name}")
    )
    labels = given((6, 5), dtype=torch.float32, size=2)[1]
    with large_tiles(labels), PretendCuda() as cuda:
        prepared = RegionWiseLoss("rectified").prepare(cuda.tensor(labels), 4)
        assert notes == ["side wait_stream usual", "kept for side", "side record_event"]
        rwmap = prepared.wait()
    assert notes[3:] == ["usual wait_event made", *["kept for usual"] * 3]
    assert not cuda.waits
    on_the_cpu = RegionWiseLoss("rectified").prepare(labels, 4).wait()
    torch.testing.assert_close(rwmap.true.held, on_the_cpu.true)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("text", ["rectified", "boundary", "rectified + dice"])
def test_on_a_gpu_a_prepared_map_is_the_map(text):
    """Made on a stream of its own, while the main one is busy."""
    labels = torch.randint(0, 4, (2, 96, 96, 96), device="cuda")
    logits = torch.randn(2, 4, 96, 96, 96, device="cuda")
    loss, busy = RegionWiseLoss(text), torch.randn(4096, 4096, device="cuda")
    wanted = loss(logits, labels)
    for _ in range(3):
        for _ in range(20):
            busy = (busy @ busy).tanh()
        prepared = loss.prepare(labels, 4)
        assert_close(loss(logits, labels, prepared.wait()), wanted, 1e-6)
