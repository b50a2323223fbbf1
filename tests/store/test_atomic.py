import os
import stat

import pytest

from rwloss.store.atomic import whole_file


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


def test_files_are_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "a.json") as part:
            part.write_bytes(b"{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640
