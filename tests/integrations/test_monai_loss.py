"""RWLoss: MONAI's conventions, and equality with MONAI's own losses."""

import inspect
import itertools
import pickle
import types

import pytest
import torch
from loss_batches import assert_same, given, given_masks, one_hot, value_and_gradient

from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.integrations.monai import RWLoss

SHAPES = [(17, 14), (9, 8, 7)]


@pytest.fixture
def monai_losses():
    return pytest.importorskip("monai.losses", reason="the peer is not installed")


# --- Against MONAI


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "flags",
    [
        {"softmax": True},
        {"sigmoid": True},
        {"softmax": True, "include_background": False},
        {"sigmoid": True, "include_background": False},
        {"softmax": True, "reduction": "sum"},
        {"softmax": True, "reduction": "sum", "batch": True, "include_background": False},
        {"sigmoid": True, "reduction": "sum", "include_background": False},
        {"softmax": True, "batch": True},
        {"softmax": True, "reduction": "none"},
        {"softmax": True, "reduction": "none", "include_background": False},
        {"softmax": True, "reduction": "none", "batch": True},
        {"softmax": True, "reduction": "none", "batch": True, "include_background": False},
    ],
    ids=str,
)
def test_equals_boundary_loss(monai_losses, shape, flags):
    """Value and gradient; with labels as target and with one channel per class."""
    types = [(torch.float64, 1e-12)] + [(torch.float32, 2e-6)] * (len(flags) == 1)
    for dtype, relative in types:
        logits, labels = given(shape, dtype=dtype)
        for target, to_onehot_y in ((labels[:, None].float(), True), (one_hot(labels, 4), False)):
            more = flags | {"to_onehot_y": to_onehot_y}
            ours, theirs = RWLoss("boundary", **more), monai_losses.BoundaryLoss(**more)
            if flags.get("reduction") != "none":
                found, wanted = (
                    value_and_gradient(loss, logits, target.float()) for loss in (ours, theirs)
                )
                assert_same(found, wanted, relative)
            else:
                found, wanted = (loss(logits, target) for loss in (ours, theirs))
                torch.testing.assert_close(found, wanted.to(found), rtol=relative, atol=relative)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("include_background", [False, True])
def test_equals_boundary_loss_of_any_number_of_classes(
    monai_losses, shape, num_classes, include_background
):
    """Absent classes and one that fills the image too; labels with and without a channel."""
    logits, given_labels = given(shape, num_classes)
    flags = {"to_onehot_y": True, "include_background": include_background}
    for present, target_of in itertools.product((1, 2, 5), (lambda y: y, lambda y: y[:, None])):
        target = target_of(given_labels.clamp_max(present - 1).long())
        for activation, output in (({"softmax": True}, logits), ({}, logits.softmax(dim=1))):
            ours = RWLoss("boundary", **flags, **activation)
            theirs = monai_losses.BoundaryLoss(**flags, **activation)
            assert_same(
                value_and_gradient(ours, output, target),
                value_and_gradient(theirs, output, target),
                1e-12,
            )


def test_positions_of_the_arguments_are_those_of_boundary_loss(monai_losses):
    """All that MONAI's has, in its order, but for `other_act`."""
    theirs, ours = (
        list(inspect.signature(loss).parameters) for loss in (monai_losses.BoundaryLoss, RWLoss)
    )
    assert ours[0] == "expression"
    assert theirs[:4] == ours[1:5]
    assert set(theirs) - set(ours) == {"other_act"}


@pytest.mark.parametrize("masks", [1, 3])
def test_equals_boundary_loss_of_overlapping_masks(monai_losses, masks):
    logits, target = given_masks((12, 10), masks)
    found = value_and_gradient(RWLoss("boundary", sigmoid=True), logits, target)
    theirs = monai_losses.BoundaryLoss(sigmoid=True)
    assert_same(found, value_and_gradient(theirs, logits, target.float()), 1e-12)


