"""Alarms beside any loss: what they see, when they warn, and that they change nothing."""

import logging

import numpy as np
import pytest
import torch
from loss_batches import given, given_masks

from rwloss import Regions, RegionWiseLoss, RWLossError, maps, stability
from rwloss.stability import Monitor, Watch
from rwloss.stability.alarm import Alarms, features_of, judge
from rwloss.stability.loss_call import LossCall


def squares(size=16):
    """Noisy channels, one for each class: two squares; class 2 has four pixels of 256."""
    labels = torch.zeros(4, size, size, dtype=torch.long)
    labels[:, 2:9, 2:9], labels[:, 12:14, 12:14] = 1, 2
    generator = torch.Generator().manual_seed(0)
    noise = 0.3 * torch.randn(4, 3, size, size, generator=generator)
    return torch.nn.functional.one_hot(labels, 3).movedim(-1, 1) + noise, labels


class OnlyTheFirst(torch.nn.Module):
    """A loss of anyone's that lowers class 2 everywhere."""

    def forward(self, logits, target):
        probs = logits.softmax(dim=1)
        first = torch.nn.functional.cross_entropy(logits[:, :2], target.clamp_max(1))
        own = (probs[:, 2] * (target == 2)).mean()
        return first + (probs[:, 2] * (target != 2)).mean() - 1e-3 * own


def trained(loss, watch=None, steps=60):
    """Weights after a run of a tiny network."""
    torch.manual_seed(0)
    images, labels = squares()
    network = torch.nn.Conv2d(3, 3, 3, padding=1)
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    watched = watch(loss) if watch else None
    for _ in range(steps):
        optimizer.zero_grad()
        loss(network(images), labels).backward()
        optimizer.step()
        with torch.no_grad():
            loss(network(images), labels)  # a validation, which does not count
    return [weight.detach().clone() for weight in network.parameters()], watched


def test_warns_of_the_class_that_is_lost_and_of_no_other():
    told = []
    _, watch = trained(
        OnlyTheFirst(),
        lambda loss: Watch(loss, steps=60, class_names=["bg", "organ", "lesion"], tell=told.append),
    )
    assert watch.step == 60
    [alarm] = watch.alarms
    assert (alarm.class_index, alarm.name) == (2, "lesion")
    assert alarm.step <= 24
    assert alarm.pull < 0.05
    assert told == [f"rwloss: {alarm}"]
    for word in ("lesion is ", "learning rate", "cross_entropy"):
        assert word in told[0]
    _, watch = trained(torch.nn.CrossEntropyLoss(), lambda loss: Watch(loss, steps=60))
    assert watch.alarms == []


def test_the_training_run_is_not_affected():
    for text in (
        "boundary",
        "rectified + dice",
        "blend(dice, boundary, schedule='gradient_share')",
    ):
        seen, _ = trained(RegionWiseLoss(text), lambda loss: Watch(loss, steps=20), steps=20)
        unseen, _ = trained(RegionWiseLoss(text), steps=20)
        assert all(map(torch.equal, seen, unseen)), text


def test_the_pull_of_a_loss_is_that_of_its_expression():
    """From the labels alone, whatever the logits are."""
    logits, labels = given((9, 8), dtype=torch.float64)
    for text in ("rectified", "boundary", "dice", "cross_entropy", "rectified.with_link(0.3)"):
        up, down = LossCall(RegionWiseLoss(text), logits, labels).pulls()
        report = stability.check_expression(maps.parse(text), Regions(labels, 4))
        assert up[1:] / down[1:] == pytest.approx(report.pull[1:], rel=2e-3), text
    heads = [logits.float(), logits[..., ::2, ::2].float()]
    many = LossCall(RegionWiseLoss("rectified"), heads, labels).pulls()
    one = LossCall(RegionWiseLoss("rectified"), logits, labels).pulls()
    assert many[0][1:] / many[1][1:] == pytest.approx(one[0][1:] / one[1][1:], rel=1e-3)


@pytest.mark.parametrize("activation", ["sigmoid", "masks", "none"])
def test_pull_and_signs_of_masks_and_of_probabilities(activation):
    if activation == "none":
        logits, labels = given((9, 8))
        call = LossCall(RegionWiseLoss("dice", activation="none"), logits.softmax(1), labels)
        wanted = stability.check_expression(maps.Dice(), Regions(labels, 4)).pull
    else:
        logits, labels = given_masks((9, 8))
        output = logits.sigmoid() if activation == "masks" else logits
        call = LossCall(RegionWiseLoss("dice", activation=activation), output, labels)
        wanted = [np.nan]
        for j in range(labels.shape[1]):
            regions = Regions.from_masks(labels[:, j : j + 1])
            wanted.append(stability.check_expression(maps.Dice(), regions).pull[1])
        own = [
            float(logits[:, j].sigmoid()[labels[:, j] == 1].mean()) for j in range(len(wanted) - 1)
        ]
        assert call.signs()["own_probability"] == pytest.approx([None, *own])
    up, down = call.pulls()
    assert up[1:] / down[1:] == pytest.approx(wanted[1:], rel=2e-3)


