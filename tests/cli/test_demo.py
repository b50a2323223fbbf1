"""`rwloss demo`, end to end with a few steps; and its sentences, from made-up numbers."""

import json
import math
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from rwloss import data, store
from rwloss.cli.app import app
from rwloss.cli.demo import MAPS, what_was_seen
from rwloss.training import CaseScore, ClassScore, RunResult, Scores, Settings


def run_demo(folder, *options):
    return CliRunner().invoke(app, ["demo", "--out", str(folder), "--steps", "4", *options])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One demo of four steps: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "made" / "by demo"
    result = run_demo(folder)
    assert result.exit_code == 0, result.output
    return folder, result


def test_prints_a_table_and_what_was_seen(done):
    folder, result = done
    for text in ("Dice on 8 test volumes", "anterior", "posterior", *MAPS, str(folder)):
        assert text in " ".join(result.stdout.split())
    assert "only the map differs" in result.stdout
    for name in MAPS:
        assert f"{name}: step 4 of 4" in result.stderr


def test_writes_a_picture(done):
    with Image.open(done[0] / "maps.png") as picture:
        picture.load()
        assert min(picture.size) >= 400
        assert len(picture.convert("L").getcolors()) > 50


def test_keeps_the_maps(done):
    cases = [case.name for case in data.find(data.sample_dir("hippocampus")).cases]
    for name in MAPS:
        assert list(store.open(done[0] / name)) == cases


def test_writes_the_numbers(done):
    content = json.loads((done[0] / "demo.json").read_text(encoding="utf-8"))
    assert content["settings"]["steps"] == 4
    assert content["settings"]["seed"] == 0
    assert len(content["test_cases"]) == 8
    assert list(content["results"]) == list(MAPS)
    for result in content["results"].values():
        assert len(result["losses"]) == 4
        assert all(map(math.isfinite, result["losses"]))
        assert list(result["dice"]) == ["anterior", "posterior"]
        for numbers in result["dice"].values():
            assert len(numbers["cases"]) == 8
            assert 0 <= numbers["mean"] <= 1
    # The table shows these numbers.
    for name, result in content["results"].items():
        [row] = [line for line in done[1].stdout.splitlines() if name in line and "│" in line]
        cells = [cell.strip() for cell in row.strip("│").split("│")]
        means = [f"{numbers['mean']:.2f}" for numbers in result["dice"].values()]
        assert [cells[1], cells[3]] == means


def test_again_over_the_same_folder_gives_the_same_numbers(done):
    """With another number of processes too; the maps are kept."""
    folder, _ = done
    before = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    result = run_demo(folder, "--jobs", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("0 made, 24 kept") == 2
    after = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    for content in (before, after):
        for each in content["results"].values():
            del each["training_seconds"]
    assert after == before


def test_without_monai_it_says_so_before_any_work(monkeypatch, tmp_path, rwloss_command):
    monkeypatch.setitem(sys.modules, "monai", None)
    code, _, err = rwloss_command("demo", "--out", tmp_path / "out")
    assert code == 2
    assert "pip install 'rwloss[train]'" in err
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_made(tmp_path, rwloss_command):
    (tmp_path / "file").write_text("")
    code, _, err = rwloss_command("demo", "--out", tmp_path / "file")
    assert code == 2
    assert "--out" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["--steps", "--jobs"])
def test_less_than_one_is_wrong_use(option, rwloss_command):
    code, _, err = rwloss_command("demo", option, "0")
    assert code == 2
    assert option in err


def outcome(*means, losses=(1.0, -1.0)):
    """A result with the same Dice of anterior and posterior in two cases; None: absent."""
    classes = [
        ClassScore(label, truth_voxels=0, predicted_voxels=0)
        if mean is None
        else ClassScore(label, 9, 9 * bool(mean), dice=mean)
        for label, mean in enumerate(means, start=1)
    ]
    cases = [CaseScore(name, (1.0, 1.0, 1.0), 9.0, tuple(classes)) for name in ("a", "b")]
    scores = Scores(tuple(cases), ("background", "anterior", "posterior"))
    settings = Settings(data="in", map="boundary", out="out")
    return RunResult(settings, scores, losses, 2, 3, 4, 1.0)


def test_says_which_class_was_lost():
    first, second = what_was_seen(outcome(0.5, 0.0))
    assert first == (
        "With the boundary map the class posterior (Dice 0.00, missed in 2 of 2 volumes) was lost."
    )
    assert second.startswith("Its loss fell all the same, from 1.000 to -1.000")


def test_says_that_all_classes_were_lost():
    [sentence] = what_was_seen(outcome(0.01, 0.0, losses=(0.0, 1.0)))
    assert "the classes anterior" in sentence
    assert "and posterior" in sentence
    assert sentence.endswith("were lost.")


def test_says_that_no_class_was_lost():
    assert what_was_seen(outcome(0.5, 0.06)) == ["With the boundary map no class was lost."]


def test_a_class_without_a_dice_is_neither_lost_nor_kept():
    sentences = what_was_seen(outcome(0.5, None))
    assert sentences[-1] == "No test volume has a Dice of posterior."
