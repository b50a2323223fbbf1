"""Running the command line inside the test process: its real entry point, without start-up cost."""

import sys

import pytest

from rwloss.cli import main


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
