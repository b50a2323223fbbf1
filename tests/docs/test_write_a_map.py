"""docs/write-a-map.md does what it says: its files are written, its commands run, in order.

A block marked `py` begins with the name of its file. Each line of a block marked `bash` is a
command; a block marked `text` right after it is what it prints.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import rwloss

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "write-a-map.md").read_text(encoding="utf-8")
# One interpreter for all commands, because each would import torch. Their outputs end with a zero.
RUN = """
import json, runpy, sys
from rwloss.cli import main

if __name__ == "__main__":
    sys.path.insert(0, ".")
    for program, *arguments in json.loads(sys.argv[1]):
        sys.argv = arguments = [program, *arguments]
        try:
            if program == "rwloss":
                code = main()
            elif arguments[1] == "-m":
                sys.argv = arguments[2:]
                code = runpy.run_module(arguments[2], run_name="__main__", alter_sys=True) and 0
            else:
                sys.argv = arguments[1:]
                code = runpy.run_path(arguments[1], run_name="__main__") and 0
        except SystemExit as end:
            code = end.code
        if code:
            sys.exit(f"{' '.join(arguments)} ended with {code}")
        print(end="\\0", flush=True)
"""
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The folder that someone who follows the page ends up with, and what each command printed."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "samples").symlink_to(ROOT / "samples", target_is_directory=True)
    for name in re.findall(r"^# (\w+\.py)$", PAGE, flags=re.MULTILINE):
        [content] = [text for _, text in BLOCKS if text.startswith(f"# {name}\n")]
        (folder / name).write_text(content)
    commands = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps([shlex.split(line) for line in commands])],
        cwd=folder,
        # Plug-ins of pytest take longer to load than the checks take.
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return folder, dict(zip(commands, done.stdout.split("\0"), strict=False))


def output(printed, beginning):
    [found] = [out for line, out in printed[1].items() if line.startswith(beginning)]
    return found


def test_ten_lines():
    [block] = [content for _, content in BLOCKS if content.startswith("# my_map.py")]
    lines = [line for line in block.splitlines() if line and not line.startswith("#")]
    assert len(lines) <= 10


def test_the_map_is_shown_and_stored(printed):
    out = output(printed, "rwloss maps")
    assert "tau_mm: float = 3.0" in out
    assert "From: my_map.py:soft_depth" in out
    store = rwloss.store.open(printed[0] / "out")
    assert store.expression == "file('my_map.py:soft_depth', tau_mm=6.0)"
    assert len(store) == 24


def test_it_prints_what_the_page_shows(printed):
    for command in ("python train.py", "python use_my_loss.py"):
        index = BLOCKS.index(("bash", f"{command}\n"))
        language, shown = BLOCKS[index + 1]
        assert language == "text"
        assert output(printed, command) == shown
    assert re.search(r"\d\d passed", output(printed, "python -m pytest"))
