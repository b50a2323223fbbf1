"""Studies whose run folders are written by hand, with names that a page must not believe."""

import json

from rwloss.study.indicators import Indicators
from rwloss.study.plan import make, runs
from rwloss.study.results import collect

HOSTILE = "<img src=x onerror=alert(1)>"
CLOSING = "</script><script>alert(2)</script>"
MAPS = {"boundary": "boundary", "rw": "rectified", "dice_ce": "dice + cross_entropy"}
STEPS = (10, 20)


def indicator(promises, value, pull, names=(HOSTILE, "b")):
    verdict = f"Says {HOSTILE}."
    pulls = dict.fromkeys(names, pull)
    return Indicators(promises, value, value / 4, value / 10, pulls, verdict)


def write_run(run, dice, mass, end=None, *, names=(HOSTILE, "b"), tested=True):
    """A run whose classes have these Dice at each of STEPS; the test Dice are end, or the last."""
    run.folder.mkdir(parents=True)
    lines = [
        {
            "kind": "record", "step": step, "gradient_norm": 1.0 / step, "wrong_way_mass": mass,
            "gradient_share": [0.5, 0.3, 0.2], "true_volume": [0.5, 0.3, 0.2], "losses": [],
            "predicted_volume": [1, 0, 0] if "boundary" in run.name else [0.6, 0.2, 0.2],
        }
        for step in (1, *STEPS)
    ]  # fmt: skip
    lines += [
        {"kind": "validation", "step": step, "dice": dict(zip(names, values, strict=True))}
        for step, values in zip(STEPS, dice, strict=True)
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    end = dict(zip(names, end or dice[-1], strict=True))
    cases = [
        {"name": f"{CLOSING}{i}", "diagonal_mm": 40.0, "classes": [
            {"label": k, "dice": d and d * (1 - i / 10), "nsd": d, "hd95_mm": d and 4 - 3 * d,
             "assd_mm": d and 2 - d, "state": "both" if d else "missed"}
            for k, d in enumerate(end.values(), 1)
        ]}
        for i in range(3)
    ]  # fmt: skip
    content = {
        "steps": 20, "step": 20, "rwloss": "0", "seconds": 60.0, "num_items": 5,
        "parameters": 1000, "class_names": ["background", *end], "cases": cases,
        "summary": [{"name": name, "dice": {"mean": mean}} for name, mean in end.items()],
    }  # fmt: skip
    if tested:
        (run.folder / "test.json").write_text(json.dumps(content))


def dice_of(name, seed):
    """Boundary loses a class always, the reference on seed 1."""
    if name == "boundary" or (name == "dice_ce" and seed == 1):
        return (0.3, 0.2), (0.6 + 0.01 * seed, 0.0)
    return (0.4 + 0.01 * seed, 0.3), (0.8 + 0.01 * seed, 0.7)


FOUND = {
    "boundary": indicator(False, 1.0, 0.002),
    "rw": indicator(True, 0.0, 0.02),
    "dice_ce": indicator(False, 0.5, None),
}


def strange_study(folder):
    """Results of 3 maps by 3 seeds: rectified breaks its promise, and its seed 2 failed."""
    study = make(
        data=f"/srv/someone/private/{HOSTILE}", maps=MAPS, seeds=[0, 1, 2], steps=20,
        training={"accelerator": "cpu", "groups_table": "/srv/someone/groups.csv"},
    )  # fmt: skip
    for run in runs(study, folder):
        if (run.name, run.seed) == ("rw", 2):
            run.failure.parent.mkdir(parents=True, exist_ok=True)
            run.failure.write_text(f"cannot read '/srv/someone/x y.nii' {CLOSING}")
            continue
        write_run(
            run, dice_of(run.name, run.seed), {"boundary": 0.02, "rw": 0.001}.get(run.name, 0)
        )
    return collect(study, folder, FOUND)
