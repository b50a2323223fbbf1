import os
import stat
from pathlib import Path

import pytest

from rwloss import RWLossError
from rwloss.files.atomic import TEMPORARY_PREFIX, naming_write_errors, whole_file


def test_the_file_appears_when_the_block_ends(tmp_path):
    """As readable as the umask says."""
    path, before = tmp_path / "case.nii.gz", os.umask(0o027)
    try:
        with whole_file(path) as part:
            part.write_bytes(b"new")
            assert not path.exists()
            assert part.parent == path.parent
            assert part.name.startswith(TEMPORARY_PREFIX)
            assert part.name.endswith(".nii.gz")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["case.nii.gz"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_failed_call_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    """Of fsync too: the bytes are on the disk before the file gets its name, so that a machine
    that goes down leaves no empty file of the right name."""
    path = tmp_path / "map.json"
    path.write_bytes(b"old")

    def write(error=None):
        with whole_file(path) as part:
            part.write_bytes(b"half")
            if error:
                raise error

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with pytest.raises(KeyboardInterrupt):
        write(KeyboardInterrupt)
    for module, name in ((Path, "touch"), (os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, full)
            with pytest.raises(OSError, match="No space left"):
                write()
        assert os.listdir(tmp_path) == ["map.json"]
        assert path.read_bytes() == b"old"


def test_a_write_error_names_the_path_and_the_fix():
    path = Path("folder/file")
    with (
        pytest.raises(RWLossError, match=r"cannot write 'folder/file' \(No space left\): move it"),
        naming_write_errors(path, "move it"),
    ):
        raise OSError(28, "No space left")