def test_equals_losses_of_probabilities_of_masks(monai_losses):
    """Probabilities of exactly 0 and 1 too, of an empty mask and of one that is right."""
    logits, target = given_masks((12, 10), 3)
    probs = logits.sigmoid()
    target[0, 0], probs[0, 0] = 0, 0.0
    probs[0, 1] = target[0, 1].double()
    probs[1, 2] = 1.0
    for masks in (slice(0, 1), slice(None)):
        given_probs, given_target = probs[:, masks], target[:, masks]
        for text, theirs in (
            ("dice", monai_losses.DiceLoss()),
            ("boundary", monai_losses.BoundaryLoss()),
            ("hausdorff_dt", monai_losses.HausdorffDTLoss(include_background=True)),
        ):
            found = value_and_gradient(RWLoss(text, masks=True), given_probs, given_target)
            wanted = value_and_gradient(theirs, given_probs, given_target.double())
            assert_same(found, wanted, 1e-9)
    empty = RWLoss("dice", masks=True)(torch.zeros(1, 1, 12, 10), torch.zeros(1, 1, 12, 10))
    assert float(empty) == 0


CLASSES, MASKS = {"softmax": True, "to_onehot_y": True}, {"sigmoid": True}


@pytest.mark.parametrize(
    ("name", "theirs", "text", "ours"),
    [
        ("TverskyLoss", CLASSES, "tversky(alpha=0.5, beta=0.5)", CLASSES),
        ("FocalLoss", {}, "focal", MASKS),
        (
            "FocalLoss",
            {"use_softmax": True, "to_onehot_y": True},
            "focal(mean_over='classes')",
            CLASSES,
        ),
        (
            "FocalLoss",
            {"use_softmax": True, "to_onehot_y": True, "include_background": False},
            "focal(mean_over='classes', renormalize=True)",
            CLASSES | {"include_background": False},
        ),
        ("DiceCELoss", MASKS, "dice + cross_entropy(masks='together')", MASKS),
        ("HausdorffDTLoss", CLASSES, "hausdorff_dt", CLASSES | {"include_background": False}),
        ("HausdorffDTLoss", MASKS | {"include_background": True}, "hausdorff_dt", MASKS),
    ],
)
def test_rows_of_the_migration_table(monai_losses, name, theirs, text, ours):
    """Absent classes too."""
    logits, labels = given((12, 10))
    labels[0] = labels[0].clamp_max(1)
    many, masks = given_masks((12, 10), 3)
    masks[1, 2] = 0
    x, y = (many, masks.double()) if "sigmoid" in ours else (logits, labels[:, None].double())
    found = value_and_gradient(RWLoss(text, **ours), x, y)
    assert_same(found, value_and_gradient(getattr(monai_losses, name)(**theirs), x, y), 1e-6)


def test_in_deep_supervision(monai_losses):
    logits, labels = given((16, 12), dtype=torch.float32)
    heads = [logits, logits[:, :, ::2, ::2], logits[:, :, ::4, ::4]]
    flags, target = {"softmax": True, "to_onehot_y": True}, labels[:, None].float()
    for weights in (None, [1.0, 0.3, 0.1]):
        found, wanted = (
            value_and_gradient(
                monai_losses.DeepSupervisionLoss(loss, weights=weights), heads, target
            )
            for loss in (RWLoss("boundary", **flags), monai_losses.BoundaryLoss(**flags))
        )
        assert_same(found, wanted)


def test_in_masked_loss(monai_losses):
    logits, labels = given((16, 12))
    mask = torch.zeros(3, 1, 16, 12)
    mask[:, :, 2:12, 3:10] = 1
    flags = {"softmax": True, "to_onehot_y": True}
    found, by_class, wanted = (
        value_and_gradient(loss, logits, labels[:, None].float(), mask)
        for loss in (
            monai_losses.MaskedLoss(RWLoss("boundary", **flags)),
            monai_losses.MaskedLoss(RWLoss, "boundary", **flags),
            monai_losses.MaskedLoss(monai_losses.BoundaryLoss(**flags)),
        )
    )
    assert_same(found, wanted, 1e-12)
    assert_same(by_class, wanted, 1e-12)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("include_background", [False, True])
