import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rwloss.errors import RWLossError
from rwloss.files.lock import LOCK_FILE, hold

HOLDER = """
import sys
from pathlib import Path
from rwloss.files.lock import hold

with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path` until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def refusal(folder):
    with pytest.raises(RWLossError) as refused, hold(folder):
        pass
    return str(refused.value)


def test_a_lock_is_held_in_its_block_and_leaves_nothing(tmp_path):
    """Whether or not the block fails; in one process too."""
    with pytest.raises(KeyboardInterrupt), hold(tmp_path):
        raise KeyboardInterrupt
    for _ in range(2):
        with hold(tmp_path):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
            assert f"process {os.getpid()} on" in refusal(tmp_path)
            assert f"process {os.getpid()} on" in refusal(tmp_path)
        assert os.listdir(tmp_path) == []


def test_the_other_run_is_named_until_it_dies(tmp_path, holder):
    said = json.loads((tmp_path / LOCK_FILE).read_text())
    expected = (
        f"another run is writing to {tmp_path} (process {holder.pid} on {socket.gethostname()}, "
        f"since {said['since']}): wait for it to end, or name another folder"
    )
    assert [refusal(tmp_path) for _ in range(3)] == [expected] * 3
    for content in ("", "{", "[]", '{"pid": 3}', "\0\0"):
        (tmp_path / LOCK_FILE).write_text(content)
        assert "(process unknown): wait" in refusal(tmp_path)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert os.listdir(tmp_path) == [LOCK_FILE]  # it had no time to remove it
    with hold(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_places_without_locks(tmp_path, monkeypatch):
    """No lock that would outlive a killed run in its place."""
    (tmp_path / "file").write_text("")
    assert "can't be locked" in refusal(tmp_path / "file")
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "file")
    assert refusal(tmp_path) == f"{tmp_path / LOCK_FILE} is a link, and is not followed: remove it"
    (tmp_path / LOCK_FILE).unlink()
    with hold(tmp_path):
        pass

    def missing(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    assert "can't be locked" in refusal(tmp_path)
    assert "file system with locks" in refusal(tmp_path)


def test_a_full_disk_does_not_unlock(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with hold(tmp_path):
        assert "process unknown" in refusal(tmp_path)
