"""Static diagnostics of a study's maps, and what the instrument sees in training of them."""

import numpy as np
import pytest

from rwloss import Regions, maps, stability
from rwloss.study.execution import carry_out
from rwloss.study.indicators import indicators, promises_stable
from rwloss.study.plan import runs
from rwloss.study.results import collect
from rwloss.study.wording import sentences
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
    assert found["dice"].least_pull > 0.3
    exponents = {"boundary": 1, "rw": 1, "dice": 1, "weighted": 1, "gdl": 1}
    assert {name: each.largest_exponent for name, each in found.items()} == exponents
    assert found["gdl"].effective_weights == {"boundary": 0.0, "generalized_dice": 1.0}
    assert found["dice"].effective_weights == {}
    assert list(tmp_path.iterdir()) == []


def test_promises():
    for text, promised in (
        ("rectified.with_link(0.3) + cross_entropy", True),
        ("boundary.stabilized()", True),
        ("boundary", False),
        ("focal - rectified", False),
        ("blend(dice, rectified, schedule='steal', step=None)", False),
        ("blend(focal, rectified, schedule='steal', step=None)", True),
    ):
        assert promises_stable(maps.parse(text)) is promised, text


CORRUPT = '''
from dataclasses import dataclass
from typing import ClassVar

import rwloss
from rwloss import maps


@dataclass(frozen=True)
class Corrupt(maps.MapGenerator):
    """rectified with two channels swapped where it is deep, which it does not say."""

    name: ClassVar[str] = "corrupt"
    tags: ClassVar[maps.MapTags] = maps.MapTags(stable=True, signed=True)

    def compute(self, regions):
        rwmap = maps.get("rectified")(regions)
        values = rwmap.dense()
        deep = (regions.depth_mm > 1)[:, None]
        swapped = values[:, [0, 2, 1]]
        return rwloss.RWMap.from_dense(rwmap.labels, regions.xp.where(deep, swapped, values))
'''


def test_wrong_way_mass_and_a_corrupted_map(study_of, tmp_path):
    path = tmp_path / "corrupt.py"
    path.write_text(CORRUPT)
    texts = {"boundary": "boundary", "rw": "rectified", "bad": f"file('{path}:Corrupt')"}
    study, folder = study_of(texts, steps=8), tmp_path / "study"
    ends = carry_out(list(runs(study, folder)), jobs=0)
    assert [end.reason for end in ends] == [None, None, None]
    study_results = collect(study, folder, indicators(study, folder))
    boundary, rectified, corrupt = study_results.whole.maps
    assert boundary.wrong_way_mass > 0.005
    assert not boundary.breaks_promise  # it promised nothing
    assert rectified.largest_wrong_way_mass < 1e-5
    assert not rectified.breaks_promise
    assert corrupt.wrong_way_mass > 0.005
    assert corrupt.breaks_promise
    alarms = [text for text in sentences(study_results) if text.startswith("ALARM")]
    assert len(alarms) == 1
    assert "bad is declared stable" in alarms[0]
    found = study_results.indicators
    assert found["rw"].violating == 0
    assert found["boundary"].violating > 0.9
    assert 0 < found["bad"].violating < 1