def test_equals_the_losses_of_overlap(monai_losses, batched, include_background):
    """`batch` pools the sums of Dice over the batch; means and sums of images and classes."""
    logits, labels = given((12, 10))
    masks = given_masks((12, 10), 3)
    pool = {"batch": batched, "include_background": include_background}
    for reduction in ("mean", "sum"):
        flags = pool | {"reduction": reduction}
        for more, (x, y) in (
            ({"softmax": True, "to_onehot_y": True}, (logits, labels[:, None].double())),
            ({"sigmoid": True}, (masks[0], masks[1].double())),
        ):
            found = value_and_gradient(RWLoss("dice", **flags, **more), x, y)
            assert_same(
                found, value_and_gradient(monai_losses.DiceLoss(**flags, **more), x, y), 1e-12
            )
    unreduced = RWLoss("dice", softmax=True, reduction="none", **pool)(logits, one_hot(labels, 4))
    assert unreduced.shape == ((3,) * (not batched) + (3 + include_background,))


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("include_background", [False, True])
def test_equals_generalized_dice(monai_losses, batched, include_background):
    """Of classes, one of them absent, and of masks; its sum has one value per image."""
    logits, labels = given((12, 10))
    labels[0][labels[0] == 2] = 0
    masks = given_masks((12, 10), 3)
    text = "generalized_dice(absent='largest', smooth=1e-5, masks='together')"
    for reduction in ("mean", "sum"):
        flags = {"batch": batched, "include_background": include_background, "reduction": reduction}
        for more, (x, y) in (
            ({"softmax": True, "to_onehot_y": True}, (logits, labels[:, None].double())),
            ({"sigmoid": True}, (masks[0], masks[1].double())),
        ):
            theirs = monai_losses.GeneralizedDiceLoss(**flags, **more)
            found = value_and_gradient(RWLoss(text, **flags, **more), x, y)
            assert_same(found, value_and_gradient(theirs, x, y), 1e-6)


def test_equals_sums_of_two_losses(monai_losses):
    """Cross-entropy keeps the background that Dice leaves out, and the outside of masks."""
    logits, labels = given((12, 10))
    many, masks = given_masks((12, 10), 3)
    target = labels[:, None].double()
    classes = {"softmax": True, "to_onehot_y": True}
    ce = "dice + cross_entropy"
    for text, flags, theirs, (x, y) in (
        (ce, classes, monai_losses.DiceCELoss, (logits, target)),
        (ce, classes | {"include_background": False}, monai_losses.DiceCELoss, (logits, target)),
        (ce, {"sigmoid": True}, monai_losses.DiceCELoss, (many[:, :1], masks[:, :1].double())),
        ("dice + focal", {"sigmoid": True}, monai_losses.DiceFocalLoss, (many, masks.double())),
        (
            "dice + focal",
            {"sigmoid": True, "include_background": False},
            monai_losses.DiceFocalLoss,
            (many, masks.double()),
        ),
    ):
        found, wanted = (
            value_and_gradient(loss, x, y) for loss in (RWLoss(text, **flags), theirs(**flags))
        )
        assert_same(found, wanted, 1e-6)
    # Of several masks MONAI's DiceCELoss(sigmoid=True) takes a softmax cross-entropy; this one not,
    # unless told masks='together', which changes nothing of one mask.
    one = (many[:, :1], masks[:, :1])
    together = RWLoss("dice + cross_entropy(masks='together')", sigmoid=True)
    assert torch.equal(together(*one), RWLoss(ce, sigmoid=True)(*one))
    dice, bce = monai_losses.DiceLoss(sigmoid=True), torch.nn.BCEWithLogitsLoss()
    assert_same(
        value_and_gradient(RWLoss(ce, sigmoid=True), many, masks),
        value_and_gradient(lambda x, y: dice(x, y) + bce(x, y), many, masks.double()),
        1e-12,
    )
    both = RWLoss(ce, sigmoid=True)  # each is 0 at best
    torch.testing.assert_close(both.excess(many, masks), both(many, masks))


