"""From a data set to a store: what is made, kept, refused and written down."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import dataclass, replace

import nibabel
import numpy as np
import pytest
from anatomy import anatomy
from PIL import Image
from stored import FORMATS, assert_same, content

import rwloss
from rwloss import data, maps
from rwloss.errors import RWLossError
from rwloss.precompute import plan, precompute

SAMPLE = data.sample_dir("hippocampus")
LUNG = data.sample_dir("lung_patches")


@pytest.fixture(params=FORMATS)
def kind(request):
    if request.param == "zarr":
        pytest.importorskip("zarr")
    return request.param


def some_labels(folder, count, ending=".nii.gz"):
    """The first label files of the sample, copied."""
    folder.mkdir(parents=True)
    for file in sorted((SAMPLE / "labelsTr").glob(f"*{ending}"))[:count]:
        shutil.copy(file, folder)
    return folder


def saved(folder, **cases):
    """Label files of NumPy arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, labels in cases.items():
        np.save(folder / f"{name}.npy", np.asarray(labels))
    return folder


def small(folder, count=4, num_classes=3):
    """Small images that look like anatomy, each of another size."""
    shapes = [(12 + i, 15) for i in range(count)]
    cases = {f"c{i}": anatomy(i, shape, num_classes) for i, shape in enumerate(shapes)}
    return saved(folder, **cases)


def described(folder, labels, **more):
    """A dataset.json for the label files in a folder."""
    (folder / "dataset.json").write_text(
        json.dumps({"labels": labels, "file_ending": ".npy"} | more)
    )
    return folder


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def made_directly(expression, case, num_classes, spacing_mm=None):
    volume = data.read_labels(case.labels, spacing_mm=spacing_mm)
    return maps.parse(expression)(
        rwloss.Regions.single(volume.labels, num_classes, volume.spacing_mm)
    )


# --- What is made


@pytest.mark.parametrize("expression", ["rectified", "boundary"])
def test_a_store_of_the_sample_equals_maps_made_directly(tmp_path, kind, expression):
    source = some_labels(tmp_path / "labels", 3)
    summary = precompute(source, tmp_path / "out", expression, num_classes=3, jobs=0, format=kind)
    assert (summary.made, summary.kept, summary.failed) == (3, 0, ())
    store = rwloss.store.open(summary.store)
    for case in data.find(source).cases:
        exact = made_directly(expression, case, 3)
        assert np.abs(store[case.name].dense() - exact.dense()).max() <= 3e-4
        affine = data.read_labels(case.labels).affine
        for file in (tmp_path / "out").glob(f"{case.name}_*.nii.gz"):
            np.testing.assert_array_equal(nibabel.load(file).affine, affine)
        for file in (tmp_path / "out").glob(f"{case.name}.zarr/zarr.json"):
            assert json.loads(file.read_text())["attributes"]["affine"] == affine.tolist()


def test_the_number_of_jobs_changes_no_byte(tmp_path):
    """Nor what is said of the cases. (For zarr: see the object stores below.)"""
    source = some_labels(tmp_path / "labels", 5)
    bad = data.find(source).cases[1]
    bad.labels.write_bytes(bad.labels.read_bytes()[:300])
    stores, told = [], []
    for jobs in (0, 1, 2):
        out = tmp_path / f"{jobs}"
        summary = precompute(source, out, "rectified", num_classes=3, jobs=jobs)
        stores.append(content(out))
        told.append([replace(outcome, seconds=0.0) for outcome in summary.outcomes])
    assert stores[0] == stores[1] == stores[2]
    assert told[0] == told[1] == told[2]
    assert [outcome.case for outcome in summary.failed] == [bad.name]
    assert len(stores[0]) == 3 + 2 * 4


