"""The instrument sees what is known, in real trainings of a tiny net with fixed seeds."""

import pytest

from rwloss.study.execution import carry_out
from rwloss.study.indicators import indicators
from rwloss.study.plan import runs
from rwloss.study.results import collect
from rwloss.study.wording import sentences

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


@pytest.fixture
def study_results(study_of, tmp_path):
    path = tmp_path / "corrupt.py"
    path.write_text(CORRUPT)
    maps = {"boundary": "boundary", "rw": "rectified", "bad": f"file('{path}:Corrupt')"}
    study = study_of(maps, steps=12)
    ends = carry_out(list(runs(study, tmp_path / "study")), jobs=0)
    assert [end.reason for end in ends] == [None, None, None]
    return collect(study, tmp_path / "study", indicators(study, tmp_path / "study"))


def test_wrong_way_mass_and_a_corrupted_map(study_results):
    boundary, rectified, corrupt = study_results.whole.maps
    assert boundary.wrong_way_mass > 0.005
    assert not boundary.breaks_promise  # it promised nothing
    assert rectified.largest_wrong_way_mass < 1e-5
    assert not rectified.breaks_promise
    assert corrupt.wrong_way_mass > 0.005
    assert corrupt.breaks_promise
    alarms = [text for text in sentences(study_results) if text.startswith("ALARM")]
    assert len(alarms) == 1
    assert "bad promises to be stable" in alarms[0]
    found = study_results.indicators
    assert found["rw"].violating == 0
    assert found["boundary"].violating > 0.9
    assert 0 < found["bad"].violating < 1
