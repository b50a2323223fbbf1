"""What `verify` finds in stores that were tampered with."""

from __future__ import annotations

import gzip
import json
import shutil

import nibabel
import numpy as np
import pytest
from stored import FORMATS, FOUR_CASES, a_file_of, flip_a_bit, problems_of, snapshot, write_nifti

from rwloss import data, store
from rwloss.errors import RWLossError
from rwloss.precompute import precompute
from rwloss.store.digest import files_digest
from rwloss.store.verify import MapCheck, verify

# --- What is found


@pytest.mark.parametrize("kind", FORMATS)
def test_a_whole_store_is_whole_and_left_as_it_is(store_of_four, four_cases, kind):
    out = store_of_four(kind)
    before = snapshot(out)
    seen = []
    report = verify(out, jobs=0, progress=lambda good, total: seen.append((good, total)))
    assert report.problems == report.leftovers == ()
    assert (report.source, report.note, report.cases) == (str(four_cases), "", 4)
    assert seen == [(True, 4)] * 4
    assert snapshot(out) == before


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("part", ["labels", "true"])
def test_a_flipped_bit_is_damage(store_of_four, kind, part):
    out = store_of_four(kind)
    flip_a_bit(a_file_of(out, kind, "b", part))
    assert problems_of(out) == [("damaged", "b")]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_deleted_file_is_missing(store_of_four, kind):
    out = store_of_four(kind)
    if kind == "nifti":
        a_file_of(out, kind).unlink()
    else:
        shutil.rmtree(out / "b.zarr")
    assert problems_of(out) == [("missing", "b")]


def test_a_case_without_a_line_is_missing(store_of_four):
    out = store_of_four()
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[:1] + lines[2:]))
    assert problems_of(out) == [("missing", "b")]


def test_a_last_line_cut_short_is_no_damage_but_its_case_is_missing(store_of_four):
    out = store_of_four()
    content = (out / "manifest.jsonl").read_bytes()
    (out / "manifest.jsonl").write_bytes(content[:-30])
    assert problems_of(out) == [("missing", "d")]


def test_a_damaged_line_is_found_and_its_case_is_missing(store_of_four):
    out = store_of_four()
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join([lines[0], lines[1][:40] + "\n", *lines[2:]]))
    report = verify(out, jobs=0)
    kinds = [(problem.kind, problem.name) for problem in report.problems]
    assert kinds == [("missing", "b"), ("damaged", "manifest.jsonl")]
    assert "line 2" in report.problems[1].reason


def test_a_lost_manifest_is_damage(store_of_four):
    out = store_of_four()
    (out / "manifest.jsonl").unlink()
    assert problems_of(out) == [
        *(("missing", case) for case in FOUR_CASES),
        ("damaged", "manifest.jsonl"),
    ]


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"layout": 2}'])
def test_a_damaged_map_json_is_all_that_is_said(store_of_four, content):
    out = store_of_four()
    if content is None:
        (out / "map.json").unlink()
    else:
        (out / "map.json").write_bytes(content)
    report = verify(out, jobs=0)
    [problem] = report.problems
    assert (problem.kind, problem.name) == ("damaged", "map.json")
    assert not report.repairable


def test_a_whole_tree_that_no_line_names_is_missing_from_the_manifest(store_of_four):
    out = store_of_four("zarr")
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[:-1]))
    report = verify(out, jobs=0)
    [problem] = report.problems
    assert (problem.kind, problem.name) == ("missing", "d")
    assert "the manifest does not list it" in problem.reason


def test_changed_labels_are_stale(store_of_four, four_cases):
    out = store_of_four()
    write_nifti(four_cases / "c.nii.gz", seed=99)
    assert problems_of(out) == [("stale", "c")]


def test_a_changed_spacing_is_stale(store_of_four, four_cases):
    out = store_of_four()
    write_nifti(four_cases / "c.nii.gz", seed=2, spacing_mm=(1.0, 1.0, 2.5))
    assert problems_of(out) == [("stale", "c")]


def test_labels_that_are_only_stored_otherwise_are_not_stale(store_of_four, four_cases):
    out = store_of_four()
    image = nibabel.load(four_cases / "c.nii.gz")
    labels = np.asarray(image.dataobj).astype(np.int32)
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), four_cases / "c.nii.gz")
    assert problems_of(out) == []


def test_labels_that_can_no_longer_be_read_are_stale(store_of_four, four_cases):
    out = store_of_four()
    (four_cases / "c.nii.gz").write_bytes(b"torn")
    report = verify(out, jobs=0)
    [problem] = report.problems
    assert (problem.kind, problem.name) == ("stale", "c")
    assert "can't be compared" in problem.reason
    assert "c.nii.gz" in problem.reason


def test_a_new_case_is_missing_and_a_gone_one_foreign(store_of_four, four_cases):
    out = store_of_four()
    write_nifti(four_cases / "e.nii.gz", seed=5)
    (four_cases / "a.nii.gz").unlink()
    assert problems_of(out) == [("missing", "e"), ("foreign", "a")]


def test_why_a_case_is_missing(four_cases, tmp_path):
    (four_cases / "b.nii.gz").write_bytes(b"torn")
    precompute(four_cases, tmp_path / "maps", "rectified", num_classes=3, jobs=0)
    [problem] = verify(tmp_path / "maps", jobs=0).problems
    assert (problem.kind, problem.name) == ("missing", "b")
    assert "the last run failed: cannot read" in problem.reason


