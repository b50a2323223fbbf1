import csv
import errno
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from rwloss import data
from rwloss.data.splits import Split
from rwloss.metrics import DEFAULT
from rwloss.training import RunFolder, RunSettings

LABELS = data.sample_dir("lung_patches") / "labelsTr"


@pytest.fixture
def folders(tmp_path):
    """Predictions and labels: class 1 moved by a voxel, missed in b, invented in c, absent in d."""
    truth = {name: np.zeros((8, 9), np.uint8) for name in "abcd"}
    truth["a"][2:6, 2:6] = truth["b"][2:6, 2:6] = 1
    found = {name: np.zeros((8, 9), np.uint8) for name in "abcd"}
    found["a"] = np.roll(truth["a"], 1, axis=1)
    found["c"][1, 1] = 1
    for kind, maps in (("pred", found), ("truth", truth)):
        (tmp_path / kind).mkdir()
        for name, labels in maps.items():
            np.save(tmp_path / kind / f"{name}.npy", labels)
    return tmp_path / "pred", tmp_path / "truth"


def test_table(rwloss_command, folders):
    code, out, err = rwloss_command("evaluate", *folders, "--spacing", "1,2.5", "--jobs", 0)
    assert code == 0, err
    dice, _, hd95, _, assd = (line.split() for line in out.splitlines()[3:8])
    assert dice == ["class", "1", "Dice", "0.250", "0.433", "0.000", "3", "1", "1", "1"]
    assert hd95 == ["HD95", "mm", "2.50", "-", "2.50", "1", "1", "1", "1"]
    assert assd[:2] == ["ASSD", "mm"]
    assert "4 cases" in out.splitlines()[0]
    assert "Distances leave out both (2 here)" in out
    assert "evaluated: 4 of 4 cases" in err


def test_penalty_and_unit(rwloss_command, folders):
    _, out, _ = rwloss_command("evaluate", *folders, "--spacing", "1,2.5", "-j0", "--penalty", 10)
    assert out.splitlines()[5].split()[:3] == ["HD95", "mm", "7.50"]
    assert "In the means of distances, both count as 10 mm" in out
    _, out, _ = rwloss_command("evaluate", *folders, "-j0")
    assert "HD95 voxels" in out
    assert "4 cases without a spacing: distances are in voxels; give --spacing for mm." in out
    _, out, _ = rwloss_command("evaluate", *folders, "-j0", "--penalty", "diagonal", "--json")
    hd95 = json.loads(out)["summary"][0]["hd95_mm"]
    assert hd95["mean"] == pytest.approx((1 + 2 * np.hypot(8, 9)) / 3)
    assert hd95["n"] == 3


def test_metrics_and_tolerances(rwloss_command, folders, tmp_path):
    """Each further tolerance has a column of its own; without distances, none are spoken of."""
    options = ("--metrics", "lesion_f1,nsd,betti_0_error", "--spacing", "1,2.5", "-j0")
    tolerances = ("--tolerance", 1, "--tolerance", "2.5")
    code, out, err = rwloss_command("evaluate", *folders, *options, *tolerances)
    assert code == 0, err
    rows = [line.split("  ")[1:] for line in out.splitlines()[3:6]]
    rows = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    # Of the outline in case a, 4 of 12 voxels are 2.5 mm off; b misses it, c invents one.
    assert [row[-8:-3] for row in rows] == [
        ["NSD", "0.222", "0.385", "0.000", "3"],
        ["NSD at 2.5", "0.333", "0.577", "0.000", "3"],
        ["Betti-0 error", "0.67", "0.58", "1.00", "3"],
    ]
    assert "Distances" not in out
    file = tmp_path / "scores.csv"
    rwloss_command("evaluate", *folders, *options, *tolerances, "-o", file)
    with file.open(newline="") as opened:
        [a, b, c, d] = csv.DictReader(opened)
    names = ("nsd", "nsd_at_2.5", "betti_0_error", "lesion_f1")
    assert list(a)[4:8] == list(names)
    values = [[row[name] and round(float(row[name]), 3) for name in names] for row in (a, b, c, d)]
    assert values == [[0.667, 1, 0, 1], [0, 0, 1, 0], [0, 0, 1, 0], [""] * 4]
    for wrong, message in (
        (
            ("--metrics", "hd95"),
            "there is no metric 'hd95': did you mean 'hd95_mm'? Known: dice, iou",
        ),
        (("--tolerance", "0"), "expected a tolerance above 0 mm"),
        (("--metrics", ""), "there is no metric ''"),
    ):
        code, _, err = rwloss_command("evaluate", *folders, *wrong)
        assert code == 2
        assert message in " ".join(err.split())


