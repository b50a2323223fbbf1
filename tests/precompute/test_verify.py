"""What `verify` finds in stores that were tampered with, and what `repair` makes good."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from functools import cache

import nibabel
import numpy as np
import pytest

from rwloss import data, store
from rwloss.errors import RWLossError
from rwloss.precompute import precompute
from rwloss.precompute.verify import Check, repair, runs_a_file, verify
from rwloss.store.digest import files_digest
from rwloss.store.place import place

CASES = ["a", "b", "c", "d"]
FORMATS = ["nifti", "zarr"]


def write_labels(path, seed=0, spacing_mm=(1.0, 1.0, 2.0)):
    labels = np.random.default_rng(seed).integers(0, 3, (5, 6, 4)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([*spacing_mm, 1.0])), path)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A function that gives a folder with the labels of four cases, and a store of their maps."""
    top = tmp_path_factory.mktemp("originals")
    (top / "labels").mkdir()
    for seed, case in enumerate(CASES):
        write_labels(top / "labels" / f"{case}.nii.gz", seed)

    @cache
    def made(kind, expression):
        out = top / f"{kind} {expression}"
        summary = precompute(top / "labels", out, expression, format=kind, num_classes=3, jobs=0)
        assert not summary.failed
        return top / "labels", out

    return made


@pytest.fixture
def source(originals, tmp_path):
    labels, _ = originals("nifti", "rectified")
    return shutil.copytree(labels, tmp_path / "labels")


@pytest.fixture
def make(originals, source, tmp_path):
    """A function that gives a store of the four cases, of one's own."""

    def made(kind="nifti", expression="rectified"):
        labels, out = originals(kind, expression)
        copied = shutil.copytree(out, tmp_path / "maps")
        log = copied / "log.jsonl"
        log.write_text(log.read_text().replace(json.dumps(str(labels)), json.dumps(str(source))))
        return copied

    return made


def found(out, source=None, **options):
    report = verify(out, source, jobs=0, **options)
    assert sum(report.counts.values()) == len(report.problems)
    return [(problem.kind, problem.name) for problem in report.problems]


