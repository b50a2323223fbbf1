"""`rwloss train`: from options to a run folder."""

import json
import sys

import pytest
import typer
from raw_folders import make_raw

from rwloss.cli.app import app
from rwloss.training import RunFolder, Settings
from rwloss.training import settings as settings_file


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_raw(tmp_path_factory.mktemp("squares"), [f"case{i}" for i in range(8)])


SHORT = ("--map", "rectified + dice", "--steps", 4, "--batch-size", 2, "--accelerator", "cpu")


def test_trains_and_prints_where_everything_is(data, tmp_path, rwloss_command):
    out = tmp_path / "run"
    code, printed, told = rwloss_command(
        "train", data, *SHORT, "--out", out, "--validate-every", 2, "--turn", 0.5,
        "--flip-axes", "0,1", "--balanced", "--patch-size", "8,16", "--gradient-clip", 1,
    )  # fmt: skip
    assert code == 0, told
    assert "rectified + dice: 4 steps in" in printed
    lines = printed.splitlines()
    header = next(line for line in lines if line.startswith("class "))
    assert header.split() == [
        "class", "Dice", "HD95", "voxels", "ASSD", "voxels", "missed", "false", "alarms", "empty",
    ]  # fmt: skip
    assert sum(line.startswith("class ") for line in lines) == 3
    assert str(out) in lines[-1]
    assert "run: step 4 of 4, loss" in told
    assert "validation at step 2: Dice class 1" in told
    assert "no turns: patches of (8, 16) voxels" in told
    settings = settings_file.read(out / "run.toml")
    assert settings.flip_axes == (0, 1)
    assert settings.balanced
    assert settings.gradient_clip == 1.0
    assert [line["kind"] for line in RunFolder(out).lines()] == [
        "record", "validation", "record", "validation",
    ]  # fmt: skip


def test_again_prints_the_same_without_training(data, tmp_path, rwloss_command):
    options = ("train", data, *SHORT, "--out", tmp_path / "run")
    assert rwloss_command(*options)[0] == 0
    code, printed, told = rwloss_command(*options, "--json")
    assert code == 0
    content = json.loads(printed)
    assert content["steps"] == content["best_step"] == 4
    assert set(content["test"]) == {"class 1", "class 2"}
    assert len(content["test_cases"]) == 2
    assert told == ""


def test_a_file_of_settings_with_changes(data, tmp_path, rwloss_command):
    assert rwloss_command("train", data, *SHORT, "--out", tmp_path / "one")[0] == 0
    config = ("--config", tmp_path / "one" / "run.toml")
    code, _, told = rwloss_command("train", *config, "--out", tmp_path / "two", "--seed", 7)
    assert code == 0, told
    one, two = (settings_file.read(tmp_path / name / "run.toml") for name in ("one", "two"))
    assert two.difference(one) == ["seed 7 (now 0)"]
    # An option with its default's value counts as given too.
    code, _, told = rwloss_command("train", *config, "--out", tmp_path / "two")
    assert code == 2
    assert "other settings: seed 7 (now 0)" in told
    code, _, told = rwloss_command("train", *config, "--steps", 6)
    assert code == 0
    assert "going on after step 4 of 6" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "run"), "which map? Give --map"),
        (("--map", "rectified"), "out is missing"),
        (("--map", "rectified", "--out", "run", "--dims", "4"), "dims:"),
        (("--map", "rectified", "--out", "run", "--patch-size", "8,a"), "--patch-size as whole"),
        (("--map", "rectified", "--out", "run", "--preset", "huge"), "preset:"),
        (("--map", "rectified", "--out", "run", "--config", "no.toml"), "cannot read 'no.toml'"),
        (("--map", "nothing", "--out", "run"), "nothing"),
    ],
)
def test_wrong_use(options, message, data, tmp_path, rwloss_command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, told = rwloss_command("train", data, *options)
    assert code == 2
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists()


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


def test_every_setting_is_an_option_with_the_same_default():
    command = typer.main.get_command(app).commands["train"]
    options = {
        option.opts[0].removeprefix("--").replace("-", "_"): option.default
        for option in command.params
        if option.opts[0].startswith("--")
    }
    for name in ("config", "json", "help"):
        options.pop(name, None)
    fields = {name: field for name, field in Settings.model_fields.items() if name != "data"}
    assert options.keys() == fields.keys()
    for name, default in options.items():
        if not fields[name].is_required():
            assert default == fields[name].default, name
