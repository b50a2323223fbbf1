"""On a GPU no loss waits: seen with tensors that pretend to be on CUDA, and on CUDA itself."""

import gc
import subprocess
import sys

import pytest
import torch
from interpreted import large_tiles
from loss_batches import DYNAMIC, assert_close, every, given, given_masks, one_hot
from pretend_cuda import PretendCuda, waiting_raises

import rwloss
from rwloss import Regions, RegionWiseLoss, RWLossError, maps, moves
from rwloss.losses import SCNP
from rwloss.losses.batch import LossBatch
from rwloss.maps import Prediction

STATIC = [
    "rectified",
    "rectified(clip_mm=2.0, weights='effective_number')",
    "active_contour",
    "class_weighted",
    "class_weighted(weights=(1.0, 2.0, 3.0, 4.0))",
    "boundary",
    "boundary(convention='edge', normalize='max')",
    "boundary(convention='maurer')",
    "boundary.stabilized()",
    "rectified.with_link(0.5)",
    "rectified + 0.1 * boundary",
]
MIXED = ["rectified + dice", "dice.stabilized()", "blend(dice, boundary, schedule='rebalance')"]
ON_THE_CPU = {"rectified(scope='component')": 3, "unet_border": 3, "skeleton_recall": 1}
"""Maps of objects or skeletons, and how often they wait: docs/gpu.md says so."""

FEW = ["rectified", "class_weighted", "boundary", "rectified.with_link(0.5)", "rectified + dice"]
FEW += ["hausdorff_dt", "active_contour_length", "dice.stabilized()", "unet_border"]

on_the_cpu = pytest.mark.parametrize("device", ["cpu"])


def loss_and_gradient(loss, cuda, logits, target, rwmap=None, mask=None):
    """Value and gradient on the device, None for the CPU."""

    def placed(values):
        if isinstance(values, rwloss.RWMap):
            return values.with_arrays(placed)
        return values if cuda is None or values is None else cuda.tensor(values)

    leaf = placed(logits.detach().clone()).requires_grad_()
    value = loss(leaf, placed(target), placed(rwmap), mask=placed(mask))
    value.backward()
    return value.detach(), leaf.grad


def check(loss, *args, waits=0):
    """As on the CPU, with so many waits."""
    wanted = loss_and_gradient(loss, None, *args)
    with large_tiles(args[1]), PretendCuda() as cuda:
        found = loss_and_gradient(loss, cuda, *args)
        assert all(each.device.type == "cuda" for each in found)
    assert len(cuda.waits) == waits, (loss, cuda.waits)
    for one, other in zip(found, wanted, strict=True):
        assert_close(one.held, other, max(2e-6, torch.finfo(other.dtype).eps))


@on_the_cpu
@pytest.mark.parametrize(
    ("texts", "shape"),
    [
        (FEW, (6, 5)),
        pytest.param([*STATIC, *DYNAMIC, *MIXED, *ON_THE_CPU], (4, 3, 5), marks=pytest.mark.slow),
    ],
)
def test_no_loss_waits(texts, shape):
    logits, labels = given(shape, dtype=torch.float32, size=2)
    for text in texts:
        loss = RegionWiseLoss(text, spacing_mm=(0.8, 2.5, 1.0)[: len(shape)])
        loss.set_epoch(1, total=10)
        check(loss, logits, labels, waits=ON_THE_CPU.get(text, 0))


