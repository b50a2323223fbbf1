"""Writing a store: what it is taken up with, what it refuses, and when a case is done."""

import numpy as np
import pytest
import stored
from stored import LABELS, changed, content, damages, info, made

import rwloss
from rwloss import RWLossError
from rwloss.store import Term, Writer
from rwloss.store.manifest import write_entries, write_failures
from rwloss.store.place import place
from rwloss.store.store import damaged_files


def refused(where, wanted, match):
    """Neither to write to nor to look at."""
    with pytest.raises(RWLossError, match=match), Writer.open(place(where), wanted):
        pass
    with pytest.raises(RWLossError, match=match):
        Writer.look(place(where), wanted)


# --- Taking up a store


def test_a_store_begins_with_its_description(tmp_path):
    where = tmp_path / "a" / "b"
    with Writer.open(place(where), info()) as writer:
        assert writer.info == info()
        assert writer.entries() == {}
    assert rwloss.store.open(where).info == info()
    assert set(content(where)) == {"map.json", "manifest.jsonl"}


def test_other_versions_go_on_with_the_store_of_the_first(tmp_path):
    first, later = info(versions={"numpy": "1"}), info(versions={"numpy": "2", "edt": "3"})
    with Writer.open(place(tmp_path), first):
        pass
    with Writer.open(place(tmp_path), later) as writer:
        assert writer.info == first
    assert Writer.look(place(tmp_path), later).info == first
    assert rwloss.store.open(tmp_path).info == first


def test_another_map_is_refused_in_words(tmp_path):
    stored.store_of(tmp_path, {"case": made()})
    before = content(tmp_path)
    scope = Term(name="rectified", parameters={"scope": "image"})
    for changes, words in [
        ({"engine": "edt"}, r"engine 'scipy' \(now 'edt'\)"),
        ({"dtype": "float32"}, r"dtype 'auto' \(now 'float32'\)"),
        ({"format": "zarr"}, r"format 'nifti' \(now 'zarr'\)"),
        ({"num_classes": 4}, r"num_classes 3 \(now 4\)"),
        ({"spacing_mm": (1.0, 2.0)}, r"spacing_mm None \(now \(1.0, 2.0\)\)"),
        ({"ignore_label": 2}, r"ignore_label None \(now 2\)"),
        ({"class_names": ("a", "b", "c")}, "class_names"),
        ({"expression": "boundary"}, r"expression 'rectified' \(now 'boundary'\): name another"),
        (
            {"expression": "boundary", "terms": (Term(name="boundary"),)},
            r"expression 'rectified' \(now 'boundary'\): name another folder",
        ),
        # A default that another version of rwloss has: the same text, another map.
        ({"terms": (scope,)}, "terms .*scope"),
        ({"engine": "edt", "num_classes": 4}, "num_classes 3 .*; engine 'scipy'"),
    ]:
        refused(tmp_path, info(**changes), f"holds another map, with {words}")
        assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["thesis.tex", "manifest.jsonl", "case_true.nii.gz", ".hidden"])
def test_a_folder_with_other_files_is_refused(tmp_path, name):
    (tmp_path / name).write_text("mine")
    refused(tmp_path, info(), rf"holds other files \('{name}'\): name a new or an empty folder")
    assert content(tmp_path).keys() - {".rwloss-lock"} == {name}


def test_a_store_in_which_nothing_was_made_is_free_for_another_map(tmp_path):
    """A run in which every case failed must not block its folder for the right settings."""
    with Writer.open(place(tmp_path), info(ignore_label=255)) as writer:
        write_failures(writer.place, [("case", "label 7 found")])
        writer.entries()
    other = info("boundary", format="zarr")
    assert Writer.look(place(tmp_path), other).info == other
    with Writer.open(place(tmp_path), other) as writer:
        made_here = stored.add(writer, "case", made("boundary"))
        write_entries(writer.place, [made_here])
    assert rwloss.store.open(tmp_path).info == other
    refused(tmp_path, info(), "holds another map")
    (tmp_path / "manifest.jsonl").unlink()  # a tree of a killed run counts too
    refused(tmp_path, info(), "holds another map")


def test_what_a_killed_run_left_before_the_first_file_is_no_other_file(tmp_path):
    (tmp_path / ".rwloss-lock").write_text("")
    (tmp_path / ".rwloss-part-x").write_text("half")
    with Writer.open(place(tmp_path), info()):
        pass
    assert set(content(tmp_path)) == {"map.json"}