def test_missing_predictions_and_bad_pairs_end_with_1(rwloss_command, folders):
    predictions, _ = folders
    (predictions / "d.npy").rename(predictions / "x.npy")
    np.save(predictions / "c.npy", np.zeros((3, 3), int))
    code, out, err = rwloss_command("evaluate", *folders, "-j0", "--num-classes", 2)
    assert code == 1
    assert "2 of 4 cases" in out.splitlines()[0]
    assert "1 of 4 cases failed:\nc  the prediction has the shape (3, 3)" in err
    assert "1 case without a prediction: d" in err
    assert "1 case predicted, without labels: x" in err


def test_extra_predictions_are_named_and_no_failure(rwloss_command, folders):
    (folders[1] / "d.npy").unlink()
    code, _, err = rwloss_command("evaluate", *folders, "-j0")
    assert code == 0
    assert "1 case predicted, without labels: d" in err


def test_files(rwloss_command, folders, tmp_path):
    json_file, csv_file = tmp_path / "scores.json", tmp_path / "scores.csv"
    code, out, _ = rwloss_command("evaluate", *folders, "-j0", "--json", "-o", json_file)
    assert code == 0
    content = json.loads(out)  # and nothing else
    assert content["summary"][0]["missed"] == content["summary"][0]["false_alarms"] == 1
    assert json.loads(json_file.read_text()) == content
    _, out, _ = rwloss_command("evaluate", *folders, "-j0", "-o", csv_file)
    assert f"wrote {csv_file}" in out
    with csv_file.open(newline="") as file:
        found = [(row["case"], row["state"]) for row in csv.DictReader(file)]
    assert found == [("a", "both"), ("b", "missed"), ("c", "false alarm"), ("d", "empty")]


def test_a_case_whose_name_is_not_utf_8(rwloss_command, folders, tmp_path):
    for folder in folders:
        try:
            (folder / "a.npy").rename(folder / "sur\udcff.npy")
        except OSError:
            pytest.skip("this file system takes names in UTF-8 alone")
    code, out, err = rwloss_command("evaluate", *folders, "-j0", "-o", tmp_path / "o.csv")
    assert code == 0, err
    assert "4 cases" in out
    with (tmp_path / "o.csv").open(newline="", encoding="utf-8") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["b", "c", "d", r"sur\udcff"]


def test_a_folder_that_takes_no_file_is_told_before_anything_is_evaluated(
    rwloss_command, folders, tmp_path, monkeypatch
):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    code, out, err = rwloss_command("evaluate", *folders, "-j0", "-o", tmp_path / "o.csv")
    assert (code, out) == (2, "")
    assert "(Read-only file system)" in err
    assert "evaluated" not in err


@pytest.mark.parametrize("as_json", [False, True])
def test_scores_are_shown_where_the_file_cannot_be_written_later(
    rwloss_command, folders, tmp_path, monkeypatch, as_json
):
    predictions, _ = folders
    (predictions / "d.npy").unlink()

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", refuse)
    more = ["--json"] if as_json else []
    code, out, err = rwloss_command("evaluate", *folders, "-j0", "-o", tmp_path / "o.csv", *more)
    assert code == 2
    assert "0.250" in out if not as_json else json.loads(out)["counts"]["measured"] == 3
    assert "wrote" not in out + err
    assert "1 case without a prediction: d" in err
    assert err.splitlines()[-1].startswith("rwloss: cannot write ")
    assert "(No space left on device)" in err
    assert not (tmp_path / "o.csv").exists()


def test_nothing_to_measure_in_any_case(rwloss_command, folders):
    predictions, _ = folders
    for file in predictions.iterdir():
        file.write_bytes(b"")
    code, out, err = rwloss_command("evaluate", *folders, "-j0", "--num-classes", 2)
    assert (code, out) == (1, "")
    assert "4 of 4 cases failed" in err


