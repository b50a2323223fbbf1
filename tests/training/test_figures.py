"""The record of a step: by counting, and of several members against each alone."""

import pytest
import torch
from interpreted import large_tiles
from pretend_cuda import PretendCuda

from rwloss import Regions, RegionWiseLoss, maps
from rwloss.stability import Monitor
from rwloss.stability.signs import class_signs
from rwloss.training import TrainingBatch
from rwloss.training.figures import figures_of, step_figures

SPACINGS = ((1.0, 2.0),) * 2


def recorded(text, labels, logits):
    """Figures of a network that is its logits alone, and the gradient by them."""

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = torch.nn.Parameter(logits)

    network = Logits()
    out = network.logits * 1.0
    out.retain_grad()
    loss = RegionWiseLoss(text, ignore_index=-1)
    spacings = ((1.0, 1.0),) * len(labels)
    value = loss(out, labels, spacing_mm=spacings)
    value.backward()
    batch = TrainingBatch(torch.zeros(len(labels), 1, *labels.shape[1:]), labels, spacings)
    return step_figures(loss, network, out, batch), out.grad, value


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 3, (2, 6, 5), generator=generator)
    return labels, torch.randn(2, 3, 6, 5, generator=generator)


@pytest.mark.parametrize("text", ["rectified", "boundary + dice"])
def test_figures_by_counting(drawn, text):
    labels, logits = drawn
    figures, gradient, _ = recorded(text, labels, logits)
    assert figures["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-5)
    push = gradient.abs().sum(dim=1)
    counted = (labels >= 0).sum()
    for k in range(3):
        share = push[labels == k].sum() / push.sum()
        assert figures["gradient_share"][k] == pytest.approx(float(share), rel=1e-5)
        truth = (labels == k).sum() / counted
        assert figures["true_volume"][k] == pytest.approx(float(truth), rel=1e-6)
        found = ((logits.argmax(1) == k) & (labels >= 0)).sum() / counted
        assert figures["predicted_volume"][k] == pytest.approx(float(found), rel=1e-6)
    for name in ("gradient_share", "true_volume", "predicted_volume"):
        assert sum(figures[name]) == pytest.approx(1)


def test_excess_and_wrong_way_mass(drawn):
    labels, logits = drawn
    figures, _, value = recorded("rectified", labels, logits)
    loss = RegionWiseLoss("rectified", ignore_index=-1)
    best = torch.nn.functional.one_hot(labels.clamp_min(0), 3).movedim(-1, 1) * 1000.0
    least = loss(best, labels)
    assert figures["excess"] == pytest.approx(float(value.detach() - least), rel=1e-4)
    assert figures["wrong_way_mass"] == figures["violating"] == 0
    assert recorded("boundary", labels, logits)[0]["wrong_way_mass"] > 0
    assert len(figures["pull"]) == 3
    assert figures["pull"][0] is None
    nothing, _, _ = recorded("rectified", torch.full((1, 4, 4), -1), torch.zeros(1, 3, 4, 4))
    assert nothing["gradient_share"] == [0.0, 0.0, 0.0]  # no voxel counts
    assert nothing["gradient_norm"] == 0


# --- Against other ways


def plain(loss, logits, gradient, batch, norm):
    """The record from `Monitor`, which evaluates the loss once more, and from `class_signs`."""
    given = {"spacing_mm": batch.spacings_mm, "image": batch.images}
    monitor = Monitor(every=1, by_distance=False)
    monitor(loss, logits, batch.labels, batch.rwmap, **given)
    [seen] = monitor.history
    own = batch.labels.masked_fill(batch.labels >= logits.shape[1], -1)
    names = ("stable", "violating", "pushed_up", "pushed_down", "wrong_way_mass")
    return {
        "excess": float(loss.excess(logits, batch.labels, batch.rwmap, **given)),
        "gradient_norm": norm,
        **class_signs(logits.softmax(dim=1), own, gradient),
        **{name: seen[name] for name in names},
        "pull": [each["pull"] for each in seen["by_class"].values()],
    }


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        both = (each if isinstance(each, list) else [each] for each in (found[name], values))
        for one, other in zip(*both, strict=True):
            is_number = isinstance(other, float)
            assert one == (pytest.approx(other, rel=1e-5, abs=1e-7) if is_number else other), name


def members_of(count=4, shape=(6, 5), num_labels=3):
    """Logits of 3 classes, and batches; some voxels are ignored, in the last batch all."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(-1, num_labels, (count, 2, *shape), generator=generator)
    labels[0].clamp_(max=1)
    labels[-1] = -1
    images = torch.randn(count, 2, 1, *shape, generator=generator)
    spacings = ((*SPACINGS[0], 1.0)[: len(shape)],) * 2
    batches = [TrainingBatch(*each, spacings) for each in zip(images, labels, strict=True)]
    return torch.randn(count, 2, 3, *shape, generator=generator), batches


def gradient_of(loss, logits, batch):
    leaf = logits.detach().clone().requires_grad_()
    loss(leaf, batch.labels, batch.rwmap, spacing_mm=batch.spacings_mm).backward()
    return leaf.grad


@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 6)], ids=str)
@pytest.mark.parametrize("text", ["rectified + dice", "boundary", "dice + cross_entropy"])
def test_members_together_are_each_alone(text, shape):
    logits, batches = members_of(shape=shape)
    loss = RegionWiseLoss(text, ignore_index=-1)
    gradients = [gradient_of(loss, *each) for each in zip(logits, batches, strict=True)]
    norms = torch.rand(len(batches))
    excess = torch.stack(
        [
            loss.excess(own, batch.labels, spacing_mm=batch.spacings_mm)
            for own, batch in zip(logits, batches, strict=True)
        ]
    )
    labels = torch.stack([batch.labels for batch in batches])
    losses = [loss] * len(batches)
    found = figures_of(losses, logits, torch.stack(gradients), labels, excess, norms)
    rows = zip(found, logits, gradients, batches, norms.tolist(), strict=True)
    for row, *given in rows:
        assert_same(row, plain(loss, *given))


def alone(loss, logits, batch, gradient, **options):
    """The record of a step of a network without weights."""
    leaf = logits.detach().clone().requires_grad_()
    leaf.grad = gradient
    return step_figures(loss, torch.nn.Identity(), leaf, batch, **options)


@pytest.mark.parametrize("way", ["scaled", "one of several outputs", "16 bits", "no gradient"])
def test_a_gradient_that_is_not_that_of_the_loss(way):
    """The map is that of the loss in all cases; the signs are those of the gradient."""
    logits, [batch, *_] = members_of()
    logits, loss = logits[0], RegionWiseLoss("boundary + dice", ignore_index=-1)
    gradient, options = gradient_of(loss, logits, batch), {}
    if way == "scaled":
        given, options = 4096.0 * gradient, {"scale": 4096.0}
    elif way == "one of several outputs":
        given, options = 0.5 * gradient, {"is_only": False}
    elif way == "16 bits":
        logits = logits.bfloat16()
        given = gradient = gradient.bfloat16()
    else:
        given, gradient, options = None, torch.zeros_like(gradient), {"is_only": False}
    found = alone(loss, logits, batch, given, **options)
    assert_same(found, plain(loss, logits.float(), gradient.float(), batch, 0.0))


def test_labels_that_are_sets_do_not_count():
    logits, [_, batch, *_] = members_of(num_labels=4)
    assert (batch.labels == 3).any()
    loss = RegionWiseLoss("rectified + dice", ignore_index=-1, label_sets={3: (1, 2)})
    gradient = gradient_of(loss, logits[1], batch)
    found = alone(loss, logits[1], batch, gradient)
    assert_same(found, plain(loss, logits[1], gradient, batch, 0.0))


def test_an_ignored_voxel_may_have_any_logits():
    logits, [_, batch, *_] = members_of()
    loss = RegionWiseLoss("boundary + dice", ignore_index=-1)
    gradient = gradient_of(loss, logits[1], batch)
    spoilt = logits[1].where((batch.labels >= 0)[:, None], torch.nan)
    wanted = alone(loss, logits[1], batch, gradient)
    assert_same(alone(loss, spoilt, batch, gradient), wanted)


def test_a_stored_map_is_the_one_that_counts():
    logits, [_, batch, *_] = members_of()
    regions = Regions(batch.labels, 3, batch.spacings_mm, -1)
    stored = TrainingBatch(
        batch.images, batch.labels, batch.spacings_mm, maps.get("rectified")(regions)
    )
    loss = RegionWiseLoss("rectified + dice", ignore_index=-1)
    found, wanted = (
        alone(loss, logits[1], each, gradient_of(loss, logits[1], each)) for each in (stored, batch)
    )
    assert_same(found, wanted)


def test_one_wait_for_all():
    """On a GPU; and hardly more operations for four members than for one."""
    loss, counts = RegionWiseLoss("boundary"), []
    for count in (1, 4):
        logits, batches = members_of(count)
        labels = torch.stack([batch.labels for batch in batches])
        with PretendCuda() as cuda:
            logits, labels = cuda.tensor(logits), cuda.tensor(labels)
            ones = cuda.tensor(torch.ones(count))
            found = figures_of([loss] * count, logits, logits, labels, ones, ones)
            assert len(found) == count
            assert len(cuda.waits) == 1
            counts.append(cuda.operations.total())
    assert counts[1] < 1.1 * counts[0]


@pytest.mark.parametrize("text", ["rectified + dice", "boundary", "dice + cross_entropy"])
def test_a_step_alone_waits_once(text):
    logits, [batch, *_] = members_of()
    loss = RegionWiseLoss(text, ignore_index=-1)
    with large_tiles(batch.labels), PretendCuda() as cuda:
        leaf = cuda.tensor(logits[0]).requires_grad_()
        leaf.grad = cuda.tensor(logits[1])
        on_cuda = TrainingBatch(
            cuda.tensor(batch.images), cuda.tensor(batch.labels), batch.spacings_mm
        )
        network = torch.nn.Linear(1, 1)
        network.weight.data = cuda.tensor(network.weight)
        network.weight.grad = cuda.tensor(torch.ones(1, 1))
        step_figures(loss, network, leaf, on_cuda)
        assert len(cuda.waits) == 1, cuda.waits
