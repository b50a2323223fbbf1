"""The loss as a torch module: printing, copying, saving, epochs, processes, length of its path."""

import copy
import io
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from ddp_worker import CASES, gradients, images_and_labels, network, work
from loss_batches import assert_close, every, given

import rwloss
from rwloss import Regions, RegionWiseLoss, RWLossError, maps

SETTINGS = {
    "spacing_mm": (0.8, 2.5),
    "include_background": False,
    "ignore_index": 255,
    "class_weights": (1.0, 2.0, 0.5, 4.0),
    "deep_supervision_weights": (1.0, 0.5),
}
TEXT = "rectified.with_link(0.5) + blend(dice, boundary, schedule='steal')"
on_the_cpu = pytest.mark.parametrize("device", ["cpu"])


@every(how=[copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_the_same_loss(how):
    logits, labels = given((9, 7))
    loss = RegionWiseLoss(TEXT, **SETTINGS)
    loss.set_epoch(12)
    wanted = loss(logits, labels)
    again = how(loss)
    assert repr(again) == repr(loss)
    assert again.expression == loss.expression
    assert again(logits, labels) == wanted
    again.set_epoch(50)
    assert loss(logits, labels) == wanted


def test_copy_after_use():
    """Nothing of a batch stays in the module."""
    logits, labels = given((9, 7))
    loss = RegionWiseLoss("rectified + dice")
    before = pickle.dumps(loss)
    loss(logits.requires_grad_(), labels).backward()
    assert pickle.dumps(loss) == before


def test_has_nothing_to_train_and_nothing_to_move():
    logits, labels = given((9, 7))
    loss = RegionWiseLoss(TEXT, **SETTINGS)
    assert not [*loss.parameters(), *loss.buffers(), *loss.children()]
    assert loss.to(torch.float16).half().eval().train() is loss
    assert loss.eval()(logits, labels) == loss.train()(logits, labels)


def test_printing_shows_what_was_set_and_can_be_read_back():
    assert repr(RegionWiseLoss("rectified")) == "RegionWiseLoss('rectified')"
    text = repr(RegionWiseLoss("rectified + dice", **SETTINGS, reduction="sum"))
    assert text.startswith("RegionWiseLoss('rectified + dice', spacing_mm=(0.8, 2.5), ")
    for name, value in {**SETTINGS, "reduction": "sum"}.items():
        assert f"{name}={value!r}" in text
    loss = RegionWiseLoss(TEXT, **SETTINGS)
    assert repr(eval(repr(loss), {"RegionWiseLoss": RegionWiseLoss})) == repr(loss)


@every(kind=[list, np.array, torch.tensor])
def test_numbers_of_any_kind(kind):
    logits, labels = given((9, 7))
    loss = RegionWiseLoss("boundary", spacing_mm=kind([0.5, 2.5]), class_weights=kind([1, 2, 3, 4]))
    assert "spacing_mm=(0.5, 2.5), class_weights=(1.0, 2.0, 3.0, 4.0)" in repr(loss)
    wanted = RegionWiseLoss("boundary", spacing_mm=(0.5, 2.5), class_weights=(1, 2, 3, 4))
    assert loss(logits, labels) == wanted(logits, labels)


# --- Epochs


def test_schedules_follow_set_epoch():
    logits, labels = given((9, 7))
    region = RegionWiseLoss("generalized_dice")(logits, labels)
    boundary = RegionWiseLoss("boundary")(logits, labels)
    stored = maps.Boundary()(Regions(labels, 4))
    for schedule, weights in {
        "rebalance": lambda e: (max(0.01, 1 - 0.01 * e), 1 - max(0.01, 1 - 0.01 * e)),
        "constant": lambda e: (1, 0.01),
        "increase": lambda e: (1, min(1, 0.01 + 0.01 * e)),
        "steal": lambda e: (max(0.1, 1 - 0.01 * e), 0.01 + 0.01 * e),
    }.items():
        loss = RegionWiseLoss(maps.blend("generalized_dice", "boundary", schedule=schedule))
        for epoch in (0, 1, 50, 99, 150):
            loss.set_epoch(epoch)
            a, b = weights(epoch)
            assert_close(loss(logits, labels), a * region + b * boundary, 1e-6)
            assert_close(loss(logits, labels, stored), a * region + b * boundary, 1e-6)


def test_schedule_over_the_run_needs_its_length():
    logits, labels = given((9, 7))
    loss = RegionWiseLoss(maps.blend("dice", "rectified", step=None))
    with pytest.raises(RWLossError, match=r"call loss\.set_epoch\(epoch, total=\.\.\.\) before"):
        loss(logits, labels)
    loss.set_epoch(9, total=10)
    dice, rectified = (RegionWiseLoss(text)(logits, labels) for text in ("dice", "rectified"))
    assert_close(loss(logits, labels), 0.01 * dice + 0.99 * rectified, 1e-6)
    for epoch in (-1, -100):
        with pytest.raises(RWLossError, match=f"expected an epoch of 0 or more, got {epoch}"):
            loss.set_epoch(epoch)


def test_terms_that_weigh_nothing_are_not_computed():
    """At epoch 0 of "rebalance" the boundary map would be made in vain."""
    logits, labels = given((9, 7))
    made = []

    class Watched(maps.ActiveContour):
        name = "watched"

        def compute(self, regions):
            made.append(regions)
            return super().compute(regions)

    loss = RegionWiseLoss(maps.blend("dice", Watched()))
    loss(logits, labels)
    assert not made
    loss.set_epoch(1)
    loss(logits, labels)
    assert len(made) == 1


def test_state_keeps_the_epoch():
    logits, labels = given((9, 7))
    loss = RegionWiseLoss(maps.blend("dice", "rectified", step=None))
    loss.set_epoch(7, total=30)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    again = RegionWiseLoss(maps.blend("dice", "rectified", step=None))
    again.load_state_dict(torch.load(file, weights_only=True))
    assert (again.epoch, again.total_epochs) == (7, 30)
    assert again(logits, labels) == loss(logits, labels)


def test_state_inside_a_larger_module():
    loss = RegionWiseLoss("blend(dice, rectified)")
    loss.set_epoch(3)
    whole = torch.nn.ModuleDict({"network": torch.nn.Conv2d(1, 2, 1), "loss": loss})
    other = copy.deepcopy(whole)
    other["loss"].set_epoch(0)
    other.load_state_dict(whole.state_dict())
    assert (other["loss"].epoch, other["loss"].total_epochs) == (3, None)


def test_no_state_without_a_schedule():
    network = torch.nn.Conv2d(1, 2, 1)
    plain = torch.nn.ModuleDict({"net": network, "loss": RegionWiseLoss("rectified + dice")})
    other = torch.nn.ModuleDict({"net": network, "loss": torch.nn.CrossEntropyLoss()})
    timed = torch.nn.ModuleDict({"net": network, "loss": RegionWiseLoss("blend(dice, rectified)")})
    timed["loss"].set_epoch(5, total=9)
    assert list(plain.state_dict()) == list(other.state_dict()) == ["net.weight", "net.bias"]
    # Checkpoints of each criterion load into the others, and an older one with its dictionary.
    for target in (plain, timed):
        for source in (plain, other, timed):
            assert not any(target.load_state_dict(source.state_dict(), strict=True))
    other.load_state_dict(plain.state_dict())
    older = {**other.state_dict(), "loss._extra_state": {"epoch": 4, "total": None}}
    for target in (plain, timed):
        target.load_state_dict(older)
    assert (timed["loss"].epoch, timed["loss"].total_epochs) == (4, None)
    # Names that no module has are still refused.
    with pytest.raises(RuntimeError, match=r"loss\.weight"):
        plain.load_state_dict({**other.state_dict(), "loss.weight": torch.ones(2)})
    # Averages over the dictionary of states, with and without a schedule.
    for module in (plain, timed):
        states = [module.state_dict(), module.state_dict()]
        mean = {name: sum(state[name] for state in states) / 2 for name in states[0]}
        module.load_state_dict(mean)
    assert timed["loss"].epoch == 4


# --- Several processes, each with a share of the batch


@on_the_cpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_have_the_gradients_of_one(tmp_path):
    """Equal shares: the mean of their means is the mean of all."""
    torch.multiprocessing.spawn(work, args=(2, str(tmp_path)), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    images, labels = images_and_labels()
    for text in CASES:
        assert torch.equal(found[0][text], found[1][text])
        assert_close(found[0][text], gradients(network(), text, images, labels), 1e-5)


# --- How many files a loss enters, and how often it moves between them: few enough to follow


@on_the_cpu
def test_calls_between_files():
    file = Path(__file__).parents[2] / "benchmarks" / "calls.py"
    if not file.is_file():
        pytest.skip("the benchmarks are in the repository only")
    calls_between_files = runpy.run_path(str(file))["calls_between_files"]
    logits, labels = torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long)
    loss = RegionWiseLoss("rectified + dice")
    path = calls_between_files(lambda: loss(logits, labels), rwloss)
    assert path.files <= 12
    assert path.moves <= 50
    path = calls_between_files(lambda: RegionWiseLoss("rectified + dice"), rwloss)
    assert path.moves <= 20
