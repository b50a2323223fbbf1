"""Patches: sources, which examples come, where they are cut, all parts voxel on voxel."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from pretend_cuda import PretendCuda
from torch.utils._python_dispatch import TorchDispatchMode

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps
from rwloss.training import (
    Augmentation,
    PatchSampler,
    PatchSource,
    TrainingBatch,
    TrainingVolume,
    patch_sources,
)
from rwloss.training.augment import UNIFORM, seed_of, zoomed
from rwloss.training.patches import (
    PatchSources,
    batches_of_step,
    cut_patch,
    patch_starts,
    pooled,
)


def volume_of(shape, first=1, spacing_mm=None):
    """A volume whose every voxel has a number of its own, in the image and in the labels."""
    number = np.arange(first, first + np.prod(shape)).reshape(shape)
    return TrainingVolume(f"case{first}", number[None].astype(np.float32), number % 3, spacing_mm)


def map_of(volume, *, dense=False):
    """A map of the same numbers: at the true class, or in each channel k 10000 k more."""
    labels, number = volume.labels[None].astype(np.uint8), volume.image
    if dense:
        channels = [number + 10000 * k for k in range(3)]
        return RWMap.from_dense(labels, np.stack(channels, axis=1))
    return RWMap.compact(labels, 3, true=number, other=number + 0.5)


@pytest.mark.parametrize("dense", [False, True], ids=["compact", "dense"])
def test_slices_of_image_labels_and_map_are_of_the_same_voxels(dense, device):
    for shape, axis in (((5, 9, 3), 0), ((5, 9, 3), 1), ((5, 9, 3), 2), ((8, 4), 1)):
        spacing_mm = (1.0, 2.0, 3.0)[: len(shape)]
        volume = volume_of(shape, spacing_mm=spacing_mm)
        rwmaps = {"case1": map_of(volume, dense=dense)}
        sources = patch_sources([volume], rwmaps, dims=2, slice_axis=axis, device=device)
        if len(shape) == 2:
            wanted, plane = [volume.labels], spacing_mm
        else:
            wanted = list(np.moveaxis(volume.labels, axis, 0))
            plane = tuple(np.delete(spacing_mm, axis))
        assert len(sources) == len(wanted)
        for source, labels in zip(sources, wanted, strict=True):
            number = source.image[0]
            assert number.device.type == device
            assert source.spacing_mm == plane
            assert np.array_equal(source.labels.cpu().numpy(), labels)
            assert torch.equal(number.long() % 3, source.labels.long())
            if dense:
                more = torch.arange(3, device=device).reshape(3, 1, 1) * 10000
                assert torch.equal(source.map_parts[0], number + more)
            else:
                true, other = source.map_parts
                assert torch.equal(true, number)
                assert torch.equal(other, number + 0.5)


def test_a_volume_is_one_source_in_3d():
    volume = volume_of((5, 9, 3), spacing_mm=(1.0, 1.0, 3.0))
    [source] = patch_sources([volume], {"case1": map_of(volume)}, dims=3)
    assert np.array_equal(source.image.numpy(), volume.image)
    assert source.spacing_mm == (1.0, 1.0, 3.0)
    assert len(source.map_parts) == 2
    [bare] = patch_sources([volume_of((8, 4))], dims=2)
    assert bare.map_parts == ()
    assert bare.spacing_mm == (1.0, 1.0)


def test_missing_and_foreign_maps_are_named():
    volumes = [volume_of((5, 9, 3)), volume_of((5, 9, 3), 1002)]
    with pytest.raises(RWLossError, match="no map of case 'case1002'"):
        patch_sources(volumes, {"case1": map_of(volumes[0])}, dims=2)
    for foreign in (volume_of((3, 3, 3)), volume_of((5, 9, 3), 2)):
        with pytest.raises(RWLossError, match="map of case 'case1' was made from other labels"):
            patch_sources(volumes[:1], {"case1": map_of(foreign)}, dims=2)


def test_memory_is_what_the_sources_take():
    volume = volume_of((5, 9, 3))
    for rwmap in (None, map_of(volume), map_of(volume, dense=True)):
        [source] = patch_sources([volume], rwmap and {"case1": rwmap}, dims=3)
        size = sum(t.nbytes for t in (source.image, source.labels, *source.map_parts))
        for limit, device in ((size, "meta"), (size - 1, "cpu")):
            [source] = patch_sources(
                [volume],
                rwmap and {"case1": rwmap},
                dims=3,
                device="meta",
                max_device_bytes=limit,
            )
            assert source.image.device.type == device


def test_copies_on_a_device_share_one_memory():
    volumes = [volume_of((5, 9, 3)), volume_of((4, 2, 7), 1002)]
    rwmaps = {volume.name: map_of(volume) for volume in volumes}
    sources = patch_sources(volumes, rwmaps, dims=2, slice_axis=1)
    assert not sources.memory
    assert patch_sources(volumes, rwmaps, dims=2, device="meta").memory
    copies = pooled(sources, "cpu")
    assert len(copies.memory) == 4
    for copy, source in zip(copies, sources, strict=True):
        assert copy.spacing_mm == source.spacing_mm
        for one, other, whole in zip(copy.tensors, source.tensors, copies.memory, strict=True):
            assert torch.equal(one, other)
            assert one.dtype == other.dtype
            assert one.untyped_storage().data_ptr() == whole.data_ptr()


def marked(shape, first=1, *, dense=False, device="cpu"):
    """A source whose every voxel has a number of its own, in image, labels and map alike."""
    number = torch.arange(first, first + torch.Size(shape).numel(), device=device).reshape(shape)
    parts = (number + 0.25, number + 0.5)
    if dense:
        parts = (torch.stack([*parts, number + 0.75]),)
    return PatchSource(number[None].float(), number % 3, (1.0,) * len(shape), parts)


def numbers_of(batches, steps):
    """The first voxel of each example, step by step."""
    return [batches(step).images.flatten(1)[:, 0].tolist() for step in range(1, steps + 1)]


SOURCES = [marked((2, 2), first) for first in range(100, 1100, 100)]


def test_every_item_comes_once_before_any_comes_again():
    for batch_size in (1, 3, 10, 25):
        found = numbers_of(PatchSampler(SOURCES, 3, (2, 2), batch_size), 20)
        assert [len(batch) for batch in found] == [batch_size] * 20
        stream = [int(number) // 100 for batch in found for number in batch]
        rounds = [stream[i : i + 10] for i in range(0, len(stream) - 9, 10)]
        assert all(sorted(each) == list(range(1, 11)) for each in rounds)
        assert len({tuple(each) for each in rounds}) == len(rounds)


def test_a_batch_follows_from_seed_and_step():
    """In any order of asking, and whatever torch itself has drawn."""
    augmentation = Augmentation(flip=0.5, flip_axes=(-1, -2), zoom=0.5, intensity=0.5)
    batches = [
        PatchSampler(SOURCES, 3, (2, 2), 3, seed=seed, augmentation=augmentation)
        for seed in (4, 4, 5)
    ]
    torch.manual_seed(0)
    first = [batches[0](step) for step in (1, 2, 7)]
    torch.manual_seed(1)
    for step, one in reversed(list(zip((1, 2, 7), first, strict=True))):
        again = batches[1](step)
        assert torch.equal(one.images, again.images)
        assert torch.equal(one.labels, again.labels)
        assert one.spacings_mm == again.spacings_mm
    assert numbers_of(batches[0], 5) != numbers_of(batches[2], 5)


@pytest.mark.parametrize("balanced", [False, True])
def test_neither_maps_nor_more_processes_change_a_batch(balanced):
    augmentation = Augmentation(0.5, (-1,), intensity=0.5)
    settings = {"seed": 1, "balanced": balanced, "augmentation": augmentation}
    sources = [marked((6, 5), first) for first in (1, 101, 201)]
    bare = [PatchSource(source.image, source.labels, source.spacing_mm) for source in sources]
    for processes in (1, 2, 3):
        whole = PatchSampler(sources, 3, (4, 4), 2 * processes, **settings)
        parts = [
            PatchSampler(bare, 3, (4, 4), 2, process=(rank, processes), **settings)
            for rank in range(processes)
        ]
        for step in (1, 2, 9):
            stored, found = whole(step), [part(step) for part in parts]
            assert torch.equal(torch.cat([batch.images for batch in found]), stored.images)
            assert torch.equal(torch.cat([batch.labels for batch in found]), stored.labels)
            assert sum((batch.spacings_mm for batch in found), ()) == stored.spacings_mm
            assert {batch.rwmap for batch in found} == {None}
            assert torch.equal(stored.rwmap.labels, stored.labels)


@pytest.mark.parametrize("dense", [False, True], ids=["compact", "dense"])
@pytest.mark.parametrize(("shape", "size"), [((7, 5), (4, 8)), ((5, 9, 3), (4, 4, 4))])
def test_all_parts_of_an_example_are_cut_and_moved_together(shape, size, dense, device):
    square = size[-1] == size[-2]
    augmentation = Augmentation(
        0.5, tuple(range(-len(size), 0)), turn=0.5, planes=((-2, -1),) if square else ()
    )
    sources = [marked(shape, first, dense=dense, device=device) for first in (1, 1001)]
    batches = PatchSampler(sources, 3, size, 2, augmentation=augmentation, device=device)
    for step in range(1, 12):
        batch = batches(step)
        number, inside = batch.images[:, 0], batch.labels >= 0
        assert batch.images.shape[2:] == size
        assert torch.equal(batch.labels[inside], number[inside].long() % 3)
        assert not number[~inside].any()
        shown = torch.Size(map(min, shape, size)).numel()
        assert inside.flatten(1).sum(1).tolist() == [shown] * 2
        parts = batch.rwmap.values.unbind(1) if dense else batch.rwmap.parts
        for part, more in zip(parts, (0.25, 0.5, 0.75), strict=False):
            assert torch.equal(part[inside], number[inside] + more)
            assert not part[~inside].any()


def naive_window(values, starts, size, fill):
    window = torch.full(size, fill, dtype=values.dtype)
    for place in itertools.product(*map(range, size)):
        source = tuple(a + b for a, b in zip(place, starts, strict=True))
        if all(0 <= s < n for s, n in zip(source, values.shape, strict=True)):
            window[place] = values[source]
    return window


def test_windows_against_a_naive_loop():
    """Larger or smaller than the image; what does not fit is centred, what does is inside."""
    for length, size in itertools.product(range(1, 6), repeat=2):
        values = torch.arange(1, 1 + length * 3).reshape(length, 3)
        for u in (0.0, 0.49, 0.999):
            starts = patch_starts((length, 3), (size, 2), None, (u, 1 - u - 1e-9))
            found = cut_patch(values, starts, (size, 2), -7)
            assert torch.equal(found, naive_window(values, starts, (size, 2), -7)), (length, size)
            assert (found != -7).sum() == min(length, size) * 2
            if size >= length:
                assert starts[0] == -((size - length) // 2)
    for voxel in range(9):  # a window around a voxel holds it and stays inside
        found = {patch_starts((9,), (4,), (voxel,), (u / 50,))[0] for u in range(50)}
        assert found == {start for start in range(6) if start <= voxel < start + 4}


def test_balanced_batches_hold_a_rare_class_in_every_second_example():
    """Class 2 is one pixel in one of twenty images; by turns alone it would hardly be seen."""
    sources = []
    for number in range(20):
        labels = torch.zeros(32, 32, dtype=torch.int64)
        labels[:8, :8] = number % 2
        if number == 3:
            labels[30, 17] = 2
        sources.append(PatchSource(labels[None].float(), labels, (1.0, 1.0)))
    batches = PatchSampler(sources, 3, (8, 8), 10, balanced=True)
    labels = torch.cat([batches(step).labels for step in range(1, 41)])
    for k in (1, 2):
        held = (labels == k).flatten(1).any(1).float().mean()
        assert held >= 0.2
    drawn = labels[1::2]
    assert (drawn > 0).flatten(1).any(1).all()
    assert (drawn == 2).flatten(1).any(1).float().mean() == pytest.approx(0.5, abs=0.1)


def one_by_one(sampler, step):
    """The parts of each example, made alone and with numbers drawn as they are used."""
    first = ((step - 1) * sampler.processes + sampler.rank) * sampler.batch_size
    for number in range(first, first + sampler.batch_size):
        random = torch.Generator().manual_seed(seed_of(sampler.seed, "example", number))
        u = torch.rand(6, generator=random).tolist()
        change = sampler.augmentation.transform(torch.rand(UNIFORM, generator=random).tolist())
        index, voxel = sampler._place(number, u[:3])
        source, size = sampler.sources[index], sampler.patch_size
        starts = patch_starts(source.labels.shape, size, voxel, u[3:])
        image, labels, *parts = (
            change.moved(cut_patch(tensor, starts, size, -1 if tensor is source.labels else 0))[
                None
            ]
            for tensor in source.tensors
        )
        # In this order in memory: torch rounds the last few powers of a row in another way.
        image, labels = zoomed(image.contiguous(), labels.long(), [change.zoom])
        if change.gamma != 1:
            space = tuple(range(2, image.ndim))
            low, high = image.amin(space, keepdim=True), image.amax(space, keepdim=True)
            gamma = torch.full_like(low[:, :1], change.gamma)
            image = ((image - low) / (high - low)) ** gamma * (high - low) + low
        image = image * change.gain + change.offset
        if change.noise:
            random = torch.Generator().manual_seed(seed_of(sampler.seed, "noise", number))
            image = image + change.noise * torch.randn(image.shape, generator=random)
        yield change.spacing(source.spacing_mm), image, labels, *parts


def assert_same_batch(found, wanted):
    assert torch.equal(found.images, wanted.images)
    assert torch.equal(found.labels, wanted.labels)
    assert found.labels.dtype == torch.int64
    assert found.spacings_mm == wanted.spacings_mm
    assert (found.rwmap is None) == (wanted.rwmap is None)
    if wanted.rwmap is not None:
        assert torch.equal(found.rwmap.labels, found.labels)
        assert all(map(torch.equal, found.rwmap.parts, wanted.rwmap.parts))


def noisy_sources(shapes, channels, parts):
    """Sources of random values, some of whose voxels are ignored."""
    random = torch.Generator().manual_seed(0)
    for shape in shapes:
        image = torch.randn(channels, *shape, generator=random)
        labels = torch.randint(-1, 3, shape, generator=random, dtype=torch.int32)
        of_map = {
            "no map": (),
            "compact": tuple(torch.randn(2, *shape, generator=random)),
            "dense": (torch.randn(3, *shape, generator=random),),
        }
        spacing_mm = (1.0, 2.0, 3.0)[: len(shape)]
        yield PatchSource(image, labels, spacing_mm, of_map[parts])


SLICES, VOLUMES = [(14, 17), (9, 25), (13, 13), (12, 15)], [(8, 7, 9), (7, 9, 6), (6, 6, 6)]
KINDS = [
    (SLICES, (8, 8), 1, "no map", False),
    (SLICES, (12, 20), 2, "no map", True),
    (SLICES, (13, 13), 1, "compact", True),
    (VOLUMES, (5, 6, 6), 1, "no map", True),
    (VOLUMES, (9, 7, 7), 2, "dense", False),
]


@pytest.mark.parametrize("in_one_memory", [False, True])
@pytest.mark.parametrize(("shapes", "size", "channels", "parts", "balanced"), KINDS)
def test_batches_made_in_one_go(shapes, size, channels, parts, balanced, in_one_memory):
    """Bit for bit what each sampler gives alone, and what a loop over the examples gives."""
    busy = Augmentation(
        0.5,
        tuple(range(-len(size), 0)),
        0.5,
        ((-2, -1),) if size[-2] == size[-1] else (),
        zoom=0.5 if parts == "no map" else 0.0,
        intensity=0.5,
    )
    sources = PatchSources(noisy_sources(shapes, channels, parts))
    if in_one_memory:
        sources = pooled(sources, "cpu")
    samplers = [
        PatchSampler(
            sources, 3, size, batch_size, seed=seed,
            augmentation=augmentation, balanced=balanced and seed != 1, process=(rank, 2),
        )
        for seed, batch_size, augmentation, rank in (
            (0, 3, busy, 0), (1, 3, busy, 1), (2, 4, busy, 0), (0, 2, None, 0),
        )
    ]  # fmt: skip
    for step in range(1, 9):
        for found, sampler in zip(batches_of_step(samplers, step), samplers, strict=True):
            assert_same_batch(found, sampler(step))
            rows, *tensors = zip(*one_by_one(sampler, step), strict=True)
            assert found.spacings_mm == rows
            of_map = () if found.rwmap is None else found.rwmap.parts
            for part, wanted in zip((found.images, found.labels, *of_map), tensors, strict=True):
                assert torch.equal(part, torch.cat(wanted))


def test_batches_on_a_device_are_the_same_from_one_memory_or_many(device):
    """Bit for bit, for one sampler and for several."""
    busy = Augmentation(0.5, (-2, -1), 0.5, ((-2, -1),), zoom=0.5, intensity=0.5)
    sources = list(noisy_sources(SLICES, 1, "no map"))
    many = PatchSources(
        PatchSource(source.image.to(device), source.labels.to(device), source.spacing_mm)
        for source in sources
    )
    one, other = (
        [
            PatchSampler(held, 3, (13, 13), 4, seed=seed, augmentation=busy, device=device)
            for seed in range(3)
        ]
        for held in (pooled(sources, device), many)
    )
    for step in range(1, 5):
        for row in zip(*(batches_of_step(each, step) for each in (one, other)), strict=True):
            assert_same_batch(*row)
        assert_same_batch(batches_of_step(one, step)[1], other[1](step))


def test_what_cannot_be_made_in_one_go_is_made_one_by_one():
    class Doubled(PatchSampler):
        def __call__(self, step):
            batch = super().__call__(step)
            return TrainingBatch(2 * batch.images, batch.labels, batch.spacings_mm)

    sources = [PatchSources(noisy_sources(shapes, 1, "no map")) for shapes in (SLICES, SLICES[:2])]
    first, other = sources
    samplers = [
        PatchSampler(first, 3, (8, 8), 2),
        PatchSampler(first, 3, (8, 8), 2, seed=1),
        Doubled(first, 3, (8, 8), 2),
        PatchSampler(first, 3, (9, 8), 2),
        PatchSampler(other, 3, (8, 8), 2),
        PatchSampler(list(first), 3, (8, 8), 2),
    ]
    made = samplers[0](7)
    found = batches_of_step([*samplers, lambda step: made], 5)
    for batch, sampler in zip(found[:-1], samplers, strict=True):
        assert_same_batch(batch, sampler(5))
    assert found[-1] is made
    assert torch.equal(found[2].images, 2 * found[0].images)


def test_more_samplers_take_no_more_operations():
    """Except those that draw numbers."""

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if not func.is_view:
                counts[func._schema.name] += 1
            return func(*args, **(kwargs or {}))

    sources = pooled(noisy_sources(SLICES, 1, "compact"), "cpu")
    busy = Augmentation(0.5, (-2, -1), 0.5, ((-2, -1),), zoom=0.9, intensity=0.9)
    samplers = [
        PatchSampler(sources, 3, (8, 8), 8, seed=seed, augmentation=busy) for seed in range(9)
    ]
    totals = []
    for number in (1, 9):
        counts = Counter()
        with Counted():
            batches_of_step(samplers[:number], 1)
        drawing = {f"aten::{name}" for name in ("empty", "uniform_", "normal_", "randperm")}
        totals.append(sum(count for name, count in counts.items() if name not in drawing))
    assert totals[0] == totals[1] < 60


def test_no_batch_waits_for_a_gpu(monkeypatch):
    """With data on the device and with data in main memory, which is copied to it."""
    made = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda *given: made())  # all on the CPU
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    busy = Augmentation(0.5, (-2, -1), 0.5, ((-2, -1),), zoom=0.7, intensity=0.7)
    images, labels = torch.rand(6, 1, 20, 24), torch.randint(0, 3, (6, 20, 24), dtype=torch.int32)
    for place in ("on the device", "in one memory", "in main memory"):
        with PretendCuda() as cuda:
            sources = [
                PatchSource(
                    *(map(cuda.tensor, pair) if place == "on the device" else pair), (1.0, 2.0)
                )
                for pair in zip(images, labels, strict=True)
            ]
            if place == "in one memory":
                sources = pooled(sources, "cuda")
                cuda.waits.clear()
            batches = PatchSampler(sources, 3, (16, 16), 4, augmentation=busy, device="cuda")
            for step in range(1, 6):
                batch = batches(step)
                assert batch.images.device.type == batch.labels.device.type == "cuda"
        assert not cuda.waits


def test_nothing_to_draw():
    with pytest.raises(
        RWLossError,
        match="expected slices or volumes to draw from and batches of 1 or more, got 0 and 1",
    ):
        PatchSampler([], 2, (2, 2), 1)
    empty = PatchSource(torch.zeros(1, 2, 2), torch.zeros(2, 2, dtype=torch.int64), (1.0, 1.0))
    with pytest.raises(RWLossError, match="needs a foreground class"):
        PatchSampler([empty], 2, (2, 2), 1, balanced=True)


@pytest.mark.parametrize("text", ["boundary", "rectified", None])
def test_padding_has_no_part_in_the_loss(text):
    """With stored maps, and with maps made on the fly (text None)."""
    labels = torch.randint(0, 3, (9, 11), generator=torch.Generator().manual_seed(3))
    parts = () if text is None else maps.get(text)(Regions(labels[None], 3)).parts
    source = PatchSource(
        torch.zeros(1, 9, 11), labels, (1.0, 1.0), tuple(part[0] for part in parts)
    )
    batch = PatchSampler([source], 3, (16, 16), 2)(1)
    logits = torch.randn(2, 3, 16, 16, requires_grad=True)
    loss = RegionWiseLoss(text or "rectified", ignore_index=-1, reduction="sum")
    value = loss(logits, batch.labels, batch.rwmap)
    value.backward()
    padding = (batch.labels == -1)[:, None].expand_as(logits)
    assert not logits.grad[padding].any()
    assert logits.grad[~padding].any()
    changed = torch.where(padding, logits.detach() + 5.0, logits.detach())
    assert loss(changed, batch.labels, batch.rwmap) == value
