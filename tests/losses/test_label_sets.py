"""Labels that stand for one of several classes, against plain formulas and the principle."""

import math

import numpy as np
import pytest
import torch
from anatomy import batch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.nn.functional import cross_entropy

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps
from rwloss.losses.label_sets import LabelSets
from rwloss.maps.loss_term import Prediction

SETS = {3: (1, 2), 9: (0, 2)}
ALLOWED = {0: (0,), 1: (1,), 2: (2,), **SETS}


@pytest.fixture
def partial(device):
    """Logits of three classes, and labels of which some are sets; -1 is ignored."""
    labels = torch.as_tensor(batch(141, (7, 9), 3)).long()
    labels[0, :3] = torch.where(labels[0, :3] == 0, 9, 3)
    labels[1, :, 4:6] = 9
    labels[1, 2] = -1
    logits = torch.randn(len(labels), 3, 7, 9, generator=torch.Generator().manual_seed(4))
    return logits.double().to(device).requires_grad_(), labels.to(device)


def allowed_by(labels):
    """(b k *s), boolean."""
    found = torch.zeros(len(labels), 3, *labels.shape[1:], dtype=torch.bool, device=labels.device)
    for label, classes in ALLOWED.items():
        for k in classes:
            found[:, k] |= labels == label
    return found


def loss_of(text):
    return RegionWiseLoss(text, label_sets=SETS, ignore_index=-1)


def assert_same(found, wanted, logits):
    torch.testing.assert_close(found, wanted)
    one, other = (
        torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, wanted)
    )
    torch.testing.assert_close(one, other)


def test_marginal_cross_entropy_and_focal(partial):
    logits, labels = partial
    counts, allowed = labels >= 0, allowed_by(labels)
    marginal = (logits.softmax(1) * allowed).sum(1).where(counts, 1.0)
    assert_same(
        loss_of("cross_entropy")(logits, labels), -marginal.log().sum() / counts.sum(), logits
    )
    focal = -((1 - marginal) ** 2 * marginal.log()).sum() / counts.sum()
    assert_same(loss_of("focal")(logits, labels), focal, logits)


def test_exclusion(partial):
    logits, labels = partial
    excluded = ~allowed_by(labels) & (labels >= 0)[:, None]
    wanted = ((1 + logits.softmax(1)).log() * excluded).sum() / (labels >= 0).sum()
    assert_same(loss_of("exclusion")(logits, labels), wanted, logits)


OVERLAPS = ["dice", "dice(squared_pred=True)", "tversky", "generalized_dice", "focal_tversky"]


@pytest.mark.parametrize("text", [*OVERLAPS, "dice(include_background=False)"])
def test_marginal_overlaps(partial, text):
    """Each class of a voxel's set has an equal part of its probability, and of the truth."""
    logits, labels = partial
    allowed, counts = allowed_by(labels), (labels >= 0)[:, None]
    truth = allowed.double() / allowed.sum(1, keepdim=True).clamp_min(1)
    probs = logits.softmax(1)
    probs = torch.where(allowed, truth * (probs * allowed).sum(1, keepdim=True), probs) * counts
    if "squared" in text:
        both, sizes = (probs * truth).sum((2, 3)), (probs**2 + truth**2).sum((2, 3))
        wanted = (1 - (2 * both + 1e-5) / (sizes + 1e-5)).mean()
    else:
        plain = maps.parse(text)
        log_probs = probs.clamp_min(1e-30).log()
        seen = Prediction(log_probs, truth, counts.double(), (), shape=tuple(truth.shape))
        wanted = plain.value(seen)
    assert_same(loss_of(text)(logits, labels), wanted, logits)
    both = loss_of(f"{text} + cross_entropy")(logits, labels)
    torch.testing.assert_close(both, wanted + loss_of("cross_entropy")(logits, labels))


@pytest.mark.parametrize("text", [*OVERLAPS, "poly", "top_k", "svls", "focal", "exclusion"])
def test_how_the_probability_of_a_set_is_spread_does_not_matter(text):
    """At voxels of a set; with sets of one class it is the plain loss."""
    logits = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(1)).double()
    labels = torch.as_tensor(batch(5, (6, 5), 3, 2)).long()
    partial = labels.where(labels == 0, 3)
    probs, spread = logits.softmax(1), logits.softmax(1)
    pair = probs[:, 1] + probs[:, 2]
    for k, part in ((1, 0.3), (2, 0.7)):
        spread[:, k] = probs[:, k].where(labels == 0, part * pair)
    loss = RegionWiseLoss(text, label_sets={3: (1, 2)})
    torch.testing.assert_close(loss(spread.log(), partial), loss(logits, partial))
    assert not torch.isclose(loss(spread.log(), labels), loss(logits, labels))
    alone = RegionWiseLoss(text, label_sets={3: (1,), 4: (2,)})
    renamed = labels.where(labels == 0, labels + 2)
    torch.testing.assert_close(alone(logits, renamed), RegionWiseLoss(text)(logits, labels))


