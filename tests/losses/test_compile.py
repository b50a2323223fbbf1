"""torch.compile: one graph where the map is stored or dynamic, and never a failure."""

import os

import loss_batches
import pytest
import torch
from loss_batches import (
    assert_same,
    every,
    given,
    given_masks,
    normal,
    one_hot,
    uniform,
    value_and_gradient,
)

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps, moves

REDUCED = os.environ.get("RWLOSS_REDUCED") == "1"
# No graph holds a distance transform of the prediction or of the truth.
DYNAMIC = [t for t in loss_batches.DYNAMIC if not issubclass(maps.load(t), maps.HausdorffDT)]
FIRST = DYNAMIC[:8]  # in tests that take seconds per term
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_graphs_left():
    yield
    torch._dynamo.reset()


def stored_map(text, labels, **kwargs):
    static = maps.parse(text).static_part
    return None if static is None else static(Regions(labels, 4, **kwargs))


def compared(loss, *calls, relative=1e-5, **settings):
    """The compiled loss has the value and gradient of the eager one, call by call."""
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend=settings.pop("backend", "aot_eager"), **settings)
    for args, kwargs in calls:
        found = value_and_gradient(compiled, *args, **kwargs)
        assert_same(found, value_and_gradient(loss, *args, **kwargs), relative)


def check(text, backend="aot_eager", dense=False, **settings):
    """A graph without breaks is the eager loss, on other batches too."""
    ignore, calls = settings.get("ignore_index"), []
    for seed in (1, 2):
        logits, labels = given((8, 6), dtype=torch.float32, seed=seed)
        if ignore is not None:
            labels[:, :2] = ignore
        rwmap = stored_map(text, labels, ignore_label=ignore)
        calls.append(((logits, labels, rwmap.dense() if dense else rwmap), {}))
    compared(RegionWiseLoss(text, **settings), *calls, backend=backend, fullgraph=True)


def test_stored_compact_map_beside_dynamic_terms():
    check("rectified + 0.5 * dice", ignore_index=255, class_weights=(1, 2, 3, 4))


def test_label_sets():
    calls = []
    for seed in (1, 2):
        logits, labels = given((8, 6), dtype=torch.float32, seed=seed)
        calls.append(((logits, labels.masked_fill(labels == 3, 255).long() + (labels == 2)), {}))
    sets = {"label_sets": {3: (1, 2)}, "ignore_index": 255}
    compared(RegionWiseLoss("dice + cross_entropy", **sets), *calls, fullgraph=True)


def test_stored_map_with_a_link():
    check("rectified.with_link(0.5)")


