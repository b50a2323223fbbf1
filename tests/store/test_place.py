import os
import pickle
import shutil
import stat
from pathlib import Path

import pytest

from rwloss.errors import RWLossError
from rwloss.files.atomic import TEMPORARY_PREFIX
from rwloss.store.place import TREE_MARK, Bucket, Folder, place

OLD = {TREE_MARK: b"old mark", "true/zarr.json": b"old", "true/c/0": b"old chunk"}
NEW = {"true/c/0": b"new chunk", "other/c/0": b"more", TREE_MARK: b"new mark"}


@pytest.fixture(params=["folder", "bucket"])
def anywhere(request, tmp_path):
    """A place of each kind, empty."""
    if request.param == "folder":
        found = place(tmp_path / "store")
    else:
        fsspec = pytest.importorskip("fsspec")
        fsspec.filesystem("memory").store.clear()
        found = place("memory://maps/store/")
    found.start()
    return found


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


# --- What both kinds do


def test_which_kind_an_address_is():
    for where, expected in [
        ("maps", Folder(Path("maps"))),
        (Path("/data/maps"), Folder(Path("/data/maps"))),
        ("file:///data/maps", Folder(Path("/data/maps"))),
        ("local:///data/maps", Folder(Path("/data/maps"))),
        ("s3://bucket/maps/", Bucket("s3://bucket/maps")),
        ("memory://maps", Bucket("memory://maps")),
    ]:
        assert place(where) == expected
    assert str(place("a/b")) == "a/b"
    assert str(place("s3://bucket/maps/")) == "s3://bucket/maps"


def test_files(anywhere):
    with pytest.raises(FileNotFoundError):
        anywhere.read("map.json")
    for content in (b"first", b"", b"second"):
        anywhere.write("map.json", content)
        assert anywhere.read("map.json") == content
    assert anywhere.names() == ["map.json"]
    anywhere.remove("map.json")
    anywhere.remove("map.json")
    assert anywhere.names() == []


def test_trees(anywhere):
    assert anywhere.read_tree("case.zarr") == {}
    for files in (OLD, NEW):
        anywhere.write_tree("case.zarr", files)
        assert anywhere.read_tree("case.zarr") == files
    assert anywhere.read_tree("case.zarr/true") == {"c/0": b"new chunk"}
    assert anywhere.read_tree("case.zarr/true/c/0") == {"": b"new chunk"}
    assert anywhere.read("case.zarr/other/c/0") == b"more"
    anywhere.write("a", b"")
    assert anywhere.names() == ["a", "case.zarr"]


def test_a_place_travels(anywhere):
    anywhere.write("map.json", b"{}")
    assert pickle.loads(pickle.dumps(anywhere)).read("map.json") == b"{}"


def test_nothing_here_has_no_names(tmp_path):
    assert Folder(tmp_path / "nowhere").names() == []
    pytest.importorskip("fsspec")
    assert Bucket("memory://nothing/here").names() == []


def test_a_folder_travels_with_its_whole_path(tmp_path, monkeypatch):
    """Another process may work in another folder."""
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(pickle.dumps(place("maps"))) == Folder(tmp_path / "maps")


# --- Trees that fail or are killed half way


class Broken(Exception):
    """What is raised in place of a call."""


def broken_call(monkeypatch, module, name, number):
    """The call of this number (from 0) fails; gives a list with an item for each call."""
    real, calls = getattr(module, name), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == number + 1:
            raise Broken
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, call)
    return calls


@pytest.mark.parametrize("old", [{}, OLD], ids=["new", "replaced"])
def test_a_tree_that_fails_half_way(tmp_path, monkeypatch, old):
    """Then the old one is as it was, and nothing else is left."""
    failed = []
    for module, name, number in [
        *((os, "fsync", i) for i in range(4)),
        *((Path, "replace", i) for i in range(3)),
        *((Path, "mkdir", i) for i in range(4)),
    ]:
        folder = Folder(tmp_path / f"{name} {number}")
        folder.start()
        if old:
            folder.write_tree("case.zarr", old)
        with monkeypatch.context() as patched:
            calls = broken_call(patched, module, name, number)
            try:
                folder.write_tree("case.zarr", NEW)
            except Broken:
                expected = old
                failed.append((name, number))
            else:
                expected = NEW
                assert len(calls) <= number
        assert folder.read_tree("case.zarr") == expected, (name, number)
        assert os.listdir(folder.path) == (["case.zarr"] if expected else [])
    reached = [("fsync", i) for i in range(3)] + [("replace", i) for i in range(2 if old else 1)]
    assert failed[: len(reached)] == reached


