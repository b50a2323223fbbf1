"""Targets with fractions of classes: against torch, MONAI, expectations and the principle."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from loss_batches import assert_close, assert_same, every, here, one_hot, value_and_gradient
from loss_batches import given as batch_of
from monai.losses import DiceLoss, FocalLoss, GeneralizedDiceLoss, TverskyLoss
from torch.nn import functional

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps

OVERLAPS = ["dice", "dice(squared_pred=True)", "dice(jaccard=True)", "tversky", "focal_tversky"]
OVERLAPS += ["generalized_dice"]
BY_VOXEL = ["cross_entropy", "focal", "focal(gamma=0.5, mean_over='classes')", "poly", "exclusion"]


def soft_batch(shape=(6, 5), dtype=torch.float64, seed=91):
    """Logits, labels, and fractions of which a third are one-hot, some of several classes."""
    logits, labels = batch_of(shape, dtype=dtype, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    random = here(torch.rand(logits.shape, generator=generator, dtype=torch.float64))
    random = random.masked_fill(random < 0.3, 0.0) ** 3 + 1e-3 * one_hot(labels, 4)
    soft = (random / random.sum(1, keepdim=True)).where(labels[:, None] != 1, one_hot(labels, 4))
    return logits, labels, soft.to(dtype)


def soft_loss(text, soft=True, **settings):
    return RegionWiseLoss(text, soft_labels=soft, **settings)


# --- Against others


def test_cross_entropy_is_that_of_torch():
    logits, _, soft = soft_batch()
    found = value_and_gradient(soft_loss("cross_entropy"), logits, soft)
    assert_same(found, value_and_gradient(functional.cross_entropy, logits, soft), 1e-12)
    weights = (1.0, 0.5, 2.0, 0.0)
    theirs = functional.cross_entropy(logits, soft, here(np.array(weights)))
    scale = (soft * here(np.array(weights)).reshape(-1, 1, 1)).sum(1).mean()  # torch leaves it out
    found = soft_loss(f"cross_entropy(weight={weights})")(logits, soft)
    assert_close(found, theirs / scale, 1e-12)
    inside = soft[:, 1:]
    found = value_and_gradient(
        soft_loss("cross_entropy", activation="sigmoid"), logits[:, 1:], inside
    )
    wanted = value_and_gradient(functional.binary_cross_entropy_with_logits, logits[:, 1:], inside)
    assert_same(found, wanted, 1e-12)
    text = "cross_entropy(masks='together')"
    found = soft_loss(text, activation="sigmoid")(logits[:, 1:], inside)
    wanted = -(inside * logits[:, 1:].log_softmax(1)).sum(1).mean()
    assert_close(found, wanted, 1e-12)


@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        ("dice", DiceLoss(softmax=True, soft_label=True)),
        ("dice(squared_pred=True)", DiceLoss(softmax=True, soft_label=True, squared_pred=True)),
        ("dice(jaccard=True)", DiceLoss(softmax=True, soft_label=True, jaccard=True)),
        (
            "tversky(alpha=0.3, beta=0.7)",
            TverskyLoss(softmax=True, soft_label=True, alpha=0.3, beta=0.7),
        ),
        (
            "generalized_dice(absent='largest', smooth=1e-5)",
            GeneralizedDiceLoss(softmax=True, soft_label=True),
        ),
        ("focal(mean_over='classes')", FocalLoss(use_softmax=True)),
    ],
)
def test_those_of_monai(text, theirs):
    logits, _, soft = soft_batch()
    found = value_and_gradient(soft_loss(text), logits, soft)
    assert_same(found, value_and_gradient(theirs, logits, soft), 1e-5)


# --- Annotators: losses by voxel are the mean of those of each annotator


def annotated(shape=(6, 5), void=False):
    """Logits, label maps of four annotators, and the fractions that they give."""
    logits, first = batch_of(shape)
    labels = [first.long(), *(batch_of(shape, seed=seed)[1].long() for seed in (5, 6))]
    labels.append(labels[0])
    if void:
        for each in labels:
            each[:, 1:3] = 255
    return logits, labels, sum(one_hot(each, 4) for each in labels) / 4


def fixed_map(labels, num_classes=4):
    """A compact map with the same values for any labels."""
    true = here(np.linspace(-1, 1, labels[0].numel())).reshape(labels.shape[1:])
    true, labels = true.expand(labels.shape), labels.masked_fill(labels == 255, -1)
    return RWMap.compact(labels, num_classes, true, true + 0.5 + true**2)


@every(
    text=[*BY_VOXEL, None, "rectified", "rectified.with_link(0.5)", "rectified.with_link(0)"],
    settings=[{}, {"include_background": False}, {"reduction": "none"}, {"ignore_index": 255}],
)
def test_losses_by_voxel_are_the_mean_over_annotators(text, settings):
    logits, labels, soft = annotated(void="ignore_index" in settings)
    has_map = text is None or text.startswith("rectified")
    hard = RegionWiseLoss(text, **settings)
    losses = [
        value_and_gradient(lambda *x: hard(*x).mean(), logits, each, *[fixed_map(each)][:has_map])
        for each in labels
    ]
    wanted = sum(value for value, _ in losses) / 4, sum(gradient for _, gradient in losses) / 4
    loss = soft_loss(text, "largest" if has_map else True, **settings)
    largest = soft.argmax(1).where(soft.sum(1) > 0, 255)
    given = [fixed_map(largest)][:has_map]
    found = value_and_gradient(lambda *x: loss(*x).mean(), logits, soft, *given)
    assert_same(found, wanted, 1e-12)


def test_label_sets_are_equal_fractions_but_for_a_constant():
    """A compact map, and its gradient in the ratio of the values."""
    logits, labels, _ = soft_batch()
    labels = labels.long()
    allowed = one_hot(labels, 4)
    allowed[:, 1:3] = allowed[:, 1:3].where(labels[:, None] != 2, 1.0)
    partial = labels.where(labels != 2, 9)
    size = allowed.sum(1)
    small = fixed_map(labels)
    # The set shares its lowest value: with fractions 1 / n that is other - (other - true) / n.
    sets = RWMap.compact(labels.where(labels != 2, 4), 5, *small.parts)
    scaled = RWMap.compact(labels, 4, small.other - (small.other - small.true) * size, small.other)
    wanted = RegionWiseLoss("rectified", label_sets={9: (1, 2)})(logits, partial, sets)
    largest = (allowed / size[:, None]).argmax(1)
    scaled = RWMap.compact(largest, 4, *scaled.parts)
    found = soft_loss("rectified", "largest")(logits, allowed / size[:, None], scaled)
    assert_close(found, wanted, 1e-12)


# --- What hard labels give


TEXTS = ["rectified", "boundary + dice", "rectified.with_link(0.5)", "cross_entropy + poly"]
TEXTS += ["dice.stabilized()", "hausdorff_dt", "focal + tversky + svls + top_k + exclusion"]


@every(
    text=TEXTS,
    settings=[
        {},
        {"include_background": False},
        {"batch": True},
        {"activation": "none"},
        {"activation": "sigmoid"},
        {"reduction": "none"},
        {"reduction": "sum", "low_memory": True},
    ],
)
def test_one_hot_targets_are_hard_labels(text, settings):
    if "stabilized" in text and ("batch" in settings or "include_background" in settings):
        return
    logits, labels, _ = soft_batch()
    truth = one_hot(labels, 4)
    logits = logits.softmax(1) if settings.get("activation") == "none" else logits
    hard, soft = (RegionWiseLoss(text, soft_labels=kind, **settings) for kind in (False, "largest"))
    wanted = value_and_gradient(lambda *x: hard(*x).mean(), logits, truth)
    assert_same(value_and_gradient(lambda *x: soft(*x).mean(), logits, truth), wanted, 1e-12)
    assert_same(value_and_gradient(lambda *x: soft(*x).mean(), logits, truth.bool()), wanted, 1e-12)
    if "activation" not in settings:
        assert_same(value_and_gradient(lambda *x: soft(*x).mean(), logits, labels), wanted, 1e-12)
        assert_close(soft(logits, truth, mask=labels > 0), hard(logits, truth, mask=labels > 0))


@every(
    text=["boundary", "hausdorff_dt", "(boundary + dice).stabilized()", "lovasz_softmax", "blob"]
)
def test_terms_that_need_one_class_take_the_largest_fraction(text):
    logits, _, soft = soft_batch()
    wanted = value_and_gradient(RegionWiseLoss(text), logits, soft.argmax(1))
    assert_same(value_and_gradient(soft_loss(text, "largest"), logits, soft), wanted, 1e-12)


def test_a_compact_map_is_spread_by_the_fractions():
    logits, _, soft = soft_batch()
    made = maps.get("rectified")(Regions(soft.argmax(1), 4, spacing_mm=(2.0, 1.0)))
    z = made.other[:, None] - (made.other - made.true)[:, None] * soft
    wanted = value_and_gradient(lambda x: (x.softmax(1) * z).mean(), logits)
    loss = soft_loss("rectified", "largest", spacing_mm=(2.0, 1.0))
    for rwmap in ((), (made,), (z,)):
        assert_same(value_and_gradient(loss, logits, soft, *rwmap), wanted, 1e-6)
    least = (z.amin(1)).mean() / 4
    assert_close(loss.excess(logits, soft), wanted[0] - least, 1e-5)


# --- Where the losses are least


@every(text=OVERLAPS, settings=[{}, {"batch": True}, {"activation": "sigmoid"}])
def test_overlaps_are_least_where_the_prediction_is_the_fractions(text, settings):
    _, _, soft = soft_batch()
    soft = soft.clamp(1e-6, 1 - 1e-6)
    is_mask = "activation" in settings
    soft = soft if is_mask else soft / soft.sum(1, keepdim=True)
    perfect = soft.logit() if is_mask else soft.log()
    loss = soft_loss(text, **settings)
    assert loss(perfect, soft).item() == pytest.approx(0, abs=1e-5)
    for seed in range(3):
        noise = batch_of((6, 5), seed=seed)[0]
        assert loss(perfect + 0.1 * noise, soft) > 0.001


def test_cross_entropy_is_least_there_too_and_linear_maps_at_the_largest():
    _, _, soft = soft_batch()
    soft = soft.clamp_min(1e-6)
    perfect = (soft / soft.sum(1, keepdim=True)).log()
    _, gradient = value_and_gradient(soft_loss("cross_entropy"), perfect, perfect.exp())
    assert gradient.abs().max() < 1e-12
    sure = 50.0 * one_hot(soft.argmax(1), 4)
    linear = soft_loss("class_weighted(weights=(1, 1, 1, 1))", "largest")
    assert linear(sure, perfect.exp()) < linear(perfect, perfect.exp())
    assert linear.excess(sure, perfect.exp()).item() == pytest.approx(0, abs=1e-9)


fractions = arrays.arrays(np.float64, 5, elements=st.integers(0, 3)).filter(lambda y: y.any())


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.float64, 5, elements=st.floats(-4, 4)),
    fractions,
    st.floats(-3, 3),
    st.floats(0, 3),
)
def test_classes_are_pushed_by_their_fraction_against_the_expected(logits, soft, true, gap):
    """Up where the fraction is above Σ p y, down where it is below."""
    y = torch.as_tensor(soft / soft.sum()).reshape(1, 5, 1, 1)
    leaf = torch.as_tensor(logits).reshape(1, 5, 1, 1).requires_grad_()
    parts = (torch.full((1, 1, 1), value, dtype=torch.float64) for value in (true, true + gap))
    rwmap = RWMap.compact(y.argmax(1), 5, *parts)
    RegionWiseLoss("rectified", soft_labels="largest")(leaf, y, rwmap).backward()
    probs = leaf.detach().softmax(1)
    wanted = -gap * probs * (y - (probs * y).sum()) / 5
    torch.testing.assert_close(leaf.grad, wanted, atol=1e-12, rtol=1e-9)


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.int64, 4, elements=st.integers(-2, 2)), fractions.map(lambda y: y[:4]))
def test_a_map_pushes_two_classes_the_right_way_only_in_the_order_of_their_fractions(values, soft):
    """At a prediction of two classes, the one with the larger fraction must go up."""
    pairs = [(j, k) for j in range(4) for k in range(4) if soft[j] > soft[k]]
    obeys = all(values[j] < values[k] for j, k in pairs)
    right = True
    for j, k in pairs:
        probs = (np.eye(4)[j] + np.eye(4)[k]) / 2
        push = probs * (values - (probs * values).sum())
        right &= push[j] < 0 < push[k]
    assert right == obeys


# --- Everything else a loss has, and what is refused


def test_several_outputs_autocast_and_graphs():
    logits, _, soft = soft_batch(dtype=torch.float32)
    loss = soft_loss("rectified + dice + cross_entropy", "largest")
    one = loss(logits, soft)
    small = loss(logits[..., ::3, ::2], soft[..., 1::3, ::2], spacing_mm=(3, 5 / 3))
    assert_close(loss([logits, logits[..., ::3, ::2]], soft), (2 * one + small) / 3)
    with torch.autocast(logits.device.type, dtype=torch.bfloat16):
        assert_close(loss(logits.bfloat16(), soft), one, 2e-2)
    assert_close(loss(logits, soft.bfloat16()), one, 2e-2)
    rwmap = maps.get("rectified")(Regions(soft.argmax(1), 4))
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = value_and_gradient(compiled, logits, soft, rwmap)
    torch._dynamo.reset()
    assert_same(found, value_and_gradient(loss, logits, soft, rwmap))


def test_losses_of_ones_own():
    logits, _, soft = soft_batch()
    brier = maps.from_loss(lambda p, y: ((p - y) ** 2).mean(), name="brier", takes_soft_labels=True)
    assert_close(soft_loss(brier)(logits, soft), ((logits.softmax(1) - soft) ** 2).mean(), 1e-12)

    @maps.register("absolute", takes_soft_labels=True)
    def absolute(probs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return (probs - truth).abs().mean()

    found = soft_loss(absolute())(logits, soft)
    assert_close(found, (logits.softmax(1) - soft).abs().mean(), 1e-12)


def refused(message, call, *args, **kwargs):
    with pytest.raises(RWLossError, match=message):
        call(*args, **kwargs)


def test_terms_and_settings_that_do_not_fit():
    with pytest.raises(RWLossError) as error:
        soft_loss("dice + hausdorff_dt")
    assert str(error.value).startswith("hausdorff_dt needs one class per voxel: soft_labels='lar")
    assert all(f"{name}, " in str(error.value) for name in ("cross_entropy", "dice", "svls"))
    for text in ("rectified", "rectified.with_link(1)", "dice.stabilized()", None):
        refused("needs one class per voxel", soft_loss, text)
    refused("unknown soft_labels 'largst': did you mean 'largest'", soft_loss, "dice", "largst")
    for setting in ({"label_sets": {5: (1, 2)}}, {"class_weights": (1, 2)}):
        refused("need one class per voxel: drop", soft_loss, "cross_entropy", **setting)
    logits, labels, soft = soft_batch()
    refused("prepare returns Regions", soft_loss("dice").prepare, soft, 4)
    refused("Regions have one class per voxel", soft_loss("dice"), logits, Regions(labels, 4))
    for text in ("dice", "rectified.with_link(0.5)"):
        refused("its minimum", soft_loss(text, "largest").excess, logits, soft)


@every(
    change=[
        lambda y: y * 0.9,
        lambda y: -y,
        lambda y: y * torch.nan,
        torch.zeros_like,
        torch.ones_like,
        lambda y: y - 0.5 + 0.5 * y.roll(1, 1),
    ]
)
def test_fractions_that_are_none(change):
    logits, _, soft = soft_batch()
    refused(
        "expected soft labels of 0 or more that sum to 1", soft_loss("dice"), logits, change(soft)
    )
    masks = soft_loss("dice", activation="sigmoid")
    if not ((change(soft) >= 0) & (change(soft) <= 1)).all():
        refused("expected masks of fractions from 0 to 1, got", masks, logits, change(soft))


def test_fractions_may_be_off_by_rounding():
    """Ten times 0.1 is above 1 in float32, and what is left for the other class below 0."""
    mask = sum(torch.full((1, 1, 4, 4), 0.1) for _ in range(10))
    assert mask.max() > 1
    logits = torch.randn(1, 1, 4, 4)
    found = soft_loss("dice", activation="sigmoid")(logits, mask)
    wanted = RegionWiseLoss("dice", activation="sigmoid")(logits, torch.ones(1, 1, 4, 4))
    assert_close(found, wanted, 1e-6)
    both = torch.cat([1 - mask, mask], dim=1)
    logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    assert_close(soft_loss("dice")(logits, both), wanted, 1e-6)


def test_masks_of_255_are_named_as_they_are():
    masks = 255 * torch.ones(1, 2, 4, 4)
    refused(
        "got 255: divide", soft_loss("dice", activation="sigmoid"), torch.zeros(masks.shape), masks
    )


def test_ignored_voxels_of_soft_labels():
    logits, _, soft = soft_batch()
    void = soft.clone()
    void[:, :, 2] = 0
    rest = [x[:, :, [0, 1, 3, 4, 5]] for x in (logits, soft)]
    for text in ("cross_entropy", "dice", "focal + tversky"):
        found = soft_loss(text, ignore_index=-1)(logits, void)
        assert_close(found, soft_loss(text)(*rest), 1e-12)
        half = soft.clone()
        half[:, :, 2] = -1
        found = soft_loss(text, activation="sigmoid", ignore_index=-1)(logits, half)
        assert_close(found, soft_loss(text, activation="sigmoid")(*rest), 1e-12)
    refused("ignore_index=0 is a class", soft_loss("dice", ignore_index=0), logits, soft)
    masks = soft_loss("dice", activation="sigmoid", ignore_index=1)
    refused("ignore_index=1 is a fraction", masks, logits, soft)
    refused("target .* does not fit", soft_loss("dice"), logits, soft[:, 1:])