@pytest.mark.parametrize("name", ["hippocampus", "lung_patches", "hrf_vessels", "ms_lesions"])
def test_shared_data(shared_data, tmp_path, name):
    folder = shared_data(name)
    summary = precompute(folder, tmp_path / "out", "rectified")
    assert not summary.failed
    assert summary.made == len(data.find(folder).cases)
    store = rwloss.store.open(tmp_path / "out")
    assert all(np.isfinite(store[case].true).all() for case in list(store)[:20])


def test_an_oblique_affine_is_kept(tmp_path):
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]]) @ np.diag([0.7, 1.3, 2.9])
    affine = np.eye(4)
    affine[:3] = np.column_stack([turn, (-91.5, 12.25, 7.125)])
    (tmp_path / "labels").mkdir()
    file = tmp_path / "labels" / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(anatomy(1, (9, 8, 7), 3), affine), file)
    summary = precompute(tmp_path / "labels", tmp_path / "out", "rectified", jobs=0)
    entry = rwloss.store.open(summary.store).entries["a"]
    np.testing.assert_allclose(entry.spacing_mm, (0.7, 1.3, 2.9), rtol=1e-6)
    for part in ("labels", "true"):
        image = nibabel.load(tmp_path / "out" / f"a_{part}.nii.gz")
        np.testing.assert_array_equal(image.affine, nibabel.load(file).affine)


def test_formats_without_spacing(tmp_path, kind):
    labels = np.zeros((9, 8), np.uint8)
    labels[2:6, 3:7] = 1
    (tmp_path / "labels").mkdir()
    Image.fromarray(labels).save(tmp_path / "labels" / "a.png")
    Image.fromarray(labels).save(tmp_path / "labels" / "b.tiff")
    np.save(tmp_path / "labels" / "c.npy", labels)
    out = tmp_path / "out"
    precompute(tmp_path / "labels", out, "rectified", spacing_mm=(1.0, 2.5), jobs=0, format=kind)
    store = rwloss.store.open(out)
    assert store.info.spacing_mm == (1.0, 2.5)
    exact = maps.get("rectified")(rwloss.Regions.single(labels, 2, (1.0, 2.5)))
    for case in ("a", "b", "c"):
        assert store.entries[case].spacing_mm == (1.0, 2.5)
        assert np.abs(store[case].true - exact.true).max() <= 3e-4
    if kind == "nifti":
        assert nibabel.load(out / "a_true.nii.gz").header.get_zooms() == (1.0, 2.5)


def test_progress_sees_every_case(tmp_path):
    seen = []
    precompute(
        small(tmp_path / "labels"),
        tmp_path / "out",
        "rectified",
        num_classes=3,
        jobs=0,
        progress=lambda outcome, total: seen.append((outcome.case, outcome.state, total)),
    )
    assert seen == [(f"c{i}", "made", 4) for i in range(4)]


def test_names_are_only_names(tmp_path, kind):
    names = [
        "two words",
        "it's",
        '"',
        "100%",
        "new\nline",
        "海馬",
        "a::b",
        "*",
        "[a]",
        "x.zarr",
        "-rf",
    ]
    labels = anatomy(1, (9, 8), 3)
    source = saved(tmp_path / "labels", **dict.fromkeys(names, labels))
    summary = precompute(source, tmp_path / "out", "rectified", jobs=0, format=kind)
    assert (summary.made, summary.failed) == (len(names), ())
    store = rwloss.store.open(tmp_path / "out")
    assert list(store) == sorted(names)
    assert [outcome.case for outcome in summary.outcomes] == sorted(names)
    for name in names:
        assert_same(store[name], store["two words"])
    assert precompute(source, tmp_path / "out", "rectified", jobs=0, format=kind).kept == len(names)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
@pytest.mark.parametrize("good", [True, False])
def test_a_name_that_is_no_unicode_stops_nothing(tmp_path, kind, good):
    """An archive from a system that wrote file names in Latin-1."""
    name = b"caf\xe9".decode(errors="surrogateescape")
    source = saved(tmp_path / "labels", a=[[0, 1]], **{name: [[0, 1 if good else 7]]})
    summary = precompute(source, tmp_path / "out", "rectified", num_classes=2, jobs=0, format=kind)
    assert summary.made == 1 + good
    assert [outcome.case for outcome in summary.failed] == [name] * (not good)
    store = rwloss.store.open(tmp_path / "out")
    assert list(store) == ["a", name][: 1 + good]
    assert all(store[case].is_compact for case in store)
    assert lines(tmp_path / "out" / "log.jsonl")[2]["case"] == name


