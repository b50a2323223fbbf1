"""`rwloss demo`, end to end with a few steps."""

import json
import re
import shlex
import shutil
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from rwloss import data, store
from rwloss.cli.app import app
from rwloss.cli.demo import DRAWN, MAPS


def run_demo(folder, *options):
    options = ("--steps", "2", "--seeds", "1", "--jobs", "0", *options)
    return CliRunner().invoke(app, ["demo", "--out", str(folder), *options])


@pytest.fixture(scope="module", autouse=True)
def few_cases(tmp_path_factory):
    """A sample of three volumes to train on and one to test on, in the place of the whole one."""
    sample, whole = tmp_path_factory.mktemp("sample"), data.sample_dir("hippocampus")
    shutil.copy(whole / "dataset.json", sample)
    for part, count in (("Tr", 3), ("Ts", 1)):
        for kind in ("images", "labels"):
            (sample / f"{kind}{part}").mkdir()
            for path in sorted((whole / f"{kind}{part}").glob("*.nii.gz"))[:count]:
                shutil.copy(path, sample / f"{kind}{part}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "sample_dir", lambda name: sample)
        for name in ("boundary", "rectified"):
            patch.delitem(MAPS, name)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One demo of two steps: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "made" / "by demo"
    result = run_demo(folder)
    assert result.exit_code == 0, result.output
    return folder, result


def test_prints_the_study_and_names_the_report(done):
    folder, result = done
    assert "3 hippocampus volumes to train on, 1 to test on" in result.stdout
    assert "2 of 2 runs are done." in result.stdout
    assert f"Next: open {folder / 'study' / 'report.html'} in a browser" in result.stdout
    for name in MAPS:
        assert f"{name}, seed 0: done" in result.stderr


def test_what_it_says_to_do_next_works(done, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [line for line in done[1].stdout.splitlines() if line.startswith("  rwloss ")]
    commands = [shlex.split(re.split(r"  +\b", line.strip())[0]) for line in lines]
    assert [command[1] for command in commands] == ["check", "precompute", "compare"]
    for command in commands:
        command[command.index("DATA")] = str(data.sample_dir("hippocampus"))
        more = {"compare": ["--dry-run"], "precompute": ["--jobs", "0"]}.get(command[1], [])
        result = CliRunner().invoke(app, [*command[1:], *more])
        assert result.exit_code == 0, result.output


def test_writes_a_picture(done):
    with Image.open(done[0] / "maps.png") as picture:
        picture.load()
        assert min(picture.size) >= 400
        assert len(picture.convert("L").getcolors()) > 50


def test_keeps_the_maps(done):
    cases = [case.name for case in data.find(data.sample_dir("hippocampus")).cases]
    for name in DRAWN:
        assert list(store.open(done[0] / name)) == cases


def test_writes_a_study_with_its_report(done):
    study = done[0] / "study"
    content = json.loads((study / "results.json").read_text(encoding="utf-8"))
    assert [each["map"] for each in content["whole"]["maps"]] == list(MAPS)
    assert content["reference"] == "dice_ce"
    page = (study / "report.html").read_text(encoding="utf-8")
    assert page.count('<div class="of-map"') == len(MAPS)
    assert "No picture" not in page


def test_again_over_the_same_folder_keeps_what_is_there(done, monkeypatch):
    folder, first = done
    page = folder / "study" / "report.html"
    monkeypatch.setattr("rwloss.cli.compare.write_if_possible", lambda *_: page)  # takes seconds
    again = run_demo(folder)
    assert again.exit_code == 0, again.output
    assert again.stdout.count("0 made, 3 kept") == 2
    from_study = first.stdout.index("map ")
    assert again.stdout[again.stdout.index("map ") :] == first.stdout[from_study:]


@pytest.mark.parametrize(("name", "extra"), [("monai", "train"), ("plotly", "report")])
def test_what_is_not_installed_is_said_before_any_work(
    name, extra, monkeypatch, tmp_path, rwloss_command
):
    monkeypatch.setitem(sys.modules, name, None)
    code, _, err = rwloss_command("demo", "--out", tmp_path / "out")
    assert code == 2
    assert f"pip install 'rwloss[{extra}]'" in err
    assert not (tmp_path / "out").exists()


def test_wrong_use(tmp_path, assert_refused):
    (tmp_path / "file").write_text("")
    assert_refused("name another folder with --out", "demo", "--out", "file")
    for option in ("--steps", "--seeds"):
        assert_refused(option, "demo", option, "0")
