"""The benchmarks for GPUs, as far as they run without one: rows are kept, problems are named."""

import itertools
import json
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import gpu, gpu_wheels, page  # noqa: E402

sys.path.remove(str(ROOT))

WAITS = "tests/losses/test_waits.py::test_nothing_waits_on_cuda[rectified + dice]"
TOLD = f"""tests/losses/test_waits.py::test_one PASSED [ 50%]
{WAITS} FAILED [100%]
=== FAILURES ===
=== short test summary info ===
FAILED {WAITS} - RuntimeError: FAILED to wait
=== 1 failed, 12 passed, 3 skipped in 8.01s ===
""".splitlines(keepends=True)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_rows_of_a_test_run():
    """The same from one process, from workers of xdist, and from the summary alone."""
    by_a_worker = f"[gw3] [100%] FAILED {WAITS} \n"
    for told in (TOLD, [TOLD[0], by_a_worker, *TOLD[2:]], TOLD[2:]):
        assert [(row.method, row.value) for row in gpu.rows_of_tests(told)] == [
            (f"failed: {WAITS}", 1),
            ("failed", 1),
            ("passed", 12),
        ]


def test_a_failed_test_is_told_before_the_others_end(capsys):
    """As a run that is cut off must leave what it has."""
    rows = gpu.rows_of_tests(iter([*TOLD[:2], "not read yet"]))
    assert next(rows).method == f"failed: {WAITS}"
    assert capsys.readouterr().out == "".join(TOLD[:2])


def test_tests_that_can_not_run_are_a_problem(monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    with pytest.raises(RuntimeError, match="exit code 4"):
        list(gpu.PARTS["tests"]())


@pytest.mark.slow
def test_a_part_that_fails_or_takes_too_long_costs_no_other(tmp_path, monkeypatch):
    """Each row stays as soon as it is known."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path, facts = tmp_path / "new" / "gpu.jsonl", {"started": "now", "python": "3", "versions": {}}
    parts = {
        "wrong": partial(int, "x"),
        "good": partial(gpu.rows_of_tests, TOLD),
        "endless": partial(map, time.sleep, itertools.repeat(60, 1)),
        "late": partial(gpu.rows_of_tests, TOLD),
    }
    assert gpu.run(parts, path, facts, seconds=15) == 1
    found = lines_of(path)
    assert all(line["started"] == "now" for line in found)
    assert [line["row"]["value"] for line in found if "row" in line] == [1, 1, 12]
    assert {line["part"]: line["problem"] for line in found if "problem" in line} == {
        "wrong": "ValueError: invalid literal for int() with base 10: 'x'",
        "endless": "ended: the time was up",
        "late": "not run: the time was up",
    }
    shown = page.gpu_table(path)
    assert "| GPU tests | passed | 12 tests |" in shown
    assert "- endless: ended: the time was up" in shown


def test_the_page_says_that_no_run_exists(tmp_path):
    assert page.gpu_table(tmp_path / "gpu.jsonl") == "No result is stored."


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_refuses():
    from typer.testing import CliRunner

    from benchmarks.__main__ import app

    told = CliRunner().invoke(app, ["gpu", "--minutes", "1"])
    assert told.exit_code == 2
    assert "no CUDA device" in told.stderr


def test_a_part_that_does_not_exist_is_refused():
    from typer.testing import CliRunner

    from benchmarks.__main__ import app

    told = CliRunner().invoke(app, ["gpu", "--part", "step", "--part", "stepp"], color=False)
    assert told.exit_code == 2
    assert "'stepp'" in told.stderr
    assert "'step'" in told.stderr


def test_only_the_chosen_parts_run_in_their_order(monkeypatch):
    monkeypatch.setattr(gpu, "run", lambda parts, *_: list(parts))
    assert gpu.main(1, ["step", "loss"]) == ["step", "loss"]
    assert gpu.main(1) == list(gpu.PARTS)


def test_wheels_are_those_that_are_missing():
    """Whatever the spelling; CUDA's own come with torch."""
    lines = ["Tomli_W==1.2.0", "torch==2.11.0", "nvidia-cublas==13", "cuda-toolkit==13", "", "# no"]
    assert gpu_wheels.needed(lines, ["Torch"]) == ["Tomli_W==1.2.0"]
    command = " ".join(gpu_wheels.download(Path("wheels"), "3.12"))
    assert "--no-deps --only-binary=:all: --python-version=3.12" in command
    assert "--requirement wheels/requirements.txt --dest wheels" in command