def test_a_name_too_long_for_its_maps_fails_alone(tmp_path, kind):
    long = "x" * 251  # its label file can have this name, its maps can't
    source = saved(tmp_path / "labels", a=[[0, 1]], **{long: [[0, 1]]}, z=[[1, 0]])
    summary = precompute(source, tmp_path / "out", "rectified", jobs=0, format=kind)
    assert summary.made == 2 + (kind == "zarr" and len(f"{long}.zarr") <= 255)
    for failure in summary.failed:
        assert failure.case == long
        assert "too long" in failure.reason
    assert {"a", "z"} <= set(rwloss.store.open(tmp_path / "out"))


# --- What is kept


def test_the_same_command_makes_only_what_is_missing(tmp_path, kind):
    source = small(tmp_path / "labels", 5)
    out = tmp_path / "out"
    first = precompute(source, out, "rectified", jobs=0, format=kind)
    undisturbed = content(out)
    files = {name: rwloss.store.open(out).entries[name].parts for name in ("c0", "c1")}
    lost, torn = (out / files[name]["true"].file for name in files)
    if kind == "zarr":
        shutil.rmtree(lost)
        torn /= "c/0/0"
    else:
        lost.unlink()
    torn.write_bytes(b"torn")
    manifest = undisturbed["manifest.jsonl"]
    (out / "manifest.jsonl").write_bytes(manifest[:-40])  # the last case
    ahead = plan(source, out, "rectified", jobs=0, format=kind)
    summary = precompute(source, out, "rectified", jobs=0, format=kind)
    # A tree says itself whose it is; a NIfTI file without its line is made again.
    remade = {"nifti": ["c0", "c1", "c4"], "zarr": ["c0", "c1"]}[kind]
    assert [outcome.case for outcome in summary.outcomes if outcome.state == "made"] == remade
    assert [outcome.case for outcome in ahead.outcomes if outcome.state == "missing"] == remade
    assert summary.kept == 5 - len(remade)
    assert content(out) == undisturbed
    assert summary.stored_bytes == first.stored_bytes
    again = precompute(source, out, "rectified", jobs=0, format=kind)
    assert (again.made, again.kept) == (0, 5)
    assert content(out) == undisturbed


def test_a_damaged_manifest_is_no_reason_to_guess(tmp_path):
    source, out = small(tmp_path / "labels", 2), tmp_path / "out"
    precompute(source, out, "rectified", jobs=0)
    (out / "manifest.jsonl").write_bytes(b"nonsense\n" + (out / "manifest.jsonl").read_bytes())
    before = content(out)
    for command in (precompute, plan):
        with pytest.raises(RWLossError, match=r"manifest\.jsonl of .* is damaged in line 1"):
            command(source, out, "rectified", jobs=0)
    assert content(out) == before


def test_changed_labels_are_made_again(tmp_path, kind):
    source, out = small(tmp_path / "labels"), tmp_path / "out"
    precompute(source, out, "rectified", num_classes=3, jobs=0, format=kind)
    labels = np.zeros((12, 15), np.int64)
    labels[3:5, 2:9] = 1
    saved(source, c2=labels)
    summary = precompute(source, out, "rectified", num_classes=3, jobs=0, format=kind)
    assert (summary.made, summary.kept) == (1, 3)
    np.testing.assert_array_equal(rwloss.store.open(out)["c2"].labels[0], labels)


