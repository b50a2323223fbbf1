from dataclasses import replace

import numpy as np
import pytest
import torch
from einops import rearrange
from lightning_fabric import Fabric
from torch import nn

from rwloss import RWLossError
from rwloss.training import PRESETS, RunSettings, inference, predict_labels, unet
from rwloss.training.inference import (
    Networks,
    is_out_of_memory,
    labels_of_each,
    mean_dice,
    mean_dice_of_each,
    score_each,
    selection_score,
)
from rwloss.training.scores import Scores, score
from rwloss.training.stacked_networks import networks_of, stacked_weights
from rwloss.training.volumes import TrainingVolume


class Reader(nn.Module):
    """Gives each voxel the class that its first channel holds, and notes what it was shown."""

    def __init__(self):
        super().__init__()
        self.sizes, self.most = set(), 0

    def forward(self, images):
        self.sizes.add(tuple(images.shape[2:]))
        self.most = max(self.most, len(images))
        assert not self.training
        classes = torch.arange(3.0, device=images.device).reshape(1, 3, *[1] * (images.ndim - 2))
        return -(images[:, :1] - classes).abs()


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((5, 9, 3), (8, 12)),  # slices that fit
        ((13, 9, 3), (8, 12)),  # slices that don't, in one axis or both
        ((13, 30, 2), (8, 12)),
        ((6, 5), (8, 12)),  # an image
        ((20, 13), (8, 12)),
        ((5, 9, 3), (8, 12, 4)),  # volumes
        ((5, 9, 11), (8, 12, 4)),
        ((17, 20, 11), (8, 12, 4)),
    ],
)
def test_every_voxel_gets_its_class(shape, size, device):
    labels = np.random.default_rng(0).integers(0, 3, shape)
    image = np.stack([labels, np.ones(shape)]).astype(np.float32)
    network = Reader()
    found = predict_labels(network, image, size, batch_size=2, device=device)
    assert np.array_equal(found, labels)
    assert found.dtype == np.int64
    assert network.sizes == {size}
    assert network.most <= 2


def test_slices_along_each_axis():
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6))
    for axis in range(3):
        found = predict_labels(Reader(), labels[None].astype(np.float32), (8, 8), axis=axis)
        assert np.array_equal(found, labels)
    image = np.asfortranarray(labels[None].astype(np.float32))[:, ::-1]  # any order of memory
    assert np.array_equal(predict_labels(Reader(), image, (8, 8, 8)), labels[::-1])


@pytest.mark.parametrize(("dims", "shape"), [(2, (21, 30)), (2, (21, 30, 3)), (3, (12, 9, 15))])
def test_an_image_that_fits_is_predicted_at_once_around_its_middle(dims, shape):
    """The same as the padded whole image straight through the network, and cut again."""
    network = unet(dims, 2, 3, seed=1).eval()
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    size = (32, 32, 16)[:dims]
    found = predict_labels(network, image, size)
    expected = []
    for one in [image] if dims == len(shape) else np.moveaxis(image, 3, 0):
        before = [(to - of) // 2 for of, to in zip(one.shape[1:], size, strict=True)]
        pads = [(b, t - o - b) for b, o, t in zip(before, one.shape[1:], size, strict=True)]
        whole = torch.from_numpy(np.pad(one, [(0, 0), *pads]))[None]
        with torch.no_grad():
            labels = network(whole).argmax(dim=1)[0].numpy()
        inside = tuple(slice(b, b + o) for b, o in zip(before, one.shape[1:], strict=True))
        expected.append(labels[inside])
    expected = expected[0] if dims == len(shape) else np.stack(expected, axis=-1)
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) == 3


class Local(nn.Module):
    """A convolution: far from borders, a window gives what the whole image would."""

    def __init__(self, dims):
        super().__init__()
        torch.manual_seed(0)
        kind = nn.Conv2d if dims == 2 else nn.Conv3d
        self.conv = kind(1, 3, 3, padding=1)

    def forward(self, images):
        return self.conv(images)