@pytest.mark.parametrize("text", ["rectified", "class_weighted", "boundary.stabilized()"])
@pytest.mark.parametrize("link", [None, 0.5, 0])
def test_compact_maps_share_a_value_among_the_allowed(partial, text, link):
    """The set is a region of its own; its value stands at all its classes."""
    logits, labels = partial
    numbered = labels.where(labels != 9, 4)
    z = maps.parse(text)(Regions(numbered, 5, ignore_label=-1))
    allowed, probs = allowed_by(labels), logits.softmax(1)
    if link is None:
        dense = torch.where(allowed, z.true[:, None], z.other[:, None])
        wanted = (probs * dense).sum() / (3 * (labels >= 0).sum())
    else:
        weight, p = z.other - z.true, (probs * allowed).sum(1).where(labels >= 0, 1.0)
        cost = -p.log() if link == 0 else (1 - p**link) / link
        wanted = (weight * cost).sum() / (3 * (labels >= 0).sum())
        text = f"{text}.with_link({link})"
    assert_same(loss_of(text)(logits, labels), wanted.double(), logits)
    if link is None:
        assert_same(loss_of(text)(logits, labels, z), wanted.double(), logits)
        prepared = loss_of(text).prepare(labels, 3)
        found = loss_of(text)(logits, prepared.regions, prepared.wait())
        assert_same(found, wanted.double(), logits)


def test_a_set_of_one_class_and_of_all(device):
    labels = torch.as_tensor(batch(142, (7, 9), 3), device=device).long()
    logits = torch.randn(len(labels), 3, 7, 9, device=device, requires_grad=True)
    renamed = labels.where(labels != 2, 7)
    loss = RegionWiseLoss("rectified + cross_entropy", label_sets={7: (2,)})
    wanted = RegionWiseLoss("rectified + cross_entropy")(logits, labels)
    assert_same(loss(logits, renamed), wanted, logits)
    anything = RegionWiseLoss("cross_entropy + exclusion", label_sets={5: (0, 1, 2)})
    value = anything(logits, torch.full_like(labels, 5))
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.grad(value, logits)[0].abs().max() < 1e-6
    # A label that is a class may stand for a set too: 0 for "background, or class 2".
    merged = RegionWiseLoss("cross_entropy", label_sets={0: (0, 2)})(logits, labels * (labels == 1))
    two = torch.stack([logits[:, [0, 2]].logsumexp(1), logits[:, 1]], dim=1)
    torch.testing.assert_close(merged, cross_entropy(two, (labels == 1).long()))


def test_far_logits_keep_their_gradient():
    logits = torch.tensor([300.0, -300.0, 0.0]).reshape(1, 3, 1, 1).requires_grad_()
    labels = torch.full((1, 1, 1), 3)
    loss = RegionWiseLoss("cross_entropy", label_sets={3: (1, 2)})(logits, labels)
    assert loss.item() == pytest.approx(300)
    loss.backward()
    np.testing.assert_allclose(logits.grad.flatten(), [1, 0, -1])


def test_deep_supervision(partial):
    logits, labels = partial
    both = [logits, logits[..., ::2, ::2]]
    loss = loss_of("rectified + cross_entropy")
    small = loss(both[1], labels[:, ::2, ::2], spacing_mm=(7 / 4, 9 / 5))
    torch.testing.assert_close(loss(both, labels), (2 * loss(logits, labels) + small) / 3)


# --- The principle: all allowed classes share the lowest value, all others one value


@settings(max_examples=60)
@given(
    arrays.arrays(np.float64, 5, elements=st.floats(-4, 4)),
    st.sets(st.integers(0, 4), min_size=1, max_size=5),
    st.floats(-3, 3),
    st.floats(0, 3),
)
def test_no_allowed_class_is_pushed_down_and_no_other_up(logits, classes, true, gap):
    given = torch.as_tensor(logits).reshape(1, 5, 1, 1).requires_grad_()
    labels = torch.full((1, 1, 1), 5)
    values = (torch.full((1, 1, 1), value, dtype=torch.float64) for value in (true, true + gap))
    loss = RegionWiseLoss("rectified", label_sets={5: tuple(classes)})
    loss(given, labels, RWMap.compact(labels, 6, *values)).backward()
    for k, gradient in enumerate(given.grad.flatten().tolist()):
        assert gradient <= 1e-12 if k in classes else gradient >= -1e-12


