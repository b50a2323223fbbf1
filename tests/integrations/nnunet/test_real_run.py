"""A real run: the page's own lines, from planning to scores, on the CPU."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pytest

from rwloss.data import find, sample_dir

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(
        find_spec("nnunetv2") is None,
        reason="nnunetv2 is not installed: `make test-nnunet` has an environment with it",
    ),
]

REDUCED = bool(os.environ.get("RWLOSS_REDUCED"))
PAGE = Path(__file__).parents[3] / "docs" / "nnunet.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def write_files(folder):
    """The page's files, each under the name in its first line."""
    for content in blocks("py"):
        name = content.splitlines()[0].removeprefix("# ")
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)


def run_page(folder):
    """The page's lines in a shell of their own, with the programs of this environment."""
    programs = Path(sys.executable).parent
    [script] = blocks("bash")
    known = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**known, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def mean_dice(folder, labels):
    """Mean Dice of the foreground classes of all volumes."""
    found = []
    for path in sorted(labels.glob("*.nii.gz")):
        truth = np.asarray(nibabel.load(path).dataobj)
        predicted = np.asarray(nibabel.load(folder / path.name).dataobj)
        for k in (1, 2):
            both = ((truth == k) & (predicted == k)).sum()
            found.append(2 * both / ((truth == k).sum() + (predicted == k).sum()))
    return float(np.mean(found)), len(found) // 2


def held_out(source, folder, *, train, test):
    """A raw folder with the first cases of another to train on, and the next ones to test."""
    cases = find(source).cases
    for part, some in (("Tr", cases[:train]), ("Ts", cases[train : train + test])):
        for kind in ("images", "labels"):
            (folder / f"{kind}{part}").mkdir(parents=True)
        for case in some:
            shutil.copy(case.images[0], folder / f"images{part}")
            shutil.copy(case.labels, folder / f"labels{part}")
    content = json.loads((Path(source) / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "numTraining": train}))


def test_the_page_trains_and_segments_what_it_did_not_see(tmp_path, capsys):
    (tmp_path / "samples").symlink_to(Path(sample_dir("hippocampus")).parent)
    write_files(tmp_path)
    told = run_page(tmp_path)
    assert told.count("rwloss: rectified + dice, spacing [1.0, 1.0] mm") == 1
    dice, volumes = mean_dice(tmp_path / "predicted", Path(sample_dir("hippocampus")) / "labelsTs")
    with capsys.disabled():
        print(f"\nnnU-Net: mean foreground Dice {dice:.3f} of {volumes} volumes")
    assert volumes == 8
    assert dice >= 0.5


@pytest.mark.skipif(REDUCED, reason="RWLOSS_REDUCED is set: the sample stands for it")
def test_a_longer_run_on_more_volumes(tmp_path, shared_data, capsys):
    source = tmp_path / "samples" / "hippocampus"
    held_out(shared_data("hippocampus"), source, train=60, test=20)
    write_files(tmp_path)
    short = tmp_path / "trainers" / "short.py"
    short.write_text(short.read_text().replace("num_epochs = 10", "num_epochs = 20"))
    run_page(tmp_path)
    dice, volumes = mean_dice(tmp_path / "predicted", source / "labelsTs")
    with capsys.disabled():
        print(f"\nnnU-Net: mean foreground Dice {dice:.3f} of {volumes} volumes")
    assert volumes == 20
    assert dice >= 0.5