def test_list_of_outputs_is_deep_supervision_of_our_own():
    logits, labels = given((16, 12))
    heads = [logits, logits[:, :, ::2, ::2]]
    assert_same(
        value_and_gradient(
            RWLoss("boundary", to_onehot_y=True, softmax=True), heads, labels[:, None]
        ),
        value_and_gradient(RegionWiseLoss("boundary"), heads, labels),
    )


# --- Against the plain loss: what MONAI's BoundaryLoss has no word for


def test_sum_of_an_expression_with_dice_is_its_mean_times_images_and_classes():
    logits, labels = given((16, 12))
    flags = {"softmax": True, "to_onehot_y": True, "include_background": False}
    for batch, values in ((False, 9), (True, 3)):
        mean, total = (
            RWLoss("rectified + dice", **flags, reduction=each, batch=batch)(
                logits, labels[:, None]
            )
            for each in ("mean", "sum")
        )
        torch.testing.assert_close(total, mean * values)


@pytest.mark.parametrize("to_onehot_y", [True, False])
def test_ignored_voxels(to_onehot_y):
    logits, labels = given((16, 12))
    for ignored in (255, -1, 0, 2):
        target = labels.long()
        target[:, 4:9, 5:] = ignored
        flags = {"softmax": True, "to_onehot_y": to_onehot_y, "ignore_index": ignored}
        assert_same(
            value_and_gradient(
                RWLoss("boundary + dice", **flags),
                logits,
                target[:, None] if to_onehot_y else one_hot(target, 4),
            ),
            value_and_gradient(
                RegionWiseLoss("boundary + dice", ignore_index=ignored), logits, target
            ),
        )


@pytest.mark.parametrize("to_onehot_y", [True, False])
def test_ignored_voxels_of_masks(to_onehot_y):
    logits, labels = given((16, 12))
    plain = RegionWiseLoss(
        "rectified", activation="sigmoid", include_background=False, ignore_index=9
    )
    for ignored in (255, 2):
        target = labels.long()
        target[:, 4:9, 5:] = ignored
        masks, hidden = one_hot(target, 4).long(), (target == ignored)[:, None]
        given_masks = masks if ignored == 2 else masks.where(~hidden, ignored)
        loss = RWLoss("rectified", sigmoid=True, to_onehot_y=to_onehot_y, ignore_index=ignored)
        assert_same(
            value_and_gradient(loss, logits, target[:, None] if to_onehot_y else given_masks),
            value_and_gradient(plain, logits, masks.where(~hidden, 9)),
        )


def test_reduction_as_an_enumeration():
    """As MONAI's LossReduction, whose members have values."""
    logits, labels = given((16, 12))
    one, other = (
        RWLoss("rectified", softmax=True, reduction=reduction)(logits, one_hot(labels, 4))
        for reduction in ("sum", types.SimpleNamespace(value="sum"))
    )
    assert one == other


