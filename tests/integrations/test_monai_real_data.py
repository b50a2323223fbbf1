"""Real images, 2-D and 3-D: stored, made before or on the fly; and moved as NumPy would."""

import numpy as np
import pytest
import torch
from loss_batches import assert_same, value_and_gradient

import rwloss
from rwloss import Regions, maps
from rwloss.data import find
from rwloss.precompute import precompute

pytest.importorskip("monai", reason="MONAI is not installed")

from monai import transforms as mt
from monai.data import list_data_collate
from monai.losses import BoundaryLoss

from rwloss.integrations.monai import LoadRWMapd, RWLoss, RWMapd
from rwloss.integrations.monai.map_tensor import unpack

PICTURES = {"reader": "PILReader", "reverse_indexing": False}
SETS = {
    "hippocampus": (3, 3, {}),
    "lung_patches": (2, 2, PICTURES),
    "hrf_vessels": (2, 2, PICTURES),
}
FLAGS = {"to_onehot_y": True, "softmax": True}
KEYS = ["label", "map"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hippocampus", "rectified"),
        ("hippocampus", "boundary"),
        ("lung_patches", "rectified"),
        ("lung_patches", "boundary"),
        ("hrf_vessels", "boundary"),
    ],
)
def test_maps_of_real_images(name, text, shared_data, tmp_path):
    axes, num_classes, settings = SETS[name]
    found = find(shared_data(name)).cases[1].labels
    file = tmp_path / "labels" / found.name
    file.parent.mkdir()
    file.symlink_to(found.resolve())
    precompute(file.parent, tmp_path / "maps", text, num_classes=num_classes, jobs=0)
    store = rwloss.store.open(tmp_path / "maps")
    load = mt.Compose(
        [
            mt.LoadImaged("label", **settings),
            mt.EnsureChannelFirstd("label"),
            LoadRWMapd("label", store),
        ]
    )
    whole = load({"label": str(file)})
    made = RWMapd("label", text, num_classes, map_keys="made")

    # Whole images cost the same wherever the map comes from.
    batch = list_data_collate([made(whole)])
    torch.manual_seed(0)
    logits = torch.randn(1, num_classes, *batch["label"].shape[2:])
    for expression in (text, f"{text} + dice"):
        loss = RWLoss(expression, **FLAGS)
        on_the_fly = value_and_gradient(loss, logits, batch["label"])
        assert_same(value_and_gradient(loss, logits, batch["made"]), on_the_fly, 1e-5)
        assert_same(value_and_gradient(loss, logits, batch["map"]), on_the_fly, 1e-3)  # float16
    if text == "boundary":
        assert_same(
            value_and_gradient(
                RWLoss(text, **FLAGS, spacing_mm=(1.0,) * axes), logits, batch["label"]
            ),
            value_and_gradient(BoundaryLoss(**FLAGS), logits, batch["label"].as_tensor()),
            1e-5,
        )

    # Crop, flips and a turn as by index, of the map of the whole image in the store.
    start, end = (3, 5, 2)[:axes], (27, 40, 30)[:axes]
    moved = mt.Compose(
        [
            mt.SpatialCropd(KEYS, roi_start=start, roi_end=end),
            mt.Flipd(KEYS, 0),
            mt.Rotate90d(KEYS, 1, (0, 1)),
            RWMapd("label", text, num_classes),  # keeps it
            RWMapd("label", text, num_classes, map_keys="of patch"),
        ]
    )(whole)
    region = tuple(slice(a, b) for a, b in zip(start, end, strict=True))

    def by_hand(values):
        return np.rot90(np.flip(values[(..., *region)], axis=1), 1, (1, 2)).copy()

    rwmap = unpack(moved["map"][None])
    stored = store[file.name.split(".")[0]]
    np.testing.assert_array_equal(rwmap.dense()[0], by_hand(stored.dense()[0]))
    np.testing.assert_array_equal(moved["label"].as_tensor(), by_hand(stored.labels))

    # The map of the patch is another one, and what the loss makes on the fly.
    logits = torch.randn(1, num_classes, *moved["label"].shape[1:])
    loss = RWLoss(text, **FLAGS)
    of_patch = loss(logits, moved["of patch"][None])
    torch.testing.assert_close(loss(logits, moved["label"][None]), of_patch)
    spacing_mm = tuple(moved["label"].pixdim.tolist())[:axes]
    regions = Regions(moved["label"].as_tensor(), num_classes, spacing_mm)
    values = maps.get(text)(regions).dense().float()
    torch.testing.assert_close(of_patch, (logits.softmax(dim=1) * values).mean())
    if text == "rectified" and axes == 3:  # it loses the deepest background
        assert not torch.allclose(loss(logits, moved["map"][None]), of_patch, rtol=1e-3)