def test_other_files_in_a_store_are_left_alone(tmp_path, kind):
    """Notes, or what another program puts into every folder."""
    stored.store_of(tmp_path, {"case": made()}, format=kind)
    (tmp_path / "README").write_text("mine")
    with Writer.open(place(tmp_path), info(format=kind)) as writer:
        write_entries(writer.place, writer.entries().values())
    assert (tmp_path / "README").read_text() == "mine"
    assert list(rwloss.store.open(tmp_path)) == ["case"]


def test_looking_writes_nothing(tmp_path):
    Writer.look(place(tmp_path / "out"), info())
    assert not (tmp_path / "out").exists()
    stored.store_of(tmp_path / "out", {"case": made()})
    before = content(tmp_path / "out")
    Writer.look(place(tmp_path / "out"), info())
    assert content(tmp_path / "out") == before


# --- Cases


def test_the_manifest_grows_and_is_sorted_at_the_end(tmp_path, kind):
    with Writer.open(place(tmp_path), info(format=kind)) as writer:
        entries = {case: stored.add(writer, case) for case in "cab"}
        assert list(map(str, (tmp_path / "manifest.jsonl").read_text().splitlines())) == [
            entries[case].line.decode().rstrip() for case in "cab"
        ]
        assert writer.entries() == entries
        write_entries(writer.place, entries.values())
    assert (tmp_path / "manifest.jsonl").read_bytes() == b"".join(entries[c].line for c in "abc")


def test_a_case_made_again_counts_once(tmp_path, kind):
    with Writer.open(place(tmp_path), info(format=kind)) as writer:
        old = stored.add(writer, "case")
        new = stored.add(writer, "case", made(labels=LABELS[::-1]))
        assert old != new
        assert writer.entries() == {"case": new}
    store = rwloss.store.open(tmp_path)
    np.testing.assert_array_equal(store["case"].labels[0], LABELS[::-1])
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 1


def test_encoding_writes_nothing_and_says_the_size(tmp_path, kind):
    with Writer.open(place(tmp_path), info(format=kind)) as writer:
        encoded = writer.encode(
            "case", made(), labels_sha256="0", spacing_mm=stored.SPACING_MM, affine=None
        )
        assert set(content(tmp_path)) <= {"map.json", ".rwloss-lock"}
        writer.put(encoded)
        there = content(tmp_path, without=("map.json", ".rwloss-lock"))
        assert sum(map(len, there.values())) == encoded.size == writer.size(encoded.entry)


def test_a_killed_run_loses_no_tree(tmp_path):
    """Between a tree and its line in the manifest."""
    with Writer.open(place(tmp_path), info(format="zarr")) as writer:
        entry = stored.add(writer, "listed")
        lost = stored.add(writer, "lost")
        write_entries(writer.place, [entry])
    assert set(rwloss.store.open(tmp_path)) == {"listed"}
    with Writer.open(place(tmp_path), info(format="zarr")) as writer:
        assert writer.entries() == {"listed": entry, "lost": lost}
        assert writer.is_done(lost, lost.labels_sha256)


# --- Done


def test_done_means_the_same_labels_and_whole_files(tmp_path, kind):
    with Writer.open(place(tmp_path), info(format=kind)) as writer:
        entry = stored.add(writer)
        digest = entry.labels_sha256
        assert writer.is_done(entry, digest)
        assert not writer.is_done(None, digest)
        assert not writer.is_done(entry, "0" * 64)
        assert not writer.is_done(entry.model_copy(update={"num_classes": 4}), digest)
        files = [name for name in content(tmp_path) if name.startswith("case")]
        seen = 0
        for name in files:
            if name == "case.zarr/zarr.json":
                continue
            for what, new in damages((tmp_path / name).read_bytes()).items():
                with changed(tmp_path / name, new):
                    assert not writer.is_done(entry, digest), what
                    (reason,) = damaged_files(writer.place, entry).values()
                    assert reason.startswith("is ")
                seen += 1
        assert seen == {"nifti": 2 * 4, "zarr": 4 * 4}[kind]
        assert writer.is_done(entry, digest)


def test_a_tree_that_is_changed_is_not_done(tmp_path):
    """Without its own metadata zarr alone could not open it, and no manifest would find it."""
    with Writer.open(place(tmp_path), info(format="zarr")) as writer:
        entry = stored.add(writer)
        file = tmp_path / "case.zarr" / "zarr.json"
        for new in damages(file.read_bytes()).values():
            with changed(file, new):
                assert not writer.is_done(entry, entry.labels_sha256)
        assert writer.is_done(entry, entry.labels_sha256)
        (tmp_path / "case.zarr" / "true" / "c" / "1").write_text("")  # a file too many
        assert not writer.is_done(entry, entry.labels_sha256)
