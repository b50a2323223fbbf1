"""Studies show whatever metrics their tests have, each by its unit and direction."""

import csv
import io
import json

import pytest
from strange_studies import MAPS, write_run

from rwloss import RWLossError
from rwloss.study.outcomes import outcome_of
from rwloss.study.plan import Study, make, runs
from rwloss.study.report.forest import differences_table, forest_charts
from rwloss.study.report.run_charts import charts_of_runs
from rwloss.study.report.tables import maps_table, scores_table
from rwloss.study.results import as_csv, collect

MORE = {"hd_mm": 8.0, "nsd_at_2": 0.9, "betti_0_error": 3.0, "relative_volume_difference": -0.5}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Rectified has half of the errors of the reference; seed 1 of it is of an earlier version."""
    folder = tmp_path_factory.mktemp("study")
    maps = {"rw": "rectified", "dice_ce": MAPS["dice_ce"]}
    study = make(data="DATA", maps=maps, seeds=[0, 1], steps=20)
    for run in runs(study, folder):
        write_run(run, ((0.4, 0.3), (0.8, 0.7)), 0.0, names=("a", "b"))
        if (run.name, run.seed) == ("rw", 1):
            continue
        file = run.folder / "test.json"
        content = json.loads(file.read_text())
        for case in content["cases"]:
            for of_class in case["classes"]:
                of_class |= {name: v / (1 + (run.name == "rw")) for name, v in MORE.items()}
        file.write_text(json.dumps(content))
    return collect(study, folder)


def test_every_metric_has_its_columns(results):
    rows = list(csv.DictReader(io.StringIO(as_csv(results))))
    for name, value in MORE.items():
        of_class, mean = ([row[f"test_{name}{end}"] for row in rows] for end in ("", "_mean"))
        # Two classes of: rectified and the reference with seed 0, then with seed 1.
        both = [str(value)] * 2
        assert of_class == mean == [*[str(value / 2)] * 2, *both, "", "", *both]
    assert list(rows[0]).index("test_hd_mm") == list(rows[0]).index("test_hd95_mm") + 1


def test_tables_and_charts_take_it_by_its_title_unit_and_direction(results):
    columns = list(maps_table(results, results.whole, "whole").columns)
    scores = columns[columns.index("test Dice") : columns.index("end Dice")]
    assert scores == [
        *("test Dice", "HD95, voxels", "HD, voxels", "ASSD, voxels", "NSD", "NSD at 2"),
        "Betti-0 error",
    ]
    # The answer has Dice and HD95, and what the settings of the tests asked for.
    assert list(scores_table(results).columns)[1:-1] == [
        *("test Dice", "HD95, voxels", "NSD at 2", "Betti-0 error")
    ]
    table = differences_table(results, results.whole, "whole")
    assert [row.cells[1].text for row in table.rows][-2:] == ["NSD at 2", "Betti-0 error"]
    betti = results.whole.differences[-1]
    assert betti.comparison.difference.mean == -1.5
    assert betti.improvement.mean == 1.0  # fewer errors are better
    assert "left is better" in list(forest_charts(results))[-1].xaxis["title"]
    assert charts_of_runs(results)["scores"][-1].heading == "Betti-0 error: mean over classes"


def test_a_missing_class_counts_with_its_rule():
    """A distance with the diagonal, every other metric with the value that it has."""
    values = {"hd_mm": None, "betti_0_error": 4.0, "lesion_recall": None}
    case = {"name": "a", "diagonal_mm": 30.0, "classes": [{"state": "missed", **values}]}
    summary = [{"name": "x", "dice": {"mean": 0.0}}]
    outcome = outcome_of([], {"summary": summary, "cases": [case]})
    assert outcome.metrics == ("dice", "hd_mm", "betti_0_error", "lesion_recall")
    found = [outcome.tested(name) for name in outcome.metrics]
    assert found == [0.0, 30.0, 4.0, None]


def test_a_study_names_its_metrics(tmp_path):
    """In [training], as any setting of its runs; a wrong name is refused with the nearest one."""
    training = {"metrics": ["default", "betti_0_error"]}
    study = make(data="DATA", maps=MAPS, seeds=[0], training=training)
    (tmp_path / "study.toml").write_text(study.as_toml())
    again = Study.read(tmp_path / "study.toml")
    [settings, *_] = [run.settings for run in runs(again, tmp_path)]
    assert settings.metrics == ("default", "betti_0_error")
    with pytest.raises(RWLossError, match=r"\[training\].*no metric 'betti0'.*betti_0_error"):
        make(data="DATA", maps=MAPS, training={"metrics": ["betti0"]})
