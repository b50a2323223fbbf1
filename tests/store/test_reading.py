"""Reading a store: what is asked for wrongly, what is damaged, and how much is read."""

import os
import pickle
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
import stored
from stored import LABELS, assert_same, changed, content, damages, info, made, random_map

import rwloss
from rwloss import RWLossError
from rwloss.store import Writer
from rwloss.store.manifest import last_start, log
from rwloss.store.place import Folder, place
from rwloss.store.verify import verify

WHOLE = np.s_[0:6, 0:7, 0:5]


@pytest.fixture
def store(tmp_path, kind):
    """Two cases, compact and dense."""
    return stored.store_of(tmp_path, {"case_1": made(), "case_2": made("boundary")}, format=kind)


# --- A mapping


def test_a_store_is_a_mapping(store):
    assert dict(store).keys() == {"case_1", "case_2"}
    assert "case_1" in store
    assert "case_11" not in store
    assert store.get("case_11") is None
    assert 3 not in store


def test_an_unknown_case_names_the_nearest(store, tmp_path):
    with pytest.raises(KeyError, match=rf"no case 'case_11' in {tmp_path}.*case_1"):
        store["case_11"]
    with pytest.raises(KeyError, match="no case 'case_11'"):
        store.read("case_11", WHOLE)


def test_a_store_goes_to_another_process(store):
    """Loaders of batches send it to their workers."""
    unread = pickle.dumps(store)
    entries = store.entries
    for again in (pickle.loads(unread), pickle.loads(pickle.dumps(store))):
        assert_same(again["case_1"], store["case_1"])
        assert again.entries == entries


def test_an_empty_store(tmp_path, kind):
    with Writer.open(place(tmp_path), info(format=kind)):
        pass
    store = rwloss.store.open(tmp_path)
    assert (len(store), list(store)) == (0, [])
    with pytest.raises(KeyError, match="no case 'a'"):
        store["a"]


