"""Logits changed before the softmax, and SCNP against its authors' numbers."""

import pickle

import pytest
import torch
from loss_batches import assert_close, assert_same, every, given, given_masks, value_and_gradient

from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.losses import SCNP

# Of SCNP/scnp_example.py of jmlipman/SCNP-SameClassNeighborPenalization at commit 1649403, on the
# logits and labels below: transformed logits of classes 0 and 2, and gradients of cross-entropy.
CLASS_0 = [-1.5, -1.5, 1, 0.5, 0.25, -1.5, 1, 1, 0.5, -1.5]
CLASS_0 += [1, 1, 1, -1.5, -1.5, 0.75, 0.25, -1.5, 1, 1]
CLASS_2 = [1, 1, 0.75, 0.75, 0.75, 1, -1.5, 1, 1, 1, -1.5, -1.5, -1.5, 1, 1, -0.5, 0.5, 1, 1, 1]
BY_CLASS_1 = [0, 0.017095, 0, -0.230081, 0, 0, 0, 0, 0, 0.030388]
BY_CLASS_1 += [0, 0.017959, 0.144123, 0, 0, 0.042793, 0, 0, 0, -0.096058]


def test_the_official_numbers(device):
    values = torch.tensor([((7 * i * i + 3 * i) % 13) / 4 - 1.5 for i in range(60)], device=device)
    logits = values.reshape(1, 3, 4, 5).requires_grad_()
    rows = [[0, 0, 1, 1, 1], [0, 2, 1, 1, 0], [2, 2, 2, 0, 0], [2, 0, 0, 1, 1]]
    labels = torch.tensor([rows], device=device)
    truth = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    changed = SCNP()(logits, truth)
    assert changed[0, 0].flatten().tolist() == CLASS_0
    assert changed[0, 2].flatten().tolist() == CLASS_2
    value = RegionWiseLoss("cross_entropy", logit_transform=SCNP())(logits, labels)
    assert value.item() == pytest.approx(2.823058605)
    value.backward()
    assert_close(logits.grad[0, 1].flatten(), torch.tensor(BY_CLASS_1), 1e-5)


@pytest.mark.parametrize(("size", "wanted"), [(3, 2.9588212967), (5, 3.2399530411)])
def test_the_official_numbers_in_3d(size, wanted):
    logits = torch.tensor([((5 * i * i + 2 * i) % 17) / 5 - 1.5 for i in range(72)])
    labels = torch.tensor([(i * i // 3) % 2 for i in range(36)]).reshape(1, 3, 3, 4)
    loss = RegionWiseLoss("cross_entropy", logit_transform=SCNP(size))
    assert loss(logits.reshape(1, 2, 3, 3, 4), labels).item() == pytest.approx(wanted)


def worst_neighbors(logits, labels, counted):
    """By a loop over voxels. 2-D; voxels that don't count keep their logits."""
    changed = logits.clone()
    for b, i, j in counted.nonzero().tolist():
        window = (b, slice(max(i - 1, 0), i + 2), slice(max(j - 1, 0), j + 2))
        near, seen = labels[window], counted[window]
        for k in range(logits.shape[1]):
            there = logits[b, k][window[1:]]
            changed[b, k, i, j] = (
                there[seen & (near == k)].min()
                if labels[b, i, j] == k
                else there[seen & (near != k)].max()
            )
    return changed


TEXTS = ["rectified + dice", "boundary", "cross_entropy", "rectified.with_link(0.5)"]


@every(text=TEXTS)
def test_worst_neighbors_that_count(text):
    """Ignored and masked voxels, even with NaN, are no neighbors; maps are those of the labels."""
    logits, labels = given((6, 5))
    void, mask = labels.clone().long(), labels > 0
    void[:, 1, 1:3], mask[:, 0, 0] = 255, True
    counted = mask & (void != 255)
    plain = RegionWiseLoss(text, ignore_index=255)
    changed = RegionWiseLoss(text, ignore_index=255, logit_transform=SCNP())
    wanted = plain(worst_neighbors(logits, void, counted), void, mask=mask)
    assert_close(changed(logits, void, mask=mask), wanted, 1e-12)
    logits = logits.masked_fill(~counted[:, None], torch.nan)
    _, gradient = value_and_gradient(changed, logits, void, mask=mask)
    assert gradient.isfinite().all()
    assert not gradient.masked_fill(counted[:, None], 0.0).any()


def test_masks_have_no_neighbors_outside():
    """As the official formula of one channel: two classes, of which the other has the logit 0."""
    logits, masks = given_masks((6, 5))
    found = RegionWiseLoss("dice + rectified", activation="sigmoid", logit_transform=SCNP())
    apart, two = masks.flatten(0, 1), logits.flatten(0, 1)
    every_voxel = torch.ones_like(apart, dtype=torch.bool)
    changed = worst_neighbors(torch.stack([torch.zeros_like(two), two], 1), apart, every_voxel)
    wanted = RegionWiseLoss("dice + rectified")(changed, apart)
    assert_close(found(logits, masks), wanted, 1e-12)


def test_any_function_and_everything_else_a_loss_has():
    """Half-precision logits, autocast, stored maps, several outputs, graphs, pickles."""
    logits, labels = given((6, 5), dtype=torch.float32)

    def halved(seen, truth):
        assert seen.dtype == truth.dtype == torch.float32
        assert torch.equal(truth.argmax(dim=1), labels.long())
        return seen / 2

    loss = RegionWiseLoss("rectified + dice", logit_transform=halved)
    half = value_and_gradient(RegionWiseLoss("rectified + dice"), logits / 2, labels)
    found = value_and_gradient(loss, logits, labels, maps.get("rectified")(Regions(labels, 4)))
    assert_same(found, (half[0], half[1] / 2))
    with torch.autocast(logits.device.type, dtype=torch.bfloat16):
        assert_close(loss(logits.bfloat16(), labels), half[0], 1e-2)
    loss = pickle.loads(pickle.dumps(RegionWiseLoss("rectified + dice", logit_transform=SCNP(5))))
    assert repr(loss) == "RegionWiseLoss('rectified + dice', logit_transform=SCNP(size=5))"
    small = loss(logits[..., ::3, ::2], labels[:, 1::3, ::2], spacing_mm=(3, 5 / 3))
    both = loss([logits, logits[..., ::3, ::2]], labels)
    assert_close(both, (2 * loss(logits, labels) + small) / 3)
    stored = maps.get("rectified")(Regions(labels, 4))
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = value_and_gradient(compiled, logits, labels, stored)
    torch._dynamo.reset()
    assert_same(found, value_and_gradient(loss, logits, labels, stored))


def test_what_is_refused():
    logits, labels = given((6, 5))
    with pytest.raises(RWLossError, match="odd size"):
        SCNP(4)
    for settings in ({"activation": "none"}, {"activation": "masks"}, {"label_sets": {4: (1, 2)}}):
        with pytest.raises(RWLossError, match="logit_transform is for logits"):
            RegionWiseLoss("cross_entropy", logit_transform=SCNP(), **settings)
    for wrong, got in ((lambda x, y: x[:, 1:], r"\(3, 3, 6, 5\)"), (lambda x, y: None, "NoneType")):
        with pytest.raises(RWLossError, match=f"must return logits .* got {got}"):
            RegionWiseLoss("dice", logit_transform=wrong)(logits, labels)
