"""From a dataset to a store: what is made, kept, refused and written down."""

import json
import os
import shutil
import socket
import sys
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from anatomy import anatomy
from label_files import SAMPLE, described, made_directly, saved, small, some_labels
from PIL import Image
from stored import FORMATS, content

import rwloss
from rwloss import data, maps
from rwloss.errors import RWLossError
from rwloss.precompute import plan, precompute


@pytest.fixture(params=FORMATS)
def kind(request):
    return request.param


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


# --- What is made


@pytest.mark.parametrize("expression", ["rectified", "boundary"])
def test_a_store_of_the_sample_equals_maps_made_directly(tmp_path, kind, expression):
    source, out = some_labels(tmp_path / "labels", 2), tmp_path / "out"
    summary = precompute(source, out, expression, num_classes=3, jobs=0, format=kind)
    assert (summary.made, summary.kept, summary.failed) == (2, 0, ())
    store = rwloss.store.open(summary.store)
    for case in data.find(source).cases:
        exact = made_directly(expression, case, 3)
        assert np.abs(store[case.name].dense() - exact.dense()).max() <= 3e-4
        affine = data.read_labels(case.labels).affine
        for file in out.glob(f"{case.name}_*.nii.gz"):
            np.testing.assert_array_equal(nibabel.load(file).affine, affine)
        for file in out.glob(f"{case.name}.zarr/zarr.json"):
            assert json.loads(file.read_text())["attributes"]["affine"] == affine.tolist()


def test_a_bad_case_stops_no_other_whatever_the_number_of_jobs(tmp_path):
    """The number of jobs changes no byte either. (For zarr: see the object stores.)"""
    source = some_labels(tmp_path / "labels", 3)
    bad = data.find(source).cases[1]
    whole = bad.labels.read_bytes()
    bad.labels.write_bytes(whole[:300])
    stores, told = [], []
    for jobs in (0, 2):
        out = tmp_path / f"{jobs}"
        summary = precompute(source, out, "rectified", num_classes=3, jobs=jobs)
        stores.append(content(out))
        told.append([replace(outcome, seconds=0.0) for outcome in summary.outcomes])
    assert stores[0] == stores[1]
    assert told[0] == told[1]
    assert len(stores[0]) == 3 + 2 * 2
    (failure,) = summary.failed
    assert (summary.made, failure.case) == (2, bad.name)
    assert bad.labels.name in failure.reason
    assert bad.name not in rwloss.store.open(out)
    assert lines(out / "failures.jsonl") == [{"case": bad.name, "reason": failure.reason}]
    bad.labels.write_bytes(whole)
    again = precompute(source, out, "rectified", num_classes=3, jobs=0)
    assert (again.made, again.kept) == (1, 2)
    assert not (out / "failures.jsonl").exists()


@pytest.mark.parametrize("name", ["hippocampus", "lung_patches", "hrf_vessels", "ms_lesions"])
def test_shared_data(shared_data, tmp_path, name):
    dataset = data.find(shared_data(name))
    some = replace(dataset, cases=dataset.cases[:3])
    summary = precompute(some, tmp_path / "out", "rectified", jobs=0)
    assert (summary.made, summary.failed) == (len(some.cases), ())
    store = rwloss.store.open(tmp_path / "out")
    assert all(np.isfinite(store[case].true).all() for case in store)