@pytest.mark.parametrize(("shape", "size"), [((40, 33), (16, 16)), ((20, 17, 22), (12, 12, 12))])
def test_windows_are_the_naive_gaussian_average(shape, size):
    """Every window by hand: its probabilities times the weights, over the sum of the weights."""
    network = Local(len(shape))
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    found = predict_labels(network, image, size, overlap=0.5)
    lines = [np.exp(-(((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) / 2) for n in size]
    weights = np.maximum(np.prod(np.meshgrid(*lines, indexing="ij"), axis=0), 1e-3)
    total, over = np.zeros((3, *shape)), np.zeros(shape)
    starts = [
        sorted({min(start, of - n) for start in range(0, of, n // 2)})
        for of, n in zip(shape, size, strict=True)
    ]
    for start in np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, len(shape)):
        window = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        with torch.no_grad():
            logits = network(torch.from_numpy(image[(slice(None), *window)].copy())[None])
        total[(slice(None), *window)] += weights * logits.softmax(dim=1)[0].numpy()
        over[window] += weights
    probs = total / over
    top = np.sort(probs, axis=0)
    clear = top[-1] - top[-2] > 1e-5  # the rest is up to rounding
    assert clear.mean() > 0.99
    assert np.array_equal(found[clear], probs.argmax(axis=0)[clear])


def test_without_overlap_windows_stand_side_by_side():
    network = Local(2)
    image = np.random.default_rng(0).normal(size=(1, 16, 24)).astype(np.float32)
    found = predict_labels(network, image, (8, 8), overlap=0)
    tiles = rearrange(torch.from_numpy(image), "c (i h) (j w) -> (i j) c h w", h=8, w=8)
    with torch.no_grad():
        labels = network(tiles).argmax(dim=1)
    expected = rearrange(labels, "(i j) h w -> (i h) (j w)", i=2)
    assert np.array_equal(found, expected.numpy())


def test_a_network_in_half_precision():
    class Half(Reader):
        def forward(self, images):
            return super().forward(images).bfloat16()

    labels = np.random.default_rng(0).integers(0, 3, (9, 9))
    assert np.array_equal(predict_labels(Half(), labels[None].astype(np.float32), (8, 8)), labels)


def several(dims, count, device="cpu"):
    """Networks, and all of them together."""
    alone = [unet(dims, 2, 3, seed=seed).to(device) for seed in range(count)]
    fabric = Fabric(accelerator=torch.device(device).type, devices=1)
    networks = networks_of(fabric, alone[0], stacked_weights(alone))
    assert networks.at_once == (1 if device == "cpu" else count)
    return alone, replace(networks, at_once=count)


@pytest.mark.parametrize("voxels", [1, 5000, 2**23], ids=["one by one", "some", "all"])
@pytest.mark.parametrize(
    ("shape", "size", "axis"),
    [
        ((21, 30), (32, 32), 0),  # an image that fits, and one that does not
        ((40, 50), (32, 32), 0),
        ((5, 21, 30), (32, 32), 0),  # slices
        ((40, 6, 50), (32, 32), 1),
        ((12, 9, 15), (16, 16, 16), 0),  # volumes
        ((20, 9, 17), (16, 16, 16), 0),
    ],
)
def test_networks_together_predict_what_each_predicts(shape, size, axis, voxels, monkeypatch):
    """But for rounding."""
    monkeypatch.setattr(inference, "_VOXELS_OF_ALL", voxels)
    alone, networks = several(len(size), 5)
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    found = labels_of_each(networks, image, size, axis=axis, batch_size=4)
    one_by_one = labels_of_each(replace(networks, at_once=1), image, size, axis=axis)
    expected = np.stack([predict_labels(each, image, size, axis=axis) for each in alone])
    assert np.array_equal(one_by_one.numpy(), expected)
    assert found.dtype == torch.uint8
    assert found.shape == (5, *shape)
    assert (found.numpy() == expected).mean() > 0.999
    assert len({labels.tobytes() for labels in expected}) == 5


def as_shown(classes):
    """Networks of which each gives its own class to the voxels of an image of places."""

    def logits(rows, windows):
        own = classes[rows].flatten(1)[:, windows[:, 0].long()]  # (m b *w)
        return rearrange(torch.nn.functional.one_hot(own, 3).float(), "m b ... k -> m b k ...")

    return Networks(len(classes), logits, "cpu", len(classes))


def test_where_memory_is_short_fewer_networks_predict_together():
    classes = torch.randint(0, 3, (7, 4, 5), generator=torch.Generator().manual_seed(0))
    networks, counts = as_shown(classes), []

    def scarce(rows, windows):
        counts.append(rows.stop - rows.start)
        if counts[-1] > at_most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return networks.logits(rows, windows)

    places = np.arange(20, dtype=np.float32).reshape(1, 4, 5)
    at_most = 2
    found = labels_of_each(Networks(7, scarce, "cpu", 7), places, (4, 5))
    assert torch.equal(found, classes.to(torch.uint8))
    assert counts == [7, 4, 2, 2, 2, 1]
    at_most = 0
    with pytest.raises(torch.OutOfMemoryError):
        labels_of_each(Networks(7, scarce, "cpu", 7), places, (4, 5))


def test_all_slices_of_an_image_are_held_in_the_same_memory(monkeypatch):
    """The last few of them would be small enough for a GPU."""
    from monai.inferers import utils

    def probabilities(images, *given, device, sw_device, **more):
        assert torch.device(sw_device).type == "meta"
        devices.append(torch.device(device).type)
        return torch.zeros((len(images), 3, *images.shape[2:]), device=device)

    monkeypatch.setattr(utils, "sliding_window_inference", probabilities)
    networks = Networks(1, lambda rows, windows: windows, "meta")
    for voxels, place in ((8 * 8 * 3, "cpu"), (8 * 8 * 4, "meta")):
        devices = []
        monkeypatch.setattr(inference, "_VOXELS_OF_ALL", voxels)
        image = np.zeros((1, 8, 8, 6), np.float32)
        assert labels_of_each(networks, image, (8, 8), batch_size=4).shape == (1, 8, 8, 6)
        assert devices == [place] * 2


def test_mean_dice_of_each_is_that_of_its_scores(monkeypatch):
    """With ignored voxels, missed classes, false alarms, and a class that no case has."""
    monkeypatch.setattr(inference, "_VOXELS_OF_ALL", 40)
    names = ("background", "square", "rare", "absent")
    settings = RunSettings(data="in", out="out", dims=2, patch_size=(4, 5), metrics=("hd95_mm",))
    random = np.random.default_rng(0)
    classes = torch.from_numpy(random.integers(0, 3, (6, 4, 5)))
    classes[0, classes[0] == 2] = 1
    places = np.arange(20, dtype=np.float32).reshape(1, 4, 5)
    truths = [random.integers(-1, 2, (4, 5)), random.integers(-1, 3, (4, 5)), np.zeros((4, 5), int)]
    volumes = [TrainingVolume(f"case{i}", places, truth) for i, truth in enumerate(truths)]
    expected = []
    for own in classes.numpy():
        cases = [score(own, v.labels, 4, name=v.name, metrics=("dice", "hd95_mm")) for v in volumes]
        expected.append(Scores(tuple(cases), names))
    found = mean_dice_of_each(as_shown(classes), volumes, settings, names)
    assert found == [
        {each.name: each.dice.mean for each in scores.summary()} for scores in expected
    ]
    assert [dice["absent"] for dice in found] == [None] * 6
    assert score_each(as_shown(classes), volumes, settings, names) == expected
    nothing = dict.fromkeys(names[1:])
    assert mean_dice_of_each(as_shown(classes), [], settings, names) == [nothing] * 6
    volumes[0].labels[0, 0] = 4
    with pytest.raises(RWLossError, match="the truth has the class 4"):
        mean_dice_of_each(as_shown(classes), volumes, settings, names)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("voxels", [1, 2**23], ids=["in main memory", "on the device"])
@pytest.mark.parametrize(("dims", "shape"), [(2, (40, 50, 6)), (3, (40, 50, 36))])
def test_together_on_a_gpu(dims, shape, voxels, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    random = np.random.default_rng(0)
    image = random.normal(size=(2, *shape)).astype(np.float32)
    size = (PRESETS["tiny"].multiple_of * 4,) * dims
    alone, _ = several(dims, 5)
    _, networks = several(dims, 5, "cuda")
    expected = np.stack([predict_labels(network, image, size) for network in alone])
    settings = RunSettings(data="in", out="out", dims=dims, patch_size=size, slice_axis=2)
    volumes = [TrainingVolume("case", image, random.integers(-1, 3, shape))]
    dice = [mean_dice(network, volumes, settings, "abc") for network in alone]
    monkeypatch.setattr(inference, "_VOXELS_OF_ALL", voxels)
    found = labels_of_each(networks, image, size)
    assert found.device.type == ("cpu" if voxels == 1 else "cuda")
    assert (found.cpu().numpy() == expected).mean() > 0.999
    for one, other in zip(mean_dice_of_each(networks, volumes, settings, "abc"), dice, strict=True):
        assert one == pytest.approx(other, abs=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dims", "shape"), [(2, (40, 50, 6)), (3, (40, 50, 36))])
def test_on_a_gpu(dims, shape):
    network = unet(dims, 1, 3, seed=1)
    size = (PRESETS["tiny"].multiple_of * 4,) * dims
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    expected = predict_labels(network, image, size)
    found = predict_labels(network.cuda(), image, size, device="cuda")
    assert (found == expected).mean() > 0.999


def test_errors_that_mean_too_little_memory():
    """As torch, drivers and MONAI raise them; and none of other errors."""
    short = torch.OutOfMemoryError("CUDA out of memory")
    of_monai = RuntimeError("patch size (8, 8)\nSeems to be OOM.")
    of_monai.__cause__ = short
    for error in (short, RuntimeError("CUDA error: out of memory"), of_monai):
        assert is_out_of_memory(error)
    of_monai.__cause__ = ValueError("no size")
    for error in (of_monai, RuntimeError("no kernel"), OSError("out of memory"), None):
        assert not is_out_of_memory(error)


def test_wrong_use():
    for shape, size, overlap, message in (
        ((1, 8, 8), (8, 8, 8), 0.5, "windows of 3 axes, got the shape"),
        ((1, 8), (8, 8), 0.5, "windows of 2 axes"),
        ((1, 8, 8), (8,), 0.5, "windows of 1 axes"),
        ((1, 8, 8), (8, 8), 1.0, "expected an overlap from 0 to below 1, got 1"),
        ((1, 8, 8), (8, 8), -0.1, "expected an overlap"),
    ):
        with pytest.raises(RWLossError, match=message):
            predict_labels(Reader(), np.zeros(shape, np.float32), size, overlap=overlap)


def test_the_rule_counts_missed_classes_as_0_and_leaves_absent_ones_out():
    assert selection_score({"a": 0.8, "b": 0.0, "c": None}) == 0.4
    assert selection_score({"a": None}) == 0.0