def test_no_store(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for where in ("nothing", "folder", "file", "file/inner"):
        with pytest.raises(RWLossError, match=r"no map\.json; `rwloss precompute` makes one"):
            rwloss.store.open(tmp_path / where)


# --- Regions


NO_REGIONS = [
    (),
    np.s_[0:2, 0:2],
    np.s_[0:2, 0:2, 0:2, 0:2],
    np.s_[0:2],
    np.s_[0:2, ..., 0:2],
    np.s_[0:2, 0:2, None],
    (0, slice(0, 2), slice(0, 2)),
    ((0, 2), (0, 2), (0, 2)),
    np.s_[0:0, 0:2, 0:2],
    np.s_[3:2, 0:2, 0:2],
    np.s_[6:8, 0:2, 0:2],
    np.s_[0:4:2, 0:2, 0:2],
    np.s_[::-1, 0:2, 0:2],
    np.s_[0:2:0, 0:2, 0:2],
    np.s_[0:1.5, 0:2, 0:2],
    np.s_["a":"b", 0:2, 0:2],
    "abc",
    7,
]


def test_regions_that_do_not_fit(store):
    for region in NO_REGIONS:
        with pytest.raises(RWLossError) as caught:
            store.read("case_1", region)
        message = str(caught.value)
        assert "case_1 has shape (6, 7, 5): expected one slice of step 1 per axis" in message
        assert message.endswith(f"got {region!r}")


def test_a_part_of_zarr_reads_no_more_than_its_chunks(tmp_path, monkeypatch):
    from zarr.storage import WrapperStore

    rwmap = random_map(1, (130, 128, 129), "compact")
    store = stored.store_of(tmp_path, {"case": rwmap}, format="zarr")
    read = Counter()

    class Counting(WrapperStore):
        async def get(self, key, prototype, byte_range=None):
            found = await super().get(key, prototype, byte_range)
            read[key] += len(found)
            return found

    real = Folder.tree_store
    monkeypatch.setattr(Folder, "tree_store", lambda self, name: Counting(real(self, name)))
    region = np.s_[64:96, 64:128, 0:20]
    part = store.read("case", region)
    patch = dict(read)
    read.clear()
    whole = store["case"]
    for name, values in stored.parts(part).items():
        np.testing.assert_array_equal(values, stored.parts(whole)[name][(..., *region)])
    sizes = {name.removeprefix("case.zarr/"): len(b) for name, b in content(tmp_path).items()}
    for name in ("labels/c/0/0/0", "true/c/0/0/0", "other/c/0/0/0"):
        assert read[name] > 0.99 * sizes[name]
        assert patch[name] < 0.15 * sizes[name]


# --- Damage


def damaged(store, tmp_path):
    """Each file of each case, with each thing that may happen to it."""
    for name, whole in content(tmp_path).items():
        if name not in ("map.json", "manifest.jsonl"):
            case = name[: len("case_1")]
            for what, new in damages(whole).items():
                yield case, tmp_path / name, what, new


def test_damage_is_an_error_and_never_other_values(store, tmp_path, kind):
    seen = 0
    for case, file, what, new in damaged(store, tmp_path):
        with changed(file, new):
            again = rwloss.store.open(tmp_path)
            if file.parent.name == f"{case}.zarr":
                # Of the tree as a whole: not needed where the manifest knows the case.
                assert_same(again[case], store[case])
                continue
            for region in (None, WHOLE):
                with pytest.raises(RWLossError) as caught:
                    again.read(case, region)
                assert case in str(caught.value)
                assert "can't be read" in str(caught.value)
                assert "precompute it again" in str(caught.value), what
        seen += 1
    assert seen == {"nifti": 4 * 4, "zarr": 4 * 2 * 4}[kind]
    assert_same(rwloss.store.open(tmp_path)["case_1"], store["case_1"])


def test_files_of_another_case_are_noticed(tmp_path, kind):
    rwmaps = {"one": made(), "two": made(labels=LABELS[:3])}
    store = stored.store_of(tmp_path, rwmaps, format=kind)
    name = store.entries["one"].parts["true"].file
    (tmp_path / name).rename(tmp_path / "aside")
    (tmp_path / name.replace("one", "two")).rename(tmp_path / name)
    with pytest.raises(RWLossError, match=r"one.* shape is \(3, 7, 5\)|one.* shape \(3, 7, 5\)"):
        store["one"]


def test_a_manifest_that_names_no_tree(tmp_path):
    store = stored.store_of(tmp_path, {"case": made()}, format="zarr")
    entry = store.entries["case"]
    part = entry.parts["true"].model_copy(update={"file": "case.zarr"})
    line = entry.model_copy(update={"parts": entry.parts | {"true": part}}).line
    (tmp_path / "manifest.jsonl").write_bytes(line)
    with pytest.raises(RWLossError, match=r"case\.zarr can't be read"):
        rwloss.store.open(tmp_path)["case"]


# --- Stores from others


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_the_place_of_a_file_holds_nothing_up(tmp_path, kind):
    stored.store_of(tmp_path, {"case": made()}, format=kind)
    log(place(tmp_path), "start")
    values = stored.a_file_of(tmp_path, kind, "case").relative_to(tmp_path)
    for name in ("map.json", "manifest.jsonl", "log.jsonl", values):
        file = tmp_path / name
        file.rename(tmp_path / "aside")
        os.mkfifo(file)
        if name == "log.jsonl":
            assert last_start(place(tmp_path)) == {}
            with pytest.raises(OSError, match="not a regular file"):
                log(place(tmp_path), "start")
        else:
            with pytest.raises(RWLossError, match="not a regular file"):
                rwloss.store.open(tmp_path)["case"]
            with suppress(RWLossError):
                assert not verify(tmp_path, jobs=0).is_complete
        file.unlink()
        (tmp_path / "aside").rename(file)


def add_to(out):
    with Writer.open(place(out), info()) as writer:
        log(writer.place, "start")
        stored.add(writer, "other")


def test_no_link_is_written_through(tmp_path):
    """A store from someone else may name files of the user."""
    mine, out = tmp_path / "mine.txt", tmp_path / "out"
    mine.write_text("mine")
    stored.store_of(out, {"case": made()})
    for name in ("log.jsonl", "manifest.jsonl", ".rwloss-lock"):
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(mine)
        with pytest.raises((RWLossError, OSError), match="link"):
            add_to(out)
        assert mine.read_text() == "mine"
        (out / name).unlink()