def test_mask_map_and_spacing_given_at_the_call():
    """As third argument an RWMap; the spacing comes before that of the loss."""
    logits, labels = given((16, 12))
    rwmap = 0.5 * maps.get("boundary")(Regions(labels, 4))
    loss = RWLoss("boundary", softmax=True, to_onehot_y=True, spacing_mm=(1.0, 2.5))
    plain = RegionWiseLoss("boundary", spacing_mm=(1.0, 2.5))
    for args, more in (
        ((), {}),
        ((rwmap,), {}),
        ((), {"mask": torch.rand(3, 1, 16, 12) < 0.5}),
        ((), {"mask": torch.rand(1, 1, 16, 12) < 0.5}),  # one for all images, as in MONAI
        ((), {"spacing_mm": (3.0, 0.5)}),
    ):
        found = value_and_gradient(loss, logits, labels[:, None], *args, **more)
        assert_same(found, value_and_gradient(plain, logits, labels, *args, **more))
    assert loss(logits, labels[:, None], rwmap) != loss(logits, labels[:, None])


def test_schedule_and_its_state():
    logits, labels = given((16, 12))
    text = "blend(generalized_dice, boundary, schedule='rebalance')"
    loss = RWLoss(text, softmax=True, to_onehot_y=True)
    plain = RegionWiseLoss(text)
    loss.set_epoch(30, 100)
    plain.set_epoch(30, 100)
    torch.testing.assert_close(loss(logits, labels[:, None]), plain(logits, labels))
    again = RWLoss(text, softmax=True, to_onehot_y=True)
    again.load_state_dict(loss.state_dict())
    assert again.epoch == 30
    assert pickle.loads(pickle.dumps(loss)).epoch == 30
    assert repr(RWLoss("dice", softmax=True, batch=True)) == "RWLoss('dice', batch=True)"


@pytest.mark.parametrize("text", ["boundary", "rectified + dice"])
def test_under_autocast(text, device):
    """Computed in float32, with gradients in the type of the outputs."""
    loss = RWLoss(text, softmax=True, to_onehot_y=True)
    for dtype in (torch.float16, torch.bfloat16):
        logits, labels = given((9, 8, 7), dtype=dtype)
        logits, target = logits.to(device), labels[:, None].float().to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            value, gradient = value_and_gradient(loss, logits, target)
        assert value.dtype == torch.float32
        assert gradient.dtype == dtype
        assert torch.isfinite(gradient).all()
        torch.testing.assert_close(value, loss(logits.float(), target))


def test_under_autocast_in_deep_supervision(monai_losses):
    """As a network gives them there: outputs in half precision, targets in full."""
    logits, labels = given((8, 8, 8), dtype=torch.bfloat16)
    heads = [logits, logits[..., ::2, ::2, ::2].clone()]
    deep = monai_losses.DeepSupervisionLoss(
        RWLoss("rectified + dice", softmax=True, to_onehot_y=True)
    )
    target = labels[:, None].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradients = value_and_gradient(deep, heads, target)
    assert value.dtype == torch.float32
    assert {gradient.dtype for gradient in gradients} == {torch.bfloat16}
    torch.testing.assert_close(value, deep([head.float() for head in heads], target))


# --- What it refuses


def test_terms_that_need_the_outside_of_a_mask_are_refused():
    for text in ("active_contour", "class_weighted", "rectified.with_link(0.5)"):
        with pytest.raises(RWLossError, match='activation="sigmoid"'):
            RWLoss(text, sigmoid=True)
        RWLoss(text, softmax=True)
    for text in ("boundary", "rectified", "rectified + active_contour", "dice"):
        RWLoss(text, sigmoid=True)


def test_settings_that_exclude_each_other():
    with pytest.raises(RWLossError, match="choose one"):
        RWLoss("rectified", sigmoid=True, softmax=True)
    with pytest.raises(RWLossError, match="unknown reduction"):
        RWLoss("rectified", softmax=True, reduction="average")


LABELS = {"softmax": True, "to_onehot_y": True}


