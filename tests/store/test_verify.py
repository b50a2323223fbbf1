"""What `verify` finds in stores that were tampered with."""

import gzip
import json
import re
import shutil

import nibabel
import numpy as np
import pytest
from stored import FOUR_CASES, a_file_of, flip_a_bit, problems_of, snapshot, write_nifti

from rwloss import data, maps, store
from rwloss.errors import RWLossError
from rwloss.precompute import precompute
from rwloss.store.manifest import files_digest
from rwloss.store.verify import MapCheck, verify

# --- What is found


def test_a_whole_store_is_whole_and_left_as_it_is(store_of_four, four_cases, kind):
    out = store_of_four(kind)
    before = snapshot(out)
    seen = []
    report = verify(out, jobs=0, progress=lambda good, total: seen.append((good, total)))
    assert report.problems == report.leftovers == ()
    assert (report.source, report.note, report.cases) == (str(four_cases), "", 4)
    assert seen == [(True, 4)] * 4
    assert snapshot(out) == before


@pytest.mark.parametrize("part", ["labels", "true"])
def test_a_flipped_bit_is_damage_and_a_deleted_file_is_missing(store_of_four, kind, part):
    out = store_of_four(kind)
    flip_a_bit(a_file_of(out, kind, "b", part))
    if kind == "nifti":
        a_file_of(out, kind, "c", part).unlink()
    else:
        shutil.rmtree(out / "c.zarr")
    assert problems_of(out) == [("missing", "c"), ("damaged", "b")]


def expect(out, wanted, source=None):
    """Problems by kind and name, each with a pattern of its reason."""
    found = {
        f"{each.kind} {each.name}": each.reason for each in verify(out, source, jobs=0).problems
    }
    assert list(found) == list(wanted)
    for name, reason in wanted.items():
        assert re.search(reason, found[name])


def test_lines_of_the_manifest(store_of_four):
    for kind, change, wanted in [
        ("nifti", lambda a, b, c, d: [a, c, d], {"missing b": "it has no map"}),
        ("nifti", lambda a, b, c, d: [a, b, c, d[:-30]], {"missing d": "it has no map"}),
        (
            "nifti",
            lambda a, b, c, d: [a, b[:40] + "\n", c, d],
            {"missing b": "it has no map", "damaged manifest.jsonl": "line 2 can't be read"},
        ),
        ("zarr", lambda a, b, c, d: [a, b, c], {"missing d": "the manifest does not list it"}),
    ]:
        out = store_of_four(kind)
        whole = (out / "manifest.jsonl").read_text()
        (out / "manifest.jsonl").write_text("".join(change(*whole.splitlines(keepends=True))))
        expect(out, wanted)
        shutil.rmtree(out)


def test_a_lost_manifest_is_damage(store_of_four):
    out = store_of_four()
    (out / "manifest.jsonl").unlink()
    missing = {f"missing {case}": "it has no map" for case in FOUR_CASES}
    expect(out, {**missing, "damaged manifest.jsonl": "is missing"})


def test_a_damaged_map_json_is_all_that_is_said(store_of_four):
    out = store_of_four()
    for content in (b"", b"{", b'{"layout": 2}', None):
        if content is None:
            (out / "map.json").unlink()
        else:
            (out / "map.json").write_bytes(content)
        expect(out, {"damaged map.json": "make the maps in another folder"})
        assert not verify(out, jobs=0).repairable


def test_a_term_of_rwloss_that_has_other_values_now(store_of_four, monkeypatch):
    out = store_of_four()
    monkeypatch.setattr(maps.Rectified, "map_version", "2")
    expect(out, {"stale map.json": r"it has other code of rectified \(built in, now 2\)"})
    report = verify(out, jobs=0)
    assert (report.repairable, report.uncompared) == (False, ())


@pytest.mark.parametrize(
    "term",
    [{"name": "mine", "revision": "own-maps 1.0"}, {"name": "rectified", "revision": "sha256:ab"}],
)
def test_code_of_others_is_named_and_not_compared(store_of_four, term):
    """Neither that of a package, nor that of a file with the name of a term of rwloss."""
    out = store_of_four()
    info = json.loads((out / "map.json").read_text())
    (out / "map.json").write_text(json.dumps({**info, "terms": [term, *info["terms"], term]}))
    report = verify(out, jobs=0)
    assert (report.problems, report.uncompared) == ((), (term["name"],))


