"""Plans, and stores that are not in a folder."""

import math
import shutil
from dataclasses import replace

import pytest
from label_files import saved, small
from stored import FORMATS, assert_same, content

import rwloss
from rwloss import data
from rwloss.precompute import plan, precompute


@pytest.fixture(params=FORMATS)
def kind(request):
    return request.param


# --- Plans


def test_a_plan_writes_nothing(tmp_path):
    source, out = small(tmp_path / "labels"), tmp_path / "out"
    for wanted in ({"missing": 4, "kept": 0}, {"missing": 0, "kept": 4}):
        before = content(tmp_path, without=())
        summary = plan(source, out, "rectified", jobs=0)
        assert summary.counts == {"made": 0, "failed": 0, **wanted}
        assert content(tmp_path, without=()) == before
        assert out.exists() == bool(wanted["kept"])
        precompute(source, out, "rectified", jobs=0)


def test_a_plan_has_the_words_and_cases_of_the_run(tmp_path, kind):
    source, seen = small(tmp_path / "labels"), []
    saved(source, bad=[[0, 7]])
    asked = "rectified(weights='dataset_inverse') + dice"
    ahead = plan(
        source,
        tmp_path / "out",
        asked,
        num_classes=3,
        jobs=0,
        format=kind,
        progress=lambda outcome, total: seen.append((outcome.case, total)),
    )
    assert sorted(seen) == [("bad", 5), *((f"c{i}", 5) for i in range(4))]
    summary = precompute(source, tmp_path / "out", asked, num_classes=3, jobs=0, format=kind)
    for name in ("store", "asked", "expression", "num_classes", "voxels", "dense_bytes"):
        assert getattr(ahead, name) == getattr(summary, name)
    assert ahead.failed[0].reason == summary.failed[0].reason
    assert (ahead.counts["missing"], summary.made) == (4, 4)


@pytest.mark.parametrize(
    ("sample", "expression", "kind"),
    [("hippocampus", "rectified", "nifti"), ("lung_patches", "boundary", "zarr")],
)
def test_the_size_is_estimated_within_a_fifth(tmp_path, kind, sample, expression):
    dataset = data.find(data.sample_dir(sample))
    source = replace(dataset, cases=dataset.cases[:10])
    ahead = plan(source, tmp_path / "out", expression, jobs=0, format=kind)
    summary = precompute(source, tmp_path / "out", expression, jobs=0, format=kind)
    assert math.isclose(ahead.stored_bytes, summary.stored_bytes, rel_tol=0.2)
    assert ahead.dense_bytes == summary.dense_bytes


@pytest.mark.parametrize(("missing", "kind"), [("c0", "nifti"), ("c3", "zarr"), ("c6", "nifti")])
def test_a_plan_after_a_partial_run(tmp_path, missing, kind):
    source, out = small(tmp_path / "labels", 7), tmp_path / "out"
    whole = precompute(source, out, "rectified", jobs=0, format=kind)
    one = rwloss.store.open(out).entries[missing]
    for name in out.glob(f"{missing}*"):
        shutil.rmtree(name) if name.is_dir() else name.unlink()
    ahead = plan(source, out, "rectified", jobs=0, format=kind)
    assert ahead.counts == {"made": 0, "kept": 6, "failed": 0, "missing": 1}
    (outcome,) = (outcome for outcome in ahead.outcomes if outcome.state == "missing")
    assert (outcome.case, outcome.voxels) == (missing, math.prod(one.shape))
    assert math.isclose(ahead.stored_bytes, whole.stored_bytes, rel_tol=0.2)


# --- Object stores


@pytest.fixture
def bucket(tmp_path):
    """An address in memory, which only this process sees."""
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("zarr")
    yield f"memory://{tmp_path.name}"
    memory = fsspec.filesystem("memory")
    if memory.exists(f"/{tmp_path.name}"):
        memory.rm(f"/{tmp_path.name}", recursive=True)


def objects(url):
    """Bytes of every file below an address but the log, by its path."""
    import fsspec

    files, top = fsspec.core.url_to_fs(url)
    found = {path[len(top) :].lstrip("/"): files.cat_file(path) for path in files.find(top)}
    found.pop("log.jsonl", None)
    return found


def test_a_bucket_holds_what_a_folder_holds(tmp_path, bucket):
    source = small(tmp_path / "labels")
    folder = tmp_path / "out"
    precompute(source, folder, "boundary", jobs=0, format="zarr")
    summary = precompute(source, bucket, "boundary", jobs=0, format="zarr")
    assert (summary.made, summary.store) == (4, bucket)
    assert objects(bucket) == content(folder)
    here, there = rwloss.store.open(folder), rwloss.store.open(bucket)
    for case in here:
        assert_same(there[case], here[case])


@pytest.mark.slow
def test_a_bucket_of_worker_processes(tmp_path):
    pytest.importorskip("fsspec")
    pytest.importorskip("zarr")
    source, bucket = small(tmp_path / "labels"), f"file://{tmp_path}/workers"
    for out, jobs in ((tmp_path / "out", 0), (bucket, 1)):
        assert precompute(source, out, "boundary", jobs=jobs, format="zarr").made == 4
    assert objects(bucket) == content(tmp_path / "out")


def test_a_run_into_a_bucket_goes_on_without_a_manifest(tmp_path, bucket):
    """It is written at the end; a killed run leaves none."""
    import fsspec

    source = small(tmp_path / "labels", 5)
    precompute(source, bucket, "rectified", jobs=0, format="zarr")
    finished = objects(bucket)
    memory = fsspec.filesystem("memory")
    for name in ("manifest.jsonl", "c1.zarr/zarr.json", "c2.zarr/true/c/0/0"):
        memory.rm_file(f"/{tmp_path.name}/{name}")
    ahead = plan(source, bucket, "rectified", jobs=0, format="zarr")
    assert ahead.counts == {"made": 0, "kept": 3, "failed": 0, "missing": 2}
    assert set(rwloss.store.open(bucket)) == {"c0", "c2", "c3", "c4"}
    summary = precompute(source, bucket, "rectified", jobs=0, format="zarr")
    assert [outcome.case for outcome in summary.outcomes if outcome.state == "made"] == ["c1", "c2"]
    assert objects(bucket) == finished
