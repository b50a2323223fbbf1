"""Components of the regions, their Voronoi cells and instances, against plain loops."""

import itertools
import math

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import batch

from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.maps.dynamic.blob import Instances

CASES = {
    "2-D": (batch(131, (9, 12), 3), (0.8, 2.5)),
    "3-D": (batch(132, (4, 6, 7), 3), (2.5, 1.1, 0.7)),
}
each_case = pytest.mark.parametrize(("labels", "spacing"), CASES.values(), ids=CASES)


@each_case
def test_the_nearest_component_is_nearest(labels, spacing, device):
    """Over all pairs: the distance to the component that was found is the least."""
    ignored = labels.astype(np.int64)
    ignored[0, 1] = 9
    regions = Regions(torch.as_tensor(ignored, device=device), 3, spacing, ignore_label=9)
    components = regions.components.cpu().numpy()
    places = np.indices(labels.shape[1:]).reshape(len(spacing), -1).T * spacing
    for k in range(3):
        found = regions.nearest_component(k)
        assert found.device.type == device
        assert found.dtype == torch.int32
        for image, component, number in zip(ignored, components, found.cpu().numpy(), strict=True):
            inside = component[image == k]
            assert set(np.unique(number[image != 9])) == set(inside)
            assert not number[image == 9].any()
            assert (number[image == k] == inside).all()
            far = np.linalg.norm(places[:, None] - places[(image == k).ravel()][None], axis=-1)
            of_found = np.where(number.reshape(-1, 1) == inside[None], far, np.inf).min(axis=1)
            counts = (image != 9).ravel()
            np.testing.assert_allclose(of_found[counts], far.min(axis=1)[counts])


def test_the_nearest_component_of_an_absent_class_and_of_no_class():
    regions = Regions(np.zeros((1, 4, 5), np.uint8), 3)
    assert not regions.nearest_component(2).any()
    with pytest.raises(RWLossError, match=r"expected a class of 0\.\.2, got 3"):
        regions.nearest_component(3)


@each_case
@pytest.mark.parametrize("first", [0, 1])
def test_instances_are_the_components(labels, spacing, first):
    """Each place is a voxel of its instance, whose owner is its image and class."""
    regions = Regions(labels, 3, spacing)
    found = Instances.of(regions, first)
    assert Instances.of(regions, first) is found  # kept
    channels = 3 - first
    flat = np.full(len(labels) * channels * labels[0].size, -1)
    flat[found.place] = found.number
    by_class = flat.reshape(len(labels), channels, *labels.shape[1:])
    seen = []
    for image, c in itertools.product(range(len(labels)), range(channels)):
        for mask in plain.flood(labels[image] == c + first):
            [number] = set(by_class[image, c][mask])
            assert found.owner[number] == image * channels + c
            assert (by_class[image, c] == number).sum() == mask.sum()
            seen.append(number)
        assert (by_class[image, c][labels[image] != c + first] == -1).all()
    assert sorted(seen) == list(range(len(found.owner)))


# --- The terms that use them


def plain_blob(probs, labels, spacing):
    """The mean over components, then over images and classes 1 and up; by loops."""
    del spacing
    total = []
    for p, image in zip(probs, labels, strict=True):
        for k in range(1, probs.shape[1]):
            values = []
            masks = list(plain.flood(image == k))
            for mask in masks:
                others = (image == k) & ~mask
                seen = np.where(others, 0, p[k])
                both, sizes = 2 * (seen * mask).sum(), seen.sum() + mask.sum()
                values.append(1 - (both + 1e-5) / (sizes + 1e-5))
            total.append(np.mean(values) if values else 0.0)
    return np.mean(total)


def plain_cc_dice_ce(probs, labels, spacing):
    total = []
    for p, image in zip(probs, labels, strict=True):
        for k in range(1, probs.shape[1]):
            y, cells = image == k, [np.ones(image.shape, bool)]
            if y.any():
                number = Regions(image[None], probs.shape[1], spacing).nearest_component(k)[0]
                cells = [number == each for each in np.unique(number)]
            entropy = -np.where(y, np.log(p[k]), np.log1p(-p[k]))
            values = [entropy[cell].mean() for cell in cells]
            if y.any():
                values = [
                    value + 1 - 2 * (p[k] * y)[cell].sum() / (p[k] + y)[cell].sum()
                    for value, cell in zip(values, cells, strict=True)
                ]
            total.append(np.mean(values))
    return np.mean(total)