def refusals():
    """Name, loss and arguments of calls that eager mode refuses for a value."""
    logits, labels = given((8, 6), dtype=torch.float32)
    truth = one_hot(labels, 4)
    void, negative = labels.clone(), labels.long()
    void[:, :2], negative[0, 0, 0] = 255, -1
    dice, stored = RegionWiseLoss("dice"), stored_map("rectified", labels)
    masks, linked = RegionWiseLoss("dice", activation="sigmoid"), "rectified.with_link(0.5)"
    flipped = moves.flip(stored, -1)
    upside_down = RWMap.compact(labels, 4, stored.other, stored.true)
    return {
        "255": (RegionWiseLoss("dice + cross_entropy"), logits, void),
        "another label": (RegionWiseLoss("dice", ignore_index=9), logits, void),
        "-1": (dice, logits, negative),
        "fractions": (dice, logits, labels + 0.5),
        "soft targets": (dice, logits, 0.9 * truth),
        "no sum of 1": (RegionWiseLoss("dice", soft_labels=True), logits, 0.9 * truth),
        "masks of 255": (masks, logits, 255 * truth),
        "a soft mask": (lambda *args: dice(*args, mask=0.5 * labels), logits, labels),
        "no probabilities": (RegionWiseLoss("dice", activation="none"), logits, labels),
        "a map of other labels": (RegionWiseLoss("rectified + dice"), logits, labels, flipped),
        "a map that is not stable": (RegionWiseLoss(linked), logits, labels, upside_down),
    }


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=slow)])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
@pytest.mark.filterwarnings("ignore:\\s*Online softmax is disabled:UserWarning")  # on a GPU
def test_values_are_refused_as_in_eager_mode(backend):
    """Without a break of the graph; and a good batch goes through the same graph."""
    for number, (name, (loss, *args)) in enumerate(refusals().items()):
        if backend == "eager" and number % 2:  # the others in the slow tests
            continue
        torch._dynamo.reset()
        with pytest.raises(RWLossError) as eager:
            loss(*args)
        compiled = torch.compile(loss, fullgraph=True, backend=backend)
        with pytest.raises(RWLossError) as found:
            compiled(*args)
        assert str(found.value) == str(eager.value), name
        assert torch.is_grad_enabled()  # a graph would not restore it
    logits, labels = given((8, 6), dtype=torch.float32)
    loss = RegionWiseLoss("rectified + dice")
    graphs = torch._dynamo.explain(loss)(logits, labels, stored_map("rectified", labels))
    assert (graphs.graph_count, graphs.graph_break_count) == (1, 0)
    # The order of terms does not matter, and does not break the graph.
    turned = stored_map("boundary + rectified", labels)
    loss = RegionWiseLoss("rectified + boundary")
    compared(loss, ((logits, labels, turned), {}), fullgraph=True, backend="eager")


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")
@pytest.mark.parametrize(
    "spacing", [None, *(pytest.param(mm, marks=slow) for mm in ((1, float("nan")), [(1, 1)] * 2))]
)
def test_what_is_refused_while_the_graph_is_made(spacing):
    """Python then runs what no graph holds, and raises."""
    logits, labels = given((8, 6), dtype=torch.float32)
    if spacing is None:
        loss, stored = RegionWiseLoss("boundary"), stored_map("rectified", labels)
        message = "the map belongs to rectified, but a map of boundary"
    else:
        loss, stored = RegionWiseLoss("active_contour_length"), None
        message = "expected a spacing"
    with pytest.raises(RWLossError, match=message):
        torch.compile(loss, backend="eager")(logits, labels, stored, spacing_mm=spacing)


# --- Slow: each on its own, and Inductor


@slow
@every(
    text=["rectified", "boundary", "active_contour.with_link(0)", *DYNAMIC],
    include_background=[True, False],
)
def test_each_term(text, include_background):
    if include_background or text not in DYNAMIC or text in FIRST:
        check(text, include_background=include_background)
    if "." not in text and text not in DYNAMIC:  # values in a tensor
        check(text, dense=True, reduction="sum" if include_background else "mean")


@slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
@pytest.mark.filterwarnings("ignore:\\s*Online softmax is disabled:UserWarning")  # on a GPU
@every(
    text=["rectified + dice"]
    if REDUCED
    else ["rectified", "boundary", "rectified.with_link(0.5)", "rectified + dice", *FIRST],
)
def test_inductor(text):
    check(text, backend="inductor")


@slow
@every(activation=["sigmoid", "none"])
def test_activations(activation):
    logits, target = given_masks((8, 6), masks=4, dtype=torch.float32)
    labels, num_classes = target.flatten(0, 1), 2
    if activation == "none":
        logits, target = given((8, 6), dtype=torch.float32)
        logits, labels, num_classes = torch.softmax(logits, dim=1), target, 4
    loss = RegionWiseLoss("rectified + dice", activation=activation)
    stored = maps.Rectified()(Regions(labels, num_classes))
    compared(loss, ((logits, target, stored), {}), fullgraph=True)


