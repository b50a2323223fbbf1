"""The monitor of a training run: it computes the map of the loss from the gradient."""

import json
import math
from dataclasses import astuple

import pytest
import torch
from loss_batches import DYNAMIC, given, given_masks

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps, stability
from rwloss.stability import Monitor


def assert_same(report, wanted, rel=1e-4):
    pairs = zip([report.total, *report.by_class], [wanted.total, *wanted.by_class], strict=True)
    for one, other in pairs:
        assert astuple(one) == pytest.approx(astuple(other), rel=rel, abs=1e-6)
    assert report.pull.tolist() == pytest.approx(wanted.pull.tolist(), rel=rel, nan_ok=True)
    assert report.gradient_norms.sum() == pytest.approx(wanted.gradient_norms.sum(), rel=rel)


# --- The map is that of the loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_figures_are_those_of_the_map_at_the_real_probabilities(dtype, device):
    logits, labels = (tensor.to(device) for tensor in given((9, 8), dtype=dtype))
    regions, probs = Regions(labels, 4), logits.softmax(dim=1)
    for text in [
        "boundary",
        "rectified",
        "rectified.with_link(0.5)",
        "0.3 * boundary + dice",
        "(boundary + dice).stabilized()",
        *DYNAMIC,
    ]:
        report = Monitor()(RegionWiseLoss(text), logits, labels)
        assert_same(report, stability.check(maps.parse(text)(regions, probs), probs))
        assert report.violating > 0.5 or text not in {"boundary", "dice"}


def test_a_stored_map_is_the_one_that_counts():
    logits, labels = given((9, 8))
    stored = maps.Rectified()(Regions(labels, 4))
    monitor, loss = Monitor(every=1), RegionWiseLoss()
    boundary = maps.Boundary()(Regions(labels, 4))
    assert monitor(loss, logits, labels, boundary).violating > 0.5
    assert monitor(loss, logits, labels, stored).violating == 0
    assert monitor(loss, logits, labels, rwmap=stored).violating == 0


def test_probabilities_of_masks_are_their_two_classes():
    """As the logits of the same masks, with and without a mask that all images share."""
    logits, labels = given((9, 8))
    masks, probs = labels[:, None] == torch.arange(4).reshape(1, 4, 1, 1), logits.sigmoid()
    for mask in (None, torch.rand(1, 1, 9, 8) > 0.3):
        found, wanted = (
            Monitor(every=1)(RegionWiseLoss("rectified", activation=name), x, masks, mask=mask)
            for name, x in (("masks", probs), ("sigmoid", logits))
        )
        assert found.violating == wanted.violating == 0
        assert found.wrong_way_mass == pytest.approx(wanted.wrong_way_mass, abs=1e-6)
        torch.testing.assert_close(found.pull, wanted.pull, equal_nan=True, rtol=1e-4, atol=0)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_soft_labels_are_seen_at_their_largest_fractions(activation):
    logits, labels = given((9, 8))
    soft = torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 1) * 0.6 + 0.1
    loss = RegionWiseLoss("active_contour", activation=activation, soft_labels="largest")
    report = Monitor(every=1, steps=10)(loss, logits, soft)
    assert report.stable == 1
    assert all(pull > 0 for pull in report.pull if not math.isnan(pull))


def test_a_schedule_is_followed():
    logits, labels = given((9, 8))
    loss = RegionWiseLoss("blend(cross_entropy, boundary, schedule='rebalance', step=0.5)")
    monitor = Monitor(every=1)
    at = [(loss.set_epoch(epoch), monitor(loss, logits, labels))[1] for epoch in (0, 1)]
    assert at[0].violating == 0
    assert at[1].violating > 0.5


def test_dropping_the_background_makes_a_stable_map_violate():
    logits, labels = given((9, 8))
    loss = RegionWiseLoss("rectified", include_background=False)
    assert Monitor()(loss, logits, labels).violating > 0.5


def test_targets_of_every_form():
    logits, labels = given((9, 8))
    one_hot = torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 1)
    loss = RegionWiseLoss("boundary")
    for target in (labels[:, None], one_hot):
        assert_same(Monitor()(loss, logits, target), Monitor()(loss, logits, labels), rel=1e-12)


def test_voxels_that_do_not_count():
    logits, labels = given((9, 8))
    labels, hidden = labels.long(), torch.zeros(3, 9, 8, dtype=torch.bool)
    hidden[:, :3] = True
    without = labels.masked_fill(hidden, 255)
    masked = Monitor()(RegionWiseLoss("boundary"), logits, labels, mask=~hidden[:, None])
    ignored = Monitor()(RegionWiseLoss("boundary", ignore_index=255), logits, without)
    regions = Regions(labels, 4), Regions(without, 4, ignore_label=255)
    for report, known in zip((masked, ignored), regions, strict=True):
        values = maps.Boundary()(known).dense()
        seen = RWMap.from_dense(labels.masked_fill(hidden, -1), values)
        assert_same(report, stability.check(seen, logits.softmax(dim=1)))
        assert report.total.voxels == 3 * 6 * 8


def test_a_one_hot_target_with_ignored_voxels():
    logits, labels = given((9, 8))
    without = labels.long()
    one_hot = torch.nn.functional.one_hot(without, 4).movedim(-1, 1)
    without[:, :3], one_hot[:, :, :3] = 255, 0
    loss = RegionWiseLoss("boundary", ignore_index=255)
    assert_same(Monitor()(loss, logits, one_hot), Monitor()(loss, logits, without), rel=1e-12)