def test_a_tree_killed_between_its_two_renames(folder, monkeypatch):
    """The case is missing then, and can be written again; nothing of either is left behind."""
    folder.write_tree("case.zarr", OLD)

    def killed(*_, **__):
        raise Broken

    with monkeypatch.context() as patched:
        # A process that is killed cleans nothing up.
        broken_call(patched, Path, "replace", 1)
        patched.setattr(shutil, "rmtree", killed)
        patched.setattr(Path, "exists", lambda path: path.name == "case.zarr")
        with pytest.raises(Broken):
            folder.write_tree("case.zarr", NEW)
    assert folder.names() == []
    assert len(os.listdir(folder.path)) == 1
    with folder.lock():
        assert folder.read_tree("case.zarr") == {}
        folder.write_tree("case.zarr", NEW)
    assert folder.read_tree("case.zarr") == NEW
    assert os.listdir(folder.path) == ["case.zarr"]


def test_files_of_trees_are_as_readable_as_the_umask_says(folder):
    before = os.umask(0o027)
    try:
        folder.write_tree("case.zarr", OLD)
        folder.append("log.jsonl", b"\n")
    finally:
        os.umask(before)
    modes = {
        name: stat.S_IMODE((folder.path / name).stat().st_mode)
        for name in ("case.zarr", "case.zarr/true", "case.zarr/true/c/0", "log.jsonl")
    }
    assert list(modes.values()) == [0o750, 0o750, 0o640, 0o640]


# --- Starting and ending


def test_what_runs_left_half_written_goes(folder):
    (folder.path / f"{TEMPORARY_PREFIX}file.nii.gz").write_bytes(b"half")
    (folder.path / f"{TEMPORARY_PREFIX}tree" / "new" / "c").mkdir(parents=True)
    folder.write("map.json", b"{}")
    assert folder.names() == ["map.json"]
    with folder.lock():
        assert [name for name in os.listdir(folder.path) if "part" in name] == []
        (folder.path / f"{TEMPORARY_PREFIX}interrupted").write_bytes(b"half")
    assert os.listdir(folder.path) == ["map.json"]


def test_a_folder_that_is_locked_keeps_what_its_run_is_writing(folder):
    with folder.lock():
        part = folder.path / f"{TEMPORARY_PREFIX}file.nii.gz"
        part.write_bytes(b"half")
        with pytest.raises(RWLossError, match="another run"), folder.lock():
            pass
        assert part.read_bytes() == b"half"


def test_a_folder_is_made_with_its_parents_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="file"):
            Folder(where).start()
    there = Folder(tmp_path / "a" / "b")
    for _ in range(2):
        there.start()
    assert there.path.is_dir()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(PermissionError, match=f"no permission to write in {tmp_path}"):
        Folder(tmp_path).start()


# --- Object stores


def test_a_bucket_puts_the_mark_last_and_takes_it_away_first(monkeypatch):
    """So that a tree with a mark is whole, whenever its writer was killed."""
    pytest.importorskip("fsspec")
    bucket = place("memory://bucket/marks")
    bucket.start()
    bucket.write_tree("case.zarr", OLD)
    files = bucket._files
    for name, number in (("rm_file", 1), ("pipe_file", 0), ("pipe_file", 2)):
        with monkeypatch.context() as patched:
            broken_call(patched, files, name, number)
            with pytest.raises(Broken):
                bucket.write_tree("case.zarr", NEW)
        assert TREE_MARK not in bucket.read_tree("case.zarr")
        bucket.write_tree("case.zarr", OLD)
        assert bucket.read_tree("case.zarr") == OLD


def test_a_bucket_has_no_lines_and_no_lock():
    pytest.importorskip("fsspec")
    bucket = place("memory://bucket/lines")
    bucket.append("manifest.jsonl", b"one\n")
    with bucket.lock(), bucket.lock():
        assert bucket.names() == []


def test_an_address_that_nothing_serves():
    pytest.importorskip("fsspec")
    with pytest.raises(RWLossError, match=r"nonsense://a can't be used .*install the package"):
        place("nonsense://a").read("map.json")
