"""The table of recorded runs: from run folders and from runs.csv, with axes, and what it says."""

import sys
from pathlib import Path

import pytest
from raw_folders import make_raw
from recorded_studies import STUDIES, write_recorded
from strange_studies import write_run

from rwloss import data
from rwloss.study.plan import make, runs

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks.recorded import read_table  # noqa: E402
from benchmarks.recorded_runs import extend, rows_of, told  # noqa: E402
from benchmarks.risk import quality  # noqa: E402

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
    # A seed that is not done is left out as a whole.
    study = study.model_copy(update={"seeds": (0, 1)})
    study.write(tmp_path / "study" / "study.toml")
    last = [*runs(study, tmp_path / "study")][-1]
    write_run(last, ((0.3, 0.2), (0.8, 0.0)), 0.0, names=("class 1", "class 2"))
    assert last.seed == 1
    assert [*rows_of("cubes", tmp_path / "study")] == rows


def test_a_run_that_is_in_the_table_is_replaced(tmp_path):
    file = tmp_path / "table.csv"
    row = {
        "dataset": "cubes", "study": "a", "axes": "", "map": "boundary(normalize='max')",
        "seed": 0, "class": "one", "learning_rate": 4e-4, "steps": 20, "fraction": 0.1,
        "pull": 0.02, "pull_exponent": -0.001, "lost": 0, "end_dice": 0.5, "birth_step": "",
    }  # fmt: skip
    extend(file, [row, {**row, "class": "two"}])
    extend(file, [{**row, "lost": 1}, {**row, "seed": 1}])
    found = {(row.seed, row.name): row for row in read_table(file)}
    assert {key: row.lost for key, row in found.items()} == {
        (0, "one"): True,
        (0, "two"): False,
        (1, "one"): False,
    }
    assert {row.pull_exponent for row in found.values()} == {-0.001}


def test_it_says_how_good_risks_and_alarms_are():
    rows = [row for row in read_table() if "lr" in row.study]  # 300 steps at two rates
    text = "\n".join(told(rows, quality(rows, resamples=9)))
    for line in (
        "risk before training: 132 classes of 56 runs, 28 lost",
        "  left out by dataset:\n    all: model: area 0.",
        "alarm: 132 classes of 56 runs, 28 lost",
        "    all, up to 10% of the steps: recall 21 of 28 (",
        ", false alarms 13 of 104 (",
        "    signs for lung_patches: pull, own_probability and predicted_volume",
    ):
        assert line in text
    below = sum(row.pull < 0.01 for row in rows if row.lost)
    assert f"  pull ratio below 0.01: {below} of 28 of the lost classes, " in text
