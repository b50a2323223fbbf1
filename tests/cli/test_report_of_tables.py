"""`rwloss report` on tables of scores."""

import html
import re
import shlex

import pytest
from scores_of_others import long_rows, made_scores, write


@pytest.fixture
def table(tmp_path, monkeypatch):
    head, *rows = long_rows(made_scores())
    monkeypatch.chdir(tmp_path)
    return write(tmp_path / "in" / "scores.csv", f"{head},NSD", *(f"{row},.5" for row in rows))


GIVEN = (
    *("--method", "loss", "--metric", "Dice:higher", "--metric", "HD95:lower"),
    *("--reference", "dice_ce"),
)


def test_a_page_and_the_command_on_it_that_makes_it_again(table, rwloss_command, tmp_path):
    given = [*GIVEN, "--missing", "HD95=worst", "--unpaired", "--correct", "all", "--absent", "x"]
    code, printed, told = rwloss_command("report", table, *given, "--out", "a.html")
    assert (code, printed) == (0, "wrote a.html\n"), told
    page = (tmp_path / "a.html").read_text("utf-8")
    [command] = re.findall(r"^rwloss (report .*)</code>", page, flags=re.M)
    again = shlex.split(html.unescape(command))
    assert again[1] == "scores.csv"
    again[1] = str(table)
    again[again.index("FILE.html")] = "b.html"
    assert rwloss_command(*again)[0] == 0
    assert (tmp_path / "b.html").read_text("utf-8") == page
    assert "columns not used" in page
    assert "NSD" in page


def test_what_was_done_with_missing_scores_is_said(table, rwloss_command):
    text = table.read_text()
    place = text.index("rw,3,case2,") + len("rw,3,case2,")
    table.write_text(text[:place] + text[text.index(",", place) :])
    code, printed, told = rwloss_command("report", table, *GIVEN, "--out", "a.html")
    assert code == 2
    assert "1 score of Dice has no value, such as method 'rw', seed '3' and case 'case2'" in told
    given = [*GIVEN, "--missing", "drop", "--export", "figures"]
    code, printed, told = rwloss_command("report", table, *given, "--out", "a.html")
    assert code == 0
    assert "1 score of Dice had no value (1 of rw): left out" in told
    assert printed.splitlines() == ["wrote 18 files in figures", "wrote a.html"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--out", "a.pdf"], "name it a.html"),
        ([], "no path for the report: give --out FILE.html, or --export DIR"),
        (["--out", "a.html", "--missing", "Dice=often"], "expected worst, best, drop or a number"),
        (["--out", "a.html", "--reference", "dice"], "did you mean 'dice_ce'"),
        (["--out", "a.html", "--method", "lass"], "did you mean 'loss'"),
        (["--out", "a.html", "--correct", "none"], "--correct"),
        (["--out", "a.html", "--map", "dice"], "--map is for a study, and --metric for tables"),
        (["--out", "a.html", "--wide", "{method}", "--long", "a,b"], "give one"),
    ],
)
def test_wrong_use(table, rwloss_command, changes, message):
    code, _, told = rwloss_command("report", table, *GIVEN, *changes)
    assert code == 2
    assert message in " ".join(told.split())
    assert not table.parent.with_name("a.html").exists()


def test_a_folder_that_is_no_study_says_how_tables_are_given(table, rwloss_command):
    code, _, told = rwloss_command("report", table.parent)
    assert code == 2
    assert "has no study.toml. To compare scores of tables, name them with --metric" in told
    (table.parent / "study.toml").touch()
    for option in (["--reference", "a"], ["--unpaired"], ["--class", "c"], ["--correct", "all"]):
        code, _, told = rwloss_command("report", table.parent, *option)
        assert code == 2
        assert f"{option[0]} is for tables of scores, which need --metric too" in told
    code, _, told = rwloss_command("report", table, "--metric", "Dice:higher")
    assert code == 2
    assert "name one of the methods with --reference" in told
