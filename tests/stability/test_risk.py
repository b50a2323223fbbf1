"""The models that ship: predictions and alarms from fitted.json, and what is claimed of them."""

import json
import math
from importlib.resources import files

import pytest

from rwloss import RWLossError, stability
from rwloss.stability.alarm import LOOKS, judge
from rwloss.stability.prediction import calibration, predict

FITTED = json.loads(files("rwloss.stability").joinpath("fitted.json").read_text(encoding="utf-8"))
USUAL = {"pull_exponent": 1.0, "fraction": 0.02, "learning_rate": 4e-3, "steps": 300}


def by_hand(model, features):
    """Probability of a model of the file, from its features by name."""
    odds = model["bias"]
    for name, of in model["features"].items():
        odds += of["weight"] * (features[name] - of["mean"]) / of["scale"]
    return 1 / (1 + math.exp(-odds))


def test_a_risk_is_that_of_the_model_in_the_file():
    for pull, exponent in ((0.002, 1.0), (0.05, 0.3), (0.4, 0.0)):
        features = {name: math.log10(value) for name, value in {**USUAL, "pull": pull}.items()}
        wanted = by_hand(FITTED["risk"]["model"], {**features, "pull_exponent": exponent})
        assert predict(pull, **{**USUAL, "pull_exponent": exponent}) == pytest.approx(wanted)


@pytest.mark.parametrize("look", LOOKS)
def test_an_alarm_judges_by_the_model_of_its_look(look):
    signs = {
        "pull": 0.01,
        "own_probability": 0.2,
        "trend": 0.7,
        "contrast": 3.0,
        "predicted_volume": 0.5,
    }
    found = FITTED["alarm"]["looks"][f"{look:g}"]
    wanted = by_hand(found["model"], {name: math.log(value) for name, value in signs.items()})
    assert judge(look).risk(signs) == pytest.approx(wanted)
    assert judge(look).threshold == found["threshold"]


@pytest.mark.filterwarnings("ignore:the risk is an extrapolation")
def test_risks_follow_the_pull_ratio():
    risks = [predict(pull, **USUAL) for pull in (math.inf, 1.0, 0.1, 0.01, 0.001, 0.0)]
    assert risks == sorted(risks)
    assert risks[0] < 0.05
    assert risks[-1] > 0.5
    assert predict(0.003, **{**USUAL, "steps": 1500}) < predict(0.003, **USUAL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fraction": 0}, "fraction as a number above 0"),
        ({"learning_rate": math.nan}, "learning_rate as a number above 0"),
        ({"pull_exponent": math.nan}, "unknown"),
    ],
)
def test_numbers_without_a_meaning_are_refused(wrong, message):
    with pytest.raises(RWLossError, match=message):
        predict(0.01, **{**USUAL, **wrong})


def test_it_warns_outside_the_recorded_runs():
    for name, (low, high) in FITTED["fitted_on"]["ranges"].items():
        given = {"pull": 0.01, **USUAL}
        for inside in (low, high):
            predict(**{**given, name: inside})
        for outside in (low - 0.2, high + 0.2) if name == "pull_exponent" else (low / 2, high * 2):
            with pytest.warns(UserWarning, match=f"extrapolation: {name} .*recorded: ") as told:
                predict(**{**given, name: outside})
            assert told[0].filename == __file__
    with pytest.warns(UserWarning, match=r"learning_rate 1 \(.*\), steps 250000 \("):
        predict(0.01, **{**USUAL, "learning_rate": 1.0, "steps": 250_000})


@pytest.mark.parametrize("by", ["dataset", "map"])
def test_the_calibration_is_that_in_the_file(by):
    found = calibration(by)
    for name, value in FITTED["risk"]["left_out"][by].items():
        given = getattr(found, name)
        assert given == (tuple(value) if isinstance(value, list) else value)
    assert found.rows == FITTED["fitted_on"]["risk"]["classes"]
    assert found.lost == FITTED["fitted_on"]["risk"]["lost"]
    assert found.interval[0] < found.area < found.interval[1]
    assert found.pull_interval[0] < found.pull_area < found.pull_interval[1]


def test_the_public_names():
    assert stability.predict is predict
    assert stability.calibration is calibration