def test_labels_of_another_type_are_the_same_labels(tmp_path):
    source, out = small(tmp_path / "labels"), tmp_path / "out"
    precompute(source, out, "rectified", num_classes=3, jobs=0)
    for file in source.iterdir():
        np.save(file, np.asfortranarray(np.load(file).astype(np.int32)))
    assert precompute(source, out, "rectified", num_classes=3, jobs=0).kept == 4


def test_a_part_that_the_new_map_does_not_have_goes(tmp_path):
    """One class alone has one value: no file. That of the old labels would stay for ever."""
    source, out = tmp_path / "labels", tmp_path / "out"
    two = [[0, 0, 1], [0, 0, 1]]
    saved(source, a=two)
    precompute(source, out, "unet_border(weights='inverse')", num_classes=2, jobs=0)
    assert (out / "a_other.nii.gz").is_file()
    saved(source, a=np.zeros((2, 3), int))
    precompute(source, out, "unet_border(weights='inverse')", num_classes=2, jobs=0)
    assert rwloss.store.open(out).entries["a"].parts["other"].file is None
    assert not (out / "a_other.nii.gz").exists()


def test_new_cases_join_the_old(tmp_path, kind):
    source, out = small(tmp_path / "labels", 2), tmp_path / "out"
    precompute(source, out, "rectified", num_classes=3, jobs=0, format=kind)
    small(source, 4)
    summary = precompute(source, out, "rectified", num_classes=3, jobs=0, format=kind)
    assert (summary.made, summary.kept) == (2, 2)
    assert list(rwloss.store.open(out)) == ["c0", "c1", "c2", "c3"]
    fresh = precompute(source, tmp_path / "new", "rectified", num_classes=3, jobs=0, format=kind)
    assert content(out) == content(tmp_path / "new")
    assert fresh.counts == {"made": 4, "kept": 0, "failed": 0, "missing": 0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expression": "boundary"}, r"expression 'rectified' \(now 'boundary'\)"),
        ({"num_classes": 4}, r"num_classes 3 \(now 4\)"),
        ({"dtype": "float32"}, r"dtype 'auto' \(now 'float32'\)"),
        ({"format": "zarr"}, r"format 'nifti' \(now 'zarr'\)"),
        ({"spacing_mm": (1, 2)}, r"spacing_mm None \(now \(1.0, 2.0\)\)"),
        ({"ignore_label": 9}, r"ignore_label None \(now 9\)"),
    ],
    ids=str,
)
def test_another_map_needs_another_folder(tmp_path, changes, words):
    source, out = small(tmp_path / "labels"), tmp_path / "out"
    asked = {"expression": "rectified", "num_classes": 3, "jobs": 0}
    precompute(source, out, **asked)
    before = content(out, without=())
    for command in (precompute, plan):
        with pytest.raises(RWLossError, match=rf"holds another map, with {words}: name another"):
            command(source, out, **asked | changes)
    assert content(out, without=()) == before


def test_another_version_goes_on_with_the_same_store(tmp_path, monkeypatch):
    source, out = small(tmp_path / "labels"), tmp_path / "out"
    precompute(source, out, "rectified", jobs=0)
    before = (out / "map.json").read_bytes()
    monkeypatch.setattr("rwloss.precompute.run._versions", lambda: {"rwloss": "99"})
    assert precompute(source, out, "rectified", jobs=0).kept == 4
    assert (out / "map.json").read_bytes() == before
    assert lines(out / "log.jsonl")[-6]["versions"] == {"rwloss": "99"}


def test_another_engine_is_another_map(tmp_path, monkeypatch):
    source, out = small(tmp_path / "labels"), tmp_path / "out"
    precompute(source, out, "rectified", jobs=0)
    monkeypatch.setattr("rwloss.distance.engine_name", lambda: "abacus")
    with pytest.raises(RWLossError, match=r"engine '\w+' \(now 'abacus'\)"):
        precompute(source, out, "rectified", jobs=0)


# --- What fails


