"""A stack of runs does what its runs do alone."""

import gc
import math
import weakref
from dataclasses import replace
from functools import cache, partial
from itertools import product

import pytest
import torch
from einops import repeat
from lightning_fabric import Fabric
from torch.nn.utils import parameters_to_vector

import rwloss
from rwloss import RegionWiseLoss, RWLossError
from rwloss.training import (
    PRESETS,
    Diverged,
    RunSettings,
    TrainingBatch,
    loop,
    stacked_networks,
    unet,
)
from rwloss.training import stacked as stacks
from rwloss.training.loop import TrainingState, train_steps
from rwloss.training.stacked_convolutions import StackedConvolutions

MAPS = ["rectified + dice", "boundary.stabilized()", "blend(generalized_dice, boundary)"]


def batches_of(seed, stack, *, spoilt_from=math.inf):
    """Noisy squares; some voxels are ignored, more in one image than in another."""

    @cache
    def batch(step):
        generator = torch.Generator().manual_seed(1000 * seed + step)
        labels = torch.zeros(2, 16, 16, dtype=torch.int64)
        for image, corner in zip(
            labels, torch.randint(0, 6, (2, 2), generator=generator).tolist(), strict=True
        ):
            row, column = corner
            image[row : row + 5, column : column + 5] = 1
            image[row + 5 : row + 9, column + 4 : column + 10] = 2
        level = torch.tensor([0.0, 2.0, -2.0])[labels]
        images = (level + 0.2 * torch.randn(labels.shape, generator=generator)).to(stack.dtype)
        labels[0, : step % 4] = -1
        factor = math.nan if step >= spoilt_from else 1.0
        images, labels = (images[:, None] * factor).to(stack.device), labels.to(stack.device)
        spacing_mm = (1.0, 1.0 + step % 2)
        if stack.changes.get("dims") == 3:  # 16 equal slices
            images, labels = (repeat(part, "... -> ... z", z=16) for part in (images, labels))
            spacing_mm = (*spacing_mm, 2.0)
        return TrainingBatch(images, labels, (spacing_mm,) * 2)

    return batch


class Stack:
    """Members of equal settings, and what they were told."""

    def __init__(self, dtype=torch.float64, device="cpu", *, precision="32-true", **changes):
        self.dtype, self.changes = dtype, changes
        self.device = torch.device(device)
        self.fabric = Fabric(accelerator=self.device.type, devices=1, precision=precision)
        self.losses, self.batches, self.members, self.rows, self.told = {}, {}, [], [], []

    def add(self, text, seed, rate, **spoilt):
        settings = RunSettings(
            data="in", out="out", map=text, seed=seed, learning_rate=rate, accelerator="cpu",
            **{"steps": 5, "record_every": 2, "steps_per_epoch": 2, **self.changes},
        )  # fmt: skip
        network = unet(settings.dims, 1, 3, seed=seed).to(self.device, self.dtype)
        optimizer = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        rows, told, failures = [], [], []
        member = stacks.Member(
            network,
            self.losses.setdefault(text, RegionWiseLoss(text, ignore_index=-1)),
            self.batches.setdefault((seed, *spoilt), batches_of(seed, self, **spoilt)),
            optimizer(network.parameters(), lr=rate, weight_decay=settings.weight_decay),
            settings,
            TrainingState(),
            record=lambda step, row: rows.append((step, row)),
            after_step=lambda step, loss: told.append((step, loss)),
            on_failure=failures.append,
        )
        member.rows, member.told, member.failures = rows, told, failures
        self.members.append(member)
        return member

    def alone(self):
        """Each member trained by the loop of a single run."""
        for each in self.members:
            try:
                train_steps(
                    self.fabric, each.network, each.loss, each.batches,
                    each.optimizer, each.settings, each.state,
                    record=each.record, after_step=each.after_step,
                )  # fmt: skip
            except RWLossError as error:
                each.failures.append(error)
        return self.members

    def together(self):
        stacks.train_stack(self.fabric, self.members)
        return self.members


def weights_of(member):
    return parameters_to_vector(member.network.parameters()).detach()


def assert_close(found, wanted, tolerance):
    """Weights, moments, losses, records and what was told."""
    assert (weights_of(found) - weights_of(wanted)).abs().max() < tolerance
    one, other = (each.optimizer.state_dict() for each in (found, wanted))
    assert one["param_groups"] == other["param_groups"]
    for index, state in other["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(
                one["state"][index][name], value, rtol=tolerance, atol=tolerance
            )
    assert found.told == [(step, pytest.approx(loss, abs=tolerance)) for step, loss in wanted.told]
    assert (found.state.step, found.state.losses) == (
        wanted.state.step,
        pytest.approx(wanted.state.losses),
    )
    for (step, row), (at, expected) in zip(found.rows, wanted.rows, strict=True):
        assert step == at
        assert row.keys() == expected.keys()
        for name in row:
            values = ([0.0 if v is None else v for v in listed(r[name])] for r in (row, expected))
            one, other = map(torch.tensor, values)
            torch.testing.assert_close(one, other, rtol=1e3 * tolerance, atol=tolerance, msg=name)