@settings(max_examples=60)
@given(
    arrays.arrays(np.int64, 4, elements=st.integers(-3, 3)),
    st.sets(st.integers(0, 3), min_size=1, max_size=3),
)
def test_any_other_map_pushes_some_class_the_wrong_way(values, classes):
    """The converse: at a prediction of two classes alone."""
    inside = {values[k] for k in classes}
    outside = {values[k] for k in range(4) if k not in classes}
    obeys = len(inside) == len(outside) == 1 and max(inside) <= min(outside)
    wrong = False
    for j in range(4):
        for k in range(4):
            probs = (np.eye(4)[j] + np.eye(4)[k]) / 2
            push = probs * (values - (probs * values).sum())
            wrong |= any(push[c] > 0 if c in classes else push[c] < 0 for c in range(4))
    assert wrong != obeys


# --- What can't take them


def test_printed_and_read_back():
    loss = RegionWiseLoss("rectified", label_sets={3: (1, 2)})
    assert repr(loss) == "RegionWiseLoss('rectified', label_sets={3: (1, 2)})"


def test_an_ignored_label_beyond_the_classes_is_no_set():
    """As the label that the first set has inside."""
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([[[0, 9, 1, 3]] * 4])
    loss = RegionWiseLoss("rectified + cross_entropy", label_sets={9: (1, 2)}, ignore_index=3)
    other = RegionWiseLoss("rectified + cross_entropy", label_sets={9: (1, 2)}, ignore_index=7)
    assert loss(logits, labels) == other(logits, labels.where(labels != 3, 7))
    prepared = loss.prepare(labels, 3)
    assert loss(logits, prepared.regions, prepared.wait()) == loss(logits, labels)


def test_refused():
    logits, labels = torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), 3)
    for text, why in (
        ("mcc", "it needs one class per voxel: use cross_entropy, dice"),
        ("rectified + 0.5 * blob", "it needs one class"),
        ("cross_entropy + dice.stabilized()", "it needs one class"),
        ("exclusion(include_background=False)", "a set may have the background in it"),
    ):
        with pytest.raises(RWLossError, match=f"can't take label_sets, because {why}"):
            RegionWiseLoss(text, label_sets={3: (1, 2)})
    with pytest.raises(RWLossError, match="a dense map, which can't take label_sets: add"):
        RegionWiseLoss("boundary", label_sets={3: (1, 2)})(logits, labels)
    for unfit in ({"activation": "sigmoid"}, {"include_background": False}, {"reduction": "none"}):
        with pytest.raises(RWLossError, match="label_sets are for the softmax with its background"):
            RegionWiseLoss("cross_entropy", label_sets={3: (1, 2)}, **unfit)
    for classes in ((), (1, 1), (-1, 2)):
        with pytest.raises(RWLossError, match="expected one class or more, each once, such as"):
            RegionWiseLoss("cross_entropy", label_sets={3: classes})
    with pytest.raises(RWLossError, match="name class 3, and there are 3 classes"):
        RegionWiseLoss("cross_entropy", label_sets={3: (1, 3)})(logits, labels)
    with pytest.raises(RWLossError, match="name the label 3, whose voxels are ignored: drop one"):
        RegionWiseLoss("cross_entropy", label_sets={3: (1, 2)}, ignore_index=3)(logits, labels)
    with pytest.raises(RWLossError, match="label 7 found"):
        RegionWiseLoss("cross_entropy", label_sets={3: (1, 2)})(logits, labels + 4)


@pytest.mark.parametrize("way", ["loss", "prepare", "numpy"])
def test_labels_that_are_no_class_and_no_set_are_refused_as_without_sets(way, device):
    sets, logits = LabelSets.of({9: (1, 2)}), torch.zeros(1, 3, 4, 4, device=device)

    def take(labels, ignore=None):
        if way == "numpy":
            return sets.renumbered(labels.numpy(), 3, ignore)
        given = {"label_sets": {9: (1, 2)}, "ignore_index": ignore}
        loss = RegionWiseLoss("rectified + dice", **given)
        labels = labels.to(device)
        return loss(logits, labels) if way == "loss" else loss.prepare(labels, 3)

    labels = torch.tensor([0, 1, 2, 9] * 4).reshape(1, 4, 4)
    for narrow in (labels, labels.to(torch.uint8), labels.float()):
        take(narrow)
    for wrong, ignore, why in (
        (3, None, "label 3 found, but num_classes=3"),  # the number of the set among the classes
        (-1, 255, "label -1 found: labels are 0 or more"),
        (1.5, None, "expected whole labels, got 1.5"),
        (math.nan, None, "expected whole labels, got nan"),
    ):
        unfit = labels.where(labels != 1, wrong)
        with pytest.raises(RWLossError, match=why):
            take(unfit, ignore)
