"""Scores of three methods, seven seeds and nine cases, and the files that hold them."""

import numpy as np

METHODS, SEEDS, CASES = ("dice_ce", "rw", "boundary"), 7, 9


def made_scores():
    """metric -> (method seed case)."""
    rng = np.random.default_rng(0)
    shape = len(METHODS), SEEDS, CASES
    of_case = rng.normal(0, 0.05, (1, 1, CASES))
    gain = np.array([0.0, 0.03, -0.01])[:, None, None]
    dice = 0.7 + gain + of_case + rng.normal(0, 0.02, (len(METHODS), SEEDS, 1))
    dice = np.round(dice + rng.normal(0, 0.02, shape), 4)
    return {"Dice": dice, "HD95": np.round(9 - 8 * dice + rng.normal(0, 0.1, shape), 3)}


def long_rows(scores, method="loss"):
    """A row per method, seed and case, a column per metric, in no order."""
    rows = [
        f"{name},{s},case{c},{scores['Dice'][m, s, c]},{scores['HD95'][m, s, c]}"
        for m, name in enumerate(METHODS)
        for s in range(SEEDS)
        for c in range(CASES)
    ]
    np.random.default_rng(1).shuffle(rows)
    return [f"{method},seed,case,Dice,HD95", *rows]


def write(path, *rows):
    """A file of these lines, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*rows, ""]), encoding="utf-8")
    return path