@on_the_cpu
def test_no_loss_waits_for_anything_else_it_is_given():
    """Targets of every kind, masks, weights, and stored maps in both forms."""
    logits, labels = given((6, 5), dtype=torch.float32)
    void, mask = labels.clone(), labels != 2
    void[:, :2] = 255
    both = "rectified + 0.1 * boundary + dice"
    check(RegionWiseLoss(both, ignore_index=255), logits, void, None, mask)
    check(RegionWiseLoss("rectified"), logits, labels, None, mask.float())
    check(RegionWiseLoss(both, class_weights=(1, 2, 3, 4), low_memory=True), logits, labels.float())
    check(RegionWiseLoss(both, include_background=False, batch=True), logits, one_hot(labels, 4))
    check(RegionWiseLoss("dice", activation="none"), logits.softmax(dim=1), labels)
    soft = 0.9 * one_hot(labels, 4).float() + 0.025
    check(RegionWiseLoss(both, soft_labels="largest"), logits, soft, None, mask)
    check(
        RegionWiseLoss(both, soft_labels="largest", ignore_index=255), logits, soft * mask[:, None]
    )
    loss = RegionWiseLoss("dice + cross_entropy", activation="sigmoid", soft_labels=True)
    check(loss, logits, soft)
    check(RegionWiseLoss(both, ignore_index=255, logit_transform=SCNP()), logits, void, None, mask)
    masks = given_masks((6, 5), dtype=torch.float32)
    check(RegionWiseLoss(both, activation="sigmoid"), *masks)
    for text in ("rectified + dice", "boundary", "rectified.with_link(0.5)"):
        stored = maps.parse(text).static_part(Regions(labels, 4))
        check(RegionWiseLoss(text), logits, labels, stored)
        stored = stored.dense() if text == "boundary" else stored
        check(RegionWiseLoss(text), logits.half(), labels, stored)


def refusals():
    """What the device says, loss and arguments of calls that the CPU refuses for a value."""
    logits, labels = given((8, 6), dtype=torch.float32)
    truth, negative = one_hot(labels, 4), labels.long()
    negative[0, 0, 0] = -1
    stored = maps.get("rectified")(Regions(labels, 4))
    upside_down = rwloss.RWMap.compact(labels, 4, stored.other, stored.true)
    masks, soft = RegionWiseLoss("dice", activation="sigmoid"), torch.full((3, 8, 6), 0.5)
    range_, others = "a label is not one of 0..3", moves.flip(stored, -1)
    dense = rwloss.RWMap.from_dense(others.labels, others.dense())
    calls = {
        range_: (RegionWiseLoss("dice"), logits, labels + 1),
        "not the ignored label": (RegionWiseLoss("dice", ignore_index=9), logits, negative),
        "not a whole number": (RegionWiseLoss("dice"), logits, labels + 0.5),
        "not one-hot": (RegionWiseLoss("dice"), logits, 0.9 * truth),
        "another value than 0 and 1": (masks, logits, 255 * truth),
        "not in 0..1": (RegionWiseLoss("dice", activation="none"), logits, labels),
        "to other labels": (RegionWiseLoss("rectified"), logits, labels, others),
        "below 0": (RegionWiseLoss("rectified.with_link(1)"), logits, labels, upside_down),
        "or do not sum to 1": (RegionWiseLoss("dice", soft_labels=True), logits, 0.9 * truth),
        "mask of voxels that count": (RegionWiseLoss("dice"), logits, labels, None, soft),
        "not finite": (RegionWiseLoss(NotANumber()), logits, labels),
    }
    yield "not finite", RegionWiseLoss(RectifiedByNothing()), logits, labels
    # Kernels check labels and those of a map. Where none reads them, or only later, others do.
    for text in ("cross_entropy", "cross_entropy + dice", "rectified", "0 * dice"):
        yield range_, RegionWiseLoss(text), logits, labels + 1
    yield range_, RegionWiseLoss("rectified"), logits, labels + 1, stored
    for text in ("rectified.with_link(1)", "rectified + dice", "rectified + cross_entropy"):
        yield "to other labels", RegionWiseLoss(text), logits, labels, others
    for settings in ({"include_background": False}, {"low_memory": True}, {"reduction": "none"}):
        yield "to other labels", RegionWiseLoss(**settings), logits, labels, dense
    yield from ((fact, *call) for fact, call in calls.items())


class NotANumber(maps.MapGenerator):
    """A map that is not finite."""

    name = "not_a_number"

    def compute(self, regions):
        values = regions.full(float("nan"))
        return rwloss.RWMap.compact(regions.labels, regions.num_classes, values, values)


class RectifiedByNothing(maps.Rectified):
    """One whose own map would need no check."""

    name = "rectified_by_nothing"

    def compute(self, regions):
        rwmap = super().compute(regions)
        return rwloss.RWMap.compact(regions.labels, 4, rwmap.true * float("nan"), rwmap.other)