def listed(value):
    return value if isinstance(value, list) else [value]


def assert_all_close(found, wanted, tolerance):
    for one, other in zip(found, wanted, strict=True):
        assert [str(error) for error in one.failures] == [str(error) for error in other.failures]
        assert_close(one, other, tolerance)


def filled(stack, maps=MAPS, seeds=(0, 1), rates=(1e-3, 4e-3)):
    for seed, text, rate in product(seeds, maps, rates):
        stack.add(text, seed, rate)
    return stack


def three(spoilt_from=None, **changes):
    """Three members: two of one map, two of one seed; the second one may meet infinite images."""
    stack = Stack(**{"steps": 3, **changes})
    stack.add(MAPS[0], 0, 1e-3)
    stack.add(MAPS[0], 1, 4e-3, **({} if spoilt_from is None else {"spoilt_from": spoilt_from}))
    stack.add(MAPS[2], 0, 4e-3)
    return stack


@pytest.fixture(scope="module")
def alone():
    return three().alone()


@pytest.mark.parametrize("as_on_gpu", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_stack_does_what_its_runs_do_alone(dims, as_on_gpu, monkeypatch):
    """With grouped convolutions, and with those that a GPU gets."""
    if as_on_gpu:
        monkeypatch.setattr(stacked_networks, "_convolutions", lambda device: StackedConvolutions())
    changes = {"optimizer": "adamw", "weight_decay": 0.1, "gradient_clip": 0.05, "dims": dims}
    assert_all_close(three(**changes).together(), three(**changes).alone(), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "rates", "tolerance"),
    [(torch.float64, (1e-3, 4e-3), 1e-9), (torch.float32, (1e-5, 4e-5), 1e-4)],
    ids=["float64", "float32"],
)
def test_three_maps_two_seeds_two_learning_rates(dtype, rates, tolerance, monkeypatch):
    """Of the real tiny network. Records are compared in float64 alone.

    In float32, Adam makes of each rounding a step of the learning rate, which is low therefore.
    """
    real = replace(PRESETS["tiny"], channels=(16, 32, 64, 128), residual_units=2)
    monkeypatch.setitem(PRESETS, "tiny", real)
    changes = {"steps": 20, "record_every": 7, "weight_decay": 0.01}
    if dtype is torch.float64:
        texts = ["rectified + dice", "dice.stabilized()", "blend(generalized_dice, boundary)"]
        wanted = filled(Stack(**changes), texts, rates=rates).alone()
        assert_all_close(filled(Stack(**changes), texts, rates=rates).together(), wanted, tolerance)
        return
    wanted, found = (filled(Stack(dtype, **changes), rates=rates) for _ in range(2))
    for one, other in zip(found.together(), wanted.alone(), strict=True):
        assert (weights_of(one) - weights_of(other)).abs().max() < tolerance


def with_graphs(monkeypatch):
    """Stacks make graphs. How many members each has, and references to its memory."""
    made, memory = [], []

    def graphed(forward, arguments, num_warmup_iters):
        assert num_warmup_iters == 0
        assert all(each() is None for each in memory)  # that of earlier graphs is free
        weights, images = arguments
        made.append(len(weights))
        given = [each.detach().clone() for each in (weights, images)]
        logits, gradient = forward(*given), torch.empty_like(weights)
        memory.append(weakref.ref(gradient))

        class Graph(torch.autograd.Function):
            @staticmethod
            def forward(ctx, weights, images):
                assert images.data_ptr() != given[1].data_ptr()
                for into, value in zip(given, (weights, images), strict=True):
                    into.copy_(value)
                with torch.no_grad():
                    logits.copy_(forward(*given))
                return logits.detach()

            @staticmethod
            def backward(ctx, push):
                with torch.enable_grad():
                    weights = given[0].detach().requires_grad_()
                    [found] = torch.autograd.grad(forward(weights, given[1]), [weights], push)
                return gradient.copy_(found), None

        return Graph.apply

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    monkeypatch.setattr(stacks._Stack, "_passes", as_if_on_cuda)
    return made, memory


