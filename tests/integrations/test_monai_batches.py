"""PrepareBatchRWMap: image and map of a batch, and the check that both are of one label."""

import pickle

import pytest
import torch
from anatomy import batch

from rwloss import RWLossError

pytest.importorskip("monai", reason="MONAI is not installed")

from monai import transforms as mt
from monai.data import list_data_collate

from rwloss.integrations.monai import PrepareBatchRWMap, RWMapd

KEYS = ["image", "label", "map"]


def batch_of(*transforms, masks=False):
    """Two samples with image, label and map, behind the transforms."""
    labels = torch.as_tensor(batch(51, (14, 12, 10), 2 if masks else 3, 4)).float()
    make = RWMapd("label", "rectified", None if masks else 3, masks=masks)
    pipeline = mt.Compose([make, *transforms]).set_random_state(0)
    return list_data_collate(
        [
            pipeline({"image": part[:1] + 0.5, "label": part})
            for part in labels.split(2 if masks else 1)[:2]
        ]
    )


@pytest.mark.parametrize("masks", [False, True])
def test_a_map_is_the_target_unless_it_was_left_behind(masks):
    given = batch_of(mt.RandFlipd(KEYS, 1.0), mt.RandSpatialCropd(KEYS, 6), masks=masks)
    image, target = PrepareBatchRWMap()(given, torch.device("cpu"), True)
    assert image is given["image"]
    assert target is given["map"]
    forgetful_transforms = [
        mt.Flipd(KEYS[:2], 0),
        mt.SpatialCropd(KEYS[:2], roi_start=(0, 0, 0), roi_end=(8, 8, 8)),
        mt.Lambdad("label", lambda label: 1 - label.clamp(0, 1)),
    ]
    for forgetful in forgetful_transforms + [mt.AsDiscreted("label", to_onehot=3)] * (not masks):
        with pytest.raises(
            RWLossError, match=r"'map' .* is of other labels than 'label'.*once more.*no one-hot"
        ):
            PrepareBatchRWMap()(batch_of(forgetful, masks=masks))


def test_moves_both_as_the_trainer_says():
    for moved in PrepareBatchRWMap()(batch_of(), torch.device("meta"), dtype=torch.float64):
        assert (moved.device.type, moved.dtype) == ("meta", torch.float64)


def test_ignored_voxels_are_compared_too():
    label = torch.zeros(1, 6, 6)
    label[0, 2] = 255
    made = RWMapd("label", "rectified", 2, ignore_index=255)({"label": label, "image": label})
    given = {key: value[None] for key, value in made.items()}
    assert PrepareBatchRWMap()(given)[1] is given["map"]
    given["label"] = given["label"].where(given["label"] == 255, 1)
    with pytest.raises(RWLossError, match="other labels"):
        PrepareBatchRWMap()(given)


def test_other_keys():
    given = batch_of()
    given = {"flair": given["image"], "mask": given["label"], "rw": given["map"]}
    prepare = pickle.loads(pickle.dumps(PrepareBatchRWMap("flair", "mask", "rw")))
    assert prepare(given)[1] is given["rw"]
    del given["mask"]
    assert prepare(given)[0] is given["flair"]
    with pytest.raises(RWLossError, match="has 'flair' and 'rw', not 'flair' and 'map'"):
        PrepareBatchRWMap("flair")(given)
