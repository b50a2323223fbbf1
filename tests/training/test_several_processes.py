"""`kill -9` at any moment, start again, and nothing is different at the end; and two processes.

test_run.py interrupts runs within its own process, which takes less time.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from raw_folders import make_raw
from training_runs import assert_same, left_by, work

from rwloss.training import RunFolder, train

pytestmark = pytest.mark.slow


needs_distributed = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch without distributed"
)


def started(folder, data, settings):
    """`rwloss train` in a process of its own: Fabric starts the second one in the same way."""
    options = [
        text
        for name, value in {**settings, "devices": 2, "accelerator": "cpu"}.items()
        for text in (f"--{name.replace('_', '-')}", str(value))
    ]
    program = folder / "program.py"
    program.write_text("from rwloss.cli import main\n\nmain()\n")
    return subprocess.Popen(
        [sys.executable, str(program), "train", str(data), *options, "--out", folder / "two"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@needs_distributed
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
    process = started(tmp_path, data, {**plan, "batch_size": 2})
    printed, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    assert printed.count("checkpoint of step") == 1  # one process reports
    two = RunFolder(tmp_path / "two").read_result()
    assert two.losses == pytest.approx(one.losses, rel=1e-5)
    assert len(two.losses) == plan["steps"]


@needs_distributed
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes by /proc")
def test_the_second_process_ends_when_the_first_is_killed(squares, tmp_path):
    """Also where it has not yet found the first."""
    process = started(tmp_path, squares, {"map": "rectified", "steps": 100_000, "batch_size": 2})
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (found := children.read_text().split()):
        assert process.poll() is None
        time.sleep(0.01)
    [second] = found
    while len(os.listdir(f"/proc/{second}/task")) < 2:  # the thread that watches
        time.sleep(0.01)
    process.kill()
    process.communicate()  # until the second closes its streams too
    while Path(f"/proc/{second}").exists():  # the test's own time limit ends it otherwise
        time.sleep(0.1)


@needs_distributed
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes by /proc")
def test_the_first_process_says_that_the_second_has_ended(squares, tmp_path):
    plan = {"map": "rectified", "steps": 100_000, "batch_size": 2, "checkpoint_every": 1}
    process = started(tmp_path, squares, plan)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (
        tmp_path / "two/checkpoints/last.pt"
    ).exists():  # the test's own time limit ends it otherwise
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    [second] = children.read_text().split()
    os.kill(int(second), signal.SIGKILL)
    _, errors = process.communicate()
    assert "another process of this training run has ended" in errors
    assert "Traceback" not in errors
    assert process.returncode == 2


# --- kill -9

KILLED = {
    "map": "rectified + dice",
    "steps": 24,
    "batch_size": 2,
    "checkpoint_every": 5,
    "validate_every": 8,
    "record_every": 3,
    "flip": 0.5,
    "zoom": 0.3,
    "intensity": 0.5,
    "accelerator": "cpu",
}


def copies_of_a_server():
    """Processes that begin as copies of one that has imported what takes longer than a run."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "rwloss.training.run",
            "lightning_fabric",
            "monai.networks.nets.unet",
            "monai.inferers.utils",
        ]
    )
    return context


@pytest.fixture(scope="module")
def undisturbed(squares, tmp_path_factory):
    """What a run leaves that nobody stops, and how long its steps took."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    work({"data": str(squares), "out": str(out), **KILLED})
    return left_by(out), RunFolder(out).read_result().seconds


def killed_often(squares, out, kills, seed, seconds):
    """Train in processes that are killed at random moments, but for the last.

    seconds: of a whole run, so that the first kill falls anywhere into its beginning. The others
    wait for a random step in the log: a busy machine is slower at one time than at another.
    Gives how many fell before the end of the run.
    """
    context, chance, killed = copies_of_a_server(), random.Random(seed), 0
    task, folder = {"data": str(squares), "out": str(out), **KILLED}, RunFolder(Path(out))

    def logged():
        return max((line["step"] for line in folder.lines()), default=0)

    for kill in range(kills):
        process = context.Process(target=work, args=(task,))
        process.start()
        if kill == 0:
            process.join(chance.uniform(0, 0.3 * seconds))
        aim = chance.randint(0, KILLED["steps"] - 8) if kill else 0
        while process.is_alive() and logged() < aim:
            time.sleep(0.002)
        process.join(chance.uniform(0, 3 * seconds / KILLED["steps"]))
        killed += process.is_alive()
        process.kill()
        process.join()
    work(task)
    return killed


def test_runs_that_are_killed_again_and_again(squares, undisturbed, tmp_path):
    wanted, seconds = undisturbed
    for seed in range(1, 3 if os.environ.get("RWLOSS_REDUCED") else 13):
        out = tmp_path / f"run{seed}"
        assert killed_often(squares, out, 4, seed, seconds) > 0
        assert_same(left_by(out), wanted)
