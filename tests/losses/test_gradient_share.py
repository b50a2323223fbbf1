"""The schedule that keeps a share of the gradient, against gradients of both sides by hand."""

import pytest
import torch
from anatomy import batch

from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.stability import Monitor

TEXT = "blend(dice, boundary, schedule='gradient_share', share=0.3, every=2)"


def problem(device, seed=0):
    labels = torch.from_numpy(batch(seed, (14, 12), 3, size=2)).long().to(device)
    torch.manual_seed(seed)
    return torch.randn(labels.shape[0], 3, *labels.shape[1:], device=device), labels


def gradient(expression, logits, labels, **options):
    logits = logits.clone().requires_grad_()
    RegionWiseLoss(expression, **options)(logits, labels).backward()
    return logits.grad


@pytest.mark.parametrize("sides", ["dice, boundary", "rectified, 0.1 * boundary + focal"])
def test_the_share_is_kept_at_each_measurement(device, sides):
    loss = RegionWiseLoss(f"2 * blend({sides}, schedule='gradient_share', share=0.3, every=2)")
    region, boundary = (f"2 * ({side})" for side in sides.split(", "))
    for call in range(4):
        logits, labels = problem(device, call)
        first, second = (gradient(side, logits, labels) for side in (region, boundary))
        found = logits.clone().requires_grad_()
        loss(found, labels).backward()
        if call % 2 == 0:
            weight = float(3 / 7 * first.norm() / second.norm())
        assert loss.share.weight == pytest.approx(weight, rel=1e-5)
        torch.testing.assert_close(found.grad, first + weight * second, rtol=1e-4, atol=1e-9)


def test_a_stored_map_and_several_outputs():
    logits, labels = problem("cpu")
    loss = RegionWiseLoss(TEXT)
    value = loss(logits.requires_grad_(), labels)
    stored = maps.get("boundary")(Regions(labels, num_classes=3))
    other = RegionWiseLoss(TEXT)
    torch.testing.assert_close(other(logits, labels, stored), value)
    heads = [logits.detach(), logits.detach()[..., ::2, ::2].contiguous()]
    deep = RegionWiseLoss(TEXT)
    deep(heads, labels)
    norms = []
    for side in ("dice", "boundary"):
        copies = [head.clone().requires_grad_() for head in heads]
        RegionWiseLoss(side)(copies, labels).backward()
        norms.append(torch.cat([each.grad.flatten() for each in copies]).norm())
    assert deep.share.weight == pytest.approx(float(3 / 7 * norms[0] / norms[1]), rel=1e-5)


def test_no_measurement_without_training_and_none_of_an_empty_side():
    logits, labels = problem("cpu")
    loss = RegionWiseLoss(TEXT)
    with torch.no_grad():
        loss(logits, labels)
    loss.eval()
    loss(logits, labels)
    assert (loss.share.calls, loss.share.weight) == (0, 1.0)
    loss.train()
    # Without any class but the background a boundary map is 0: the last weight stays.
    loss(logits, torch.zeros_like(labels))
    assert (loss.share.calls, loss.share.weight) == (1, 1.0)


def test_a_monitor_is_no_call_of_the_training():
    loss, monitor = RegionWiseLoss(TEXT), Monitor(every=1)
    for call in range(3):
        logits, labels = problem("cpu", call)
        loss(logits, labels)
        weight = loss.share.weight
        monitor(loss, logits, labels)
        assert (loss.share.calls, loss.share.weight) == (call + 1, weight)


def test_a_resumed_loss_measures_at_the_same_calls():
    loss, weights = RegionWiseLoss(TEXT), []
    for call in range(5):
        if call == 3:
            resumed = RegionWiseLoss(TEXT)
            resumed.load_state_dict(loss.state_dict())
            loss = resumed
        loss(*problem("cpu", call))
        weights.append(loss.share.weight)
    straight = RegionWiseLoss(TEXT)
    for call in range(5):
        straight(*problem("cpu", call))
        assert straight.share.weight == weights[call]
    assert len({*weights}) == 3
    # An older state has the epoch alone.
    loss.set_extra_state(torch.tensor([4, -1]))
    assert (loss.epoch, loss.total_epochs) == (4, None)


def test_two_shares_in_one_expression_are_refused():
    with pytest.raises(RWLossError, match=r"has 2 blends with schedule='gradient_share'"):
        RegionWiseLoss(f"{TEXT} + {TEXT.replace('0.3', '0.4')}")
    for wrong, message in (
        ("share=1", "share between 0 and 1"),
        ("every=0", "every as a whole number >= 1"),
        ("start=-1", "start as a whole number >= 0"),
        ("ramp='sine'", "unknown ramp 'sine'"),
    ):
        with pytest.raises(RWLossError, match=message):
            maps.parse(f"blend(dice, boundary, {wrong})")