def test_passes_that_are_graphs_do_what_the_runs_do_alone(alone, monkeypatch):
    """A graph reads and writes the same memory in each step; the stack must not keep any of it."""
    made, memory = with_graphs(monkeypatch)
    gc.disable()  # its own time comes late
    try:
        assert_all_close(three().together(), alone, 1e-9)
        found = three(spoilt_from=3).together()
        assert [bool(each.failures) for each in found] == [False, True, False]
        monkeypatch.setattr(stacks._Stack, "_losses", scarce(stacks._Stack._losses))
        assert_all_close(three().together(), alone, 1e-9)
        assert all(each() is None for each in memory)
    finally:
        gc.enable()
    assert made == [3, 3, 2, 3, 2, 1]


def test_a_graph_leaves_its_memory_to_members_that_validate_alone(alone, monkeypatch):
    made, memory = with_graphs(monkeypatch)
    stack, left = three(validate_every=2), []

    def validate(networks):
        raise torch.OutOfMemoryError("CUDA out of memory")

    for member in stack.members:
        member.after_step = looking(member.after_step, memory, left)
    gc.disable()
    try:
        stacks.train_stack(stack.fabric, stack.members, validate)
    finally:
        gc.enable()
    assert_all_close(stack.members, alone, 1e-9)
    assert made == [3, 3]
    assert left == [1] * 3 + [0] * 6  # in steps 2 and 3


def looking(after_step, memory, left):
    """Note how many graphs have memory."""

    def looked(step, loss):
        left.append(sum(each() is not None for each in memory))
        after_step(step, loss)

    return looked


def scarce(losses):
    """Memory suffices for the losses of two members, and in the first step for those of all."""

    def limited(self, logits, *given, **how):
        if len(logits) > 2 and self.step:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses(self, logits, *given, **how)

    return limited


def as_if_on_cuda(self, weights, images, passes=stacks._Stack._passes):
    """The passes of tensors that claim to be on a GPU."""
    images = images.as_subclass(OnCuda)
    return passes(self, weights, images)


class OnCuda(torch.Tensor):
    """A tensor in main memory that names another device."""

    @property
    def device(self):
        return torch.device("cuda")

    def clone(self):
        return self.as_subclass(torch.Tensor).clone()


def test_in_bfloat16_a_stack_has_the_losses_of_its_runs():
    """And not those of float32: autocast alone has no effect under `vmap`."""
    mixed = {"dtype": torch.float32, "precision": "bf16-mixed"}
    stack, runs = three(**mixed).together(), three(**mixed).alone()
    for one, other, exact in zip(stack, runs, three(dtype=torch.float32).alone(), strict=True):
        assert not one.failures
        losses = [[loss for _, loss in each.told] for each in (one, other, exact)]
        assert losses[0] == pytest.approx(losses[1], rel=0.02)
        assert losses[0] != pytest.approx(losses[2], rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_on_a_gpu_no_step_waits_and_a_stack_is_its_runs(monkeypatch):
    """But for rounding: the weights of a low learning rate, as on the CPU in float32."""
    # In a run alone, convolutions would round more than the matrix products of a stack.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    rwloss.check_values(False)
    changes = {"steps": 8, "record_every": 100, "validate_every": 100}
    wanted, found = (filled(Stack(torch.float32, "cuda", **changes), rates=(1e-5,)) for _ in "ab")
    for member in found.members:
        member.after_step = watching(member.after_step)
        for step in range(1, 9):
            member.batches(step)  # made on the host, whose copies are waited for
    for one, other in zip(found.together(), wanted.alone(), strict=True):
        assert not one.failures
        assert (weights_of(one) - weights_of(other)).abs().max() < 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("precision", "rel"), [("32-true", 1e-3), ("bf16-mixed", 0.05)])
