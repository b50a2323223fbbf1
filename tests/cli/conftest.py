"""Running the command line inside the test process: its real entry point, without start-up cost."""

import shutil
import sys

import pytest

from rwloss.cli import main
from rwloss.data import sample_dir


@pytest.fixture(autouse=True, scope="module")
def quick_training(small_networks):
    """Whatever a module trains."""


@pytest.fixture
def source(tmp_path):
    """A folder with three label files of the sample."""
    folder = tmp_path / "labels"
    folder.mkdir()
    for file in sorted((sample_dir("hippocampus") / "labelsTr").iterdir())[:3]:
        shutil.copy(file, folder)
    return folder


@pytest.fixture
def rwloss_command(monkeypatch, capsys):
    """A function that runs `rwloss` with arguments and gives exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rwloss", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def assert_refused(rwloss_command, tmp_path, monkeypatch):
    """A function that runs `rwloss` with arguments that it should refuse, and make nothing of."""
    monkeypatch.chdir(tmp_path)

    def run(message, *arguments):
        before = {*tmp_path.rglob("*")}
        code, printed, told = rwloss_command(*arguments)
        assert (code, printed) == (2, ""), arguments
        assert message in " ".join(told.split()), arguments
        assert "Traceback" not in told
        assert {*tmp_path.rglob("*")} == before, arguments

    return run