@slow
@every(dense=[False, True], target_form=["labels", "one-hot", "list"])
def test_deep_supervision(dense, target_form):
    _, labels = given((8, 6))
    outputs = [normal(3, 4, *size) for size in ((8, 6), (4, 3))]
    target = {
        "labels": labels,
        "one-hot": torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 1),
        "list": [labels, labels[:, ::2, ::2]],
    }[target_form]
    loss = RegionWiseLoss("rectified + dice", spacing_mm=(0.8, 2.5))
    stored = maps.Rectified()(Regions(labels, 4, (0.8, 2.5)))
    compared(loss, ((outputs, target, stored.dense() if dense else stored), {}), fullgraph=True)


@slow
def test_mask_spacing_and_half_precision():
    logits, labels = given((8, 6), dtype=torch.bfloat16)
    loss = RegionWiseLoss("rectified + active_contour_length", spacing_mm=(0.8, 2.5))
    mask, calls = uniform(3, 8, 6) > 0.4, []
    for spacing in (None, [(1.0, 1.0), (0.5, 2.0), (3.0, 1.0)]):
        stored = maps.Rectified()(Regions(labels, 4, spacing or (0.8, 2.5)))
        calls.append(((logits, labels, stored), {"mask": mask, "spacing_mm": spacing}))
    with torch.autocast(logits.device.type, dtype=torch.bfloat16):
        compared(loss, *calls, fullgraph=True, relative=1e-2)


@slow
@every(text=["rectified", "boundary", "dice + active_contour_length"])
def test_batches_of_other_sizes(text):
    """The last batch of an epoch is smaller, patches differ."""
    calls = []
    for size, shape in ((3, (8, 6)), (2, (8, 6)), (4, (7, 9)), (1, (5, 5))):
        logits, labels = given(shape, dtype=torch.float32, size=size)
        calls.append(((logits, labels, stored_map(text, labels)), {}))
    compared(RegionWiseLoss(text), *calls, fullgraph=True)


@slow
def test_a_schedule_is_not_compiled_anew_each_epoch():
    logits, labels = given((8, 6), dtype=torch.float32)
    stored = maps.Boundary()(Regions(labels, 4))
    loss = RegionWiseLoss("blend(dice, boundary, schedule='steal')")
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for epoch in range(20):  # more than the graphs that torch keeps of one function
        loss.set_epoch(epoch)
        found = value_and_gradient(compiled, logits, labels, stored)
        assert_same(found, value_and_gradient(loss, logits, labels, stored), 1e-5)


@slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own
@every(
    text=[
        "rectified",
        "rectified + dice",
        "rectified.with_link(0.5) + boundary",
        "hausdorff_dt",
        "(dice + boundary).stabilized()",
    ],
    ignore_index=[None, 255],
)
def test_maps_made_on_the_fly_break_the_graph_and_work(text, ignore_index):
    calls = []
    for seed in (1, 2):
        logits, labels = given((8, 6), dtype=torch.float32, seed=seed)
        if ignore_index is not None:
            labels[:, :2] = ignore_index
        calls.append(((logits, labels), {}))
    compared(RegionWiseLoss(text, ignore_index=ignore_index), *calls)


@slow
def test_network_and_loss_in_one_graph():
    network = torch.nn.Conv2d(1, 4, 3, padding=1).to(loss_batches.device)
    loss = RegionWiseLoss("rectified + dice")
    _, labels = given((8, 6))
    stored = maps.Rectified()(Regions(labels, 4))
    images = normal(3, 1, 8, 6)

    def step(images, labels, stored):
        return loss(network(images), labels, stored)

    gradients = []
    for run in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        value = run(images, labels, stored)
        gradients.append((value.detach(), torch.autograd.grad(value, network.weight)[0]))
    assert_same(gradients[1], gradients[0], 1e-5)


@slow
def test_stored_map_in_numpy_memory():
    """A store gives NumPy arrays: no graph holds them, and the loss still works."""
    logits, labels = given((8, 6), dtype=torch.float32)
    made = maps.Rectified()(Regions(labels.cpu().numpy(), 4))
    stored = RWMap.compact(made.labels, 4, made.true, made.other)
    compared(RegionWiseLoss("rectified"), ((logits, labels, stored), {}))