@pytest.mark.parametrize(
    ("flags", "k", "target", "message"),
    [
        ({"softmax": True}, 4, torch.zeros(3, 1, 16, 12), "to_onehot_y=True for a label map"),
        ({"softmax": True}, 4, torch.zeros(3, 16, 12), "to_onehot_y=True for a label map"),
        (LABELS, 4, torch.zeros(3, 3, 16, 12), "to_onehot_y=False for one channel per channel"),
        (LABELS, 4, torch.zeros(3, 1, 9, 12), "does not fit logits"),
        (LABELS | {"ignore_index": 255}, 4, -torch.ones(3, 1, 16, 12), "label -1 found"),
        ({}, 1, torch.zeros(3, 1, 16, 12), "logits and sigmoid=True"),
        ({"softmax": True}, 1, torch.zeros(3, 1, 16, 12), "or use sigmoid=True"),
        (
            {"to_onehot_y": True},
            4,
            torch.zeros(3, 1, 16, 12),
            "expected probabilities of 0 to 1, .* without softmax or sigmoid the network must "
            "give probabilities; for logits use softmax=True or sigmoid=True",
        ),
        ({"softmax": True}, 4, torch.ones(3, 4, 16, 12), "or sigmoid=True for masks that overlap"),
        ({"softmax": True}, 4, 0.25 * torch.ones(3, 4, 16, 12), "not one-hot"),
        ({"sigmoid": True}, 4, torch.full((3, 4, 16, 12), 2), "for class labels use softmax=True"),
        ({"sigmoid": True}, 1, torch.zeros(3, 1, 9, 12), "with sigmoid=True expected a mask"),
    ],
)
def test_wrong_targets(flags, k, target, message):
    """In its own words: `RegionWiseLoss` has one argument, activation."""
    logits, _ = given((16, 12), k)
    with pytest.raises(RWLossError, match=message) as refused:
        RWLoss("rectified", **flags)(logits, target)
    assert "activation" not in str(refused.value)


def test_what_the_messages_advise_works():
    logits, labels = given((16, 12))
    many, masks = given_masks((16, 12), 3)
    for loss, x, y in (
        (RWLoss("rectified", **LABELS), logits, labels),
        (RWLoss("rectified", **LABELS), logits, labels[:, None]),
        (RWLoss("rectified", softmax=True), logits, one_hot(labels, 4)),
        (RWLoss("rectified", sigmoid=True), many, masks),
        (RWLoss("rectified", sigmoid=True), many[:, :1], masks[:, :1]),
        (
            RWLoss("rectified"),
            torch.stack([1 - many[:, 0].sigmoid(), many[:, 0].sigmoid()], 1),
            one_hot(masks[:, 0], 2),
        ),
        (RegionWiseLoss("active_contour", activation="sigmoid"), many, masks),
        (RegionWiseLoss("rectified.with_link(0.5)", activation="sigmoid"), many, masks),
    ):
        value, gradient = value_and_gradient(loss, x, y)
        assert torch.isfinite(value)
        assert gradient.any()


def test_one_hot_targets_are_no_maps():
    """As many channels as some map has, and none of its numbers."""
    loss = RWLoss("rectified", **LABELS)
    for num_classes, scale in itertools.product((2, 3, 4, 5, 8), (1, 255)):
        logits, labels = given((16, 12), num_classes)
        for dtype in (torch.float32, torch.uint8):
            target = scale * one_hot(labels, num_classes).to(dtype)
            with pytest.raises(RWLossError, match="to_onehot_y=False for one channel per"):
                loss(logits, target)
            with pytest.raises(RWLossError, match="0 records of what it is"):
                loss(logits, labels[:, None], target)


def test_an_rwmap_of_classes_in_a_sigmoid_loss_is_refused_in_its_own_words():
    logits, labels = given((16, 12))
    rwmap = maps.get("rectified")(Regions(labels, 4))
    with pytest.raises(RWLossError, match="map has 4 classes, with sigmoid=True every mask is"):
        RWLoss("rectified", sigmoid=True)(logits, one_hot(labels, 4), rwmap)


def test_no_output():
    with pytest.raises(RWLossError, match="no output"):
        RWLoss("rectified", **LABELS)([], torch.zeros(1, 1, 4, 4))
