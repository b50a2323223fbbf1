"""The program as a whole: its list of commands, and options that mean the same in all of them."""

import os
import re
import subprocess
import sys

import pytest
import typer

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
        assert_refused("where to? Give OUT", *given)
        assert_refused("OUT and --out name two places, 'b' and 'a'", *given, "b", "-o", "a")


def test_an_unknown_command_is_wrong_use(assert_refused):
    assert_refused("No such command 'trian'", "trian")


def test_the_largest_file_is_that_of_the_readers():
    assert options.MAX_VOXELS == formats.MAX_VOXELS


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_streams_that_are_closed_or_full():
    """A clear end, without a traceback."""
    program = [sys.executable, "-c", "from rwloss.cli import main; main()"]
    for redirection, code, told in (
        ("maps > /dev/full", 1, "rwloss: the output can't be written (No space left on device)\n"),
        ("maps >&-", 0, ""),
        ("maps <&- >&- 2>&-", 0, ""),
        ("maps nonsense 2>&-", 2, ""),
        ("maps nonsense 2> /dev/full", 2, ""),
    ):
        command = ["sh", "-c", f'"$@" {redirection}', "sh", *program]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (code, told), redirection
