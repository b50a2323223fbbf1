"""Writing and reading a store."""

import os

import numpy as np
import pytest

import rwloss
from rwloss import maps
from rwloss.errors import RWLossError
from rwloss.store import MapInfo, Writer, labels_digest
from rwloss.store.manifest import append_entry

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 3, (6, 7, 5)).astype(np.uint8)


def info(expression="rectified", **changes):
    fields = {"num_classes": 3, "engine": "scipy", "versions": {"rwloss": "0"}}
    return MapInfo(expression=expression, **fields | changes)


def add(writer, case, labels=LABELS, spacing_mm=(1.0, 1.0, 2.0)):
    generator = maps.parse(writer.info.expression)
    regions = rwloss.Regions.single(labels, 3, spacing_mm, writer.info.ignore_label)
    entry = writer.add(
        case,
        generator(regions),
        labels_sha256=labels_digest(labels, spacing_mm),
        spacing_mm=spacing_mm,
        affine=None,
    )
    writer.record(entry)
    return generator(regions), entry


STATIC = [name for name in maps.names() if maps.get(name).is_static]


@pytest.mark.parametrize("expression", STATIC)
@pytest.mark.parametrize("ignore_label", [None, 2])
def test_a_map_comes_back(tmp_path, expression, ignore_label):
    writer = Writer.start(tmp_path, info(expression, ignore_label=ignore_label))
    exact, _ = add(writer, "a case")
    store = rwloss.store.open(tmp_path)
    assert list(store) == ["a case"]
    assert "a case" in store
    assert store.expression == expression
    stored = store["a case"]
    assert stored.is_compact == exact.is_compact
    assert stored.num_classes == 3
    assert np.array_equal(stored.labels, exact.labels)
    assert stored.dense().shape == (1, 3, *LABELS.shape)
    assert np.abs(stored.dense() - exact.dense()).max() <= 3e-4
    if ignore_label is not None:
        assert not np.moveaxis(stored.dense(), 1, -1)[stored.labels == -1].any()


def test_a_2d_map_comes_back(tmp_path):
    writer = Writer.start(tmp_path, info("boundary"))
    exact, _ = add(writer, "slice", LABELS[0], (1.0, 0.5))
    stored = rwloss.store.open(tmp_path)["slice"]
    assert np.abs(stored.values - exact.values).max() <= 3e-4


def test_cases_are_sorted_and_an_unknown_one_names_the_nearest(tmp_path):
    writer = Writer.start(tmp_path, info())
    for case in ("case_2", "case_1"):
        add(writer, case)
    store = rwloss.store.open(tmp_path)
    assert list(store) == ["case_1", "case_2"]
    with pytest.raises(KeyError, match="case_1"):
        store["case_11"]


def test_a_torn_last_line_counts_as_missing(tmp_path):
    writer = Writer.start(tmp_path, info())
    add(writer, "whole")
    _, entry = add(writer, "torn")
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    assert list(rwloss.store.open(tmp_path)) == ["whole"]
    assert entry.case == "torn"


def test_damage_in_the_middle_of_the_manifest_is_an_error(tmp_path):
    writer = Writer.start(tmp_path, info())
    add(writer, "one")
    (tmp_path / "manifest.jsonl").write_bytes(b"{}\n")
    with pytest.raises(RWLossError, match="line 1, is damaged"):
        list(rwloss.store.open(tmp_path))


def test_done_means_same_labels_and_whole_files(tmp_path):
    writer = Writer.start(tmp_path, info())
    _, entry = add(writer, "case")
    digest = entry.labels_sha256
    assert writer.is_done(entry, digest)
    assert not writer.is_done(None, digest)
    assert not writer.is_done(entry, "0" * 64)
    file = tmp_path / "case_true.nii.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert not writer.is_done(entry, digest)
    file.unlink()
    assert not writer.is_done(entry, digest)
    file.write_bytes(whole)
    assert writer.is_done(entry, digest)


def test_another_map_in_the_folder_is_refused(tmp_path):
    Writer.start(tmp_path, info())
    Writer.start(tmp_path, info())
    with pytest.raises(RWLossError, match=r"expression 'rectified' \(now 'boundary'\)"):
        Writer.start(tmp_path, info("boundary"))


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RWLossError, match=r"thesis\.tex"):
        Writer.start(tmp_path, info())


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RWLossError, match="can't be written"):
        Writer.start(tmp_path / "file" / "out", info())


def test_no_store(tmp_path):
    with pytest.raises(RWLossError, match=r"no map\.json.*rwloss precompute"):
        rwloss.store.open(tmp_path)
    (tmp_path / "map.json").write_text("{")
    with pytest.raises(RWLossError, match="damaged"):
        rwloss.store.open(tmp_path)


def test_a_manifest_cannot_lead_outside_the_store(tmp_path):
    folder = tmp_path / "store"
    writer = Writer.start(folder, info())
    _, entry = add(writer, "case")
    part = entry.parts["true"].model_copy(update={"file": "../elsewhere.nii.gz"})
    os.rename(folder / "case_true.nii.gz", tmp_path / "elsewhere.nii.gz")
    append_entry(folder, entry.model_copy(update={"parts": entry.parts | {"true": part}}))
    with pytest.raises(RWLossError, match="elsewhere"):
        rwloss.store.open(folder)["case"]


def test_a_file_of_another_shape_is_noticed(tmp_path):
    writer = Writer.start(tmp_path, info())
    add(writer, "case")
    add(writer, "other", LABELS[:3])
    (tmp_path / "other_true.nii.gz").replace(tmp_path / "case_true.nii.gz")
    with pytest.raises(RWLossError, match=r"shape \(3, 7, 5\), the manifest says \(6, 7, 5\)"):
        rwloss.store.open(tmp_path)["case"]