def a_file_of(out, kind, case="b", part="true"):
    """The file with the values of a part."""
    if kind == "nifti":
        return out / f"{case}_{part}.nii.gz"
    [file] = [file for file in (out / f"{case}.zarr" / part / "c").rglob("*") if file.is_file()]
    return file


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def snapshot(folder):
    """Every file below with all that a write would change."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(folder.rglob("*"))
    }


# --- What is found


@pytest.mark.parametrize("kind", FORMATS)
def test_a_whole_store_is_whole_and_left_as_it_is(make, source, kind):
    out = make(kind)
    before = snapshot(out)
    seen = []
    report = verify(out, jobs=0, progress=lambda good, total: seen.append((good, total)))
    assert report.problems == report.leftovers == ()
    assert (report.source, report.note, report.cases) == (str(source), "", 4)
    assert seen == [(True, 4)] * 4
    assert snapshot(out) == before


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("part", ["labels", "true"])
def test_a_flipped_bit_is_damage(make, kind, part):
    out = make(kind)
    flip_a_bit(a_file_of(out, kind, "b", part))
    assert found(out) == [("damaged", "b")]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_deleted_file_is_missing(make, kind):
    out = make(kind)
    if kind == "nifti":
        a_file_of(out, kind).unlink()
    else:
        shutil.rmtree(out / "b.zarr")
    assert found(out) == [("missing", "b")]


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_tree_without_its_mark_is_damaged_and_mended(make, content):
    out = make("zarr")
    mark = out / "b.zarr" / "zarr.json"
    if content is None:
        mark.unlink()
    else:
        mark.write_bytes(content)
    assert found(out) == [("damaged", "b")]
    assert repair(out, verify(out, jobs=0), jobs=0).made == 1
    assert found(out) == []


def test_a_case_without_a_line_is_missing(make):
    out = make()
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[:1] + lines[2:]))
    assert found(out) == [("missing", "b")]


def test_a_last_line_cut_short_is_no_damage_but_its_case_is_missing(make):
    out = make()
    content = (out / "manifest.jsonl").read_bytes()
    (out / "manifest.jsonl").write_bytes(content[:-30])
    assert found(out) == [("missing", "d")]


def test_a_damaged_line_is_found_and_its_case_is_missing(make):
    out = make()
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join([lines[0], lines[1][:40] + "\n", *lines[2:]]))
    report = verify(out, jobs=0)
    kinds = [(problem.kind, problem.name) for problem in report.problems]
    assert kinds == [("missing", "b"), ("damaged", "manifest.jsonl")]
    assert "line 2" in report.problems[1].reason


def test_a_lost_manifest_is_damage(make):
    out = make()
    (out / "manifest.jsonl").unlink()
    assert found(out) == [*(("missing", case) for case in CASES), ("damaged", "manifest.jsonl")]


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"layout": 2}'])
def test_a_damaged_map_json_is_all_that_is_said(make, content):
    out = make()
    if content is None:
        (out / "map.json").unlink()
    else:
        (out / "map.json").write_bytes(content)
    report = verify(out, jobs=0)
    [problem] = report.problems
    assert (problem.kind, problem.name) == ("damaged", "map.json")
    assert not report.repairable


def test_a_whole_tree_that_no_line_names_is_missing_from_the_manifest(make):
    out = make("zarr")
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[:-1]))
    report = verify(out, jobs=0)
    [problem] = report.problems
    assert (problem.kind, problem.name) == ("missing", "d")
    assert "the manifest does not list it" in problem.reason


def test_changed_labels_are_stale(make, source):
    out = make()
    write_labels(source / "c.nii.gz", seed=99)
    assert found(out) == [("stale", "c")]


def test_a_changed_spacing_is_stale(make, source):
    out = make()
    write_labels(source / "c.nii.gz", seed=2, spacing_mm=(1.0, 1.0, 2.5))
    assert found(out) == [("stale", "c")]


def test_labels_that_are_only_stored_otherwise_are_not_stale(make, source):
    out = make()
    image = nibabel.load(source / "c.nii.gz")
    labels = np.asarray(image.dataobj).astype(np.int32)
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), source / "c.nii.gz")
    assert found(out) == []


def test_labels_that_can_no_longer_be_read_are_stale(make, source):
    out = make()
    (source / "c.nii.gz").write_bytes(b"torn")
    report = verify(out, jobs=0)
    [problem] = report.problems
    assert (problem.kind, problem.name) == ("stale", "c")
    assert "can't be compared" in problem.reason
    assert "c.nii.gz" in problem.reason


def test_a_new_case_is_missing_and_a_gone_one_foreign(make, source):
    out = make()
    write_labels(source / "e.nii.gz", seed=5)
    (source / "a.nii.gz").unlink()
    assert found(out) == [("missing", "e"), ("foreign", "a")]


def test_why_a_case_is_missing(source, tmp_path):
    (source / "b.nii.gz").write_bytes(b"torn")
    precompute(source, tmp_path / "maps", "rectified", num_classes=3, jobs=0)
    [problem] = verify(tmp_path / "maps", jobs=0).problems
    assert (problem.kind, problem.name) == ("missing", "b")
    assert "the last run failed: cannot read" in problem.reason


@pytest.mark.parametrize("name", ["notes.txt", "e_true.nii.gz", ".hidden", "b_other.nii.gz", "sub"])
@pytest.mark.parametrize("kind", FORMATS)
def test_files_that_no_case_owns_are_foreign(make, kind, name):
    out = make(kind)
    if name == "sub":
        (out / name / "deeper").mkdir(parents=True)
    else:
        (out / name).write_text("x")
    assert found(out) == [("foreign", name)]


def test_temporary_files_are_named_but_no_problem(make):
    out = make()
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
        ("labels", np.full((5, 6, 4), 3, np.uint8), "no classes of 0..2"),
        ("labels", np.full((5, 6, 4), -2, np.int16), "no classes of 0..2"),
    ],
    ids=["nan", "infinite", "shape", "too large a label", "too small a label"],
)
def test_values_that_no_run_writes_are_damage_even_with_the_right_digest(
    make, part, array, message
):
    out = make()
    forge(out, "b", part, array)
    [problem] = verify(out, jobs=0).problems
    assert (problem.kind, problem.name) == ("damaged", "b")
    assert message in problem.reason


def test_another_number_of_classes_than_that_of_the_store_is_damage(make):
    out = make()
    forge(out, "b", "labels", np.zeros((5, 6, 4), np.uint8), num_classes=4)
    [problem] = verify(out, jobs=0).problems
    assert (problem.kind, problem.name) == ("damaged", "b")
    assert "the manifest says 4 classes, map.json 3" in problem.reason


def test_dense_maps_are_read_too(make):
    out = make(expression="boundary")
    assert found(out) == []
    forge(out, "b", "values", np.full((3, 5, 6, 4), np.nan, np.float32))
    assert found(out) == [("damaged", "b")]


def test_worker_processes_find_the_same(make, source):
    out = make()
    flip_a_bit(a_file_of(out, "nifti"))
    write_labels(source / "c.nii.gz", seed=99)
    in_two, here = verify(out, jobs=2), verify(out, jobs=0)
    assert in_two.problems == here.problems
    assert here.counts == {"missing": 0, "stale": 1, "foreign": 0, "damaged": 1}


def test_a_worker_that_dies_is_damage(make):
    out = make()
    opened = store.open(out)
    check = Check(place(out), opened.info, opened.entries["b"], None, 2**31)
    [problem] = check.died()
    assert (problem.kind, problem.name) == ("damaged", "b")


# --- The data set


def test_without_its_data_set_labels_are_not_compared(make, source):
    out = make()
    source.rename(source.with_name("moved"))
    report = verify(out, jobs=0)
    assert report.problems == ()
    assert report.source is None
    assert str(source) in report.note


def test_a_store_of_a_dataset_object_names_none(source, tmp_path):
    dataset = data.find(source)
    precompute(dataset, tmp_path / "maps", "rectified", num_classes=3, jobs=0)
    assert "names no data set" in verify(tmp_path / "maps", jobs=0).note
    assert verify(tmp_path / "maps", dataset, jobs=0).note == ""


def test_another_data_set_can_be_named(make, source):
    out = make()
    moved = source.rename(source.with_name("moved"))
    write_labels(moved / "c.nii.gz", seed=99)
    assert found(out, moved) == [("stale", "c")]
    with pytest.raises(RWLossError, match="no file or folder"):
        verify(out, source, jobs=0)


def test_what_is_no_store(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RWLossError, match="is no store of maps"):
            verify(path, jobs=0)


def test_an_address(source):
    where = f"memory://verify-{os.getpid()}/maps"
    precompute(source, where, "rectified", format="zarr", num_classes=3, jobs=0)
    assert found(where) == []
    files = place(where)
    files.write("b.zarr/true/c/0/0/0", b"torn")
    files.write("notes.txt", b"x")
    assert found(where) == [("foreign", "notes.txt"), ("damaged", "b")]
    assert "names no data set" in verify(where, jobs=0).note  # nothing is appended to objects
    summary = repair(where, verify(where, source, jobs=0), source, jobs=0)
    assert (summary.made, summary.kept) == (1, 3)
    assert found(where, source) == [("foreign", "notes.txt")]


# --- Repair


@pytest.mark.parametrize("kind", FORMATS)
def test_repair_makes_just_what_is_wrong_and_the_store_is_what_it_was(make, source, kind):
    out = make(kind)
    undisturbed = snapshot(out)
    flip_a_bit(a_file_of(out, kind, "a"))
    if kind == "nifti":
        a_file_of(out, kind, "b", "labels").unlink()
    else:
        shutil.rmtree(out / "b.zarr")
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join([*lines[:2], lines[2][:40] + "\n", lines[3]]))
    time.sleep(0.01)  # a rewritten file has another time
    report = verify(out, jobs=0)
    summary = repair(out, report, jobs=0)
    assert summary.expression == "rectified"
    assert not summary.failed
    assert found(out) == []
    now = snapshot(out)
    mine = {name for name in now if name.startswith("d") or (kind == "zarr" and name[0] == "c")}
    assert len(mine) >= 2
    for name in mine:  # same file, same time
        assert now[name] == undisturbed[name]
    # A tree carries its manifest line, so nothing was lost with that of c.
    assert (summary.made, summary.kept) == ((3, 1) if kind == "nifti" else (2, 2))
    for name, (_, _, content) in undisturbed.items():
        if name != "log.jsonl":
            assert now[name][2] == content
    assert now.keys() == undisturbed.keys()


def test_repair_makes_stale_maps_again(make, source):
    out = make()
    write_labels(source / "c.nii.gz", seed=99)
    summary = repair(out, verify(out, jobs=0), jobs=0)
    assert (summary.made, summary.kept) == (1, 3)
    labels = data.read_labels(source / "c.nii.gz").labels
    assert np.array_equal(store.open(out)["c"].labels[0], labels)
    assert found(out) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_repair_makes_again_what_its_digest_does_not_show(make, kind):
    out = make(kind)
    before = snapshot(out)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    lines[1]["shape"] = [5, 6, 3]
    (out / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert found(out) == [("damaged", "b")]
    summary = repair(out, verify(out, jobs=0), jobs=0)
    assert (summary.made, summary.kept) == (1, 3)
    assert found(out) == []
    assert (out / "manifest.jsonl").read_bytes() == before["manifest.jsonl"][2]


def test_repair_leaves_foreign_files_alone(make, source):
    out = make()
    (out / "notes.txt").write_text("mine")
    (source / "a.nii.gz").unlink()
    a_file_of(out, "nifti").unlink()
    repair(out, verify(out, jobs=0), jobs=0)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "a_true.nii.gz").exists()
    assert found(out) == [("foreign", "a"), ("foreign", "notes.txt")]


def test_repair_keeps_every_setting_of_the_store(source, tmp_path):
    for case in CASES:
        labels = data.read_labels(source / f"{case}.nii.gz").labels
        (source / f"{case}.nii.gz").unlink()
        np.save(source / f"{case}.npy", labels)
    out = tmp_path / "maps"
    settings = {"spacing_mm": (1.0, 1.5, 2.0), "ignore_label": 2, "num_classes": 5}
    text = "class_weighted(weights='dataset_inverse') + boundary"
    precompute(source, out, text, **settings, dtype="float32", jobs=0)
    before = snapshot(out)
    a_file_of(out, "nifti", part="values").unlink()
    summary = repair(out, verify(out, jobs=0), jobs=0)
    assert (summary.made, summary.kept) == (1, 3)
    for name in ("map.json", "b_values.nii.gz", "manifest.jsonl"):
        assert (out / name).read_bytes() == before[name][2]


def test_a_case_that_can_not_be_made_again_is_in_the_summary(make, source):
    out = make()
    (source / "b.nii.gz").write_bytes(b"torn")
    a_file_of(out, "nifti", "c").unlink()
    summary = repair(out, verify(out, jobs=0), jobs=0)
    assert [outcome.case for outcome in summary.failed] == ["b"]
    assert summary.made == 1
    assert found(out) == [("stale", "b")]


def test_repair_needs_a_data_set(make, source):
    out = make()
    source.rename(source.with_name("moved"))
    a_file_of(out, "nifti").unlink()
    report = verify(out, jobs=0)
    with pytest.raises(RWLossError, match=r"no file or folder.*--data"):
        repair(out, report, jobs=0)
    assert repair(out, report, source.with_name("moved"), jobs=0).made == 1


@pytest.mark.parametrize(
    "text",
    [
        "file('mine.py:Mine')",
        "mine.py:Mine",
        "rectified + file('mine\\x2epy:Mine')",
        "\ufb01le('m')",
    ],
)
def test_a_store_does_not_choose_which_code_is_run(make, tmp_path, monkeypatch, text):
    out = make()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('it was run')")
    fields = json.loads((out / "map.json").read_text())
    (out / "map.json").write_text(json.dumps(fields | {"expression": text}))
    a_file_of(out, "nifti").unlink()
    report = verify(out, jobs=0)
    assert [problem.kind for problem in report.problems] == ["missing"]
    with pytest.raises(RWLossError, match="comes from a Python file"):
        repair(out, report, jobs=0)


def test_names_that_only_look_like_files_run_none():
    for text in ("rectified", "profile + 0.5 * boundary(convention='kervadec')"):
        assert not runs_a_file(text)


def test_repair_of_a_store_in_use_says_so(make):
    out = make()
    a_file_of(out, "nifti").unlink()
    report = verify(out, jobs=0)
    with place(out).lock(), pytest.raises(RWLossError, match="another run is writing"):
        repair(out, report, jobs=0)
