"""The table of recorded runs: from run folders and from runs.csv, with axes, and what it says."""

import sys
from pathlib import Path

import pytest
from raw_folders import make_raw
from recorded_studies import STUDIES, write_recorded
from strange_studies import write_run

from rwloss import data
from rwloss.stability.recorded import recorded_classes
from rwloss.study.plan import make, runs

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks.recorded_runs import rows_of, told  # noqa: E402

sys.path.remove(str(ROOT))

KEYS = ("map", "class", "learning_rate", "lost", "pull", "fraction", "birth_step")


@pytest.mark.slow
def test_folders_and_their_csv_give_the_same_rows(tmp_path):
    sample = str(data.sample_dir("hippocampus"))
    folder = tmp_path / "learning_rates"
    folder.mkdir()
    write_recorded("learning_rates", folder).write(folder / "study.toml")
    rows = list(rows_of("sample", folder, sample))
    assert len(rows) == 4 * 4 * 6 * 2
    assert sum(row["lost"] for row in rows) == 33
    again = list(rows_of("sample", STUDIES / "learning_rates", sample))

    def content(found):
        return sorted([str(row["seed"]), *(str(row[key]) for key in KEYS)] for row in found)

    assert content(rows) == content(again)


def test_what_is_known_before_training_is_that_of_the_cell(tmp_path):
    """A map of whole volumes has another pull ratio than those of its slices."""
    source = make_raw(tmp_path / "raw", ["a", "b", "c", "d", "e"], (12, 12, 12))
    study = make(
        data=str(source), maps={"both": "boundary"}, seeds=[0], steps=20,
        axes={"map_of": ["slice", "volume"]},
        training={"zoom": 0, "accelerator": "cpu", "patch_size": [16, 16]},
    )  # fmt: skip
    study.write(tmp_path / "study" / "study.toml")
    for run in runs(study, tmp_path / "study"):
        write_run(run, ((0.3, 0.2), (0.8, 0.0)), 0.0, names=("class 1", "class 2"))
    rows = list(rows_of("cubes", tmp_path / "study"))
    assert {row["axes"] for row in rows} == {"map_of slice", "map_of volume"}
    assert len({row["pull"] for row in rows}) == len(rows)


@pytest.mark.slow
def test_it_says_how_good_risks_and_alarms_are():
    text = "\n".join(told(recorded_classes()))
    for line in (
        "risk before training: 258 classes of 104 runs, 35 lost",
        "alarm: 132 classes of 56 runs, 28 lost",
        "up to 10% of the steps: recall 71.4% (",
        "signs for lung_patches: pull, own_probability and predicted_volume",
    ):
        assert line in text
    of_two = [row for row in recorded_classes() if "phantom" in row.dataset]
    assert [line for line in told(of_two) if "out by" in line] == [
        f"  left out by {by}:" for by in ("dataset", "map", "map")
    ]
