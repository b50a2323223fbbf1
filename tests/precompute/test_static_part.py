"""What of an expression is stored, and with which weights."""

from dataclasses import dataclass

import numpy as np
import pytest
from anatomy import anatomy
from label_files import described, made_directly, saved, small, some_labels
from stored import FORMATS, content

import rwloss
from rwloss import data, maps
from rwloss.errors import RWLossError
from rwloss.precompute import plan, precompute


@pytest.fixture(params=FORMATS)
def kind(request):
    return request.param


# --- Of an expression, its static part


def test_the_static_part_is_stored(tmp_path):
    source = small(tmp_path / "labels", 1)
    [case] = data.find(source).cases
    for number, (asked, stored) in enumerate(
        (
            ("dice + rectified", "rectified"),
            ("2 * rectified - 0.5 * boundary + focal(gamma=1.0)", "2 * rectified - 0.5 * boundary"),
            ("rectified.with_link(0.3) + cross_entropy", "rectified"),
            ("blend(generalized_dice, boundary)", "boundary"),
            ("blend(generalized_dice, boundary, step=None)", "boundary"),
            ("(boundary - rectified).stabilized() + dice", "(boundary - rectified).stabilized()"),
            ("boundary.stabilized() + rectified", "boundary.stabilized() + rectified"),
            ("1e-6 * boundary", "1e-06 * boundary"),
        )
    ):
        out = tmp_path / f"out{number}"
        summary = precompute(source, out, asked, num_classes=3, jobs=0)
        assert (summary.made, summary.asked) == (1, str(maps.parse(asked)))
        store = rwloss.store.open(out)
        assert summary.expression == store.info.expression == stored
        exact, found = made_directly(stored, case, 3), store[case.name]
        assert found.is_compact == exact.is_compact
        size = min(1.0, float(np.abs(exact.dense()).max()))
        assert np.abs(found.dense() - exact.dense()).max() <= 2 * 3e-4 * size, asked


def test_a_stored_static_part_trains_like_the_whole_expression(tmp_path):
    import torch

    source = some_labels(tmp_path / "labels", 1)
    text = "dice + 2 * rectified.with_link(0.5)"
    precompute(source, tmp_path / "out", text, num_classes=3, jobs=0)
    [case] = data.find(source).cases
    volume = data.read_labels(case.labels)
    stored = rwloss.store.open(tmp_path / "out")[case.name]
    target = torch.as_tensor(volume.labels.astype(np.int64))[None]
    logits = torch.randn(1, 3, *volume.labels.shape, generator=torch.Generator().manual_seed(0))
    loss = rwloss.RegionWiseLoss(text, spacing_mm=volume.spacing_mm)
    on_the_fly, from_store = loss(logits, target), loss(logits, target, stored)
    assert from_store.item() == pytest.approx(on_the_fly.item(), abs=1e-3)


def test_nothing_to_store(tmp_path):
    """No static part, or parts that no single map can stand for."""
    source = small(tmp_path / "labels", 1)
    for expression, message in (
        ("dice", "depends on the prediction, so there is no map"),
        ("dice + cross_entropy", "depends on the prediction, so there is no map"),
        ("(rectified + dice).stabilized()", "depends on the prediction, so there is no map"),
        ("blend(rectified, boundary)", "different links or schedules"),
    ):
        with pytest.raises(RWLossError, match=message):
            precompute(source, tmp_path / "out", expression, num_classes=3, jobs=0)
        assert not (tmp_path / "out").exists()


@dataclass(frozen=True)
class Thirds(maps.MapGenerator):
    """A third of the depth, in float64."""

    name = "thirds"
    tags = maps.MapTags(stable=True, signed=True, unit="mm")
    citation = "none"

    def compute(self, regions):
        depth = np.asarray(regions.depth_mm, dtype=np.float64)
        return rwloss.RWMap.compact(
            regions.labels, regions.num_classes, true=-depth / 3, other=np.full_like(depth, 1 / 3)
        )


def test_a_float64_map_states_its_error(tmp_path, kind):
    source = small(tmp_path / "labels", 1)
    precompute(source, tmp_path / "out", Thirds(), num_classes=3, jobs=0, format=kind)
    store = rwloss.store.open(tmp_path / "out")
    [case] = data.find(source).cases
    exact = Thirds()(rwloss.Regions.single(np.load(case.labels), 3))
    assert exact.true.dtype == np.float64
    found = store[case.name]
    assert found.true.dtype == np.float32
    error = np.abs(found.true - exact.true).max()
    assert error == pytest.approx(store.entries[case.name].parts["true"].max_error, rel=1e-6)
    assert 0 < error <= 3e-4
    np.testing.assert_allclose(found.other, exact.other, rtol=0, atol=1e-7)


