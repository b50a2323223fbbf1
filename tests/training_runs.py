"""Trainings in processes of their own, and what they leave, for tests of kills and of several
processes."""

import json
from pathlib import Path

import torch


def work(fields):
    """A training to its end, in a process that may be killed; nothing comes back."""
    from rwloss.training import RunSettings, train

    torch.set_num_threads(1)
    train(RunSettings(**fields))


def work_together(runs):
    """As `work`, for runs that train together."""
    from rwloss.training import RunSettings
    from rwloss.training.together import train_together

    torch.set_num_threads(1)
    train_together([RunSettings(**fields) for fields in runs])


def left_by(run):
    """What a run has left, times and starts aside: checkpoints, log lines, test."""
    run = Path(run)
    found = {}
    for name in ("last", "best"):
        content = torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)
        content["settings"].pop("out")
        if "state" in content:
            content["state"].pop("seconds")
        found[name] = content
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found["lines"] = [
        {k: v for k, v in line.items() if k != "seconds"}
        for line in lines
        if line["kind"] != "start"
    ]
    test = json.loads((run / "test.json").read_text())
    found["test"] = {k: v for k, v in test.items() if k not in {"seconds", "predictions"}}
    return found


def assert_same(one, other, where=""):
    """Equal bit for bit, tensors and all."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_same(one[name], other[name], f"{where}/{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where