@on_the_cpu
def test_wrong_values_are_asserted_on_the_device(monkeypatch):
    """And after check_values() refused in the words of the CPU."""
    for fact, loss, *args in refusals():
        with pytest.raises(RWLossError) as on_cpu:
            loss_and_gradient(loss, None, *args)
        with PretendCuda() as cuda:
            with pytest.raises(RuntimeError, match=rf"^rwloss: .*{fact}.*check_values\(\)"):
                loss_and_gradient(loss, cuda, *args)
            assert not cuda.waits
            rwloss.check_values()
            try:
                with pytest.raises(RWLossError) as told:
                    loss_and_gradient(loss, cuda, *args)
            finally:
                rwloss.check_values(False)
        assert str(told.value) == str(on_cpu.value)
        assert cuda.waits


@on_the_cpu
def test_operations_of_a_call():
    """Forward and backward: each takes the host some microseconds, and a GPU a launch."""
    logits, labels = given((6, 5), dtype=torch.float32)
    stored = maps.get("rectified")(Regions(labels, 4))
    most = {"rectified": 6, "dice": 22, "rectified + dice": 23}
    for text, number in most.items():
        loss, rwmap = RegionWiseLoss(text), None if text == "dice" else stored
        loss_and_gradient(loss, None, logits, labels, rwmap)  # the first call of a term checks more
        with PretendCuda() as cuda:
            loss_and_gradient(loss, cuda, logits, labels, rwmap)
        assert cuda.operations.total() <= number, (text, cuda.operations)
        kernels = [name for name in cuda.operations if name.startswith("rwloss::")]
        assert kernels == ["rwloss::softmax_sums", "rwloss::softmax_gradients"]


@on_the_cpu
def test_a_call_leaves_nothing_to_collect():
    """Arrays of the size of the logits would stay in memory until Python looks for cycles."""
    logits, labels = given((6, 5), dtype=torch.float32)
    gc.collect()
    gc.disable()
    try:
        texts = ["rectified + dice", "cross_entropy", "dice(include_background=False)"]
        for text in (*texts, "(boundary + dice).stabilized()"):
            with PretendCuda() as cuda:
                loss_and_gradient(RegionWiseLoss(text), cuda, logits, labels)
        left = [type(each) for each in gc.get_objects() if type(each) in {LossBatch, Prediction}]
    finally:
        gc.enable()
    assert not left


@on_the_cpu
def test_the_pretended_device_notices():
    """Waits, and tensors of two devices: a test that can't fail shows nothing."""
    values = torch.arange(4.0)
    for read in (
        *(float, bool, torch.Tensor.item, torch.Tensor.tolist),
        *(torch.Tensor.cpu, torch.Tensor.nonzero, torch.unique),
        lambda x: x[x > 1],
        lambda x: x.to("cpu"),
        lambda x: x + torch.tensor(1.0, device=x.device),
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.as_tensor([1.0], device="cuda"),
        lambda x: values.to(x.device),
        lambda x: torch.where(x > 1, torch.tensor(1.0), x),
    ):
        with PretendCuda() as cuda:
            read(cuda.tensor(values[:1]))
        assert len(cuda.waits) == 1, read
    with PretendCuda() as cuda:
        there = cuda.tensor(values)
        with pytest.raises(RuntimeError, match="on one device"):
            there + values
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert (there + 1 + values.to("cuda", non_blocking=True)).sum().device.type == "cuda"
    assert not cuda.waits
    assert cuda.operations == {"add": 2, "sum": 1}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every(text=[*STATIC, *DYNAMIC, *MIXED])
def test_nothing_waits_on_cuda(text):
    logits, labels = given((6, 5), dtype=torch.float32)
    loss = RegionWiseLoss(text)
    loss.set_epoch(1, total=10)
    logits, labels = logits.cuda().requires_grad_(), labels.cuda()
    loss(logits, labels).backward()  # kernels are loaded
    with waiting_raises():
        loss(logits, labels).backward()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@on_the_cpu
def test_a_wrong_label_ends_a_program_on_cuda():
    """In a process of its own, whose device is lost."""
    code = (
        "import torch, rwloss; logits = torch.zeros(1, 3, 8, 8, device='cuda', requires_grad=True);"
        "labels = torch.full((1, 8, 8), 3, device='cuda');"
        "rwloss.RegionWiseLoss('rectified')(logits, labels).backward(); torch.cuda.synchronize()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode != 0
    assert "rwloss: " in ended.stderr
    assert "check_values()" in ended.stderr