def test_label_sets_in_prepared_regions():
    logits, labels = given((9, 8))
    labels = labels.long()
    labels[:, :3] = 9
    loss = RegionWiseLoss("rectified + dice", label_sets={9: (1, 2)}, spacing_mm=(1.0, 2.0))
    ready = loss.prepare(labels, 4)
    found = Monitor()(loss, logits, ready.regions, ready.wait())
    assert_same(found, Monitor()(loss, logits, labels), rel=1e-6)


def test_masks_that_overlap():
    logits, masks = given_masks((9, 8))
    report = Monitor()(RegionWiseLoss("dice", activation="sigmoid"), logits, masks)
    regions = Regions.from_masks(masks)
    prob = logits.sigmoid().flatten(0, 1)
    probs = torch.stack([1 - prob, prob], dim=1)
    assert_same(report, stability.check(maps.Dice()(regions, probs), probs))
    assert report.num_images == 6


def test_a_network_that_gives_probabilities():
    logits, labels = given((9, 8))
    probs = logits.softmax(dim=1)
    report = Monitor()(RegionWiseLoss("boundary", activation="none"), probs, labels)
    assert_same(report, stability.check_expression(maps.Boundary(), Regions(labels, 4), probs))


def test_deep_supervision_looks_at_the_first_output():
    logits, labels = given((8, 8))
    loss = RegionWiseLoss("boundary")
    report = Monitor()(loss, [logits, logits[..., ::2, ::2]], labels)
    single = Monitor()(loss, logits, labels)
    assert report.violating == single.violating
    assert report.wrong_way_mass == pytest.approx(single.wrong_way_mass)


def test_any_other_loss():
    logits, labels = given((9, 8))
    target = labels.long()
    target[:, 0] = -100  # the ignore_index of torch's cross-entropy
    report = Monitor()(torch.nn.CrossEntropyLoss(), logits, target)
    assert (report.violating, report.wrong_way_mass) == (0, 0)
    assert report.total.voxels == 3 * 8 * 8


def test_float16_logits_do_not_underflow():
    logits, labels = given((9, 8), dtype=torch.float32)
    loss = RegionWiseLoss("boundary")
    half = (3 * logits).half()
    report = Monitor()(loss, half, labels)
    assert_same(report, Monitor()(loss, half.float(), labels), rel=1e-9)


def test_distances_to_the_edge():
    logits, labels = given((12, 12))
    loss = RegionWiseLoss("boundary", spacing_mm=(1.0, 4.0))
    report = Monitor()(loss, logits, labels)
    regions = Regions(labels, 4, (1.0, 4.0))
    wanted = stability.check_expression(maps.Boundary(), regions, logits.softmax(dim=1))
    assert {name: part.voxels for name, part in report.by_distance.items()} == {
        name: part.voxels for name, part in wanted.by_distance.items()
    }
    assert Monitor(by_distance=False)(loss, logits, labels).by_distance == {}


def test_distances_of_overlapping_masks():
    logits, masks = given_masks((9, 8))
    loss = RegionWiseLoss("dice", activation="sigmoid", spacing_mm=(1.0, 2.0))
    report = Monitor()(loss, logits, masks)
    assert sum(part.voxels for part in report.by_distance.values()) == 6 * 9 * 8


# --- In a training run


def train(monitor, steps=6):
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 4, 3, padding=1)
    _, labels = given((9, 8))
    images = torch.randn(3, 1, 9, 8)
    loss = RegionWiseLoss("boundary")
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(steps):
        logits = network(images)
        if monitor is not None:
            monitor(loss, logits, labels)
        optimizer.zero_grad()
        loss(logits, labels).backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in network.parameters()]


def test_the_training_run_is_not_affected():
    for seen, unseen in zip(train(Monitor(every=2)), train(None), strict=True):
        assert torch.equal(seen, unseen)


def test_history_and_json_lines(tmp_path):
    monitor = Monitor(every=3)
    train(monitor, steps=7)
    assert [row["step"] for row in monitor.history] == [0, 3, 6]
    monitor.write(tmp_path / "stability.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "stability.jsonl").read_text().splitlines()]
    assert rows == monitor.history
    assert all(math.isfinite(row["loss"]) and row["violating"] > 0.5 for row in rows)
    assert rows[0]["by_class"]["class 0"]["pull"] is None


def test_steps_may_be_given():
    logits, labels = given((9, 8))
    monitor, loss = Monitor(), RegionWiseLoss("rectified")
    found = [monitor(loss, logits, labels, step=step) for step in (49, 50, 51, 100)]
    assert [report is None for report in found] == [True, False, True, False]
    assert [row["step"] for row in monitor.history] == [50, 100]


def test_where_gradients_are_off():
    logits, labels = given((9, 8))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            report = Monitor()(RegionWiseLoss("boundary"), logits * 1, labels)
        assert report.wrong_way_mass > 0
    report = Monitor()(lambda logits, target: torch.zeros(()), logits, labels)
    assert report.flat == 1  # it does not depend on the logits


def test_wrong_interval():
    with pytest.raises(RWLossError, match="1 step or more"):
        Monitor(every=0)
