"""Two CPU processes with batches of b follow one with 2 b."""

import os
import subprocess
import sys

import pytest
import torch
from raw_folders import make_raw

from rwloss.training import RunFolder, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed"),
]

PROGRAM = "from rwloss.cli import main\n\nmain()\n"


def test_two_processes_have_the_losses_of_one(tmp_path, settings_of):
    """All patches are whole images without padding, so that each process counts as many voxels.

    Adam divides gradients by their size, so where they are tiny it makes much of rounding: a small
    learning rate keeps that small.
    """
    data = make_raw(tmp_path / "raw", [f"case{i}" for i in range(10)], (32, 32))
    plan = {
        "map": "rectified + dice",
        "steps": 12 if os.environ.get("RWLOSS_REDUCED") else 40,
        "record_every": 4,
        "learning_rate": 2e-4,
        "intensity": 0.5,
        "flip": 0.5,
        "zoom": 0.0,  # a zoom below 1 leaves voxels outside, which do not count
    }
    one = train(settings_of(data, batch_size=4, out=str(tmp_path / "one"), **plan))
    options = [
        text
        for name, value in {**plan, "batch_size": 2, "devices": 2, "accelerator": "cpu"}.items()
        for text in (f"--{name.replace('_', '-')}", str(value))
    ]
    # Fabric starts the second process with the same command, so there must be one.
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), "train", str(data), *options, "--out", tmp_path / "two"],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint of step") == 1  # one process reports
    two = RunFolder(tmp_path / "two").read_result()
    assert two.losses == pytest.approx(one.losses, rel=1e-5)
    assert len(two.losses) == plan["steps"]