def test_one_bad_case_stops_no_other(tmp_path):
    source = some_labels(tmp_path / "labels", 3)
    bad = data.find(source).cases[1]
    whole = bad.labels.read_bytes()
    bad.labels.write_bytes(whole[:300])
    out = tmp_path / "out"
    summary = precompute(source, out, "rectified", num_classes=3, jobs=0)
    assert summary.made == 2
    (failure,) = summary.failed
    assert failure.case == bad.name
    assert bad.labels.name in failure.reason
    assert bad.name not in rwloss.store.open(out)
    assert lines(out / "failures.jsonl") == [{"case": bad.name, "reason": failure.reason}]
    bad.labels.write_bytes(whole)
    again = precompute(source, out, "rectified", num_classes=3, jobs=0)
    assert (again.made, again.kept) == (1, 2)
    assert not (out / "failures.jsonl").exists()


def test_a_label_that_is_no_class_names_the_case(tmp_path):
    source = small(tmp_path / "labels")
    summary = precompute(source, tmp_path / "out", "rectified", num_classes=2, jobs=0)
    assert [outcome.state for outcome in summary.outcomes] == ["failed"] * 4
    assert "label 2 found, but num_classes=2" in summary.failed[0].reason


def test_a_label_that_dataset_json_does_not_know(tmp_path):
    source = described(
        saved(tmp_path / "set", a=[[0, 1]], b=[[0, 7]], c=[[1, 1]]), {"background": 0, "x": 1}
    )
    summary = precompute(source, tmp_path / "out", "rectified", jobs=0)
    (failure,) = summary.failed
    assert failure.case == "b"
    assert "its labels disagree with dataset.json" in failure.reason
    assert "label 7 found, but num_classes=2" in failure.reason
    store = rwloss.store.open(tmp_path / "out")
    assert list(store) == ["a", "c"]
    assert store.info.class_names == ("background", "x")


def test_classes_are_counted_over_all_cases(tmp_path):
    source = saved(tmp_path / "labels", a=[[0, 1]], b=[[0, 3]], c=[[0, 0]])
    seen = []
    summary = precompute(source, tmp_path / "out", "rectified", jobs=0, counting=seen.append)
    assert summary.num_classes == 4
    assert seen == [3, 3, 3]
    store = rwloss.store.open(tmp_path / "out")
    assert {store[case].num_classes for case in store} == {4}
    # Nothing has to be counted where the number is known.
    seen.clear()
    precompute(source, tmp_path / "other", "rectified", num_classes=4, jobs=0, counting=seen.append)
    assert seen == []


def test_ignored_labels_are_no_class(tmp_path, kind):
    source = saved(tmp_path / "labels", a=[[0, 1, 255]], b=[[0, 2, 1]])
    with pytest.raises(RWLossError, match="ignore_label=255"):
        precompute(source, tmp_path / "out", "rectified", jobs=0, format=kind)
    assert not (tmp_path / "out").exists()
    out = tmp_path / "out"
    summary = precompute(source, out, "boundary", ignore_label=255, jobs=0, format=kind)
    assert summary.num_classes == 3
    store = rwloss.store.open(out)
    np.testing.assert_array_equal(store["a"].labels, [[[0, 1, -1]]])
    assert not store["a"].dense()[..., 2].any()
    assert store.info.ignore_label == 255


def test_negative_labels_are_refused_before_any_map_is_made(tmp_path):
    source = saved(tmp_path / "labels", a=[[0, 1]], b=[[0, -1]])
    with pytest.raises(RWLossError, match=r"holds the label -1.*ignore_label=-1"):
        precompute(source, tmp_path / "out", "rectified", jobs=0)
    assert not (tmp_path / "out").exists()
    assert precompute(source, tmp_path / "out", "rectified", ignore_label=-1, jobs=0).made == 2


