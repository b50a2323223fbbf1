"""A study from options and files of settings: what is taken from where."""

import pytest

from rwloss import RWLossError
from rwloss.study.assembly import assembled, columns

PAPER = """
map = "blend(dice, boundary)"
seed = 7
epochs = 3
batch_size = 2
learning_rate = 0.01
accelerator = "cpu"
"""


@pytest.fixture
def paper(tmp_path):
    path = tmp_path / "paper.toml"
    path.write_text(PAPER)
    return path


def test_a_file_of_settings_makes_the_training_of_a_study(paper, squares, tmp_path):
    told = []
    given = {"maps": {"rw": "rectified"}, "seeds": (0, 1), "training": {"learning_rate": 0.002}}
    study, folder = assembled(str(squares), tmp_path / "out", given, paper, told.append)
    assert folder == tmp_path / "out"
    assert (study.maps, study.seeds) == ({"rw": "rectified"}, (0, 1))
    # 8 cases: 5 for training, one slice each, in batches of 2: 3 steps per epoch.
    assert study.steps == 9
    assert study.training == {
        "batch_size": 2, "learning_rate": 0.002, "accelerator": "cpu", "steps_per_epoch": 3,
        "validate_every": 3,
    }  # fmt: skip
    assert told == [
        f"not taken from {str(paper)!r}: map 'blend(dice, boundary)' and seed 7. A study has its "
        "own: give --map and --seeds",
        "3 epochs of the first run are 9 steps, which all runs have",
    ]
    study.write(folder / "study.toml")
    again, _ = assembled(str(folder / "study.toml"), None, {"steps": None}, paper)
    assert again.steps == 9


def test_typed_steps_win_over_epochs_of_a_file(paper, tmp_path):
    given = {"maps": {"rw": "rectified"}, "steps": 5}
    study, _ = assembled("DATA", tmp_path / "out", given, paper)
    assert study.steps == 5
    assert "validate_every" not in study.training
    paper.write_text("steps = 40\n")
    assert assembled("DATA", tmp_path / "out", {**given, "steps": None}, paper)[0].steps == 40


def test_wrong_files_of_settings(paper, tmp_path):
    given = {"maps": {"rw": "rectified"}, "steps": 5}
    for text, message in (
        ("learning_rat = 1", r"paper\.toml': there is no setting 'learning_rat': did you mean"),
        ("epochs = 0", r"paper\.toml': epochs"),
        ("network = 'FILE.py:Net'", "Net"),
    ):
        paper.write_text(text)
        with pytest.raises(RWLossError, match=message):
            assembled("DATA", tmp_path / "out", given, paper)
    with pytest.raises(RWLossError, match="no maps: give --map"):
        assembled("DATA", tmp_path / "out", {}, tmp_path / "paper.toml")


def test_columns_have_names():
    assert columns(["boundary(convention='valverde')", " a = dice + focal "]) == {
        "boundary_convention_valverde": "boundary(convention='valverde')",
        "a": "dice + focal",
    }
    with pytest.raises(RWLossError, match="two maps are called 'dice'"):
        columns(["dice", "dice"])
    with pytest.raises(RWLossError, match="did you mean 'dice_ce'"):
        columns(baselines=["dice_cd"])
