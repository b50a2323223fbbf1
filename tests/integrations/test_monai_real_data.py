"""Real images, 2-D and 3-D: stored, made before or on the fly; and moved as NumPy would."""

import numpy as np
import pytest
import torch
from loss_batches import assert_same, value_and_gradient

import rwloss
from rwloss import Regions, maps
from rwloss.data import find

pytest.importorskip("monai", reason="MONAI is not installed")

from monai import transforms as mt
from monai.data import list_data_collate

from rwloss.integrations.monai import LoadRWMapd, RWLoss, RWMapd
from rwloss.integrations.monai.map_tensor import unpack

SETS = {
    "hippocampus": (3, 3, {}),
    "lung_patches": (2, 2, {"reader": "PILReader", "reverse_indexing": False}),
    "hrf_vessels": (2, 2, {"reader": "PILReader", "reverse_indexing": False}),
}
TEXTS = ["rectified", "boundary"]
KEYS = ["label", "map"]


@pytest.fixture(params=SETS)
def data(request, shared_data, tmp_path):
    """Axes, number of classes, what loads a label, and its file with a name for its folder."""
    axes, num_classes, settings = SETS[request.param]
    found = find(shared_data(request.param)).cases[1].labels
    file = tmp_path / "labels" / found.name
    file.parent.mkdir()
    file.symlink_to(found.resolve())
    return (
        axes,
        num_classes,
        [mt.LoadImaged("label", **settings), mt.EnsureChannelFirstd("label")],
        file,
    )


def stored(file, place, text, num_classes):
    from rwloss.precompute import precompute

    precompute(file.parent, place, text, num_classes=num_classes, jobs=0)
    return rwloss.store.open(place)


@pytest.mark.parametrize("text", TEXTS)
def test_whole_images_cost_the_same_wherever_the_map_comes_from(data, text, tmp_path):
    axes, num_classes, load, file = data
    store = stored(file, tmp_path / "maps", text, num_classes)
    both = mt.Compose(
        [*load, LoadRWMapd("label", store), RWMapd("label", text, num_classes, map_keys="made")]
    )({"label": str(file)})
    given = list_data_collate([both])
    torch.manual_seed(0)
    logits = torch.randn(1, num_classes, *given["label"].shape[2:])
    for whole in (text, f"{text} + dice"):
        loss = RWLoss(whole, to_onehot_y=True, softmax=True)
        on_the_fly = value_and_gradient(loss, logits, given["label"])
        assert_same(value_and_gradient(loss, logits, given["made"]), on_the_fly, 1e-5)
        assert_same(value_and_gradient(loss, logits, given["map"]), on_the_fly, 1e-3)  # float16
    if text == "boundary":
        from monai.losses import BoundaryLoss

        theirs = BoundaryLoss(to_onehot_y=True, softmax=True)
        boundary = RWLoss(text, to_onehot_y=True, softmax=True, spacing_mm=(1.0,) * axes)
        assert_same(
            value_and_gradient(boundary, logits, given["label"]),
            value_and_gradient(theirs, logits, given["label"].as_tensor()),
            1e-5,
        )


@pytest.mark.parametrize("text", TEXTS)
def test_moved_as_numpy_moves_the_dense_map(data, text, tmp_path):
    """Crop, flips and a turn by index, of the map of the whole image in the store."""
    axes, num_classes, load, file = data
    store = stored(file, tmp_path / "maps", text, num_classes)
    start, end = (3, 5, 2)[:axes], (27, 40, 30)[:axes]
    moved = mt.Compose(
        [
            *load,
            LoadRWMapd("label", store),
            mt.SpatialCropd(KEYS, roi_start=start, roi_end=end),
            mt.Flipd(KEYS, 0),
            mt.Rotate90d(KEYS, 1, (0, 1)),
            RWMapd("label", text, num_classes),  # keeps it
            RWMapd("label", text, num_classes, map_keys="of patch"),
        ]
    )({"label": str(file)})
    region = tuple(slice(a, b) for a, b in zip(start, end, strict=True))

    def by_hand(values):
        return np.rot90(np.flip(values[(..., *region)], axis=1), 1, (1, 2)).copy()

    whole = store[file.name.split(".")[0]]
    found = unpack(moved["map"][None])
    rwmap = found.rwmap(found.labels.long(), num_classes)
    np.testing.assert_array_equal(rwmap.dense()[0], by_hand(whole.dense()[0]))
    np.testing.assert_array_equal(moved["label"].as_tensor(), by_hand(whole.labels))
    cut = store.read(file.name.split(".")[0], region)
    np.testing.assert_array_equal(
        rwmap.dense()[0], np.rot90(np.flip(cut.dense()[0], axis=1), 1, (1, 2))
    )
    # The map of the patch is another one, and what the loss makes on the fly.
    torch.manual_seed(0)
    logits = torch.randn(1, num_classes, *moved["label"].shape[1:])
    loss = RWLoss(text, to_onehot_y=True, softmax=True)
    of_patch = loss(logits, moved["of patch"][None])
    torch.testing.assert_close(loss(logits, moved["label"][None]), of_patch)
    regions = Regions(
        moved["label"].as_tensor(), num_classes, tuple(moved["label"].pixdim.tolist())[:axes]
    )
    values = maps.get(text)(regions).dense().float()
    torch.testing.assert_close(of_patch, (logits.softmax(dim=1) * values).mean())
    if text == "rectified" and axes == 3:  # it loses the deepest background
        assert not torch.allclose(loss(logits, moved["map"][None]), of_patch, rtol=1e-3)
