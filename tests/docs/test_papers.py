"""The set-ups of papers train, in a shortened form: fewer steps, smaller networks and patches."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from rwloss import data
from rwloss.study.assembly import assembled
from rwloss.study.execution import conduct
from rwloss.study.plan import runs
from rwloss.training import RunSettings, train

PAPERS = Path(__file__).parents[2] / "docs" / "papers"
SHORT = {
    "kervadec2019": {
        "epochs": 2,
        "batch_size": 40,
        "train_cases": 1,
        "patch_size": (48, 64),
        "network_options": {
            "channels": [2, 4, 8, 16],
            "strides": [2, 2, 2],
            "num_res_units": 2,
            "norm": "batch",
            "act": "prelu",
        },
    },
    "valverde2021": {
        "steps": 2,
        "batch_size": 2,
        "patch_size": (128, 128),
        "network_options": {"filters": [2] * 7},
    },
    "topomortar": {
        "steps": 2,
        "batch_size": 2,
        "precision": "32-true",
        "patch_size": (256, 256),
        "network_options": {"filters": [2] * 8},
    },
}


def sample_of(name):
    return str(data.sample_dir("hippocampus" if name == "kervadec2019" else "lung_patches"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_shortened_form_trains(name, tmp_path):
    path, changes = PAPERS / f"{name}.toml", dict(SHORT[name])
    whole = RunSettings.read(path, data="in", out="run")
    changes["network_options"] = {**whole.network_options, **changes["network_options"]}
    short = RunSettings.read(
        path,
        data=sample_of(name),
        out=str(tmp_path / "run"),
        accelerator="cpu",
        **changes,
    )
    found = train(short)
    assert found.settings.normalization == whole.normalization
    assert len(found.losses) == found.settings.steps
    assert found.best_step <= found.settings.steps


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_shortened_form_is_compared(name, tmp_path):
    """What `compare --config` does: two maps in the set-up of a paper."""
    text = (PAPERS / f"{name}.toml").read_text()
    paper = tmp_path / "paper.toml"
    paper.write_text(re.sub(r"^epochs = \d+", "epochs = 2", text, flags=re.M))
    wanted = RunSettings.read(paper, data="", out="")
    training = {**SHORT[name], "accelerator": "cpu"}
    training["network_options"] = {**wanted.network_options, **training["network_options"]}
    training.pop("epochs", None)
    given = {
        "maps": {"boundary": "boundary", "gdl": "generalized_dice"},
        "seeds": (0,),
        "steps": training.pop("steps", None),
        "training": training,
    }
    told = []
    study, folder = assembled(sample_of(name), tmp_path / "study", given, paper, told.append)
    assert told[0].startswith("not taken from ")
    assert (len(told) == 2) == (given["steps"] is None)
    found = conduct(study, folder, lambda _: nullcontext(lambda end: None), jobs=0)
    assert [row.status for row in found.runs] == ["done", "done"], found.runs
    for run in runs(study, folder):
        settings = RunSettings.read(run.folder / "run.toml")
        for each in ("optimizer", "learning_rate", "learning_rate_schedule", "normalization"):
            assert getattr(settings, each) == getattr(wanted, each)


def test_the_values_of_the_papers():
    """As their published code has them; docs/papers/README.md says where."""
    kervadec, valverde, topomortar = (
        RunSettings.read(PAPERS / f"{name}.toml", data="in", out="run") for name in SHORT
    )
    assert (kervadec.learning_rate, kervadec.betas) == (1e-3, (0.9, 0.99))
    assert (kervadec.epochs, kervadec.batch_size) == (100, 8)
    assert (kervadec.plateau_factor, kervadec.plateau_patience) == (0.5, 20)
    assert (valverde.learning_rate, valverde.epochs, valverde.steps_per_epoch) == (1e-4, 300, 250)
    assert (topomortar.momentum, topomortar.nesterov, topomortar.weight_decay) == (0.99, True, 3e-5)
    assert (topomortar.steps, topomortar.batch_size, topomortar.gradient_clip) == (12000, 10, 12)
    total = sum(2.0**-i for i in range(7))
    assert topomortar.deep_supervision_weights == pytest.approx(
        [1 / 7, *(2.0**-i / total / 7 for i in range(1, 7))], rel=1e-6
    )
