"""torch.compile: one graph where the map is stored or dynamic, and never a failure."""

import os

import loss_batches
import pytest
import torch
from loss_batches import assert_same, given, given_masks, normal, uniform, value_and_gradient

from rwloss import Regions, RegionWiseLoss, RWMap, maps

REDUCED = os.environ.get("RWLOSS_REDUCED") == "1"
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_graphs_left():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def stored_map(text, labels, **kwargs):
    static = maps.parse(text).static_part
    return None if static is None else static(Regions(labels, 4, **kwargs))


def check(text, backend="aot_eager", form="RWMap", relative=1e-5, **settings):
    """A graph without breaks has the value and gradient of eager, on other batches too."""
    loss = RegionWiseLoss(text, **settings)
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for seed in (1, 2):
        logits, labels = given((8, 6), dtype=torch.float32, seed=seed)
        ignore = settings.get("ignore_index")
        if ignore is not None:
            labels[:, :2] = ignore
        rwmap = stored_map(text, labels, ignore_label=ignore)
        if form == "tensor":
            rwmap = rwmap.dense()
        found = value_and_gradient(compiled, logits, labels, rwmap)
        assert_same(found, value_and_gradient(loss, logits, labels, rwmap), relative)


# --- In the fast tier: every kind of term in few graphs


def test_stored_compact_map_beside_dynamic_terms():
    check("rectified + dice + 0.5 * cross_entropy", ignore_index=255, class_weights=(1, 2, 3, 4))


def test_stored_map_with_a_link():
    check("rectified.with_link(0.5)")


# --- Slow: each on its own, and Inductor

DYNAMIC = [text for text in loss_batches.DYNAMIC if text != "hausdorff_dt"]


@slow
@pytest.mark.parametrize("text", ["rectified", "boundary", "active_contour.with_link(0)", *DYNAMIC])
@pytest.mark.parametrize("include_background", [True, False])
def test_each_term(text, include_background):
    check(text, include_background=include_background)


@slow
@pytest.mark.parametrize("text", ["rectified", "boundary + dice"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_values_in_a_tensor(text, reduction):
    check(text, form="tensor", reduction=reduction)


@slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
@pytest.mark.parametrize(
    "text",
    ["rectified + dice"]
    if REDUCED
    else ["rectified", "boundary", "rectified.with_link(0.5)", "rectified + dice", *DYNAMIC],
)
def test_inductor(text):
    check(text, backend="inductor")


@slow
@pytest.mark.parametrize("activation", ["sigmoid", "none"])
def test_activations(activation):
    logits, target = given_masks((8, 6), masks=4, dtype=torch.float32)
    labels = target.flatten(0, 1)
    num_classes = 2
    if activation == "none":
        logits, target = given((8, 6), dtype=torch.float32)
        logits, labels, num_classes = torch.softmax(logits, dim=1), target, 4
    loss = RegionWiseLoss("rectified + dice", activation=activation)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    stored = maps.Rectified()(Regions(labels, num_classes))
    found = value_and_gradient(compiled, logits, target, stored)
    assert_same(found, value_and_gradient(loss, logits, target, stored), 1e-5)


@slow
@pytest.mark.parametrize("form", ["RWMap", "tensor"])
@pytest.mark.parametrize("target_form", ["labels", "one-hot", "list"])
def test_deep_supervision(form, target_form):
    _, labels = given((8, 6))
    outputs = [normal(3, 4, *size) for size in ((8, 6), (4, 3))]
    target = {
        "labels": labels,
        "one-hot": torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 1),
        "list": [labels, labels[:, ::2, ::2]],
    }[target_form]
    loss = RegionWiseLoss("rectified + dice", spacing_mm=(0.8, 2.5))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    stored = maps.Rectified()(Regions(labels, 4))
    stored = stored if form == "RWMap" else stored.dense()
    found = value_and_gradient(compiled, outputs, target, stored)
    assert_same(found, value_and_gradient(loss, outputs, target, stored), 1e-5)


@slow
def test_mask_spacing_and_half_precision():
    logits, labels = given((8, 6), dtype=torch.bfloat16)
    mask = uniform(3, 8, 6) > 0.4
    loss = RegionWiseLoss("rectified + active_contour_length", spacing_mm=(0.8, 2.5))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    stored = maps.Rectified()(Regions(labels, 4))
    for spacing in (None, [(1.0, 1.0), (0.5, 2.0), (3.0, 1.0)]):
        kwargs = {"mask": mask, "spacing_mm": spacing}
        with torch.autocast(logits.device.type, dtype=torch.bfloat16):
            found = value_and_gradient(compiled, logits, labels, stored, **kwargs)
        wanted = value_and_gradient(loss, logits, labels, stored, **kwargs)
        assert found[0].dtype == torch.float32
        assert found[1].dtype == torch.bfloat16
        assert_same(found, wanted, 1e-2)


@slow
@pytest.mark.parametrize("text", ["rectified", "boundary", "dice + active_contour_length"])
def test_batches_of_other_sizes(text):
    """The last batch of an epoch is smaller, patches differ."""
    loss = RegionWiseLoss(text)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for size, shape in ((3, (8, 6)), (2, (8, 6)), (4, (7, 9)), (1, (5, 5))):
        logits, labels = given(shape, dtype=torch.float32, size=size)
        rwmap = stored_map(text, labels)
        found = value_and_gradient(compiled, logits, labels, rwmap)
        assert_same(found, value_and_gradient(loss, logits, labels, rwmap), 1e-5)


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
@pytest.mark.parametrize(
    "text",
    [
        "rectified",
        "rectified + dice",
        "rectified.with_link(0.5) + boundary",
        "hausdorff_dt",
        "(dice + boundary).stabilized()",
    ],
)
@pytest.mark.parametrize("ignore_index", [None, 255])
def test_maps_made_on_the_fly_break_the_graph_and_work(text, ignore_index):
    loss = RegionWiseLoss(text, ignore_index=ignore_index)
    compiled = torch.compile(loss, backend="aot_eager")
    for seed in (1, 2):
        logits, labels = given((8, 6), dtype=torch.float32, seed=seed)
        if ignore_index is not None:
            labels[:, :2] = ignore_index
        found = value_and_gradient(compiled, logits, labels)
        assert_same(found, value_and_gradient(loss, logits, labels), 1e-5)


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
    loss = RegionWiseLoss("rectified")
    compiled = torch.compile(loss, backend="aot_eager")
    found = value_and_gradient(compiled, logits, labels, stored)
    assert_same(found, value_and_gradient(loss, logits, labels, stored), 1e-5)
