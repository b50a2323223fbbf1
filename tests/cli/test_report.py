"""`rwloss report`, and the report at the end of `rwloss compare`."""

import json
import shutil
import sys

import pytest
from raw_folders import make_raw


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_raw(tmp_path_factory.mktemp("squares"), [f"case{i}" for i in range(8)])


@pytest.fixture
def study(data, tmp_path, rwloss_command):
    """A study of one run, and what `rwloss compare` printed."""
    out = tmp_path / "study"
    code, printed, told = rwloss_command(
        "compare", data, "--map", "rw=rectified", "--seeds", 1, "--steps", 2, "--batch-size", 2,
        "--accelerator", "cpu", "--jobs", 0, "--out", out,
    )  # fmt: skip
    assert code == 0, told
    return out, printed


def test_compare_ends_with_the_report_and_report_makes_it_again(study, tmp_path, rwloss_command):
    out, printed = study
    page = out / "report.html"
    assert printed.splitlines()[-1].endswith(f"; the report: {page}")
    before = page.read_text(encoding="utf-8")
    results = (out / "results.json").read_text()
    page.unlink()
    (out / "runs.csv").unlink()

    code, printed, told = rwloss_command("report", out)
    assert (code, told) == (0, "")
    assert printed == f"wrote {page}\n"
    assert page.read_text(encoding="utf-8") == before
    assert (out / "results.json").read_text() == results
    assert (out / "runs.csv").exists()

    # Elsewhere, from a folder that has moved: nothing else is touched.
    moved = out.rename(tmp_path / "moved")
    (moved / "runs.csv").unlink()
    code, printed, _ = rwloss_command("report", moved, "--out", tmp_path / "page.html")
    assert code == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == before
    assert not (moved / "runs.csv").exists()


def test_export_writes_files_and_no_page(study, tmp_path, rwloss_command, monkeypatch):
    out, _ = study
    monkeypatch.setattr("rwloss.study.report.exports.draw", lambda chart, looks, *paths: None)
    before = {path: path.read_bytes() for path in out.glob("*.*")}
    code, printed, _ = rwloss_command("report", out, "--export", tmp_path / "figures")
    files = [*(tmp_path / "figures").iterdir()]
    assert (code, printed) == (0, f"wrote {len(files)} files in {tmp_path / 'figures'}\n")
    assert {path.suffix for path in files} == {".svg", ".pdf", ".csv", ".tex"}
    assert {path: path.read_bytes() for path in out.glob("*.*")} == before
    for wrong in (["--out", tmp_path / "x.pdf"], ["--export", tmp_path]):
        code, _, told = rwloss_command("report", out, *wrong)
        assert code == 2
        assert "--export" in told
    assert not (tmp_path / "x.pdf").exists()


def test_without_results_or_data_it_says_what_is_missing(data, study, rwloss_command):
    out, _ = study
    (out / "results.json").unlink()
    shutil.move(data, data.with_name("gone"))
    try:
        code, _, told = rwloss_command("report", out)
    finally:
        shutil.move(data.with_name("gone"), data)
    assert code == 0
    assert told.startswith("without the diagnostics of the maps: ")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "The diagnostics of the maps are missing" in page
    assert "No picture: " in page
    assert json.loads((out / "results.json").read_text())["indicators"] == {}


@pytest.mark.parametrize("broken", [False, True])
def test_a_page_that_cannot_be_made_costs_no_study(
    data, tmp_path, rwloss_command, monkeypatch, broken
):
    def fail(*_, **__):
        raise ZeroDivisionError("of the page")

    if broken:
        monkeypatch.setattr("rwloss.study.report.write", fail)
    else:
        monkeypatch.setitem(sys.modules, "plotly", None)
    code, printed, told = rwloss_command(
        "compare", data, "--map", "rectified", "--seeds", 1, "--steps", 1, "--batch-size", 2,
        "--accelerator", "cpu", "--jobs", 0, "--out", tmp_path / "study",
    )  # fmt: skip
    assert code == 0
    [line] = [line for line in told.splitlines() if "no report" in line]
    wanted = (
        "no report: ZeroDivisionError: of the page" if broken else "pip install 'rwloss[report]'"
    )
    assert wanted in line
    assert "1 of 1 runs are done." in printed
    assert printed.splitlines()[-1].endswith("runs/")


def test_a_folder_without_a_study_is_wrong_use(assert_refused):
    assert_refused("study.toml", "report", ".")


PLUGIN = '''
from pathlib import Path
from rwloss import maps

Path(__file__).with_name("ran").touch()


class Mine(maps.MapGenerator):
    """The rectified map."""

    name = "mine"

    def compute(self, regions):
        return maps.get("rectified")(regions)
'''


def test_a_study_runs_no_code_until_its_file_is_named(data, tmp_path, rwloss_command, monkeypatch):
    monkeypatch.setattr("rwloss.cli.compare.write_if_possible", lambda *_: None)  # takes seconds
    plugin, ran, out = tmp_path / "mine.py", tmp_path / "ran", tmp_path / "study"
    name, page = f"{plugin}:Mine", tmp_path / "page.html"
    plugin.write_text(PLUGIN)
    compare = [
        "compare", data, "--map", f"mine={name}", "--seeds", 1, "--steps", 2, "--batch-size", 2,
        "--accelerator", "cpu", "--jobs", 0, "--out", out,
    ]  # fmt: skip
    assert rwloss_command(*compare)[0] == 0
    plugin.write_text(f"{PLUGIN}# Another file, as in a study from elsewhere.\n")
    (out / "results.json").unlink()
    study = (out / "study.toml").read_text()
    escaped = "".join(f"\\x{ord(letter):02x}" for letter in f"file('{name}')")
    for text in (name, f'blend("{escaped}", "boundary")'):
        (out / "study.toml").write_text(study.replace(json.dumps(name), json.dumps(text)))
        ran.unlink(missing_ok=True)
        code, _, told = rwloss_command("report", out, "--out", page)
        assert (code, ran.exists()) == (0, False)
        assert "without the diagnostics of the maps" in told
        assert "mine.py is Python code" in page.read_text(encoding="utf-8")
        code, _, told = rwloss_command("compare", out / "study.toml", "--jobs", 0)
        assert (code, ran.exists()) == (2, False)
        assert "name it yourself first" in told

    # As these messages advise.
    (out / "study.toml").write_text(study)
    assert rwloss_command("report", out, "--map", name, "--out", page) == (0, f"wrote {page}\n", "")
    assert ran.exists()
    assert "is Python code" not in page.read_text(encoding="utf-8")
    again = ("compare", out / "study.toml", "--map", f"mine={name}", "--jobs", 0)
    code, _, told = rwloss_command(*again)
    assert code == 0, told