def test_large_files_are_refused_by_name(tmp_path):
    source = saved(tmp_path / "labels", a=[[0, 1]], b=np.eye(5, dtype=int))
    for known in ({}, {"num_classes": 2}):
        out = tmp_path / f"out{len(known)}"
        summary = precompute(source, out, "rectified", max_voxels=24, jobs=0, **known)
        assert summary.made == 1
        (failure,) = summary.failed
        assert failure.case == "b"
        assert "25 voxels" in failure.reason
        assert "max_voxels" in failure.reason
    with pytest.raises(RWLossError, match="max_voxels"):  # not one case to count classes in
        precompute(source, tmp_path / "none", "rectified", max_voxels=1, jobs=0)
    assert precompute(source, tmp_path / "out0", "rectified", max_voxels=25, jobs=0).made == 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"expression": "rectifed"}, "did you mean 'rectified'"),
        ({"jobs": -1}, "expected 0 jobs or more, got -1"),
        ({"max_voxels": 0}, "expected max_voxels of 1 or more, got 0"),
        ({"format": "hdf5"}, "expected the format nifti or zarr, got 'hdf5'"),
        ({"dtype": "int8"}, "nifti stores values as auto, int16, float32, not as 'int8'"),
        ({"dtype": "float16"}, "nifti stores values as .*not as 'float16'"),
        ({"format": "zarr", "dtype": "int16"}, "zarr stores values as .*not as 'int16'"),
        ({"num_classes": 1}, "two classes or more, got 1"),
        ({"source": "/nowhere"}, "there is no file or folder"),
        ({"out": "memory://x"}, "holds maps in the format zarr only"),
        ({"out": "nowhere://x", "format": "zarr"}, "nowhere://x can't be used"),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", [precompute, plan])
def test_wrong_use_is_found_before_the_folder_is_made(tmp_path, command, asked, words):
    right = {"source": SAMPLE, "out": tmp_path / "out", "expression": "rectified", "jobs": 0}
    with pytest.raises(RWLossError, match=words):
        command(**right | asked)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [precompute, plan])
def test_a_folder_with_other_files_is_left_alone(tmp_path, command):
    source = small(tmp_path / "labels")
    for where in (source, tmp_path):
        before = content(where)
        with pytest.raises(RWLossError, match=r"holds other files .*: name a new or an empty"):
            command(source, where, "rectified", jobs=0)
        assert content(where) == before


@pytest.mark.parametrize("command", [precompute, plan])
def test_a_file_is_no_folder(tmp_path, command):
    (tmp_path / "out").write_text("mine")
    for where in (tmp_path / "out", tmp_path / "out" / "inner"):
        with pytest.raises(RWLossError, match=r"can't be (written|read)"):
            command(SAMPLE, where, "rectified", jobs=0)


# --- What is written down


def test_the_log_tells_the_story(tmp_path):
    source = saved(tmp_path / "labels", a=[[0, 1]], b=[[0, 1]], c=[[0, 7]])
    out = tmp_path / "out"
    precompute(source, out, "rectified", num_classes=2, jobs=0)
    saved(source, b=[[1, 0]])
    precompute(source, out, "rectified", num_classes=2, jobs=0)
    events = lines(out / "log.jsonl")
    told = [(event["event"], event.get("case")) for event in events]
    assert told == [
        *(("start", None), ("made", "a"), ("made", "b"), ("failed", "c"), ("end", None)),
        *(("start", None), ("kept", "a"), ("made", "b"), ("failed", "c"), ("end", None)),
    ]
    start, end = events[0], events[-1]
    assert start["source"] == str(source)
    assert (start["cases"], start["jobs"], start["scheduler"]) == (3, 0, None)
    assert start["versions"].keys() >= {"rwloss", "numpy", "scipy", "gzip"}
    assert "label 7" in events[3]["reason"]
    assert all(event["seconds"] >= 0 for event in events if event["event"] != "start")
    assert {name: end[name] for name in ("made", "kept", "failed")} == {
        "made": 1,
        "kept": 1,
        "failed": 1,
    }
    times = [event["time"] for event in events]
    assert times == sorted(times)


