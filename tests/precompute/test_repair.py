"""What `repair` makes again."""

import json
import os
import shutil
import time

import numpy as np
import pytest
from stored import (
    ATTACKS,
    FORMATS,
    FOUR_CASES,
    a_file_of,
    flip_a_bit,
    problems_of,
    snapshot,
    write_nifti,
)

from rwloss import data, store
from rwloss.errors import RWLossError
from rwloss.precompute import precompute
from rwloss.precompute.repair import repair
from rwloss.store.place import place
from rwloss.store.verify import verify


@pytest.mark.parametrize("kind", FORMATS)
def test_repair_makes_just_what_is_wrong_and_the_store_is_what_it_was(
    store_of_four, four_cases, kind
):
    out = store_of_four(kind)
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
    assert problems_of(out) == []
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


def test_repair_makes_stale_maps_again(store_of_four, four_cases):
    """A case that can't be made again is in the summary."""
    out = store_of_four()
    write_nifti(four_cases / "c.nii.gz", seed=99)
    (four_cases / "b.nii.gz").write_bytes(b"torn")
    a_file_of(out, "nifti", "d").unlink()
    summary = repair(out, verify(out, jobs=0), jobs=0)
    assert (summary.made, summary.kept) == (2, 1)
    assert [outcome.case for outcome in summary.failed] == ["b"]
    labels = data.read_labels(four_cases / "c.nii.gz").labels
    assert np.array_equal(store.open(out)["c"].labels[0], labels)
    assert problems_of(out) == [("stale", "b")]


@pytest.mark.parametrize("kind", FORMATS)
def test_repair_makes_again_what_its_digest_does_not_show(store_of_four, kind):
    out = store_of_four(kind)
    before = snapshot(out)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    lines[1]["shape"] = [5, 6, 3]
    (out / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert problems_of(out) == [("damaged", "b")]
    summary = repair(out, verify(out, jobs=0), jobs=0)
    assert (summary.made, summary.kept) == (1, 3)
    assert problems_of(out) == []
    assert (out / "manifest.jsonl").read_bytes() == before["manifest.jsonl"][2]


def test_repair_leaves_foreign_files_alone(store_of_four, four_cases):
    out = store_of_four()
    (out / "notes.txt").write_text("mine")
    (four_cases / "a.nii.gz").unlink()
    a_file_of(out, "nifti").unlink()
    repair(out, verify(out, jobs=0), jobs=0)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "a_true.nii.gz").exists()
    assert problems_of(out) == [("foreign", "a"), ("foreign", "notes.txt")]


def test_repair_keeps_every_setting_of_the_store(four_cases, tmp_path):
    for case in FOUR_CASES:
        labels = data.read_labels(four_cases / f"{case}.nii.gz").labels
        (four_cases / f"{case}.nii.gz").unlink()
        np.save(four_cases / f"{case}.npy", labels)
    out = tmp_path / "maps"
    settings = {"spacing_mm": (1.0, 1.5, 2.0), "ignore_label": 2, "num_classes": 5}
    text = "class_weighted(weights='dataset_inverse') + boundary"
    precompute(four_cases, out, text, **settings, dtype="float32", jobs=0)
    before = snapshot(out)
    a_file_of(out, "nifti", part="values").unlink()
    # The expression may be named, with its terms in any order; the store keeps its own.
    turned = "boundary + class_weighted(weights='dataset_inverse')"
    assert precompute(four_cases, out, turned, **settings, dtype="float32", jobs=0).made == 1
    a_file_of(out, "nifti", part="values").unlink()
    with pytest.raises(RWLossError, match=r"holds maps of class_weighted.*, not of 2 "):
        repair(out, verify(out, jobs=0), expression=f"2 * {turned}", jobs=0)
    summary = repair(out, verify(out, jobs=0), expression=turned, jobs=0)
    assert (summary.made, summary.kept) == (1, 3)
    for name in ("map.json", "b_values.nii.gz", "manifest.jsonl"):
        assert (out / name).read_bytes() == before[name][2]


def test_repair_needs_a_dataset_and_the_store_for_itself(store_of_four, four_cases):
    out, moved = store_of_four(), four_cases.with_name("moved")
    four_cases.rename(moved)
    a_file_of(out, "nifti").unlink()
    report = verify(out, jobs=0)
    with pytest.raises(RWLossError, match=r"no file or folder.*--data"):
        repair(out, report, jobs=0)
    with place(out).lock(), pytest.raises(RWLossError, match="another run is writing"):
        repair(out, report, moved, jobs=0)
    assert repair(out, report, moved, jobs=0).made == 1


def test_a_store_does_not_choose_which_code_is_run(store_of_four, tmp_path, monkeypatch):
    out = store_of_four()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('it was run')")
    fields = json.loads((out / "map.json").read_text())
    a_file_of(out, "nifti").unlink()
    for text in ATTACKS:
        (out / "map.json").write_text(json.dumps(fields | {"expression": text}))
        report = verify(out, jobs=0)
        assert [problem.kind for problem in report.problems] == ["missing"]
        with pytest.raises(RWLossError, match=r"mine\.py is Python code|expected|unknown"):
            repair(out, report, jobs=0)


def test_a_tree_without_its_mark_is_damaged_and_made_again(store_of_four):
    out = store_of_four("zarr")
    mark = out / "b.zarr" / "zarr.json"
    for content in (None, b"", b"{}"):
        if content is None:
            mark.unlink()
        else:
            mark.write_bytes(content)
        assert problems_of(out) == [("damaged", "b")]
        assert repair(out, verify(out, jobs=0), jobs=0).made == 1
        assert problems_of(out) == []


def test_an_address(four_cases):
    where = f"memory://verify-{os.getpid()}/maps"
    precompute(four_cases, where, "rectified", format="zarr", num_classes=3, jobs=0)
    assert problems_of(where) == []
    files = place(where)
    files.write("b.zarr/true/c/0/0/0", b"torn")
    files.write("notes.txt", b"x")
    assert problems_of(where) == [("foreign", "notes.txt"), ("damaged", "b")]
    assert "names no dataset" in verify(where, jobs=0).note  # nothing is appended to objects
    summary = repair(where, verify(where, four_cases, jobs=0), four_cases, jobs=0)
    assert (summary.made, summary.kept) == (1, 3)
    assert problems_of(where, four_cases) == [("foreign", "notes.txt")]
