"""Settings and their file."""

import tomllib

import pytest

from rwloss import RWLossError
from rwloss.training import RunSettings

FULL = {
    "data": 'C:\\data\\"set"\t\x7f é 𝄞',
    "map": "blend(generalized_dice, boundary, schedule='rebalance')",
    "out": "run",
    "learning_rate": 1e-05,
    "gradient_clip": 1e22,
    "patch_size": (64, 32),
    "flip_axes": (0, 1),
    "spacing": (0.5, 1.0),
    "balanced": True,
    "ignore_label": -1,
    "fold": 2,
    "folds": 5,
}


def test_every_setting_comes_back_from_its_file(tmp_path):
    """Whatever is in the text: quotes, control characters, letters beyond two bytes."""
    settings, path = RunSettings(**FULL), tmp_path / "run.toml"
    settings.write(path)
    assert RunSettings.read(path) == settings
    assert RunSettings.read(path, steps=7, out="other").steps == 7
    written = tomllib.loads(path.read_text(encoding="utf-8"))
    assert written["data"] == FULL["data"]
    assert "groups_table" not in written
    assert set(written) == {name for name, value in settings if value is not None}


def test_wrong_settings_are_named(tmp_path):
    path = tmp_path / "run.toml"
    RunSettings(**FULL).write(path)
    for change, message in (
        ({"learning_rte": 1}, "no setting 'learning_rte': did you mean 'learning_rate'"),
        ({"dims": 4}, "dims must be 2 or 3, got 4"),
        ({"steps": 0}, "steps must be greater than 0, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, got nan"),
        ({"flip": 1.5}, "flip must be less than or equal to 1, got 1.5"),
        ({"preset": "huge"}, "preset must be 'tiny', 'small' or 'large', got 'huge'"),
    ):
        with pytest.raises(RWLossError, match=message):
            RunSettings.of("settings", {**FULL, **change})
        with pytest.raises(RWLossError, match=message):
            RunSettings.read(path, **change)


def test_files_that_are_no_settings(tmp_path):
    path = tmp_path / "run.toml"
    for text, message in (
        (None, "cannot read"),
        ("steps = = 1", "not valid TOML"),
        ("steps = 1", r"data is missing \(nnU-Net raw folder"),
    ):
        if text is not None:
            path.write_text(text)
        with pytest.raises(RWLossError, match=message):
            RunSettings.read(path)


def test_difference_names_settings_but_not_folder_and_length():
    first = RunSettings(**FULL)
    assert first.difference(first.model_copy(update={"out": "b", "steps": 9})) == []
    same, turned = (
        first.model_copy(update={"map": text}) for text in ("rectified + dice", "dice+rectified")
    )
    assert same.difference(turned) == []
    other = first.model_copy(update={"seed": 3, "map": "dice"})
    assert first.difference(other) == [f"map {FULL['map']!r} (now 'dice')", "seed 0 (now 3)"]


def test_the_last_epoch_may_be_shorter():
    for steps, epochs in ((1, 1), (50, 1), (51, 2), (1500, 30)):
        settings = RunSettings(data="in", out="run", steps=steps)
        assert settings.num_epochs == epochs
        assert (steps - 1) // settings.steps_per_epoch == epochs - 1


def test_one_length_and_what_fits_the_optimizer(tmp_path):
    """Steps on the command line replace epochs of a file, and epochs steps."""
    least, path = {"data": "in", "out": "run"}, tmp_path / "config.toml"
    for wrong, message in (
        ({"steps": 3, "epochs": 2}, "epochs and steps both set the length of the run: give one"),
        ({"nesterov": True}, "nesterov needs optimizer sgd"),
        (
            {"network_options": "strides=[2"},
            r"network_options must be like 'name=1, other=\[2, 3\]'",
        ),
    ):
        with pytest.raises(RWLossError, match=message):
            RunSettings.of("settings", {**least, **wrong})
    path.write_text("epochs = 2\n[network_options]\nstrides = [2]\n")
    assert RunSettings.read(path, **least).epochs == 2
    assert RunSettings.read(path, **least, steps=7).epochs is None
    found = RunSettings.read(path, **least, network_options="strides=[3], norm='batch'")
    assert found.network_options == {"strides": [3], "norm": "batch"}
    path.write_text("steps = 9\n")
    assert RunSettings.read(path, **least, epochs=3).epochs == 3
