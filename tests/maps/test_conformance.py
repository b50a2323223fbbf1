"""Every built-in passes the kit that plug-ins pass."""

import numpy as np
import pytest
import torch
from anatomy import batch
from built_ins import TEXTS

from rwloss import Regions, RegionWiseLoss, maps, testing


def known_failures(generator):
    if isinstance(generator, maps.SkeletonRecall):
        reason = "a skeleton ends before the border of the image, and leans to one side"
        return {"check_half_space": reason, "check_slab": reason}
    if generator == maps.ClassWeighted((1.0, 2.0, 3.0, 4.0)):
        return {"check_relabelling": "each class has the weight that was given for its number"}
    return {}


@pytest.mark.parametrize("text", TEXTS)
def test_built_in_on_each_device(text, device):
    """The map that NumPy gives, and a loss that trains."""
    labels = batch(117, (9, 8)).astype(np.int64)
    probs = np.random.default_rng(0).dirichlet(np.ones(4), labels.shape).transpose(0, 3, 1, 2)
    term = maps.parse(text)
    wanted = term(Regions(labels, 4, (0.8, 2.5)), probs).dense()
    target, given = torch.as_tensor(labels, device=device), torch.as_tensor(probs, device=device)
    rwmap = term(Regions(target, 4, (0.8, 2.5)), given)
    assert {part.device.type for part in rwmap.parts} == {device}
    assert (rwmap.expression, rwmap.spacing_mm) == (str(term), ((0.8, 2.5),) * 3)
    np.testing.assert_allclose(rwmap.dense().cpu(), wanted, rtol=1e-5, atol=1e-5)
    logits = given.log().requires_grad_()
    RegionWiseLoss(term, spacing_mm=(0.8, 2.5))(logits, target).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.any()


def test_every_built_in_is_here():
    assert {maps.parse(text).name for text in TEXTS} == set(maps.names())


@testing.parametrize_with_map_checks(map(maps.parse, TEXTS), known_failures)
def test_built_in(generator, check):
    check(generator)