def test_on_a_gpu_a_stack_has_the_losses_of_its_runs(dims, precision, rel, monkeypatch):
    """Its passes are graphs, and its convolutions have kernels of their own."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    given = {"device": "cuda", "precision": precision, "dims": dims, "steps": 6}
    wanted, found = three(dtype=torch.float32, **given), three(dtype=torch.float32, **given)
    for one, other in zip(found.together(), wanted.alone(), strict=True):
        assert not one.failures
        assert one.state.losses == pytest.approx(other.state.losses, rel=rel)
        for (step, row), (at, expected) in zip(one.rows, other.rows, strict=True):
            assert step == at
            assert row["losses"] == pytest.approx(expected["losses"], rel=rel)


def watching(after_step):
    """Refuse to wait after step 3 until step 7 is done."""

    def watched(step, loss):
        if step in {3, 7}:
            torch.cuda.set_sync_debug_mode("error" if step == 3 else "default")
        after_step(step, loss)

    return watched


@pytest.mark.parametrize("waits", [False, True], ids=["read at once", "read at pauses"])
def test_a_member_that_diverges_ends_alone(waits, alone, monkeypatch):
    """As on a GPU, where losses are read at pauses, too."""
    if waits:
        monkeypatch.setattr(loop, "is_free_to_read", lambda value: False)
    found = three(spoilt_from=3).together()
    [error] = found[1].failures
    assert isinstance(error, Diverged)
    assert error.step == 3
    assert "the loss is nan at step 3" in str(error)
    assert "below 0.004" in str(error)
    assert [step for step, _ in found[1].rows] == [1, 2]
    assert [step for step, _ in found[1].told] == [1, 2]
    for one, wanted in zip(found[::2], alone[::2], strict=True):
        assert not one.failures
        assert_close(one, wanted, 1e-9)


def test_a_loss_that_fails_ends_the_members_of_its_map(alone):
    stack = three()
    stack.add("rectified - 2 * dice", 0, 1e-3)  # its record has no least value to count from
    *others, failed = stack.together()
    assert "weight below 0" in str(failed.failures[0])
    assert failed.state.step == 0
    assert_all_close(others, alone, 1e-9)


def test_a_member_whose_figures_fail_ends_alone(alone, monkeypatch):
    whole, spoilt = stacks.figures_of, {}

    def fails(losses, logits, *rest):
        if not spoilt:
            spoilt["logits"] = logits[1].clone()  # of the second member, at step 1
        if any(torch.equal(own, spoilt["logits"]) for own in logits):
            raise ValueError("no figures")
        return whole(losses, logits, *rest)

    monkeypatch.setattr(stacks, "figures_of", fails)
    one, failed, other = three().together()
    assert [str(error) for error in failed.failures] == ["no figures"]
    assert_all_close([one, other], alone[::2], 1e-9)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),  # of a graph
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
    ids=str,
)
def test_where_memory_is_short_the_stack_is_halved(error, alone, monkeypatch, caplog):
    sizes, forward = [], stacks._Stack._forward

    def scarce(self, weights, images):
        sizes.append(len(images))
        if len(images) > 2 and len(sizes) > 1:
            raise error
        return forward(self, weights, images)

    monkeypatch.setattr(stacks._Stack, "_forward", scarce)
    assert_all_close(three().together(), alone, 1e-9)
    assert sizes == [3, 3, 2, 2, 1, 1]
    assert "out of memory with 3 runs together: 2 from here" in caplog.text


def test_where_memory_is_too_short_for_one_run_it_fails(monkeypatch):
    def none(self, weights, images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stacks._Stack, "_forward", none)
    for member in three().together():
        assert [str(error) for error in member.failures] == ["CUDA out of memory"]


def test_other_errors_of_a_stack_are_raised(monkeypatch):
    def fails(self, weights, images):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(stacks._Stack, "_forward", fails)
    with pytest.raises(RuntimeError, match="device-side assert"):
        three().together()


def test_a_stack_gives_its_members_what_they_save():
    """The dice of its networks, and what the members hold themselves."""
    stack, given, counts = three(checkpoint_every=2, validate_every=3), [], []

    def validate(networks):
        counts.append(networks.count)
        images = torch.ones(1, 1, 16, 16, dtype=stack.dtype)
        logits = networks.logits(slice(0, networks.count), images)
        return [{"sum": float(own.sum())} for own in logits]

    def check(member, own):
        if own is None:
            return
        given.append((member.state.step, stack.members.index(member)))
        state = member.network.state_dict()
        assert list(own.weights) == list(state)
        assert all(map(torch.equal, own.weights.values(), state.values()))
        wanted = member.optimizer.state_dict()
        assert own.optimizer["param_groups"] == wanted["param_groups"]
        for at, values in wanted["state"].items():
            assert own.optimizer["state"][at].keys() == values.keys()
            assert all(map(torch.equal, own.optimizer["state"][at].values(), values.values()))
        if member.state.step == 3:
            with torch.no_grad():
                expected = member.network.eval()(torch.ones(1, 1, 16, 16, dtype=stack.dtype)).sum()
            assert own.dice == {"sum": pytest.approx(float(expected))}
        else:
            assert own.dice is None

    for member in stack.members:
        member.give = partial(check, member)
    stacks.train_stack(stack.fabric, stack.members, validate)
    assert given == [(step, member) for step in (2, 3) for member in range(3)]
    assert counts == [3]
    assert not any(member.failures for member in stack.members)


def test_a_member_that_is_ahead_joins_later(alone):
    stack = three()
    ahead, after_step = stack.members[2], stack.members[2].after_step

    def stop(step, loss):
        after_step(step, loss)
        if step == 2:
            raise KeyboardInterrupt

    ahead.after_step = stop
    stack.members = [ahead]
    with pytest.raises(KeyboardInterrupt):
        stack.alone()
    assert ahead.state.step == 2
    ahead.after_step = after_step
    stack.members = [*three().members[:2], ahead]
    assert_all_close(stack.together(), alone, 1e-9)
