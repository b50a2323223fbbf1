import errno
import json
import os

import pytest

from rwloss.files import journal
from rwloss.files.atomic import read_regular
from rwloss.files.journal import append_line, json_line, parsed_lines


def test_lines_are_added(tmp_path):
    file = tmp_path / "log.jsonl"
    fields = [{"case": "海馬\n", "n": 1}, {"case": "caf\udce9"}]
    for sync, each in enumerate(fields):
        append_line(file, json_line(each), sync=bool(sync))
    assert len(file.read_bytes().splitlines()) == 2
    assert list(parsed_lines(file.read_bytes())) == fields


def test_half_a_line_of_a_killed_process_spoils_no_other(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_bytes(b'{"a": 1}\n{"ha')
    append_line(file, b'{"b": 2}\n')
    assert file.read_bytes() == b'{"a": 1}\n{"ha\n{"b": 2}\n'
    assert list(parsed_lines(file.read_bytes())) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("written", [0, 3])
def test_half_a_line_is_taken_back(tmp_path, monkeypatch, written):
    """As on a disk that is full within the line."""
    file = tmp_path / "manifest.jsonl"
    append_line(file, b"one\n")

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, line):
            return self.file.write(line[:written])

    def opened(*args, **kwargs):
        return Full(open(*args, **kwargs))

    with monkeypatch.context() as patched:
        patched.setattr(journal, "open", opened, raising=False)
        with pytest.raises(OSError, match="No space left") as full:
            append_line(file, b"two\n")
    assert full.value.errno == errno.ENOSPC
    assert file.read_bytes() == b"one\n"


def test_numbers_that_json_does_not_have_become_null():
    line = json_line({"loss": [float("inf"), 1.5], "more": {"norm": float("nan")}})
    assert json.loads(line, parse_constant=pytest.fail) == {
        "loss": [None, 1.5],
        "more": {"norm": None},
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_neither_links_nor_pipes_are_written_to(tmp_path):
    """A foreign folder may hold a link to a file of someone, or a pipe, which would block."""
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "precious")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, why in (("link", "it is a symbolic link"), ("pipe", "it is not a regular file")):
        with pytest.raises(OSError, match=why):
            append_line(tmp_path / f"{name}.jsonl", b"{}\n")
    assert (tmp_path / "precious").read_bytes() == b"mine"
    with pytest.raises(OSError, match="it is not a regular file"):
        read_regular(tmp_path / "pipe.jsonl")
    assert read_regular(tmp_path / "link.jsonl") == b"mine"
