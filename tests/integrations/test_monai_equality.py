"""RWLoss has the values and gradients of MONAI's own losses."""

import inspect
import itertools
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from loss_batches import assert_same, given, given_masks, one_hot, value_and_gradient

from rwloss import RegionWiseLoss
from rwloss.integrations.monai import RWLoss

CLASSES, MASKS = {"softmax": True, "to_onehot_y": True}, {"sigmoid": True}
SHAPES = [(17, 14), (9, 8, 7)]
FROM_TORCH = {"tensor": partial(torch.tensor, dtype=torch.float64)}


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


def rows_of_the_table():
    """MONAI's loss, arguments of RWLoss, and the flags of each row of docs/monai.md."""
    page = Path(__file__).parent.parent.parent / "docs" / "monai.md"
    section = page.read_text(encoding="utf-8").partition("### Which expression is which loss")[2]
    rows = re.findall(r"^\| `.*$", section, flags=re.MULTILINE)
    found = re.findall(
        r"^\| `(\w+)\((.*?)\)` \| `(.*?)` \| (\w+)(.*?) \|", section, flags=re.MULTILINE
    )
    assert len(found) == len(rows) > 30
    for name, theirs, ours, flags, limit in found:
        assert limit in {"", ", all present"}
        for chosen in ("softmax", "sigmoid") if flags == "both" else (flags,):
            yield name, theirs, ours, chosen, not limit


TABLE = list(rows_of_the_table())


@pytest.mark.parametrize("name", dict.fromkeys(row[0] for row in TABLE))
def test_rows_of_the_migration_table(monai_losses, name):
    """In 2-D and 3-D, classes and masks, one of them absent."""
    for shape in ((12, 10), (6, 5, 7)):
        logits, labels = given(shape)
        many, masks = given_masks(shape, 3)
        for _, theirs, ours, chosen, has_absent in [row for row in TABLE if row[0] == name]:
            if has_absent:
                labels[0][labels[0] == 2], masks[1, 2] = 0, 0
            batches = {
                "softmax": (logits, labels[:, None].double()),
                "sigmoid": (many, masks.double()),
            }
            loss = getattr(monai_losses, name)
            flags = CLASSES if chosen == "softmax" else MASKS
            known = {key: flags[key] for key in flags if key in inspect.signature(loss).parameters}
            wanted = eval(
                f"loss({theirs}{', ' * bool(theirs)}**known)", None, locals() | FROM_TORCH
            )
            found = eval(f"RWLoss({ours}, **flags)", None, locals() | {"RWLoss": RWLoss})
            try:
                assert_same(
                    *(value_and_gradient(each, *batches[chosen]) for each in (found, wanted))
                )
            except AssertionError as error:
                error.add_note(f"The row is {name}({theirs}) with {chosen}, in {shape}.")
                raise


def test_which_rows_the_migration_table_has():
    """Every loss of segmentations that MONAI and we have."""
    names = {row[0] for row in TABLE}
    assert names == {
        *("BoundaryLoss", "DiceLoss", "DiceCELoss", "DiceFocalLoss", "GeneralizedDiceLoss"),
        *("GeneralizedDiceFocalLoss", "TverskyLoss", "FocalLoss", "HausdorffDTLoss"),
        *("LogHausdorffDTLoss", "SoftclDiceLoss", "SoftDiceclDiceLoss", "MCCLoss"),
    }


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
