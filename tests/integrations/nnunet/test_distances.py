"""Distances of whole volumes at patches: exact at crops, and close to exact after augmentation."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample

from rwloss import Regions, RWLossError, maps, moves
from rwloss.integrations.nnunet.distances import (
    DistanceFolder,
    Following,
    WholeRegions,
    check_follows,
)

TERMS = [
    "boundary",
    "boundary(convention='valverde')",
    "rectified",
    "rectified(clip_mm=4.0) + 0.1 * boundary",
]


def blobs(size):
    """A ball of class 1 with one of class 2 that cuts it, class 3 nowhere. (*s), int64."""
    at = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij"), axis=-1)
    labels = np.zeros(size, np.int64)
    for k, centre, radius in ((1, (-0.15, 0.1, 0.1), 0.55), (2, (0.1, 0.2, 0.2), 0.25)):
        labels[np.linalg.norm(at - centre[: len(size)], axis=-1) < radius] = k
    return labels


def far_of(labels, spacing, ignore=None):
    """What a store holds of a volume: signed distances (1 k *s) and peaks (1 k)."""
    signed = Regions.single(labels, 4, spacing, ignore).signed_distances_mm()
    peaks = np.maximum(0, -signed.min(axis=tuple(range(2, signed.ndim))))
    return torch.from_numpy(signed), torch.from_numpy(peaks)


@pytest.mark.parametrize("text", TERMS)
@pytest.mark.parametrize("ignore", [None, 9])
@pytest.mark.parametrize(
    ("size", "spacing"), [((40, 30), (1.0, 2.5)), ((14, 20, 16), (3.0, 1.0, 0.7))]
)
def test_a_crop_has_the_map_of_the_whole(device, size, spacing, ignore, text):
    """Wherever it lies: also within one class, and where a class is missing."""
    labels = blobs(size)
    if ignore is not None:
        labels[:2] = ignore
    whole = Regions.single(torch.from_numpy(labels), 4, spacing, ignore)
    far, peaks = far_of(labels, spacing, ignore)
    wanted = maps.parse(text)(whole)
    rng, middle = np.random.default_rng(0), [n // 2 for n in size]
    starts = [middle, *([int(rng.integers(0, n - 6)) for n in size] for _ in range(4))]
    for start in starts:
        box = tuple(slice(first, first + 6) for first in start)
        patch = moves.crop(whole, box)
        patch = Regions(
            patch.labels.to(device), 4, patch.spacings_mm, -1 if ignore is not None else None
        )
        made = WholeRegions.of(patch, far[(..., *box)].to(device), peaks.to(device))
        found = maps.parse(text)(made).dense().cpu()
        torch.testing.assert_close(found, moves.crop(wanted, box).dense(), rtol=1e-6, atol=1e-6)


def test_where_nothing_is_known_the_patch_decides():
    labels = torch.from_numpy(blobs((20, 20)))[None, 6:14, 6:14]
    patch = Regions(labels, 4, (1.0, 2.0))
    made = WholeRegions.of(patch, torch.full((1, 4, 8, 8), 7.0), torch.zeros(1, 4))
    for text in TERMS:
        found, wanted = (maps.parse(text)(each).dense() for each in (made, patch))
        assert torch.equal(found, wanted)


def augmented(size, spacing, angle, zoom, patch):
    """Errors of a patch through nnU-Net's own transform, in voxels of its largest spacing.

    Against the boundary map of the whole augmented volume; those of the map of the patch alone; and
    those of the depth that the rectified map is made of, at the foreground: how deep the background
    gets depends on how large the volume is drawn. And the peaks.
    """
    spatial = pytest.importorskip(
        "batchgeneratorsv2.transforms.spatial.spatial", reason="`make test-nnunet` has it"
    )

    def transform(shape):
        return spatial.SpatialTransform(
            shape, 0, random_crop=False, p_rotation=1, rotation=(angle, angle), p_scaling=1,
            scaling=(zoom, zoom), p_synchronize_scaling_across_axes=1,
            border_mode_seg="constant", padding_value_seg=0,
        )  # fmt: skip

    labels = blobs(size)
    image = torch.from_numpy(labels[None]).to(torch.int16)
    far, peaks = far_of(labels, spacing)
    large = tuple(n * 2 for n in size)
    whole = transform(large)(image=image.float(), segmentation=image)["segmentation"][0]
    moved = Following(transform(patch), spacing)(
        image=image.float(), segmentation=image, regression_target=far[0], peaks=peaks[0]
    )
    box = tuple(slice((n - m) // 2, (n + m) // 2) for n, m in zip(large, patch, strict=True))
    assert torch.equal(moved["segmentation"][0], whole[box])
    alone = Regions(moved["segmentation"].long(), 4, spacing)
    far, peaks = moved["regression_target"].half(), moved["peaks"]
    made = WholeRegions.of(alone, far[None], peaks[None])
    regions = Regions.single(whole.long(), 4, spacing)

    def error(text, each):
        term = maps.parse(text)
        return (term(each).dense() - moves.crop(term(regions), box).dense()).abs() / max(spacing)

    shares = error("rectified", made).gather(1, alone.labels[:, None])[:, 0]
    depths = (shares * regions.peak_depth_mm[0][alone.labels])[alone.labels > 0]
    return error("boundary", made), error("boundary", alone), depths, peaks


@pytest.mark.parametrize("zoom", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("angle", [-np.pi / 6, 0.2, np.pi / 6], ids=["-30", "11", "30"])
@pytest.mark.parametrize(
    ("size", "spacing", "patch"),
    [((96, 80), (1.0, 1.0), (40, 32)), ((48, 40, 40), (0.8, 0.8, 0.8), (20, 16, 16))],
    ids=["2d", "3d"],
)
def test_rotated_and_zoomed(size, spacing, patch, angle, zoom):
    error, alone, depths, _ = augmented(size, spacing, angle, zoom, patch)
    assert error.mean() <= 0.2
    assert error.quantile(0.98) <= 0.5
    assert error.max() <= 1.0
    assert depths.quantile(0.95) <= 0.5
    assert alone.max() > 3 * error.max()


@pytest.mark.parametrize("zoom", [0.7, 1.4])
def test_zoomed_anisotropic(zoom):
    error, alone, _, peaks = augmented((32, 40, 40), (2.5, 1.0, 1.0), 0.0, zoom, (12, 16, 16))
    assert peaks[:3].min() > 0
    assert error.mean() <= 0.2
    assert error.quantile(0.98) <= 0.5
    assert error.max() <= 1.0
    assert zoom > 1 or alone.max() > 3 * error.max()


@pytest.mark.parametrize(
    ("size", "spacing", "patch"),
    [((64, 48), (2.0, 1.0), (24, 20)), ((32, 40, 40), (2.5, 1.0, 1.0), (12, 16, 16))],
)
def test_rotated_anisotropic_voxels_leave_it_to_the_patch(size, spacing, patch):
    """In mm that is a shear: no scale of a distance would be right."""
    error, alone, _, peaks = augmented(size, spacing, np.pi / 6, 1.0, patch)
    assert not peaks.any()
    assert torch.equal(error, alone)


def test_slices_of_an_anisotropic_volume_rotate_in_their_plane():
    """nnU-Net's dummy 2-D augmentation: the first axis stays as it is."""
    far = torch.arange(24.0).reshape(1, 24).repeat(24, 1)[None]
    grid = torch.nn.functional.affine_grid(torch.eye(2, 3)[None], (1, 1, 24, 24), False)[0]
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    for affine, known in ((turn, True), (1.4 * turn, False)):
        params = {"grid": grid, "affine": affine, "elastic_offsets": None}
        inner = SimpleNamespace(get_parameters=lambda p=params, **_: p, apply=lambda d, **_: d)
        moved = Following(inner, (3.0, 1.0, 1.0))(regression_target=far, peaks=torch.tensor([5.0]))
        assert bool(moved["peaks"].any()) is known
        if known:
            resampled = grid_sample(far[None], grid[None], align_corners=False)[0]
            assert torch.equal(moved["regression_target"], resampled)


