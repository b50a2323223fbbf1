"""The program as a whole: its list of commands, and options that mean the same in all of them."""

import errno
import io
import os
import re
import subprocess
import sys

import numpy as np
import typer

import rwloss
from rwloss.cli import options
from rwloss.cli.app import COMMANDS, app
from rwloss.data import formats


def command(name):
    group = typer.main.get_command(app)
    return group.get_command(typer.Context(group), name)


def test_help_lists_commands_in_the_order_of_work_on_one_line_each(rwloss_command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, printed, _ = rwloss_command("--help")
    assert code == 0
    listed = printed.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert not any("..." in line for line in listed)


def test_every_option_has_a_help_text_that_fits(rwloss_command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in COMMANDS:
        code, printed, _ = rwloss_command(name, "--help")
        assert code == 0
        assert max(map(len, printed.splitlines())) <= 80, name
        for option in command(name).params:
            assert option.help, (name, option.name)
            assert not re.search(rf"^ *{option.name}: ", printed, re.M)


def test_out_is_the_place_of_results_in_every_command():
    for name in {*COMMANDS} - {"maps", "verify", "nnunet-path"}:
        spellings = {spelling for option in command(name).params for spelling in option.opts}
        assert {"--out", "-o"} <= spellings, name
        assert "--output" not in spellings, name


def test_an_older_spelling_of_out_still_works(tmp_path, rwloss_command):
    labels, picture = tmp_path / "a.npy", tmp_path / "a.txt"
    code, _, told = rwloss_command("show", labels, "--map", "rectified", "--output", picture)
    assert code == 2
    assert ".png" in told  # the option was understood; its value is refused


def test_a_place_is_given_once(assert_refused):
    for given in (("precompute", "labels", "--map", "rectified"), ("predict", "run", "images")):
        assert_refused("no path for the results: give OUT", *given)
        assert_refused("OUT and --out name two paths, 'b' and 'a'", *given, "b", "-o", "a")


def test_an_unknown_command_is_wrong_use(assert_refused):
    assert_refused("No such command 'trian'", "trian")


def test_the_largest_file_is_that_of_the_readers():
    assert options.MAX_VOXELS == formats.MAX_VOXELS


class Full(io.StringIO):
    """A stream on a full disk, or one whose reader is gone."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise OSError(self.error, os.strerror(self.error))


def test_a_full_standard_error_ends_no_work(source, tmp_path, rwloss_command, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Full(errno.ENOSPC))
    code, printed, _ = rwloss_command("precompute", source, tmp_path / "o", "--map", "dice", "-j0")
    assert (code, printed) == (2, "")
    code, printed, _ = rwloss_command(
        "precompute", source, tmp_path / "o", "--map", "rectified", "-j0"
    )
    assert (code, "3 maps of rectified made" in printed) == (0, True)


def test_a_full_standard_output_is_said(rwloss_command, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Full(errno.ENOSPC))
    code, _, told = rwloss_command("maps")
    assert code == 1
    assert told == "rwloss: standard output can't be written: No space left on device\n"
    monkeypatch.setattr(sys, "stdout", Full(errno.EPIPE))  # of `| head`
    assert rwloss_command("maps")[::2] == (1, "")


def test_closed_streams_end_no_work(source, tmp_path):
    np.save(tmp_path / "labels" / "a.npy", np.eye(4, dtype=np.uint8))
    program = "from rwloss.cli import main; main()"
    command = [sys.executable, "-c", program, "precompute", source, tmp_path / "o", "--map"]
    shell = 'exec "$@" rectified -j0 <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", shell, "sh", *command], check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len(rwloss.store.open(tmp_path / "o")) == 4
