"""Trainers that add a map to nnU-Net's own loss: one thing changes."""

import itertools

import numpy as np
import pytest
import torch
from loss_batches import value_and_gradient
from nnunet_plans import batch_of
from scipy.ndimage import distance_transform_edt

from rwloss.integrations.nnunet.loss import AddedLoss

CONFIGURATIONS = pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
LABELS = pytest.mark.parametrize(
    "labels", [{}, {"ignore": True}, {"regions": True}, {"regions": True, "ignore": True}], ids=str
)


def kervadec(inside, counted, spacing_mm):
    """The boundary map of one class of one image, by its definition; 0 where none counts."""
    if not inside.any() or inside.all():
        return np.zeros(inside.shape)
    depth = distance_transform_edt(inside, sampling=spacing_mm)
    beyond = distance_transform_edt(~inside, sampling=spacing_mm)
    return np.where(inside, min(spacing_mm) - depth, beyond) * counted


def naive_boundary(logits, target, spacing_mm, *, regions, ignore):
    """Mean of probabilities times the boundary map, over classes and voxels that count."""
    logits, target = logits.detach().double().numpy(), target.numpy()
    total, images = 0.0, range(len(logits))
    if regions:
        counted = ~target[:, -1].astype(bool) if ignore else np.ones_like(target[:, 0], bool)
        channels = logits.shape[1]
        p = 1 / (1 + np.exp(-logits))
        for image, k in itertools.product(images, range(channels)):
            here, inside = counted[image], target[image, k].astype(bool)
            for mask, probs in ((inside, p[image, k]), (~inside, 1 - p[image, k])):
                total += (kervadec(mask & here, here, spacing_mm) * probs).sum()
        return total / (2 * channels * counted.sum())
    labels = target[:, 0]
    counted = labels != 3 if ignore else np.ones_like(labels, bool)
    e = np.exp(logits)
    p = e / e.sum(axis=1, keepdims=True)
    for image, k in itertools.product(images, range(logits.shape[1])):
        total += (kervadec(labels[image] == k, counted[image], spacing_mm) * p[image, k]).sum()
    return total / (logits.shape[1] * counted.sum())


@LABELS
@CONFIGURATIONS
def test_is_nnunets_loss_plus_the_formula(trainer_of, monkeypatch, configuration, labels):
    """With its weights of deep supervision; regions, ignored voxels, 2-D and 3-D."""
    monkeypatch.setenv("RWLOSS_MAP", "0.3 * boundary")
    trainer = trainer_of(configuration, "nnUNetTrainerRWAdded", **labels)
    assert isinstance(trainer.loss, AddedLoss)
    batch = batch_of(trainer)
    outputs = [head.detach().requires_grad_() for head in trainer.network(batch["data"])]
    value = trainer.loss(outputs, batch["target"]).detach()
    own = super(type(trainer).__mro__[1], trainer)._build_loss()
    assert own.weight_factors == trainer.loss.own.weight_factors
    wanted = float(own(outputs, batch["target"]).detach())
    spacing = np.array({"2d": (0.5, 1.0), "3d_fullres": (3.0, 0.5, 1.0)}[configuration])
    full = np.array(outputs[0].shape[2:])
    for weight, head, target in zip(own.weight_factors, outputs, batch["target"], strict=True):
        mm = tuple(spacing * full / np.array(head.shape[2:]))
        flags = {name: labels.get(name, False) for name in ("regions", "ignore")}
        wanted += 0.3 * weight * naive_boundary(head, target, mm, **flags)
    assert float(value) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@LABELS
@CONFIGURATIONS
def test_a_weight_of_zero_changes_no_bit(trainer_of, monkeypatch, configuration, labels):
    monkeypatch.setenv("RWLOSS_MAP", "0 * boundary")
    trainer = trainer_of(configuration, "nnUNetTrainerRWAdded", **labels)
    batch = batch_of(trainer)
    outputs = [head.detach() for head in trainer.network(batch["data"])]
    found, wanted = [], []
    for loss, kept in ((trainer.loss, found), (trainer.loss.own, wanted)):
        heads = [head.clone().requires_grad_() for head in outputs]
        kept.append(loss(heads, batch["target"]))
        kept.extend(torch.autograd.grad(kept[0], heads, allow_unused=True, materialize_grads=True))
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def test_adds_to_the_loss_of_any_trainer(trainer_of, monkeypatch):
    """As the page writes it; without deep supervision too."""
    from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerDiceLoss import (
        nnUNetTrainerDiceCELoss_noSmooth,
    )

    from rwloss.integrations import nnunet

    class Mine(nnunet.nnUNetTrainerRWAdded, nnUNetTrainerDiceCELoss_noSmooth):
        rwloss_map = "0.01 * boundary"

    monkeypatch.setattr(nnunet, "Mine", Mine, raising=False)
    trainer = trainer_of("2d", "Mine", deep=False)
    assert trainer.loss.own.dc.smooth == 0  # as that trainer has it, unlike nnUNetTrainer
    batch = batch_of(trainer)
    logits = trainer.network(batch["data"]).detach()
    value, _ = value_and_gradient(trainer.loss, logits, batch["target"])
    flags = {"regions": False, "ignore": False}
    wanted = 0.01 * naive_boundary(logits, batch["target"], (0.5, 1.0), **flags)
    own = float(trainer.loss.own(logits, batch["target"]))
    assert float(value) == pytest.approx(own + wanted, rel=1e-6)


def test_schedules_follow_the_epochs(trainer_of, monkeypatch):
    monkeypatch.setenv("RWLOSS_MAP", "blend(dice, boundary, step=None)")
    trainer = trainer_of("2d", "nnUNetTrainerRWAdded")
    trainer.current_epoch = 500
    trainer.on_train_epoch_start()
    assert (trainer.loss.added.epoch, trainer.loss.added.total_epochs) == (500, 1000)