def test_only_terms_of_distances_follow():
    for text in (*TERMS, "dice + 0.01 * boundary", "rectified(weights=(1.0, 2.0)) + dice"):
        check_follows(maps.parse(text))
    for text in (
        "rectified(scope='component')", "rectified(weights='inverse')",
        "boundary(normalize='max')", "boundary(convention='edge')", "active_contour + boundary",
        "boundary.stabilized() + class_weighted",
    ):  # fmt: skip
        with pytest.raises(RWLossError, match="can't follow nnU-Net's augmentation"):
            check_follows(maps.parse(text))
    with pytest.raises(RWLossError, match="dice has no static map"):
        check_follows(maps.parse("dice"))


@pytest.fixture
def folder(tmp_path):
    return DistanceFolder(tmp_path / "distances", 4, (1.0, 2.0, 0.5), None)


def test_boxes_of_a_folder(folder):
    labels = blobs((10, 12, 14))
    assert folder.add("a", labels)
    far, peaks = far_of(labels, folder.spacing_mm)
    values, found = folder.read("a", [(2, 6), (0, 12), (3, 5)])
    torch.testing.assert_close(values, far[0, :, 2:6, :, 3:5], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found, peaks[0])
    beyond, _ = folder.read("a", [(-3, 12), (5, 20), (-2, 1)])
    assert beyond.shape == (4, 15, 15, 3)
    assert torch.equal(beyond[:, 0, 0, 0], beyond[:, 3, 0, 2])
    assert torch.equal(beyond[:, -1, -1], beyond[:, 12, 6])


def test_slices_of_a_folder(folder):
    """Of two axes: each slice is an image of its own."""
    labels = blobs((6, 12, 14))
    folder = replace(folder, spacing_mm=(2.0, 0.5))
    folder.add("a", labels)
    for z in (0, 3):
        far, peaks = far_of(labels[z], (2.0, 0.5))
        values, found = folder.read("a", [(z, z + 1), (0, 12), (2, 9)])
        torch.testing.assert_close(values, far[0, :, :, 2:9], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(found, peaks[0])


def test_a_folder_follows_its_labels(folder):
    labels = blobs((10, 12, 14))
    assert folder.add("a", labels)
    assert not folder.add("a", labels)
    assert replace(folder, spacing_mm=(1.0, 1.0, 0.5)).add("a", labels)
    assert folder.add("a", labels.clip(0, 1))
    about = json.loads((folder.folder / "a.json").read_text())
    assert about["peaks_mm"][0][2] == 0
    (folder.folder / "a.npy").write_bytes(b"cut")
    with pytest.raises(RWLossError, match=r"distances of a in .* can't be read: .*; remove the"):
        folder.read("a", [(0, 2)] * 3)