def test_signs_of_a_run_are_its_last_third_and_the_one_before():
    samples = [
        {
            "own_probability": [1.0, value], "other_probability": [0.0, 0.2],
            "predicted_volume": [0.7, 0.3], "true_volume": [0.9, 0.1],
        }
        for value in (9, 9, 0.1, 0.2, None, 0.6)
    ]  # fmt: skip
    found = features_of(samples, 1)
    assert found == pytest.approx(
        {"own_probability": 0.6, "trend": 0.6 / 0.15, "contrast": 3.0, "predicted_volume": 3.0}
    )
    assert features_of(samples[:1], 1) is None
    assert features_of([{"own_probability": [1.0, None]}] * 6, 1) is None


def sample(own, predicted=0.01):
    return {
        "own_probability": [0.9, own], "other_probability": [0.1, 0.01],
        "predicted_volume": [0.99, predicted], "true_volume": [0.98, 0.02],
    }  # fmt: skip


def test_alarms_are_judged_at_the_looks_and_raised_once():
    alarms = Alarms(steps=100, class_names=["bg", "lesion"])
    pull = np.array([np.nan, 1e-4])
    raised = [step for step in range(1, 101) if alarms.add(step, sample(0.5 / step), pull)]
    assert raised == [10]
    [alarm] = alarms.raised
    signs = {"pull": 1e-4, "own_probability": alarm.own_probability, "trend": 0.7}
    signs |= {"contrast": 10.0, "predicted_volume": 0.5}
    assert judge(0.1).risk(signs) > judge(0.1).threshold
    healthy = Alarms(steps=100)
    assert not any(
        healthy.add(step, sample(0.9), np.array([np.nan, 1.0])) for step in range(1, 101)
    )
    unknown = Alarms(steps=100)
    assert not any(unknown.add(step, sample(0.0), pull * np.nan) for step in range(1, 101))
    dying = Alarms(steps=10)
    for step in (1, 2, 3):
        dying.add(step, sample(1e-5 / step, predicted=0.1 / step), pull)
    assert "is dying" in str(dying.raised[0])
    with pytest.raises(RWLossError, match="1 step or more"):
        Alarms(steps=0)


def test_the_monitor_warns_beside_a_plain_function(caplog):
    torch.manual_seed(0)
    images, labels = squares()
    network, loss = torch.nn.Conv2d(3, 3, 3, padding=1), OnlyTheFirst()
    optimizer = torch.optim.Adam(network.parameters(), 3e-2)
    monitor = Monitor(every=1, by_distance=False, steps=30)
    with caplog.at_level(logging.WARNING, "rwloss.stability"):
        for step in range(30):
            logits = network(images)
            monitor(loss.forward, logits, labels, step=step)
            optimizer.zero_grad()
            loss(logits, labels).backward()
            optimizer.step()
    assert [alarm.class_index for alarm in monitor.alarms] == [2]
    assert "class 2 is " in caplog.text
    assert Monitor().alarms == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_probabilities_in_place_of_logits(dtype):
    logits, labels = given((9, 8))
    probs = torch.as_tensor(logits).softmax(dim=1).to(dtype).requires_grad_()
    for loss, more, warns in (
        (RegionWiseLoss("dice"), {}, True),
        (torch.nn.CrossEntropyLoss(), {}, True),
        (RegionWiseLoss("dice", activation="none"), {}, False),
        (torch.nn.CrossEntropyLoss(), {"activation": "none"}, False),
    ):
        told = []
        Watch(loss, steps=6, tell=told.append, **more)
        for _ in range(2):
            loss(probs, labels.long())
        assert sum("before its softmax" in text for text in told) == warns, loss
    told, loss = [], RegionWiseLoss("dice")
    Watch(loss, steps=6, tell=told.append)
    loss(logits.requires_grad_(), labels)
    assert not told


def test_arguments_by_name_and_what_cannot_be_read():
    logits, labels = given((9, 8))
    told, loss = [], RegionWiseLoss("rectified")
    watch = Watch(loss, steps=3, tell=told.append)
    for _ in range(3):
        loss(logits=logits.requires_grad_(), target=labels)
    assert watch.step == 3
    assert not any("no alarms" in text for text in told)
    told.clear()
    loss = torch.nn.MSELoss()
    watch = Watch(loss, steps=3, tell=told.append)
    for _ in range(3):
        loss(torch.zeros(2, requires_grad=True), torch.zeros(2)).backward()
    assert watch.step == 1
    [said] = told
    assert said.startswith("rwloss: no alarms in this run (")
    with pytest.raises(RWLossError, match=r"expected a loss that is a torch.nn.Module"):
        Watch(torch.nn.functional.cross_entropy, steps=3)
    ignored = torch.where(labels == 3, 255, labels.long())
    call = LossCall(OnlyTheFirst(), logits, ignored, assumed={"ignore_index": 255})
    assert call.signs()["true_volume"][3] == 0
