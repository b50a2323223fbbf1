"""`rwloss train`: from options to a run folder."""

import json
import sys

import pytest
import typer

from rwloss.cli.app import app
from rwloss.cli.options import SECTIONS
from rwloss.study import plan
from rwloss.training import RunFolder, RunSettings

SHORT = ("--map", "rectified + dice", "--steps", 4, "--batch-size", 2, "--accelerator", "cpu")


def test_trains_and_prints_where_everything_is(squares, tmp_path, rwloss_command):
    out = tmp_path / "run"
    code, printed, told = rwloss_command(
        "train", squares, *SHORT, "--out", out, "--validate-every", 2, "--turn", 0.5,
        "--flip-axes", "0,1", "--balanced", "--patch-size", "8,16", "--gradient-clip", 1,
    )  # fmt: skip
    assert code == 0, told
    assert "rectified + dice: 4 steps in" in printed
    lines = printed.splitlines()
    # Means stand beside the number of cases in them, as `rwloss evaluate` shows them.
    head, dice, _, hd95, *_ = lines[1:]
    assert head.split()[:6] == ["class", "score", "mean", "std", "median", "n"]
    [first, _] = RunFolder(out).read_result().scores.summary()
    assert dice.split()[:4] == ["class", "1", "Dice", f"{first.dice.mean:.3f}"]
    assert dice.split()[6:] == ["2", str(first.missed), str(first.false_alarms), str(first.empty)]
    assert hd95.split()[:2] == ["HD95", "voxels"]
    assert hd95.split()[5] == str(first.both)
    assert str(out) in lines[-1]
    assert "run: 4 of 4 steps, loss" in told
    assert "validation at step 2: Dice class 1" in told
    assert "no rotations: patches of (8, 16) voxels" in told
    settings = RunSettings.read(out / "run.toml")
    assert settings.flip_axes == (0, 1)
    assert settings.balanced
    assert settings.gradient_clip == 1.0
    assert [line["kind"] for line in RunFolder(out).lines()] == [
        "start", "record", "validation", "record", "validation",
    ]  # fmt: skip


def test_again_prints_the_same_without_training(squares, tmp_path, rwloss_command):
    options = ("train", squares, *SHORT, "--out", tmp_path / "run")
    assert rwloss_command(*options)[0] == 0
    code, printed, told = rwloss_command(*options, "--json")
    assert code == 0
    content = json.loads(printed)
    assert content["steps"] == content["best_step"] == 4
    assert set(content["test"]) == {"class 1", "class 2"}
    assert content["test"]["class 1"]["cases"] == 2
    assert len(content["test_cases"]) == 2
    assert told == ""


def test_no_validation_and_no_test_are_said(squares, tmp_path, rwloss_command):
    none = ("--validation-fraction", 0, "--test-fraction", 0)
    code, printed, _ = rwloss_command("train", squares, *SHORT, "--out", tmp_path / "run", *none)
    assert code == 0
    first, last = printed.splitlines()
    assert "checkpoint of step 4 (the last: there are no validation cases)" in first
    assert first.endswith("tested on 0 cases")
    assert "run.toml" in last


def test_a_file_of_settings_with_changes(squares, tmp_path, rwloss_command):
    assert rwloss_command("train", squares, *SHORT, "--out", tmp_path / "one")[0] == 0
    config = ("--config", tmp_path / "one" / "run.toml")
    code, _, told = rwloss_command("train", *config, "--out", tmp_path / "two", "--seed", 7)
    assert code == 0, told
    one, two = (RunSettings.read(tmp_path / name / "run.toml") for name in ("one", "two"))
    assert two.difference(one) == ["seed 7 (now 0)"]
    # An option with its default's value counts as given too.
    code, _, told = rwloss_command("train", *config, "--out", tmp_path / "two")
    assert code == 2
    assert "other settings: seed 7 (now 0)" in told
    code, _, told = rwloss_command("train", *config, "--steps", 6)
    assert code == 0
    assert "one: 4 of 6 steps" in told


def test_wrong_use(squares, assert_refused):
    for options, message in [
        (("--out", "run"), "no map: give --map"),
        (("--map", "rectified"), "out is missing"),
        (("--map", "nothing", "--out", "run"), "nothing"),
        *(
            (("--map", "rectified", "--out", "run", *wrong), message)
            for wrong, message in [
                (("--dims", "4"), "'--dims': must be 2 or 3, got 4"),
                (("--patch-size", "8,a"), "'--patch-size': expected whole numbers"),
                (("--preset", "huge"), "'--preset': must be 'tiny', 'small' or 'large'"),
                (("--config", "no.toml"), "cannot read 'no.toml'"),
            ]
        ),
    ]:
        assert_refused(message, "train", squares, *options)


@pytest.mark.parametrize("name", ["monai", "lightning_fabric"])
def test_without_what_training_needs_it_says_so_before_any_work(
    name, monkeypatch, tmp_path, rwloss_command
):
    monkeypatch.setitem(sys.modules, name, None)
    code, _, told = rwloss_command(
        "train", "nowhere", "--map", "rectified", "--out", tmp_path / "r"
    )
    assert code == 2
    assert "pip install 'rwloss[train]'" in told


def options_of(command):
    """Options of a command with their help texts."""
    group = typer.main.get_command(app)
    parameters = group.get_command(typer.Context(group), command).params
    return {each.name: each.help for each in parameters if each.param_type_name == "option"}


@pytest.mark.parametrize("command", ["train", "compare"])
def test_every_setting_is_an_option_with_its_description_and_default(command):
    options = options_of(command)
    fields = dict(RunSettings.model_fields)
    for name in ["data"] if command == "train" else [*plan.OF_RUNS - {"steps"}, "train_cases"]:
        del fields[name]
    for name, field in fields.items():
        help_text = options.pop(name)
        description, _, default = help_text.partition("  [default: ")
        assert description.lower() == f"{field.description}.".lower()
        wanted = field.default
        if isinstance(wanted, tuple):
            wanted = ",".join(map(str, wanted))
        assert (default.removesuffix("]") or str(wanted)) == str(wanted)
    assert options.keys() & RunSettings.model_fields.keys() <= {"out", "train_cases"}


def test_sections_of_help_begin_with_settings():
    assert SECTIONS.keys() <= RunSettings.model_fields.keys()


def test_a_file_of_settings_does_not_choose_code(squares, tmp_path, rwloss_command):
    (tmp_path / "evil.py").write_text("raise SystemExit('it was run')")
    text = f"file('{tmp_path}/evil.py:Evil')"
    RunSettings(data=str(squares), map=text, out=str(tmp_path / "run")).write(tmp_path / "run.toml")
    code, _, told = rwloss_command("train", "--config", tmp_path / "run.toml")
    assert (code, "name it yourself" in told, "it was run" in told) == (2, True, False)
    code, _, told = rwloss_command("train", "--config", tmp_path / "run.toml", "--map", text)
    assert (code, "it was run" in told) == (2, True)
