"""Runs on real data, and on a GPU where there is one."""

import math

import pytest
import torch

from rwloss import data
from rwloss.training import PatchSampler, patch_sources, prepare, train


@pytest.mark.slow
def test_a_short_run_on_the_sample_finds_both_classes(settings_of):
    """150 steps reach a Dice of 0.75 on the test volumes; another machine may round differently."""
    sample = data.sample_dir("hippocampus")
    found = train(settings_of(sample, map="rectified + dice", steps=150, batch_size=8))
    assert len(found.scores.cases) == 8
    for each in found.scores.summary():
        assert each.dice.mean > 0.6
        assert each.missed == 0
    first, last = (sum(found.losses[part]) for part in (slice(10), slice(-10, None)))
    assert last < first


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_on_a_gpu(dims, precision, boxes, settings_of):
    busy = {"flip": 0.5, "zoom": 0.5, "intensity": 0.5, "balanced": True, "record_every": 1}
    settings = settings_of(boxes, dims=dims, precision=precision, accelerator="gpu", **busy)
    assert all(map(math.isfinite, train(settings).losses))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_data_on_host_and_on_device_make_the_same_batches(boxes, settings_of):
    found = prepare(settings_of(boxes, flip=0.5))
    batches = []
    for place in ("cpu", "cuda"):
        sources = patch_sources(found.train, dims=2, slice_axis=2, device=place)
        batches.append(
            PatchSampler(sources, 3, (16, 16), 4, augmentation=found.augmentation, device="cuda")
        )
    for step in (1, 2, 3):
        one, other = (each(step) for each in batches)
        assert one.images.is_cuda
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
