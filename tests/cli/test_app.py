"""The program as a whole: its list of commands, and options that mean the same in all of them."""

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


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text_that_fits(name, rwloss_command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, printed, _ = rwloss_command(name, "--help")
    assert code == 0
    assert max(map(len, printed.splitlines())) <= 80
    for option in command(name).params:
        assert option.help, option.name


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {"maps", "verify", "nnunet-path"}))
def test_out_is_the_place_of_results_in_every_command(name):
    spellings = {spelling for option in command(name).params for spelling in option.opts}
    assert {"--out", "-o"} <= spellings
    assert "--output" not in spellings


def test_an_older_spelling_of_out_still_works(tmp_path, rwloss_command):
    labels, picture = tmp_path / "a.npy", tmp_path / "a.txt"
    code, _, told = rwloss_command("show", labels, "--map", "rectified", "--output", picture)
    assert code == 2
    assert ".png" in told  # the option was understood; its value is refused


@pytest.mark.parametrize(
    "options", [("precompute", "labels", "--map", "rectified"), ("predict", "run", "images")]
)
def test_a_place_is_given_once(options, assert_refused):
    assert_refused("where to? Give OUT", *options)
    assert_refused("OUT and --out name two places, 'b' and 'a'", *options, "b", "-o", "a")


def test_an_unknown_command_is_wrong_use(assert_refused):
    assert_refused("No such command 'trian'", "trian")


def test_the_largest_file_is_that_of_the_readers():
    assert options.MAX_VOXELS == formats.MAX_VOXELS
