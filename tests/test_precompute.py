import os
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

import rwloss
from rwloss import data, maps
from rwloss.errors import RWLossError
from rwloss.precompute import precompute

SAMPLE = data.sample_dir("hippocampus")


def some_labels(folder, count, ending=".nii.gz"):
    """The first label files of the sample, copied."""
    folder.mkdir(parents=True)
    for file in sorted((SAMPLE / "labelsTr").glob(f"*{ending}"))[:count]:
        shutil.copy(file, folder)
    return folder


def file_bytes(folder):
    return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


@pytest.mark.parametrize("expression", ["rectified", "boundary"])
def test_a_store_of_the_sample_equals_maps_made_directly(tmp_path, expression):
    source = some_labels(tmp_path / "labels", 3)
    summary = precompute(source, tmp_path / "out", expression, num_classes=3, jobs=1)
    assert (summary.made, summary.kept, summary.failed) == (3, 0, ())
    store = rwloss.store.open(summary.folder)
    for case in data.find(source).cases:
        volume = data.read_labels(case.labels)
        exact = maps.get(expression)(rwloss.Regions.single(volume.labels, 3, volume.spacing_mm))
        assert np.abs(store[case.name].dense() - exact.dense()).max() <= 3e-4
        for file in (tmp_path / "out").glob(f"{case.name}_*.nii.gz"):
            assert np.array_equal(nibabel.load(file).affine, volume.affine)


def test_the_number_of_jobs_changes_no_byte(tmp_path):
    source = some_labels(tmp_path / "labels", 5)
    for jobs in (1, 2):
        precompute(source, tmp_path / str(jobs), "rectified", num_classes=3, jobs=jobs)
    assert file_bytes(tmp_path / "1") == file_bytes(tmp_path / "2")


def test_the_same_command_makes_only_what_is_missing(tmp_path):
    source = some_labels(tmp_path / "labels", 4)
    out = tmp_path / "out"
    precompute(source, out, "rectified", num_classes=3, jobs=1)
    undisturbed = file_bytes(out)
    cases = [case.name for case in data.find(source).cases]
    (out / f"{cases[0]}_true.nii.gz").unlink()
    (out / f"{cases[1]}_labels.nii.gz").write_bytes(b"torn")
    (out / "manifest.jsonl").write_bytes(undisturbed["manifest.jsonl"][:-40])  # the last case
    summary = precompute(source, out, "rectified", num_classes=3, jobs=1)
    assert (summary.made, summary.kept) == (3, 1)
    assert file_bytes(out) == undisturbed


def test_changed_labels_are_made_again(tmp_path):
    source = some_labels(tmp_path / "labels", 2)
    out = tmp_path / "out"
    precompute(source, out, "rectified", num_classes=3, jobs=1)
    changed = data.find(source).cases[0]
    image = nibabel.load(changed.labels)
    labels = np.asarray(image.dataobj).copy()
    labels[labels == 2] = 1
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), changed.labels)
    summary = precompute(source, out, "rectified", num_classes=3, jobs=1)
    assert (summary.made, summary.kept) == (1, 1)
    assert rwloss.store.open(out)[changed.name].labels.max() == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_bad_case_stops_no_other(tmp_path, jobs):
    source = some_labels(tmp_path / "labels", 3)
    bad = data.find(source).cases[1]
    bad.labels.write_bytes(bad.labels.read_bytes()[:300])
    summary = precompute(source, tmp_path / "out", "rectified", num_classes=3, jobs=jobs)
    assert summary.made == 2
    (failure,) = summary.failed
    assert failure.case == bad.name
    assert bad.labels.name in failure.reason
    assert bad.name not in rwloss.store.open(tmp_path / "out")


def test_a_label_that_is_no_class_names_the_case(tmp_path):
    source = some_labels(tmp_path / "labels", 2)
    summary = precompute(source, tmp_path / "out", "rectified", num_classes=2, jobs=1)
    assert [outcome.state for outcome in summary.outcomes] == ["failed", "failed"]
    assert "label 2 found, but num_classes=2" in summary.failed[0].reason


def test_formats_without_spacing(tmp_path):
    labels = np.zeros((9, 8), np.uint8)
    labels[2:6, 3:7] = 1
    (tmp_path / "labels").mkdir()
    Image.fromarray(labels).save(tmp_path / "labels" / "a.png")
    Image.fromarray(labels).save(tmp_path / "labels" / "b.tiff")
    np.save(tmp_path / "labels" / "c.npy", labels)
    precompute(tmp_path / "labels", tmp_path / "out", "rectified", spacing_mm=(1.0, 2.5), jobs=1)
    store = rwloss.store.open(tmp_path / "out")
    exact = maps.get("rectified")(rwloss.Regions.single(labels, 2, (1.0, 2.5)))
    for case in ("a", "b", "c"):
        assert np.abs(store[case].true - exact.true).max() <= 3e-4