# --- Weights of the whole dataset


def naive_inverse(images, num_classes, ignored=()):
    """Weight of each class ~ 1 / n_k over all images, with a mean over their voxels of 1."""
    counts = [0] * num_classes
    for labels in images:
        for label in labels.ravel().tolist():
            if label not in ignored:
                counts[label] += 1
    raw = [1 / n if n else 0.0 for n in counts]
    scale = sum(counts) / sum(w * n for w, n in zip(raw, counts, strict=True))
    return tuple(float(f"{w * scale:.6g}") if w else 1.0 for w in raw)


def test_weights_of_the_dataset_become_numbers(tmp_path):
    source, out, seen = small(tmp_path / "labels"), tmp_path / "out", []
    weights = naive_inverse([np.load(file) for file in source.iterdir()], 3)
    asked = "class_weighted(weights='dataset_inverse') + dice"
    summary = precompute(source, out, asked, jobs=0, counting=seen.append)
    assert seen == [4] * 4  # one pass counts classes and voxels
    wanted = maps.ClassWeighted(weights=weights)
    assert (summary.asked, summary.expression) == (asked, str(wanted))
    store = rwloss.store.open(out)
    assert maps.parse(store.expression) == wanted
    assert store.info.terms[0].parameters["weights"] == list(weights)
    # The same as with the numbers, byte for byte; and the same store resumes either way.
    precompute(source, tmp_path / "explicit", str(wanted), jobs=0)
    assert content(out) == content(tmp_path / "explicit")
    assert precompute(source, out, wanted, jobs=0).kept == 4
    assert precompute(source, out, asked, jobs=0).kept == 4
    assert plan(source, out, asked, jobs=0).kept == 4
    # The number of classes is known, that of their voxels is not.
    assert precompute(source, out, asked, num_classes=3, jobs=0, counting=seen.append).kept == 4
    assert seen == [4] * 8
    small(source, 5)
    with pytest.raises(RWLossError, match=r"holds another map, with expression 'class_weighted"):
        precompute(source, out, asked, num_classes=3, jobs=0)


def test_ignored_voxels_have_no_weight(tmp_path):
    """Even where the label lies among the classes."""
    asked = "class_weighted(weights='dataset_inverse')"
    for ignored in (9, 1):
        images = {f"c{i}": anatomy(i, (9, 9), 3) for i in range(2)}
        for labels in images.values():
            labels[:4, :5] = ignored
        source, out = saved(tmp_path / "labels", **images), tmp_path / f"out{ignored}"
        summary = precompute(source, out, asked, num_classes=3, ignore_label=ignored, jobs=0)
        weights = naive_inverse(images.values(), 3, ignored=(ignored,))
        assert summary.expression == str(maps.ClassWeighted(weights=weights))
        assert summary.made == 2


def test_weights_of_all_cases_are_none_without_one_of_them(tmp_path):
    """Weights of the others would be other numbers, and every map of the store with them."""
    source, out = small(tmp_path / "labels"), tmp_path / "out"
    (source / "torn.npy").write_bytes(b"torn")
    for asked, num_classes in (
        ("class_weighted(weights='dataset_inverse')", 3),
        ("rectified(weights='dataset_inverse') + boundary", None),
    ):
        for do in (precompute, plan):
            with pytest.raises(RWLossError, match=r"1 of 5 can't be read: .*torn\.npy"):
                do(source, out, asked, num_classes=num_classes, jobs=0)
    assert not out.exists()


def test_weights_do_not_stop_at_a_case_of_other_labels(tmp_path):
    source = described(
        saved(tmp_path / "set", a=[[0, 0, 1]], b=[[0, 7, 1]], c=[[1, 1, 1]]),
        {"background": 0, "x": 1, "absent": 2},
    )
    asked = "class_weighted(weights='dataset_inverse')"
    summary = precompute(source, tmp_path / "out", asked, jobs=0)
    assert [failure.case for failure in summary.failed] == ["b"]
    assert list(rwloss.store.open(tmp_path / "out")) == ["a", "c"]
    # 3 and 5 voxels; no voxel has the third class.
    weights = (float(f"{8 / 6:.6g}"), 0.8, 1.0)
    assert summary.expression == str(maps.ClassWeighted(weights=weights))