def test_the_source_is_found_again_from_any_folder(tmp_path, monkeypatch):
    small(tmp_path / "labels")
    monkeypatch.chdir(tmp_path)
    precompute("labels", "out", "rectified", jobs=0)
    assert lines(tmp_path / "out" / "log.jsonl")[0]["source"] == str(tmp_path / "labels")
    precompute(data.find("labels"), "other", "rectified", jobs=0)
    assert lines(tmp_path / "other" / "log.jsonl")[0]["source"] is None


def test_the_description_has_every_parameter(tmp_path):
    source = small(tmp_path / "labels")
    text = "rectified(scope='component') + 0.5 * boundary"
    precompute(source, tmp_path / "out", text, jobs=0)
    found = json.loads((tmp_path / "out" / "map.json").read_text())
    assert found["expression"] == str(maps.parse(text))
    assert [term["name"] for term in found["terms"]] == ["rectified", "boundary"]
    assert found["terms"][0]["parameters"]["scope"] == "component"
    assert found["terms"][0]["parameters"].keys() >= {"weights", "beta"}
    assert found["terms"][1]["parameters"]["convention"] == "kervadec"
    assert (found["layout"], found["format"], found["dtype"]) == (1, "nifti", "auto")
    assert found["engine"] == rwloss.distance.engine_name()


def test_the_size_in_the_summary_is_that_on_disk(tmp_path, kind):
    source = small(tmp_path / "labels")
    for state in ("made", "kept"):
        summary = precompute(source, tmp_path / "out", "rectified", jobs=0, format=kind)
        assert {outcome.state for outcome in summary.outcomes} == {state}
        own = ("map.json", "manifest.jsonl", "log.jsonl")
        files = content(tmp_path / "out", without=own)
        assert summary.stored_bytes == sum(map(len, files.values()))
        voxels = sum(np.load(file).size for file in source.iterdir())
        assert summary.voxels == voxels
        assert summary.dense_bytes == 4 * 3 * voxels


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
        ("boundary.stabilized() + rectified", "boundary.stabilized() + rectified"),
        ("rectified + boundary", "rectified + boundary"),
        ("1e-6 * boundary", "1e-06 * boundary"),
    ],
)
def test_the_static_part_is_stored(tmp_path, asked, stored, kind):
    source = small(tmp_path / "labels", 1)
    summary = precompute(source, tmp_path / "out", asked, num_classes=3, jobs=0, format=kind)
    assert summary.made == 1
    assert summary.asked == str(maps.parse(asked))
    assert summary.expression == stored
    store = rwloss.store.open(tmp_path / "out")
    assert store.info.expression == stored
    [case] = data.find(source).cases
    exact = made_directly(stored, case, 3)
    found = store[case.name]
    assert found.is_compact == exact.is_compact
    size = min(1.0, float(np.abs(exact.dense()).max()))
    assert np.abs(found.dense() - exact.dense()).max() <= 2 * 3e-4 * size


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


@pytest.mark.parametrize(
    "expression", ["dice", "dice + cross_entropy", "(rectified + dice).stabilized()"]
)
def test_nothing_to_store(tmp_path, expression):
    source = small(tmp_path / "labels", 1)
    with pytest.raises(RWLossError, match="depends on the prediction, so there is no map"):
        precompute(source, tmp_path / "out", expression, num_classes=3, jobs=0)
    assert not (tmp_path / "out").exists()


def test_parts_that_no_single_map_can_stand_for(tmp_path):
    source = small(tmp_path / "labels", 1)
    with pytest.raises(RWLossError, match="different links or schedules"):
        precompute(source, tmp_path / "out", "blend(rectified, boundary)", num_classes=3, jobs=0)
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


# --- Weights of the whole data set


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