def test_formats_without_spacing_and_an_oblique_affine(tmp_path, kind):
    labels, source, out = np.zeros((9, 8), np.uint8), tmp_path / "labels", tmp_path / "out"
    labels[2:6, 3:7] = 1
    source.mkdir()
    Image.fromarray(labels).save(source / "a.png")
    Image.fromarray(labels).save(source / "b.tiff")
    np.save(source / "c.npy", labels)
    precompute(source, out, "rectified", spacing_mm=(1.0, 2.5), jobs=0, format=kind)
    store = rwloss.store.open(out)
    assert store.info.spacing_mm == (1.0, 2.5)
    exact = maps.get("rectified")(rwloss.Regions.single(labels, 2, (1.0, 2.5)))
    for case in ("a", "b", "c"):
        assert store.entries[case].spacing_mm == (1.0, 2.5)
        assert np.abs(store[case].true - exact.true).max() <= 3e-4
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]]) @ np.diag([0.7, 1.3, 2.9])
    affine = np.eye(4)
    affine[:3] = np.column_stack([turn, (-91.5, 12.25, 7.125)])
    file, turned = tmp_path / "a.nii.gz", tmp_path / "turned"
    nibabel.save(nibabel.Nifti1Image(anatomy(1, (9, 8, 7), 3), affine), file)
    precompute(file, turned, "rectified", jobs=0, format=kind)
    entry = rwloss.store.open(turned).entries["a"]
    np.testing.assert_allclose(entry.spacing_mm, (0.7, 1.3, 2.9), rtol=1e-6)
    if kind == "nifti":
        assert nibabel.load(out / "a_true.nii.gz").header.get_zooms() == (1.0, 2.5)
        for part in ("labels", "true"):
            image = nibabel.load(turned / f"a_{part}.nii.gz")
            np.testing.assert_array_equal(image.affine, nibabel.load(file).affine)


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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such file names")
def test_a_name_with_a_backslash_fails_alone_and_says_what_to_do(tmp_path):
    source = saved(tmp_path / "labels", a=[[0, 1]], **{"b\\c": [[0, 1]]})
    summary = precompute(source, tmp_path / "out", "rectified", jobs=0)
    [failure] = summary.failed
    assert (failure.case, summary.made) == ("b\\c", 1)
    assert "its name holds a backslash" in failure.reason
    assert "rename its files" in failure.reason


# --- What is kept


def test_the_same_command_makes_only_what_is_missing(tmp_path, kind):
    source, out = small(tmp_path / "labels", 5), tmp_path / "out"
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
    (out / "manifest.jsonl").write_bytes(undisturbed["manifest.jsonl"][:-40])  # the last case
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


def test_a_part_that_the_new_map_does_not_have_goes(tmp_path):
    """One class alone has one value: no file. That of the old labels would stay for ever."""
    source, out, text = tmp_path / "labels", tmp_path / "out", "unet_border(weights='inverse')"
    for labels, has_file in (([[0, 0, 1], [0, 0, 1]], True), (np.zeros((2, 3), int), False)):
        precompute(saved(source, a=labels), out, text, num_classes=2, jobs=0)
        assert (rwloss.store.open(out).entries["a"].parts["other"].file is not None) == has_file
        assert (out / "a_other.nii.gz").is_file() == has_file


def test_new_cases_join_the_old(tmp_path, kind):
    source, out, seen = small(tmp_path / "labels", 2), tmp_path / "out", []
    settings = {"num_classes": 3, "jobs": 0, "format": kind}
    precompute(source, out, "rectified", **settings)
    small(source, 4)
    summary = precompute(
        source,
        out,
        "rectified",
        progress=lambda outcome, total: seen.append((outcome.case, outcome.state, total)),
        **settings,
    )
    assert (summary.made, summary.kept) == (2, 2)
    assert seen == [(f"c{i}", "made" if i > 1 else "kept", 4) for i in range(4)]
    assert list(rwloss.store.open(out)) == ["c0", "c1", "c2", "c3"]
    fresh = precompute(source, tmp_path / "new", "rectified", **settings)
    assert content(out) == content(tmp_path / "new")
    assert fresh.counts == {"made": 4, "kept": 0, "failed": 0, "missing": 0}


