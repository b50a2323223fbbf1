import csv
import errno
import json
import os
import tempfile

import pytest

from rwloss import RWLossError
from rwloss.training import evaluation as score_file
from rwloss.training.evaluation import Evaluation, FailedPair
from rwloss.training.scores import CaseScore, ClassScore, Scores

SCORES = Scores(
    (
        CaseScore("a", (1.0, 2.0), 9.5, (ClassScore(1, 4, 5, 0.5, 1.5, 0.25), ClassScore(2, 0, 0))),
        CaseScore("b", None, 8.0, (ClassScore(1, 4, 0, 0.0), ClassScore(2, 0, 3, 0.0))),
    ),
    ("background", "left, upper", "right"),
)
RESULT = Evaluation("pred", "truth", SCORES, 9, (FailedPair("c", 'cut "short"'),), ("d",), ("e",))


def test_csv_has_a_row_for_each_case_and_class(tmp_path):
    score_file.write_scores(RESULT, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == score_file.COLUMNS
    assert [(row["case"], row["class"], row["state"], row["dice"]) for row in rows] == [
        ("a", "left, upper", "both", "0.5"),
        ("a", "right", "empty", ""),
        ("b", "left, upper", "missed", "0.0"),
        ("b", "right", "false alarm", "0.0"),
        ("c", "", "failed", ""),
        ("d", "", "unpredicted", ""),
    ]
    assert (rows[0]["hd95_mm"], rows[0]["spacing_mm"], rows[1]["hd95_mm"]) == ("1.5", "1.0 2.0", "")
    assert rows[4]["reason"] == 'cut "short"'


def test_json_has_summary_and_cases(tmp_path):
    score_file.write_scores(RESULT, tmp_path / "scores.json", "diagonal")
    content = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert content["counts"] == {
        "cases": 4,
        "measured": 2,
        "failed": 1,
        "unpredicted": 1,
        "unlabelled": 1,
        "in_voxels": 1,
    }
    left, right = content["summary"]
    assert (left["name"], left["missed"], left["dice"]["n"]) == ("left, upper", 1, 2)
    assert left["hd95_mm"]["mean"] == (1.5 + 8.0) / 2
    assert (right["empty"], right["false_alarms"], right["hd95_mm"]["mean"]) == (1, 1, 8.0)
    assert content["cases"][1]["classes"][0]["state"] == "missed"
    assert content["cases"][1]["classes"][0]["hd95_mm"] is None
    assert content["penalty_mm"] == "diagonal"


def test_an_existing_file_is_replaced_and_nothing_else_is_left(tmp_path):
    (tmp_path / "scores.csv").write_text("old")
    score_file.write_scores(RESULT, tmp_path / "scores.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["scores.csv"]
    assert (tmp_path / "scores.csv").read_text().startswith("case,")


@pytest.mark.parametrize("name", ["scores.csv", "scores.json"])
def test_a_name_that_is_not_utf_8_is_escaped(tmp_path, name):
    failed = Evaluation("pred", "truth", SCORES, None, (FailedPair("sur\udcff", "cut"),))
    score_file.write_scores(failed, tmp_path / name)
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert r"sur\udcff" in text


def test_a_folder_that_takes_no_file_is_refused_before(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(RWLossError, match=r"cannot write .*a.csv' \(Read-only file system\): name"):
        score_file.check_score_file(tmp_path / "a.csv")
    assert not any(tmp_path.iterdir())


def test_a_check_leaves_nothing(tmp_path):
    score_file.check_score_file(tmp_path / "a.csv")
    assert not any(tmp_path.iterdir())


def test_too_long_a_name(tmp_path):
    with pytest.raises(RWLossError, match="cannot write"):
        score_file.write_scores(RESULT, tmp_path / f"{'a' * 300}.csv")


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.txt", "ends with .csv or .json"), ("none/a.csv", "no folder"), ("d.csv", "is a folder")],
)
def test_files_that_cannot_be_written(tmp_path, name, message):
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(RWLossError, match=message):
        score_file.check_score_file(tmp_path / name)