def test_weights_of_the_data_set_become_numbers(tmp_path):
    source, out = small(tmp_path / "labels"), tmp_path / "out"
    weights = naive_inverse([np.load(file) for file in source.iterdir()], 3)
    asked = "class_weighted(weights='dataset_inverse') + dice"
    summary = precompute(source, out, asked, jobs=0)
    wanted = maps.ClassWeighted(weights=weights)
    assert summary.asked == asked
    assert summary.expression == str(wanted)
    store = rwloss.store.open(out)
    assert maps.parse(store.expression) == wanted
    assert store.info.terms[0].parameters["weights"] == list(weights)
    # The same as with the numbers, byte for byte; and the same store goes on either way.
    precompute(source, tmp_path / "explicit", str(wanted), jobs=0)
    assert content(out) == content(tmp_path / "explicit")
    assert precompute(source, out, wanted, jobs=0).kept == 4
    assert precompute(source, out, asked, jobs=0).kept == 4
    assert plan(source, out, asked, jobs=0).kept == 4


def test_one_pass_counts_classes_and_voxels(tmp_path):
    source, seen = small(tmp_path / "labels"), []
    asked = "rectified(weights='dataset_inverse_square') + boundary"
    precompute(source, tmp_path / "out", asked, jobs=0, counting=seen.append)
    assert seen == [4] * 4
    seen.clear()
    precompute(source, tmp_path / "new", asked, num_classes=3, jobs=0, counting=seen.append)
    assert seen == [4] * 4  # the number of classes is known, that of their voxels is not
    assert content(tmp_path / "out") == content(tmp_path / "new")


@pytest.mark.parametrize("ignored", [9, 1])
def test_ignored_voxels_have_no_weight(tmp_path, ignored):
    """Even where the label lies among the classes."""
    images = {f"c{i}": anatomy(i, (9, 9), 3) for i in range(2)}
    for labels in images.values():
        labels[:4, :5] = ignored
    source = saved(tmp_path / "labels", **images)
    asked = "class_weighted(weights='dataset_inverse')"
    summary = precompute(
        source, tmp_path / "out", asked, num_classes=3, ignore_label=ignored, jobs=0
    )
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


def test_more_cases_are_other_weights(tmp_path):
    source, out = small(tmp_path / "labels", 2), tmp_path / "out"
    asked = "class_weighted(weights='dataset_inverse')"
    precompute(source, out, asked, num_classes=3, jobs=0)
    small(source, 3)
    with pytest.raises(RWLossError, match=r"holds another map, with expression 'class_weighted"):
        precompute(source, out, asked, num_classes=3, jobs=0)


# --- Plans


def test_a_plan_writes_nothing(tmp_path):
    source, out = small(tmp_path / "labels"), tmp_path / "out"
    before = content(tmp_path)
    summary = plan(source, out, "rectified", jobs=0)
    assert summary.counts == {"made": 0, "kept": 0, "failed": 0, "missing": 4}
    assert content(tmp_path) == before
    assert not out.exists()
    precompute(source, out, "rectified", jobs=0)
    before = content(out, without=())
    assert plan(source, out, "rectified", jobs=0).counts["kept"] == 4
    assert content(out, without=()) == before


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
    ("source", "expression", "kind"),
    [(SAMPLE, "rectified", "nifti"), (SAMPLE, "boundary", "zarr"), (LUNG, "boundary", "nifti")],
    ids=["3-D", "3-D zarr", "2-D"],
)
def test_the_size_is_estimated_within_a_fifth(tmp_path, kind, source, expression):
    ahead = plan(source, tmp_path / "out", expression, jobs=0, format=kind)
    summary = precompute(source, tmp_path / "out", expression, jobs=0, format=kind)
    assert math.isclose(ahead.stored_bytes, summary.stored_bytes, rel_tol=0.2)
    assert ahead.dense_bytes == summary.dense_bytes


@pytest.mark.parametrize("missing", ["c0", "c3", "c6"])
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
    with_workers = f"file://{tmp_path}/workers"
    assert precompute(source, with_workers, "boundary", jobs=2, format="zarr").made == 4
    assert objects(with_workers) == content(folder)
    here, there = rwloss.store.open(folder), rwloss.store.open(bucket)
    for case in here:
        assert_same(there[case], here[case])


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