def test_another_map_or_engine_needs_another_folder_and_another_version_does_not(
    tmp_path, monkeypatch
):
    source, out = small(tmp_path / "labels"), tmp_path / "out"
    asked = {"expression": "rectified", "num_classes": 3, "jobs": 0}
    precompute(source, out, **asked)
    before = content(out, without=())
    for command in (precompute, plan):
        with pytest.raises(
            RWLossError, match=r"another map, with spacing_mm None \(now \(1.0, 2.0"
        ):
            command(source, out, **asked, spacing_mm=(1, 2))
    with monkeypatch.context() as patched:
        patched.setattr("rwloss.distance.engine_name", lambda: "abacus")
        with pytest.raises(RWLossError, match=r"engine '\w+' \(now 'abacus'\)"):
            precompute(source, out, **asked)
    assert content(out, without=()) == before
    monkeypatch.setattr("rwloss.precompute.run._versions", lambda: {"rwloss": "99"})
    assert precompute(source, out, **asked).kept == 4
    assert (out / "map.json").read_bytes() == before["map.json"]
    assert lines(out / "log.jsonl")[-6]["versions"] == {"rwloss": "99"}


# --- What fails


def test_a_label_that_dataset_json_does_not_know(tmp_path):
    source = described(
        saved(tmp_path / "set", a=[[0, 1]], b=[[0, 7]], c=[[1, 1]]), {"background": 0, "x": 1}
    )
    (failure,) = precompute(source, tmp_path / "out", "rectified", jobs=0).failed
    assert failure.case == "b"
    assert "its labels disagree with dataset.json: label 7 found, but num_c" in failure.reason
    store = rwloss.store.open(tmp_path / "out")
    assert list(store) == ["a", "c"]
    assert store.info.class_names == ("background", "x")


def test_classes_are_counted_over_all_cases(tmp_path):
    source = saved(tmp_path / "labels", a=[[0, 1]], b=[[2, 3]], c=[[0, 0]])
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


def test_a_store_in_which_nothing_was_made_takes_another_map(tmp_path):
    """Masks of 0 and 255 all fail; corrected settings may use the same folder."""
    masks = saved(tmp_path / "masks", a=[[0, 255]], b=[[255, 255]])
    for number in range(2):
        summary = precompute(masks, tmp_path / "out", "rectified", num_classes=2 + number, jobs=0)
        assert summary.counts["failed"] == 2
        assert ("ignore_label=255" in summary.failed[0].reason) == (number == 1)
    assert precompute(masks, tmp_path / "out", "boundary", num_classes=256, jobs=0).made == 2
    with pytest.raises(RWLossError, match="holds another map, with num_classes 256"):
        precompute(masks, tmp_path / "out", "boundary", num_classes=257, jobs=0)


def test_ignored_labels_are_no_class(tmp_path, kind):
    source, out = saved(tmp_path / "labels", a=[[0, 1, 255]], b=[[0, 2, 1]]), tmp_path / "out"
    with pytest.raises(RWLossError, match="ignore_label=255"):
        precompute(source, out, "rectified", jobs=0, format=kind)
    assert not out.exists()
    summary = precompute(source, out, "boundary", ignore_label=255, jobs=0, format=kind)
    assert summary.num_classes == 3
    store = rwloss.store.open(out)
    np.testing.assert_array_equal(store["a"].labels, [[[0, 1, -1]]])
    assert not store["a"].dense()[..., 2].any()
    assert store.info.ignore_label == 255


def test_negative_labels_are_refused_before_any_map_is_made(tmp_path):
    source, out = saved(tmp_path / "labels", a=[[0, 1]], b=[[0, -1]]), tmp_path / "out"
    with pytest.raises(RWLossError, match=r"holds the label -1.*ignore_label=-1"):
        precompute(source, out, "rectified", jobs=0)
    assert not out.exists()
    assert precompute(source, out, "rectified", ignore_label=-1, jobs=0).made == 2


def test_large_files_are_refused_by_name(tmp_path):
    source = saved(tmp_path / "labels", a=[[0, 1]], b=np.eye(5, dtype=int))
    (failure,) = precompute(source, tmp_path / "out", "rectified", max_voxels=24, jobs=0).failed
    assert failure.case == "b"
    assert "25 voxels" in failure.reason
    assert "max_voxels" in failure.reason
    with pytest.raises(RWLossError, match="max_voxels"):  # not one case to count classes in
        precompute(source, tmp_path / "none", "rectified", max_voxels=1, jobs=0)