def stored_as_int32(file):
    image = nibabel.load(file)
    labels = np.asarray(image.dataobj).astype(np.int32)
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), file)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda file: write_nifti(file, 99), {"stale c": "labels, or their spacing, changed"}),
        (lambda file: write_nifti(file, 2, (1.0, 1.0, 2.5)), {"stale c": "spacing, changed"}),
        (stored_as_int32, {}),
        (lambda file: file.write_bytes(b"torn"), {"stale c": r"can't be compared: .*c\.nii\.gz"}),
        (
            lambda file: file.rename(file.with_name("e.nii.gz")),
            {"missing e": "it has no map", "foreign c": "the dataset has no such case"},
        ),
    ],
    ids=["values", "spacing", "type", "torn", "name"],
)
def test_labels_that_change(store_of_four, four_cases, change, wanted):
    out = store_of_four()
    change(four_cases / "c.nii.gz")
    expect(out, wanted)


def test_why_a_case_is_missing(four_cases, tmp_path):
    (four_cases / "b.nii.gz").write_bytes(b"torn")
    precompute(four_cases, tmp_path / "maps", "rectified", num_classes=3, jobs=0)
    expect(tmp_path / "maps", {"missing b": "the last run failed: cannot read"})


def test_files_that_no_case_owns_are_foreign_but_temporary_ones_are_no_problem(store_of_four, kind):
    out = store_of_four(kind)
    names = [".hidden", "b_other.nii.gz", "e_true.nii.gz", "notes.txt"]
    for name in (*names, ".rwloss-part-123.nii.gz"):
        (out / name).write_text("x")
    (out / "sub" / "deeper").mkdir(parents=True)
    expect(out, {f"foreign {name}": "it belongs to no case" for name in (*names, "sub")})
    assert verify(out, jobs=0).leftovers == (".rwloss-part-123.nii.gz",)


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


def test_values_that_no_run_writes_are_damage_even_with_the_right_digest(store_of_four):
    shape = (5, 6, 4)
    for part, array, message, fields in [
        ("true", np.full(shape, np.nan, np.float32), "not finite", {}),
        ("true", np.full(shape, -np.inf, np.float32), "not finite", {}),
        ("true", np.zeros((5, 6, 3), np.float32), "shape (5, 6, 3)", {}),
        ("labels", np.full(shape, 3, np.uint8), "not classes of 0..2", {}),
        ("labels", np.full(shape, -2, np.int16), "not classes of 0..2", {}),
        (
            "labels",
            np.zeros(shape, np.uint8),
            "the manifest says 4 classes, map.json 3",
            {"num_classes": 4},
        ),
        ("values", np.full((3, *shape), np.nan, np.float32), "not finite", {}),
    ]:
        out = store_of_four(expression="boundary" if part == "values" else "rectified")
        forge(out, "b", part, array, **fields)
        [problem] = verify(out, jobs=0).problems
        assert (problem.kind, problem.name) == ("damaged", "b")
        assert message in problem.reason
        shutil.rmtree(out)


def test_worker_processes_find_the_same(store_of_four, four_cases):
    out = store_of_four()
    flip_a_bit(a_file_of(out, "nifti"))
    write_nifti(four_cases / "c.nii.gz", seed=99)
    there, here = verify(out, jobs=1), verify(out, jobs=0)
    assert there.problems == here.problems
    assert here.counts == {"missing": 0, "stale": 1, "foreign": 0, "damaged": 1}


def test_a_worker_that_dies_is_damage(store_of_four):
    out = store_of_four()
    opened = store.open(out)
    check = MapCheck(opened, opened.entries["b"], None, 2**31)
    [problem] = check.died()
    assert (problem.kind, problem.name) == ("damaged", "b")


# --- The dataset


def test_without_its_dataset_labels_are_not_compared(store_of_four, four_cases):
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


def test_another_dataset_can_be_named(store_of_four, four_cases):
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
