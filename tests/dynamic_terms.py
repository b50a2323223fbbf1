"""Dynamic terms with parameters that lead through other code, and losses to compare with."""

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax, one_hot

from rwloss import RegionWiseLoss, maps
from rwloss.maps import Prediction, from_loss


def brier(probs, truth):
    return ((probs - truth) ** 2).sum(dim=1).mean()


TERMS = {
    "cross_entropy": maps.CrossEntropy(),
    "focal": maps.Focal(),
    "focal 0": maps.Focal(gamma=0.0),
    "focal 0.5": maps.Focal(gamma=0.5),
    "dice": maps.Dice(),
    "dice smooth": maps.Dice(smooth=1.0),
    "dice jaccard": maps.Dice(jaccard=True, squared_pred=True),
    "generalized_dice": maps.GeneralizedDice(),
    "tversky": maps.Tversky(),
    "tversky 1 0": maps.Tversky(alpha=1.0, beta=0.0),
    "focal_tversky": maps.FocalTversky(),
    "focal_tversky 0.5": maps.FocalTversky(gamma=0.5),
    "blob": maps.Blob(),
    "exclusion": maps.Exclusion(),
    "cc_dice_ce": maps.CCDiceCE(),
    "hausdorff_dt": maps.HausdorffDT(),
    "hausdorff_dt 1": maps.HausdorffDT(alpha=1.0),
    "log_hausdorff_dt": maps.LogHausdorffDT(),
    "soft_cl_dice": maps.SoftClDice(),
    "soft_cl_dice together": maps.SoftClDice(classes="together"),
    "active_contour_length": maps.ActiveContourLength(),
    "hausdorff_one_sided": maps.HausdorffOneSided(),
    "generalized_surface": maps.GeneralizedSurface(),
    "boundary_dou": maps.BoundaryDoU(),
    "lovasz_softmax": maps.LovaszSoftmax(),
    "lovasz_softmax all": maps.LovaszSoftmax(classes="all"),
    "asymmetric_focal": maps.AsymmetricFocal(),
    "asymmetric_focal_tversky": maps.AsymmetricFocalTversky(),
    "unified_focal": maps.UnifiedFocal(),
    "poly": maps.Poly(gamma=2.0, epsilon=-1.0),
    "mcc": maps.MCC(),
    "tvmf_dice": maps.TvMFDice(),
    "svls": maps.SVLS(),
    "top_k": maps.TopK(),
    "generalized_wasserstein_dice": maps.GeneralizedWassersteinDice(),
    "from_loss": from_loss(brier),
}
each_term = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)


def drawn_logits(seed, labels, num_classes, scale=1.5):
    shape = (len(labels), num_classes, *labels.shape[1:])
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, dtype=torch.float64, generator=generator)


def one_hot_of(labels, num_classes):
    """(b *s) -> (b k *s), float64; all 0 where the label is -1."""
    labels = torch.as_tensor(np.asarray(labels).astype(np.int64))
    hot = one_hot(labels.clamp_min(0), num_classes) * (labels >= 0)[..., None]
    return hot.movedim(-1, 1).double()


def own_loss(term, logits, regions):
    """The term's loss of logits."""
    prediction = Prediction.of(log_softmax(logits, dim=1), regions.labels, regions.spacings_mm)
    return term.value(prediction)


def gradient(loss, logits):
    (found,) = torch.autograd.grad(loss, logits, materialize_grads=True, allow_unused=True)
    return found


def assert_same_gradient(found, wanted, rtol=1e-10):
    scale = wanted.abs().max().clamp_min(1e-6)  # some are 0 but for rounding
    torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=rtol)


def assert_same_loss(term, reference, labels, device="cpu", spacing=None, rtol=1e-10):
    """reference: a function of logits on the CPU; labels (b *s) of four classes."""
    labels = torch.as_tensor(np.asarray(labels).astype(np.int64))
    ignore = -1 if (labels == -1).any() else None
    logits = drawn_logits(0, labels, 4).requires_grad_()
    wanted = reference(logits)
    loss = RegionWiseLoss(term, spacing_mm=spacing, ignore_index=ignore)
    found = loss(logits.to(device), labels.to(device))
    assert found.item() == pytest.approx(wanted.item(), rel=rtol)
    assert_same_gradient(gradient(found, logits), gradient(wanted, logits), rtol)


def target_of(labels):
    return torch.as_tensor(labels.astype(np.int64))
