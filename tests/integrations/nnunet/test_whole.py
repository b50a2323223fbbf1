"""Trainers with the maps of whole volumes: nnU-Net's own loader, augmentation and steps."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from loss_batches import assert_same, value_and_gradient

from rwloss import Regions, RegionWiseLoss, RWLossError, maps, moves
from rwloss.integrations.nnunet.distances import Following

CONFIGURATIONS = pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])


@pytest.fixture
def loaded(trainer_of, cases, monkeypatch):
    """A function that makes a trainer with its loaders, and gives the labels of all cases too."""

    def make(configuration, text="rectified + dice", name="nnUNetTrainerRWWhole", **settings):
        labels = cases(configuration)
        monkeypatch.setenv("RWLOSS_MAP", text)
        trainer = trainer_of(configuration, name, **settings)
        trainer.batch_size = trainer.configuration_manager.batch_size
        loaders = trainer.get_dataloaders()
        return trainer, [each.data_loader for each in loaders], labels

    return make


@CONFIGURATIONS
@pytest.mark.parametrize("text", ["rectified + dice", "0.01 * boundary"])
def test_a_patch_has_the_map_of_its_volume(loaded, configuration, text):
    """Of validation, whose patches are crops. In 2-D the volume is the slice."""
    trainer, (_, loader), labels = loaded(configuration, text, deep=False)
    flat = configuration == "2d"
    spacing = (0.5, 1.0) if flat else (3.0, 0.5, 1.0)
    plain = RegionWiseLoss(text, spacing_mm=spacing, batch=trainer.loss.batch)
    seen = 0
    for _ in range(6):
        batch = loader.generate_train_batch()
        whole = labels[loader._case]
        start, stop = loader._box  # of the last patch of the batch
        if any(a < 0 or b > n for a, b, n in zip(start, stop, whole.shape, strict=True)):
            continue  # it reaches out of the volume
        seen += 1
        if flat:
            whole, start, stop = whole[start[0]], start[1:], stop[1:]
        box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        target = batch["target"][-1:]
        assert torch.equal(target[0, 0].long(), torch.from_numpy(whole[box]).long())
        rwmap = maps.parse(text).static_part(
            Regions.single(torch.from_numpy(whole.astype(int)), 3, spacing)
        )
        logits = torch.randn(1, 3, *target.shape[2:])
        trainer.loss.distances = batch["distances"][-1:], batch["peaks"][-1:]
        found = value_and_gradient(trainer.loss, logits, target)
        trainer.loss.distances = None
        with_map = partial(plain, rwmap=moves.crop(rwmap, box))
        wanted = value_and_gradient(with_map, logits, target)
        assert_same(found, wanted, relative=1e-3)  # stored in 16 bits
        alone = value_and_gradient(trainer.loss, logits, target)
        assert (alone[1] - wanted[1]).abs().max() > 10 * (found[1] - wanted[1]).abs().max()
    assert seen


@CONFIGURATIONS
@pytest.mark.parametrize(
    ("rotation", "scaling"),
    [(None, None), (None, (0.7, 0.9)), (None, (1.1, 1.4)), ((0.2, 0.5), None)],
)
def test_distances_lie_on_the_augmented_labels(loaded, configuration, rotation, scaling):
    """Below 0 in their class, above 0 outside: in mirrored crops everywhere, else nearly.

    The voxels are anisotropic, so that rotated patches are left to their own labels; and so flat in
    3-D that nnU-Net augments slice by slice, which stretches a zoomed volume. No zoom is within
    SIMILAR of 1: a volume stretched by less keeps its distances.
    """
    _, (train, _), _ = loaded(configuration)
    for each in train.augment.transforms:
        if isinstance(each, Following):
            each.inner.p_rotation, each.inner.p_scaling = bool(rotation), bool(scaling)
            each.inner.rotation, each.inner.scaling = rotation, scaling
    agreed = []
    for _ in range(8):
        batch = train.generate_train_batch()
        labels, far = batch["target"][0][:, 0], batch["distances"]
        inside = torch.stack([labels == k for k in range(3)], dim=1)
        known = batch["peaks"] > 0  # not a class that is absent from its slice, or fills it
        agreed.append(((far < 0) == inside)[known].float())
    agreed = torch.cat(agreed)
    if rotation or (scaling and configuration == "3d_fullres"):
        assert not len(agreed)
    else:
        assert agreed.mean() > (0.95 if scaling else 0.9999)


@CONFIGURATIONS
@pytest.mark.parametrize("name", ["nnUNetTrainerRWWhole", "nnUNetTrainerRWAddedWhole"])
def test_steps_lower_the_loss(loaded, configuration, name):
    """With augmentation and deep supervision; the map is that of the volume in validation too."""
    trainer, (train, val), _ = loaded(configuration, "0.1 * boundary", name)
    trainer.on_train_epoch_start()
    batch = train.generate_train_batch()
    heads = len(batch["target"])
    assert heads > 1
    assert batch["distances"].shape == (2, 3, *batch["data"].shape[2:])
    losses = [float(trainer.train_step(batch)["loss"]) for _ in range(4)]
    assert losses[3] < losses[0]
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        found = trainer.validation_step(val.generate_train_batch())
    assert np.isfinite(found["loss"])


def test_distances_are_made_once_beside_the_preprocessed_cases(loaded, tmp_path, capsys):
    trainer, _, labels = loaded("3d_fullres")
    folder = Path(trainer.preprocessed_dataset_folder_base) / "rwloss_distances_3d_fullres"
    assert {path.stem for path in folder.iterdir()} == set(labels)
    assert "rwloss: distances of 6 cases in" in capsys.readouterr().out
    peaks = json.loads((folder / "case_0.json").read_text())["peaks_mm"]
    wanted = Regions.single(labels["case_0"], 3, (3.0, 0.5, 1.0)).peak_depth_mm
    np.testing.assert_allclose(peaks, wanted, rtol=1e-6)
    trainer.get_dataloaders()
    assert ", 0 of them new, " in capsys.readouterr().out


def test_what_can_not_follow_is_refused(trainer_of, cases, monkeypatch):
    monkeypatch.setenv("RWLOSS_MAP", "active_contour")
    with pytest.raises(RWLossError, match="active_contour can't follow nnU-Net's augmentation"):
        trainer_of("2d", "nnUNetTrainerRWWhole")
    monkeypatch.setenv("RWLOSS_MAP", "rectified")
    with pytest.raises(RWLossError, match="RWWhole does not support regions: train with"):
        trainer_of("2d", "nnUNetTrainerRWWhole", regions=True)
    trainer = trainer_of("2d", "nnUNetTrainerRWWhole")
    with pytest.raises(RWLossError, match="gives no distances, because another class"):
        trainer.train_step({"data": torch.zeros(2, 1, 32, 16), "target": []})


def test_a_transform_that_drops_the_distances_is_refused(loaded):
    from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform

    _, (train, _), _ = loaded("2d")
    train.augment.transforms.append(BasicTransform())
    with pytest.raises(RWLossError, match="a transform of this trainer drops regression targets"):
        train.generate_train_batch()
