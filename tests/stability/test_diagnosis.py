"""Diagnostics of a map: closed forms, a plain loop, sums over cases, and real labels."""

import math
import operator
import os
import re
from dataclasses import astuple, replace
from functools import partial, reduce

import numpy as np
import pytest
import torch
from anatomy import batch
from hypothesis import given
from hypothesis import strategies as st
from strategies import few, kinds, random_map, some_labels

from rwloss import Regions, RWLossError, RWMap, data, maps, stability
from rwloss.arrays import read_all, to_numpy
from rwloss.stability import diagnosis

STABLE = ("rectified", "active_contour", "class_weighted", "boundary.stabilized()")


# --- A plain loop over voxels and classes


def plain_figures(labels, values, probs, depth_steps=None):
    """Every figure of a report, by loops in float64; values and probs (b k *s)."""
    k, where = values.shape[1], [tuple(at) for at in np.argwhere(labels >= 0)]
    values, probs = values.astype(float), probs.astype(float)

    def z(at, j):
        return values[at[0], j, *at[1:]]

    def p(at, j):
        return probs[at[0], j, *at[1:]]

    own = {at: max(abs(z(at, j)) for j in range(k)) for at in where}
    usual = sorted(own.values())[(len(own) - 1) // 2] if own else 0
    g = {}
    for at in where:
        expected = sum(p(at, j) * z(at, j) for j in range(k))
        for j in range(k):
            g[at, j] = p(at, j) * (z(at, j) - expected)
    mean = sum(map(abs, g.values())) / max(1, len(g))
    rows = []
    for at in where:
        slack, t = 1e-5 * max(own[at], usual), labels[at]
        wrong = [z(at, j) for j in range(k) if j != t]
        same = max(wrong) - min(wrong) <= slack
        stable, flat = (
            same and z(at, t) < min(wrong) - slack,
            same and abs(z(at, t) - wrong[0]) <= slack,
        )
        up = down = 0
        push = wrong_push = 0.0
        for j in range(k):
            push += abs(g[at, j])
            if stable or flat or (g[at, j] >= 0 if j != t else g[at, j] <= 0):
                continue
            wrong_push += abs(g[at, j])
            if abs(g[at, j]) > 1e-4 * mean and abs(g[at, j]) > slack * p(at, j):
                up, down = up + (j != t), down + (j == t)
        steps = depth_steps[at] if depth_steps is not None else 0
        bin_ = sum(steps > edge * 1.0001 for edge in (1, 2, 5))
        rows.append((t, bin_, stable, flat, up, down, push, wrong_push))

    def part(chosen):
        n, push = len(chosen), sum(row[6] for row in chosen)
        stable, flat, up, down, wrong = (sum(row[i] for row in chosen) for i in (2, 3, 4, 5, 7))
        shares = np.array([stable, flat, n - stable - flat, up / (k - 1), down]) / max(1, n)
        return (n, *shares.tolist(), wrong / push if push else 0)

    pull = []
    for c in range(k):
        up = sum(z(at, 0) - z(at, c) for at in where if labels[at] == c)
        down = sum(max(0, z(at, c) - z(at, labels[at])) for at in where if labels[at] != c)
        here = c > 0 and any(labels[at] == c for at in where)
        pull.append(up / down if here and down else math.nan)
    squares = [
        [g[at, j] ** 2 for at in where for j in range(k) if at[0] == b] for b in range(len(labels))
    ]
    return {
        "total": part(rows),
        "by_class": [part([row for row in rows if row[0] == c]) for c in range(k)],
        "by_distance": [part([row for row in rows if row[1] == d]) for d in range(4)],
        "pull": pull,
        "gradient_norms": [math.sqrt(sum(s) / max(1, len(s))) for s in squares],
        "lowest": [min((z(at, j) for at in where), default=math.inf) for j in range(k)],
        "highest": [max((z(at, j) for at in where), default=-math.inf) for j in range(k)],
        "positive": [sum(max(0, z(at, j)) for at in where) for j in range(k)],
        "negative": [sum(max(0, -z(at, j)) for at in where) for j in range(k)],
    }


def as_plain(part):
    """All shares but the last, `push`."""
    return astuple(part)[:-1]


def all_parts(report):
    return [report.total, *report.by_class, *report.by_distance.values()]


def assert_plain(report, wanted, rel=1e-9):
    def near(value):
        return pytest.approx(value, rel=rel, abs=1e-12, nan_ok=True)

    assert as_plain(report.total) == near(wanted["total"])
    for part, plain in zip(report.by_class, wanted["by_class"], strict=True):
        assert as_plain(part) == near(plain)
    for part, plain in zip(report.by_distance.values(), wanted["by_distance"], strict=False):
        assert as_plain(part) == near(plain)
    finite = np.where(np.isfinite(report.pull), report.pull, np.nan)
    assert finite.tolist() == near(wanted["pull"])
    for name in ("gradient_norms", "lowest", "highest", "positive", "negative"):
        assert getattr(report, name).tolist() == near(wanted[name]), name


def random_probs(rng, shape):
    return np.moveaxis(rng.dirichlet(np.ones(shape[1]), (shape[0], *shape[2:])), -1, 1)


@few
@given(some_labels(), kinds, st.sampled_from(["compact", "dense", "stabilized"]), st.booleans())
def test_against_a_plain_loop(case, kind, form, uniform):
    labels, k, rng = case
    rwmap = random_map(labels, k, "dense" if form == "stabilized" else form, rng, np.float64, kind)
    rwmap = rwmap.stabilized() if form == "stabilized" else rwmap
    regions = Regions(kind(labels), k, None, ignore_label=-1)
    shape = (len(labels), k, *labels.shape[1:])
    probs = np.full(shape, 1 / k) if uniform else random_probs(rng, shape)
    values = np.asarray(rwmap.dense())
    depth = np.asarray(regions.depth_mm).copy()
    for b, image in enumerate(labels):
        if (image == image.flat[0]).all():
            depth[b] = np.inf
    wanted = plain_figures(labels, values, probs, depth)
    report = stability.check(rwmap, "uniform" if uniform else kind(probs), regions=regions)
    assert_plain(report, wanted)
    alone = stability.check(rwmap, "uniform" if uniform else kind(probs))
    assert alone.by_distance == {}
    assert as_plain(alone.total) == pytest.approx(as_plain(report.total))


@few
@given(some_labels(), kinds, st.sampled_from(["compact", "dense"]))
def test_groups_are_maps_of_their_own(case, kind, form):
    """Of very different sizes; in the last group no voxel counts."""
    labels, k, rng = case
    labels = np.concatenate([labels, labels[:, ::-1], np.full_like(labels, -1)])
    probs = kind(random_probs(rng, (len(labels), k, *labels.shape[1:])))
    rwmap = random_map(labels, k, form, rng, np.float64, kind)
    size = len(labels) // 3
    scale = kind(np.repeat([1e-3, 1e4, 1.0], size).reshape(-1, *[1] * (labels.ndim - 1)))
    parts = (part * (scale if form == "compact" else scale[:, None]) for part in rwmap.parts)
    rwmap = replace(rwmap, parts=tuple(parts))
    found = diagnosis.reports(read_all(diagnosis.stability_sums(rwmap, probs, groups=3)))
    for group, report in enumerate(found):
        own = slice(group * size, (group + 1) * size)
        alone = replace(
            rwmap, labels=rwmap.labels[own], parts=tuple(part[own] for part in rwmap.parts)
        )
        wanted = stability.check(alone, probs[own])
        assert report.not_finite == wanted.not_finite == 0
        for name, values in vars(wanted).items():
            if isinstance(values, np.ndarray):
                np.testing.assert_allclose(vars(report)[name], values, rtol=1e-12, err_msg=name)


@few
@given(some_labels(), kinds)
def test_a_map_without_violating_voxels_pushes_nothing_the_wrong_way(case, kind):
    """In float32, at probabilities next to 0 and 1: the theorem, whatever the rounding."""
    labels, k, rng = case
    rwmap = random_map(labels, k, "dense", rng, np.float32, kind).stabilized()
    dense = RWMap.from_dense(rwmap.labels, rwmap.dense())
    logits = torch.as_tensor(rng.normal(0, 20, (len(labels), k, *labels.shape[1:])))
    probs = logits.float().softmax(dim=1)
    for one in (rwmap, dense):
        report = stability.check(one, probs if kind is torch.as_tensor else probs.numpy())
        assert (report.violating, report.pushed_up, report.pushed_down) == (0, 0, 0)
        assert report.wrong_way_mass == 0


# --- Sums over cases


@pytest.mark.parametrize("probs", ["uniform", "random"])
@pytest.mark.parametrize("text", ["boundary", "cross_entropy"])
def test_cases_one_by_one_give_the_report_of_their_batch(probs, text):
    labels = batch(11, (10, 12), size=4)
    labels[2][labels[2] == 3] = 0  # one class is absent from one image
    check = partial(stability.check_expression, maps.parse(text), probs=probs, seed=5)
    whole = check(Regions(labels, 4))
    alone = (check(Regions(labels[i : i + 1], 4), first_image=i) for i in range(4))
    one_by_one = sum_of(alone)
    assert one_by_one.num_images == whole.num_images == 4
    for one, other in zip(all_parts(one_by_one), all_parts(whole), strict=True):
        assert as_plain(one) == pytest.approx(as_plain(other), rel=1e-6)
    for name in ("pull", "least_pull", "gradient_norms", "lowest", "highest", "images_with"):
        one, other = getattr(one_by_one, name), getattr(whole, name)
        assert one.tolist() == pytest.approx(other.tolist(), rel=1e-6, nan_ok=True), name
    assert whole.images_with.tolist() == [4, 4, 4, 3]


def test_reports_of_other_classes_or_without_distances_do_not_add():
    labels = batch(1, (6, 6), 3)
    three, four = (Regions(labels, k) for k in (3, 4))
    report = stability.check_expression(maps.Rectified(), three)
    with pytest.raises(RWLossError, match="3 and 4 classes"):
        report + stability.check_expression(maps.Rectified(), four)
    with pytest.raises(RWLossError, match="4 and 0 distances"):
        report + stability.check(maps.Rectified()(three))


def test_random_probabilities_follow_the_seed(kind):
    rwmap = maps.Boundary()(Regions(batch(2, (12, 12)), 4))
    one, other = (stability.check(rwmap, "random", seed=seed) for seed in (1, 2))
    same = stability.check(rwmap.with_arrays(kind), "random", seed=1)
    assert one.wrong_way_mass == pytest.approx(same.wrong_way_mass, rel=1e-6)
    assert one.wrong_way_mass != pytest.approx(other.wrong_way_mass, rel=1e-6)


# --- Wrong use


def test_wrong_probs_and_regions():
    rwmap = maps.Rectified()(Regions(batch(1, (6, 6)), 4))
    for probs, message in [
        ("unifrom", '"uniform", "random"'),
        (np.zeros((1, 2, 3, 3)), r"expected probs \(3, 4, 6, 6\)"),
        (np.full((3, 4, 6, 6), -3.0), "take the softmax"),
        (np.full((3, 4, 6, 6), np.nan), "take the softmax"),
        (np.zeros((3, 4, 6, 6), int), "floating probs"),
    ]:
        with pytest.raises(RWLossError, match=message):
            stability.check(rwmap, probs)
    for labels in (batch(2, (6, 6)), batch(1, (6, 7))):
        with pytest.raises(RWLossError, match="not those of the map"):
            stability.check(rwmap, regions=Regions(labels, 4))


# --- Alarms


@pytest.mark.parametrize("text", [*STABLE, "unet_border"])
def test_a_corrupted_map_raises_the_alarm(kind, text):
    """One wrong class of one voxel in 216: seen, at its class and distance, and in the sentence."""
    regions = Regions(kind(batch(5, (9, 8))), 4)
    rwmap = maps.parse(text)(regions)
    assert stability.check(rwmap).violating == 0
    label = int(regions.labels[1, 3, 4])
    for below in (False, True):
        values = to_numpy(rwmap.dense()).copy()
        at = values[1, :, 3, 4]
        at[(label + 1) % 4] = at[label] - 1 if below else at[(label + 1) % 4] + 0.01
        broken = RWMap.from_dense(regions.labels, kind(values))
        report = stability.check(broken, regions=regions)
        assert report.violating == pytest.approx(1 / 216)
        assert report.by_class[label].violating > 0
        assert sum(part.violating > 0 for part in report.by_class) == 1
        assert sum(part.violating > 0 for part in report.by_distance.values()) == 1
        assert not stability.verdict(report).startswith("Stable")
        if below:  # the true class: then it is pushed up at uniform probabilities
            assert report.pushed_up > 0
            assert report.wrong_way_mass > 0


# --- Overlapping masks


def test_masks_are_problems_of_two_classes():
    masks = np.zeros((2, 3, 8, 8), dtype=bool)
    masks[:, 0, 1:7, 1:7] = masks[:, 1, 2:4, 2:4] = True
    report = stability.check_expression(maps.Boundary("valverde"), Regions.from_masks(masks))
    assert (report.num_images, report.num_classes) == (6, 2)
    assert report.violating == 0
    assert report.images_with.tolist() == [6, 4]


# --- Real labels: what the issue asks for


def sum_of(reports):
    return reduce(operator.add, reports)


def hippocampus_reports(root, step=1):
    """Reports of the whole volumes, and of their sagittal slices as 2-D images."""
    volumes, slices = {text: [] for text in ("boundary", *STABLE, "dice")}, []
    for number, case in enumerate(data.find(root).cases[::step]):
        labels = np.asarray(data.read_labels(case.labels).labels, dtype=np.uint8)
        regions = Regions.single(labels, 3)
        for text, reports in volumes.items():
            expression = maps.parse(text)
            reports.append(stability.check_expression(expression, regions, first_image=number))
        flat = Regions(np.ascontiguousarray(labels[(labels > 0).any(axis=(1, 2))]), 3)
        slices.append(stability.check_expression(maps.Boundary(), flat))
    return {text: sum_of(reports) for text, reports in volumes.items()}, sum_of(slices)


def assert_what_is_known_of_hippocampus(volumes, slices):
    for text in STABLE:
        report = volumes[text]
        assert (report.violating, report.pushed_up, report.wrong_way_mass) == (0, 0, 0), text
        assert stability.verdict(report).startswith("Stable"), text
    boundary = volumes["boundary"]
    assert boundary.violating > 0.95
    assert 0.12 < boundary.pushed_up < 0.18
    assert slices.violating > 0.95
    assert 0.15 < slices.pushed_up < 0.30
    assert (3 * boundary.pull[1:] <= volumes["rectified"].pull[1:]).all()
    assert (boundary.pull[1:] < stability.VANISHES_BELOW).all()
    assert (volumes["rectified"].pull[1:] > stability.VANISHES_BELOW).all()
    assert volumes["class_weighted"].pull[1:].tolist() == pytest.approx([0.5, 0.5], rel=1e-3)
    said = stability.verdict(boundary, ("background", "anterior", "posterior"))
    assert re.search("(anterior and posterior|posterior and anterior) can vanish", said)
    assert volumes["dice"].violating > 0.95
    assert "neither necessary nor sufficient" in stability.CAUTION
    assert "Dice violates" in stability.CAUTION


def test_on_the_sample():
    assert_what_is_known_of_hippocampus(*hippocampus_reports(data.sample_dir("hippocampus"), 4))


@pytest.mark.slow
def test_on_all_of_hippocampus(shared_data):
    step = 16 if os.environ.get("RWLOSS_REDUCED") == "1" else 1
    assert_what_is_known_of_hippocampus(*hippocampus_reports(shared_data("hippocampus"), step))
