"""Static diagnostics of a study's maps against those of one case at a time."""

import numpy as np
import pytest

from rwloss import Regions, maps, stability
from rwloss.study.indicators import indicators, promises_stable
from rwloss.study.plan import runs
from rwloss.training import prepare


def test_indicators_are_those_of_the_training_labels(study_of, tmp_path):
    texts = {
        "boundary": "boundary",
        "rw": "rectified",
        "dice": "dice",
        "weighted": "class_weighted(weights='dataset_inverse')",
        "gdl": "blend(generalized_dice, boundary, schedule='rebalance', step=None)",
    }
    study = study_of(texts)
    found = indicators(study, tmp_path)
    assert list(found) == list(texts)
    train = prepare(next(runs(study, tmp_path)).settings).train
    labels = np.stack([volume.labels for volume in train])
    report = stability.check_expression(maps.Boundary(), Regions(labels, 3))
    assert found["boundary"].violating == pytest.approx(report.violating)
    assert found["boundary"].pushed_up == pytest.approx(report.pushed_up)
    assert found["boundary"].wrong_way_mass == pytest.approx(report.wrong_way_mass)
    assert list(found["boundary"].pull.values()) == pytest.approx(list(report.pull[1:]))
    assert found["boundary"].least_pull == pytest.approx(report.pull[1:].min())
    assert found["rw"].violating == found["rw"].wrong_way_mass == 0
    assert found["rw"].promises_stable
    assert not found["gdl"].promises_stable
    assert found["weighted"].violating == 0
    assert found["dice"].least_pull is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "promised"),
    [
        ("rectified.with_link(0.3) + cross_entropy", True),
        ("boundary.stabilized()", True),
        ("boundary", False),
        ("focal - rectified", False),
        ("blend(dice, rectified, schedule='steal', step=None)", False),
        ("blend(focal, rectified, schedule='steal', step=None)", True),
    ],
)
def test_promises(text, promised):
    assert promises_stable(maps.parse(text)) is promised