@pytest.mark.parametrize("name", ["notes.txt", "e_true.nii.gz", ".hidden", "b_other.nii.gz", "sub"])
@pytest.mark.parametrize("kind", FORMATS)
def test_files_that_no_case_owns_are_foreign(store_of_four, kind, name):
    out = store_of_four(kind)
    if name == "sub":
        (out / name / "deeper").mkdir(parents=True)
    else:
        (out / name).write_text("x")
    assert problems_of(out) == [("foreign", name)]


def test_temporary_files_are_named_but_no_problem(store_of_four):
    out = store_of_four()
    (out / ".rwloss-part-123.nii.gz").write_text("x")
    report = verify(out, jobs=0)
    assert report.problems == ()
    assert report.leftovers == (".rwloss-part-123.nii.gz",)


def forge(out, case, part, array, **entry):
    """Write other values, and a manifest line that vouches for their bytes."""
    if array.ndim == 4:
        array = np.moveaxis(array, 0, -1)
    content = gzip.compress(nibabel.Nifti1Image(array, np.eye(4)).to_bytes())
    (out / f"{case}_{part}.nii.gz").write_bytes(content)
    lines = (out / "manifest.jsonl").read_text().splitlines()
    fields = [json.loads(line) for line in lines]
    [mine] = [field for field in fields if field["case"] == case]
    mine["parts"][part]["sha256"] = files_digest({"": content})
    mine.update(entry)
    (out / "manifest.jsonl").write_text("".join(json.dumps(field) + "\n" for field in fields))


@pytest.mark.parametrize(
    ("part", "array", "message"),
    [
        ("true", np.full((5, 6, 4), np.nan, np.float32), "not finite"),
        ("true", np.full((5, 6, 4), -np.inf, np.float32), "not finite"),
        ("true", np.zeros((5, 6, 3), np.float32), "shape (5, 6, 3)"),
        ("labels", np.full((5, 6, 4), 3, np.uint8), "not classes of 0..2"),
        ("labels", np.full((5, 6, 4), -2, np.int16), "not classes of 0..2"),
    ],
    ids=["nan", "infinite", "shape", "too large a label", "too small a label"],
)
def test_values_that_no_run_writes_are_damage_even_with_the_right_digest(
    store_of_four, part, array, message
):
    out = store_of_four()
    forge(out, "b", part, array)
    [problem] = verify(out, jobs=0).problems
    assert (problem.kind, problem.name) == ("damaged", "b")
    assert message in problem.reason


def test_another_number_of_classes_than_that_of_the_store_is_damage(store_of_four):
    out = store_of_four()
    forge(out, "b", "labels", np.zeros((5, 6, 4), np.uint8), num_classes=4)
    [problem] = verify(out, jobs=0).problems
    assert (problem.kind, problem.name) == ("damaged", "b")
    assert "the manifest says 4 classes, map.json 3" in problem.reason


def test_dense_maps_are_read_too(store_of_four):
    out = store_of_four(expression="boundary")
    assert problems_of(out) == []
    forge(out, "b", "values", np.full((3, 5, 6, 4), np.nan, np.float32))
    assert problems_of(out) == [("damaged", "b")]


def test_worker_processes_find_the_same(store_of_four, four_cases):
    out = store_of_four()
    flip_a_bit(a_file_of(out, "nifti"))
    write_nifti(four_cases / "c.nii.gz", seed=99)
    in_two, here = verify(out, jobs=2), verify(out, jobs=0)
    assert in_two.problems == here.problems
    assert here.counts == {"missing": 0, "stale": 1, "foreign": 0, "damaged": 1}


def test_a_worker_that_dies_is_damage(store_of_four):
    out = store_of_four()
    opened = store.open(out)
    check = MapCheck(opened, opened.entries["b"], None, 2**31)
    [problem] = check.died()
    assert (problem.kind, problem.name) == ("damaged", "b")


# --- The data set


def test_without_its_data_set_labels_are_not_compared(store_of_four, four_cases):
    out = store_of_four()
    four_cases.rename(four_cases.with_name("moved"))
    report = verify(out, jobs=0)
    assert report.problems == ()
    assert report.source is None
    assert str(four_cases) in report.note


def test_a_store_of_a_dataset_object_names_none(four_cases, tmp_path):
    dataset = data.find(four_cases)
    precompute(dataset, tmp_path / "maps", "rectified", num_classes=3, jobs=0)
    assert "names no dataset" in verify(tmp_path / "maps", jobs=0).note
    assert verify(tmp_path / "maps", dataset, jobs=0).note == ""


def test_another_data_set_can_be_named(store_of_four, four_cases):
    out = store_of_four()
    moved = four_cases.rename(four_cases.with_name("moved"))
    write_nifti(moved / "c.nii.gz", seed=99)
    assert problems_of(out, moved) == [("stale", "c")]
    with pytest.raises(RWLossError, match="no file or folder"):
        verify(out, four_cases, jobs=0)


def test_what_is_no_store(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RWLossError, match="is not a store of maps"):
            verify(path, jobs=0)