@each_case
@pytest.mark.parametrize(
    ("text", "formula"), [("blob", plain_blob), ("cc_dice_ce", plain_cc_dice_ce)]
)
def test_losses_of_instances(text, formula, labels, spacing, device):
    labels = labels.astype(np.int64)
    labels[0][labels[0] == 2] = 0  # absent
    rng = np.random.default_rng(133)
    logits = torch.as_tensor(rng.normal(size=(len(labels), 3, *labels.shape[1:])), device=device)
    wanted = formula(logits.softmax(1).cpu().numpy(), labels, spacing)
    target, loss = torch.as_tensor(labels, device=device), RegionWiseLoss(text, spacing_mm=spacing)
    assert loss(logits, target).item() == pytest.approx(wanted, rel=1e-12)
    prepared = loss.prepare(target, 3)
    assert prepared.wait() is None  # no static term
    assert loss(logits, prepared.regions).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("text", ["blob", "cc_dice_ce"])
def test_a_masked_voxel_does_not_part_a_component(text):
    """It costs nothing, yet it belongs to its component, and to the cell."""
    labels = torch.zeros(1, 5, 9, dtype=torch.long)
    labels[0, 2, 1:8] = 1
    mask = torch.ones_like(labels)
    mask[0, :, 4] = 0
    logits = torch.randn(1, 2, 5, 9, generator=torch.Generator().manual_seed(1))
    loss = RegionWiseLoss(text)
    masked = loss(logits, labels, mask=mask)
    left = torch.cat([labels[..., :4], labels[..., 5:]], dim=-1)
    without = loss(torch.cat([logits[..., :4], logits[..., 5:]], dim=-1), left)
    torch.testing.assert_close(masked, without)
    moved = logits + 9 * torch.tensor([[0.0], [1.0]])[..., None] * (mask == 0)[:, None]
    torch.testing.assert_close(loss(moved, labels, mask=mask), masked)


@pytest.mark.parametrize("text", ["blob", "cc_dice_ce"])
def test_masks_each_have_their_components(text):
    """With sigmoid each mask is a class against its complement."""
    masks = torch.as_tensor(batch(134, (9, 12), 2)[:2]).long()
    logits = torch.randn(1, 2, 9, 12, generator=torch.Generator().manual_seed(2))
    loss = RegionWiseLoss(text, activation="sigmoid")
    two = torch.stack([torch.zeros_like(logits), logits], dim=2)[0]
    wanted = RegionWiseLoss(text)(two, masks)
    torch.testing.assert_close(loss(logits, masks[None]), wanted)
    regions = Regions.from_masks(masks[None])
    torch.testing.assert_close(loss(logits, regions), wanted)


# --- A target with its geometry


def test_regions_as_a_target_are_measured_once(monkeypatch):
    labels = torch.as_tensor(batch(135, (9, 12), 3)).long()
    regions = Regions(labels, 3, (0.8, 2.5))
    logits = torch.randn(len(labels), 3, 9, 12, generator=torch.Generator().manual_seed(3))
    loss = RegionWiseLoss("rectified(scope='component') + blob + cc_dice_ce", spacing_mm=(0.8, 2.5))
    wanted = loss(logits, labels)
    torch.testing.assert_close(loss(logits, regions), wanted)
    monkeypatch.setattr("scipy.ndimage.label", None)
    monkeypatch.setattr("scipy.ndimage.distance_transform_edt", None)
    torch.testing.assert_close(loss(logits, regions), wanted)
    torch.testing.assert_close(loss.excess(logits, regions) > 0, torch.tensor(True))


def test_regions_that_do_not_fit():
    loss, logits = RegionWiseLoss("dice"), torch.zeros(1, 3, 4, 5)
    labels = torch.zeros(1, 4, 5, dtype=torch.long)
    with pytest.raises(RWLossError, match=r"expected labels \(1, 4, 5\) of 3 classes"):
        loss(logits, Regions(labels, 2))
    for given in ({"spacing_mm": (1, 1)}, {"image": torch.zeros(1, 1, 4, 5)}):
        with pytest.raises(RWLossError, match="Regions as a target are for one output, and hold"):
            loss(logits, Regions(labels, 3), **given)
    with pytest.raises(RWLossError, match="Regions as a target are for one output"):
        loss([logits, logits], Regions(labels, 3))
    ignored = Regions(torch.full_like(labels, 7), 3, ignore_label=7)
    assert math.isclose(loss(logits, ignored), 0, abs_tol=1e-6)


def test_what_can_be_prepared():
    labels = torch.as_tensor(batch(136, (9, 12), 3)).long()
    prepared = RegionWiseLoss("rectified + blob").prepare(labels, 3)
    assert prepared.wait().expression == "rectified"
    assert "instances 1" in vars(prepared.regions)["_kept"]
    assert maps.Blob().needs_geometry
    assert not maps.Dice().needs_geometry
