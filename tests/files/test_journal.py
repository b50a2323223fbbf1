import builtins
import errno
import json
import os

import pytest

from rwloss.files.journal import append_line, json_line, parsed_lines, read_regular


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
    opened = open

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

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", lambda *args, **kwargs: Full(opened(*args, **kwargs)))
        with pytest.raises(OSError, match="No space left") as full:
            append_line(file, b"two\n")
    assert full.value.errno == errno.ENOSPC
    assert file.read_bytes() == b"one\n"


def test_links_and_pipes_are_not_written_to_or_waited_for(tmp_path):
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="link is a link, which is not followed"):
        append_line(tmp_path / "link", b"{}\n")
    assert read_regular(tmp_path / "link") == b"mine"
    os.mkfifo(tmp_path / "pipe")
    for use in (read_regular, lambda path: append_line(path, b"{}\n")):
        with pytest.raises(OSError, match="not a regular file"):
            use(tmp_path / "pipe")


def test_numbers_that_json_does_not_have_become_null():
    line = json_line({"loss": [float("inf"), 1.5], "more": {"norm": float("nan")}})
    found = json.loads(line, parse_constant=pytest.fail)
    assert found == {"loss": [None, 1.5], "more": {"norm": None}}
