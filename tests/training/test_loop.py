"""The loop learns, reports and stops in time; its record follows written formulas."""

import json

import pytest
import torch
from lightning_fabric import Fabric

from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.training import Diverged, RunSettings, TrainingBatch, unet
from rwloss.training import loop as loops


def squares(count=12):
    """Noisy images of a bright and a dark square, the classes 1 and 2."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(count, 16, 16, dtype=torch.int64)
    for image, (row, column) in zip(
        labels, torch.randint(0, 6, (count, 2), generator=generator).tolist(), strict=True
    ):
        image[row : row + 5, column : column + 5] = 1
        image[row + 5 : row + 10, column + 4 : column + 10] = 2
    level = torch.tensor([0.0, 2.0, -2.0])[labels]
    images = level + 0.2 * torch.randn(labels.shape, generator=generator)
    return images[:, None], labels


def batches(*, stored=False, spoilt_from=None):
    """The batch of a step: four of the squares in turn."""
    images, labels = squares()

    def batch(step):
        some = torch.arange(step * 4, step * 4 + 4) % len(labels)
        rwmap = maps.get("rectified")(Regions(labels[some], 3)) if stored else None
        factor = float("nan") if spoilt_from is not None and step >= spoilt_from else 1.0
        return TrainingBatch(images[some] * factor, labels[some], ((1.0, 1.0),) * 4, rwmap)

    return batch


def trained(feed, *, text="rectified", network=None, optimizer=None, **changes):
    """Network, state, rows of the record, steps that were told, and the error, if any."""
    settings = RunSettings(data="in", out="out", accelerator="cpu", **{"steps": 5, **changes})
    network = network or unet(2, 1, 3, seed=settings.seed)
    optimizer = (optimizer or torch.optim.Adam)(network.parameters(), lr=1.0)
    state, rows, told, found = loops.TrainingState(), [], [], None
    try:
        loops.train_steps(
            Fabric(accelerator="cpu", devices=1),
            network,
            RegionWiseLoss(text, ignore_index=-1),
            feed,
            optimizer,
            settings,
            state,
            record=lambda step, row: rows.append((step, row)),
            after_step=lambda step, loss: told.append((step, loss)),
        )
    except Diverged as error:
        found = error
    return network, state, rows, told, found


def test_learns_a_trivial_problem():
    network, _, _, told, _ = trained(batches(), steps=40, learning_rate_schedule="constant")
    losses = [loss for _, loss in told]
    assert sum(losses[-4:]) < sum(losses[:4])
    images, labels = squares()
    network.eval()
    right = network(images).argmax(dim=1) == labels
    for k in range(3):
        assert right[labels == k].float().mean() > 0.9


def test_reports_every_step_and_records_some():
    """Neither records nor given maps change a step."""
    network, state, rows, told, _ = trained(batches(), steps=8, record_every=3)
    assert [step for step, _ in told] == list(range(1, 9))
    assert [step for step, _ in rows] == [1, 3, 6, 8]
    assert [loss for _, row in rows for loss in row["losses"]] == [loss for _, loss in told]
    assert (state.step, state.losses) == (8, [])
    json.dumps(rows, allow_nan=False)
    seldom = trained(batches(stored=True), steps=8, record_every=100)
    assert seldom[3] == told
    for one, other in zip(network.parameters(), seldom[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_stops_at_a_loss_that_is_not_a_number():
    """At the very step, and before the weights are spoilt."""
    network, state, _, told, error = trained(batches(spoilt_from=3))
    assert isinstance(error, RWLossError)
    assert "the loss is nan at step 3" in str(error)
    assert "below 0.004" in str(error)
    assert [step for step, _ in told] == [1, 2]
    assert state.step == 2
    assert all(weight.isfinite().all() for weight in network.parameters())


def test_where_reading_waits_the_losses_are_read_at_pauses(monkeypatch):
    """As on a GPU: the same weights and records, and the failed step still has its number."""
    pauses = {"steps": 9, "record_every": 4, "validate_every": 100, "checkpoint_every": 6}
    plain = trained(batches(), **pauses)
    monkeypatch.setattr(loops, "is_free_to_read", lambda value: False)
    network, state, rows, told, _ = trained(batches(), **pauses)
    assert (rows, state.losses) == (plain[2], [])
    assert {step: loss for step, loss in told if loss is not None} == {
        step: loss for step, loss in plain[3] if step in {1, 4, 6, 8, 9}
    }
    for one, other in zip(network.parameters(), plain[0].parameters(), strict=True):
        assert torch.equal(one, other)
    _, _, rows, told, error = trained(batches(spoilt_from=5), **pauses)
    assert error.step == 5
    assert "the loss is nan at step 5" in str(error)
    assert [step for step, _ in told] == [1, 2, 3, 4, 5]  # it stops before the checkpoint of 6
    assert [step for step, _ in rows] == [1, 4]


def test_schedules_of_the_map_follow_the_epochs():
    """blend rebalances by the epoch: with one epoch a step the loss of a fixed batch moves."""
    text = "blend(active_contour, 2 * active_contour, schedule='increase', step=0.1)"
    still, moving = (
        trained(batches(), text=text, learning_rate=1e-12, steps=6, steps_per_epoch=length)[3]
        for length in (100, 1)
    )
    assert still[0] == moving[0]
    factors = [b / a for (_, a), (_, b) in zip(still, moving, strict=True)]
    wanted = [(1 + 2 * (0.01 + 0.1 * epoch)) / (1 + 2 * 0.01) for epoch in range(6)]
    assert factors == pytest.approx(wanted, rel=1e-4)


def test_learning_rates():
    for name, factors in (
        ("constant", [1, 1, 1, 1]),
        ("poly", [1, 0.75**0.9, 0.5**0.9, 0.25**0.9]),
        ("cosine", [1, 0.85355339, 0.5, 0.14644661]),
    ):
        settings = RunSettings(
            data="in", out="out", steps=4, learning_rate=0.5, learning_rate_schedule=name
        )
        found = [loops.learning_rate(settings, step) for step in range(1, 5)]
        assert found == pytest.approx([0.5 * factor for factor in factors]), name


def test_gradients_are_clipped():
    """The record has the norm before; a tiny one moves Adam's first step no less, but SGD's."""
    network = unet(2, 1, 3)
    before = torch.cat([weight.detach().flatten() for weight in network.parameters()])
    changes = {"steps": 1, "gradient_clip": 1e-3, "learning_rate": 1.0}
    _, _, [(_, row)], _, _ = trained(
        batches(), network=network, optimizer=torch.optim.SGD, **changes
    )
    after = torch.cat([weight.detach().flatten() for weight in network.parameters()])
    assert row["gradient_norm"] > 1e-2
    assert (after - before).norm() == pytest.approx(1e-3, rel=1e-2)


def test_a_plateau_is_so_many_validations_without_a_best():
    settings = RunSettings(
        data="", out="", learning_rate_schedule="plateau", plateau_patience=2, learning_rate=0.8
    )
    state, rates = loops.TrainingState(), []
    for is_best in (True, False, True, False, False, False, False, True):
        state.follow(settings, is_best=is_best)
        rates.append(loops.learning_rate(settings, 5, state.plateaus))
    assert rates == [0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2]
    other = loops.TrainingState()
    for _ in range(9):
        other.follow(settings.model_copy(update={"learning_rate_schedule": "poly"}), is_best=False)
    assert other == loops.TrainingState()