def test_progress_sees_every_case(tmp_path):
    seen = []
    source = some_labels(tmp_path / "labels", 3)
    precompute(
        source,
        tmp_path / "out",
        "rectified",
        num_classes=3,
        jobs=1,
        progress=lambda outcome, total: seen.append((outcome.state, total)),
    )
    assert seen == [("made", 3)] * 3


def test_wrong_use_is_found_before_the_folder_is_made(tmp_path):
    with pytest.raises(RWLossError, match="did you mean 'rectified'"):
        precompute(SAMPLE, tmp_path / "out", "rectifed")
    with pytest.raises(RWLossError, match="1 job or more, got 0"):
        precompute(SAMPLE, tmp_path / "out", "rectified", jobs=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["hippocampus", "lung_patches", "hrf_vessels", "ms_lesions"])
def test_shared_data(shared_data, tmp_path, name):
    folder = shared_data(name)
    summary = precompute(folder, tmp_path / "out", "rectified")
    assert not summary.failed
    assert summary.made == len(data.find(folder).cases)
    store = rwloss.store.open(tmp_path / "out")
    assert all(np.isfinite(store[case].true).all() for case in list(store)[:20])


# --- Of an expression, its static part


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ("dice + rectified", "rectified"),
        ("2 * rectified - 0.5 * boundary + focal(gamma=1.0)", "2 * rectified - 0.5 * boundary"),
        ("rectified.with_link(0.3) + cross_entropy", "rectified"),
        ("blend(generalized_dice, boundary)", "boundary"),
        ("blend(generalized_dice, boundary, step=None)", "boundary"),
        ("(boundary - rectified).stabilized() + dice", "(boundary - rectified).stabilized()"),
        ("rectified + boundary", "rectified + boundary"),
    ],
)
def test_the_static_part_is_stored(tmp_path, asked, stored):
    source = some_labels(tmp_path / "labels", 1)
    summary = precompute(source, tmp_path / "out", asked, num_classes=3, jobs=1)
    assert summary.made == 1
    assert summary.asked == str(maps.parse(asked))
    assert summary.expression == stored
    store = rwloss.store.open(tmp_path / "out")
    assert store.info.expression == stored
    [case] = data.find(source).cases
    volume = data.read_labels(case.labels)
    exact = maps.parse(stored)(rwloss.Regions.single(volume.labels, 3, volume.spacing_mm))
    found = store[case.name]
    assert found.is_compact == exact.is_compact
    size = max(1.0, float(np.abs(exact.dense()).max()))
    assert np.abs(found.dense() - exact.dense()).max() <= 3e-4 * size


def test_a_stored_static_part_trains_like_the_whole_expression(tmp_path):
    import torch

    source = some_labels(tmp_path / "labels", 1)
    text = "dice + 2 * rectified.with_link(0.5)"
    precompute(source, tmp_path / "out", text, num_classes=3, jobs=1)
    [case] = data.find(source).cases
    volume = data.read_labels(case.labels)
    stored = rwloss.store.open(tmp_path / "out")[case.name]
    target = torch.as_tensor(volume.labels.astype(np.int64))[None]
    logits = torch.randn(1, 3, *volume.labels.shape, generator=torch.Generator().manual_seed(0))
    loss = rwloss.RegionWiseLoss(text, spacing_mm=volume.spacing_mm)
    on_the_fly, from_store = loss(logits, target), loss(logits, target, stored)
    assert from_store.item() == pytest.approx(on_the_fly.item(), abs=1e-3)


@pytest.mark.parametrize(
    "expression", ["dice", "dice + cross_entropy", "(rectified + dice).stabilized()"]
)
def test_nothing_to_store(tmp_path, expression):
    source = some_labels(tmp_path / "labels", 1)
    with pytest.raises(RWLossError, match="depends on the prediction, so there is no map"):
        precompute(source, tmp_path / "out", expression, num_classes=3, jobs=1)
    assert not (tmp_path / "out").exists()


def test_parts_that_no_single_map_can_stand_for(tmp_path):
    source = some_labels(tmp_path / "labels", 1)
    with pytest.raises(RWLossError, match="different links or schedules"):
        precompute(source, tmp_path / "out", "blend(rectified, boundary)", num_classes=3, jobs=1)
    assert not (tmp_path / "out").exists()
