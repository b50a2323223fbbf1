import os
import stat
from pathlib import Path

import pytest

from rwloss import RWLossError
from rwloss.files.atomic import TEMPORARY_PREFIX, naming_write_errors, temporary, whole_file


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "case.nii.gz"
    with whole_file(path) as part:
        part.write_bytes(b"new")
        assert not path.exists()
        assert part.parent == path.parent
        assert part.name.endswith(".nii.gz")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["case.nii.gz"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "map.json"
    path.write_bytes(b"old")

    def interrupted():
        with whole_file(path) as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["map.json"]


@pytest.mark.parametrize(
    ("module", "name"),
    [(Path, "touch"), (os, "fsync"), (Path, "replace")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_failed_call_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, module, name):
    """Of fsync too: the bytes are on the disk before the file gets its name, so that a machine
    that goes down leaves no empty file of the right name."""
    (tmp_path / "map.json").write_bytes(b"old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, name, full)
        with pytest.raises(OSError, match="No space left"), whole_file(tmp_path / "map.json"):
            pass
    assert os.listdir(tmp_path) == ["map.json"]
    assert (tmp_path / "map.json").read_bytes() == b"old"


def test_temporary_names_tell_what_they_are(tmp_path):
    first, second = (temporary(tmp_path, ".nii.gz") for _ in range(2))
    assert first != second
    assert first.parent == tmp_path
    assert first.name.startswith(TEMPORARY_PREFIX)
    assert first.name.endswith(".nii.gz")


def test_files_are_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "a.json") as part:
            part.write_bytes(b"{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


def test_a_write_error_names_the_path_and_the_fix():
    path = Path("folder/file")
    with (
        pytest.raises(RWLossError, match=r"cannot write 'folder/file' \(No space left\): move it"),
        naming_write_errors(path, "move it"),
    ):
        raise OSError(28, "No space left")