@pytest.fixture
def run(tmp_path):
    """A run on case a alone with settings of its own, and the ignore label of dataset.json."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    tests = {"metrics": ("default", "lesion_f1"), "nsd_tolerance": 2.5}
    own = RunSettings(data="data", out="run", num_classes=4, spacing=(1, 2.5), **tests)
    own.write(folder.settings)
    Split((), ("b",), ("a",), "by hand").write(folder.splits)
    folder.write_test({"steps": 1500, "ignore_label": 255})
    return folder.path


def test_a_run_s_settings_of_data_and_test(rwloss_command, folders, run):
    _, truth = folders
    labels = np.load(truth / "a.npy")
    labels[0] = 255
    np.save(truth / "a.npy", labels)
    arguments = ("evaluate", *folders, "-j0", "--json", "--run", run)
    code, out, err = rwloss_command(*arguments)
    assert code == 0, err
    content = json.loads(out)
    assert (content["num_classes"], content["ignore_label"]) == (4, 255)
    [case] = content["cases"]
    assert case["spacing_mm"] == [1, 2.5]
    assert case["classes"][0]["hd95_mm"] == 2.5
    assert (content["tolerance_mm"], case["classes"][0]["nsd"]) == (2.5, 1.0)
    assert content["metrics"] == [*DEFAULT[:-1], "lesion_f1", DEFAULT[-1]]
    # run.toml goes before test.json, and the command before both.
    own = RunSettings.read(run / "run.toml", ignore_label=9)
    own.write(run / "run.toml")
    given = ("--ignore-label", 255, "--spacing", "2,2", "--num-classes", 2, "--metrics", "iou")
    _, out, err = rwloss_command(*arguments, *given)
    content = json.loads(out)
    assert (content["num_classes"], content["ignore_label"]) == (2, 255)
    assert (content["cases"][0]["spacing_mm"], content["metrics"]) == ([2, 2], ["iou"])
    code, _, err = rwloss_command(*arguments)
    assert code == 1
    assert "the truth has the class 255, and there are 4 classes" in err


def test_a_run_does_not_choose_which_code_runs(rwloss_command, folders, run):
    evil = run.parent / "evil.py"
    evil.write_text("raise SystemExit('it was run')")
    for text in (f"{evil}:Evil", f'blend("f\\x69le(\'{evil}:Evil\')", "dice", step=1)'):
        own = RunSettings.read(run / "run.toml", map=text)
        own.write(run / "run.toml")
        code, out, err = rwloss_command("evaluate", *folders, "-j0", "--json", "--run", run)
        assert code == 0, err
        assert json.loads(out)["num_classes"] == 4


def test_a_run_that_has_not_ended(rwloss_command, folders, run):
    (run / "test.json").unlink()
    code, out, err = rwloss_command("evaluate", *folders, "-j0", "--json", "--run", run)
    assert code == 0, err
    assert json.loads(out)["num_classes"] == 4


@pytest.mark.parametrize("gone", [".", "run.toml", "splits.json"])
def test_what_is_no_run(assert_refused, folders, run, gone):
    (run / gone).rename(run.parent / "elsewhere")
    wanted = "is not a run folder: expected run.toml, splits.json and checkpoints in it"
    assert_refused(f"{str(run)!r} {wanted}", "evaluate", *folders, "-j0", "--run", run)


@pytest.mark.slow  # a process that loads MONAI
def test_in_processes(rwloss_command):
    code, out, err = rwloss_command("evaluate", LABELS, LABELS.parent, "--part", "train", "-j", 1)
    assert code == 0, err
    assert "1.000" in out


def test_wrong_use(assert_refused):
    for arguments, message in [
        (["none", "none"], "there is no file or folder 'none'"),
        ([LABELS, LABELS, "-o", "scores.txt"], "ends with .csv or .json"),
        ([LABELS, LABELS, "--penalty", "edge"], "--penalty as a number of mm, or diagonal"),
        ([LABELS, LABELS, "--penalty", "-1"], "expected a penalty of 0 mm or more"),
        ([LABELS, LABELS, "--spacing", "a"], "'--spacing': expected numbers"),
        ([LABELS, LABELS, "--part", "all"], "'train', 'test'"),
        ([LABELS, data.sample_dir("hippocampus")], "no case is in both"),
    ]:
        assert_refused(message, "evaluate", *arguments, "-j0")