@pytest.mark.parametrize("command", [precompute, plan])
def test_wrong_use_is_found_before_the_folder_is_made(tmp_path, command):
    right = {"source": SAMPLE, "out": tmp_path / "out", "expression": "rectified", "jobs": 0}
    for asked, words in (
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
    ):
        with pytest.raises(RWLossError, match=words):
            command(**right | asked)
        assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("mine")
    for where in (tmp_path / "out", tmp_path / "out" / "inner"):
        with pytest.raises(RWLossError, match=r"can't be (written|read)"):
            command(SAMPLE, where, "rectified", jobs=0)


# --- What is written down


def test_the_log_tells_the_story(tmp_path, monkeypatch):
    """With the source as it is found from any folder."""
    source = saved(tmp_path / "labels", a=[[0, 1]], b=[[0, 1]], c=[[0, 7]])
    monkeypatch.chdir(tmp_path)
    precompute("labels", "out", "rectified", num_classes=2, jobs=0)
    saved(source, b=[[1, 0]])
    precompute("labels", "out", "rectified", num_classes=2, jobs=0)
    events = lines(tmp_path / "out" / "log.jsonl")
    assert [(event["event"], event.get("case")) for event in events] == [
        *(("start", None), ("made", "a"), ("made", "b"), ("failed", "c"), ("end", None)),
        *(("start", None), ("kept", "a"), ("made", "b"), ("failed", "c"), ("end", None)),
    ]
    start, end = events[0], events[-1]
    assert start["source"] == str(source)
    assert (start["cases"], start["jobs"], start["scheduler"]) == (3, 0, None)
    assert (start["pid"], start["host"]) == (os.getpid(), socket.gethostname())
    assert start["versions"].keys() >= {"rwloss", "numpy", "scipy", "gzip"}
    assert "label 7" in events[3]["reason"]
    assert all(event["seconds"] >= 0 for event in events if event["event"] != "start")
    assert (end["made"], end["kept"], end["failed"]) == (1, 1, 1)
    times = [event["time"] for event in events]
    assert times == sorted(times)
    precompute(data.find("labels"), "other", "rectified", num_classes=2, jobs=0)
    assert lines(tmp_path / "other" / "log.jsonl")[0]["source"] is None


def test_the_description_has_every_parameter(tmp_path):
    source = small(tmp_path / "labels", 1)
    text = "rectified(scope='component') + 0.5 * boundary"
    precompute(source, tmp_path / "out", text, jobs=0)
    found = json.loads((tmp_path / "out" / "map.json").read_text())
    assert found["expression"] == str(maps.parse(text))
    first, second = found["terms"]
    assert (first["name"], second["name"]) == ("rectified", "boundary")
    assert first["parameters"]["scope"] == "component"
    assert first["parameters"].keys() >= {"weights", "beta"}
    assert second["parameters"]["convention"] == "kervadec"
    assert (found["layout"], found["format"], found["dtype"]) == (1, "nifti", "auto")
    assert found["engine"] == rwloss.distance.engine_name()


def test_the_size_in_the_summary_is_that_on_disk(tmp_path, kind):
    """Also where the labels are kept because only their type has changed."""
    source = small(tmp_path / "labels")
    for state in ("made", "kept"):
        summary = precompute(source, tmp_path / "out", "rectified", jobs=0, format=kind)
        assert {outcome.state for outcome in summary.outcomes} == {state}
        files = content(tmp_path / "out", without=("map.json", "manifest.jsonl", "log.jsonl"))
        assert summary.stored_bytes == sum(map(len, files.values()))
        assert summary.voxels == sum(np.load(file).size for file in source.iterdir())
        assert summary.dense_bytes == 4 * 3 * summary.voxels
        for file in source.iterdir():
            np.save(file, np.asfortranarray(np.load(file).astype(np.int32)))
