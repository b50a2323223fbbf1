"""The committed studies: what their page says is what their runs.csv holds."""

import csv
import re
import runpy
import statistics
from pathlib import Path

import pytest

from rwloss.study import plan

STUDIES = Path(__file__).parents[2] / "docs" / "studies"
ALL = sorted(path.parent for path in STUDIES.glob("*/runs.csv"))
WITH_AXES = [STUDIES / "learning_rates", STUDIES / "largest_pull"]
FOLDERS = [folder for folder in ALL if folder not in WITH_AXES]
REPORTED = sorted(path.parent for path in STUDIES.rglob("report.html"))
RECORD = STUDIES / "record"


def runs_of(folder, name):
    """Rows of the runs of a map, by seed; a row is of one class."""
    with (folder / "runs.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["map"] == name]
    return {
        seed: [row for row in rows if row["seed"] == seed] for seed in {r["seed"] for r in rows}
    }


def told_of(folder):
    """Rows of the study's table in the page: map -> its other cells."""
    page = (STUDIES / "README.md").read_text(encoding="utf-8")
    section = page.split(f"({folder.name}/study.toml)")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:3] == "| `"]
    return {row[0].strip("`"): row[1:] for row in rows}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_table_is_that_of_the_runs(folder):
    study = plan.Study.read(folder / "study.toml")
    told = told_of(folder)
    assert list(told) == list(study.maps)
    for name, (lost, *dices, wrong_way) in told.items():
        runs = runs_of(folder, name)
        assert {int(seed) for seed in runs} == set(study.seeds)
        assert {row["status"] for rows in runs.values() for row in rows} == {"done"}
        losing = sum(any(row["collapsed"] == "True" for row in rows) for rows in runs.values())
        assert lost == f"{losing} of {len(runs)}"
        by_class = zip(*runs.values(), strict=True)
        means = [statistics.fmean(float(row["test_dice"]) for row in rows) for rows in by_class]
        assert dices == [f"{mean:.3f}" for mean in means]
        masses = [float(rows[0]["wrong_way_mass"]) for rows in runs.values()]
        assert wrong_way == f"{statistics.fmean(masses):.1%}".replace("%", " %")


@pytest.mark.parametrize("folder", WITH_AXES, ids=lambda folder: folder.name)
def test_the_table_of_learning_rates_is_that_of_the_runs(folder):
    study = plan.Study.read(folder / "study.toml")
    told = told_of(folder)
    assert list(told) == list(study.maps)
    with (folder / "runs.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "done"]
    for name, cells in told.items():
        for rate, cell in zip(study.axes["learning_rate"], cells, strict=True):
            own = [r for r in rows if r["map"] == name and float(r["learning_rate"]) == rate]
            assert {int(row["seed"]) for row in own} == set(study.seeds)
            lost = {row["seed"] for row in own if row["collapsed"] == "True"}
            dice = {row["seed"]: float(row["test_dice_mean"]) for row in own}
            mean = statistics.fmean(dice.values())
            assert cell == f"{len(lost)} of {len(dice)}, {mean:.3f}"


@pytest.mark.parametrize("folder", REPORTED, ids=lambda folder: folder.name)
def test_the_report_is_of_this_study_and_names_no_folder_of_the_machine(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    study = plan.Study.read(folder / "study.toml")
    text = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    for name, expression in study.maps.items():
        assert name in text
        assert expression.replace("'", "&#39;") in text or expression in text
    assert "No picture" not in text
    assert not re.search(r"/(home|tmp|root|work|Users)/", text)


@pytest.mark.parametrize("arm", sorted(path.parent.name for path in RECORD.glob("*/runs.csv")))
def test_a_table_of_the_record_is_that_of_its_runs(arm):
    lines = runpy.run_path(str(RECORD / "tables.py"))["table"](arm)
    page = (RECORD / "README.md").read_text(encoding="utf-8")
    assert page.split(f"<!-- {arm} -->\n")[1].split("\n\n")[0].rstrip() == "\n".join(lines)


def test_the_first_page_says_what_the_record_says():
    """README.md: of the arm at one learning rate, and of that at five."""
    runs_of = runpy.run_path(str(RECORD / "tables.py"))["runs_of"]
    at_one, at_five = runs_of("hippocampus", ()), runs_of("rates", ("learning_rate",))
    names = {"Dice + CE": "dice_ce", "`rectified + dice`": "rectified_dice"}
    names |= {"`rectified.with_link(0.3)`": "rectified_q03"}
    names |= {"`rectified`": "rectified", "`boundary`": "boundary"}
    front = (STUDIES.parents[1] / "README.md").read_text(encoding="utf-8")
    front = front.split("## What our study found")[1].split("\n## ")[0]
    for line, name in names.items():
        [cells] = [row.split(" | ") for row in front.splitlines() if row.startswith(f"| {line} |")]
        own = list(at_one[name,].values())
        over_rates = [r for (key, _), runs in at_five.items() if key == name for r in runs.values()]
        assert len(over_rates) == 40
        assert [cell.strip(" |") for cell in cells[1:]] == [
            f"{sum(run['lost'] for run in own)} of {len(own)}",
            f"{statistics.fmean(run['test_dice_mean'] for run in own):.3f}",
            f"{statistics.fmean(run['test_hd95_mm_mean'] for run in own):.1f}",
            f"{sum(run['lost'] for run in over_rates)}",
        ]


@pytest.mark.parametrize(("arm", "digits"), [("phantom_005", 2), ("rare", 3)])
def test_where_a_map_is_proved_better(arm, digits):
    """What three pages say of phantoms with a class of 0.05 % is in the tables of those arms."""
    lines = list(runpy.run_path(str(RECORD / "tables.py"))["table"](arm))
    [cells] = [line.split(" | ") for line in lines if line.startswith("| `rectified_dice` |")]
    mean, low, high = (f"{float(each):.3f}" for each in re.findall(r"[+-][0-9.]+", cells[4]))
    assert float(cells[5]) < 0.05
    record = (RECORD / "README.md").read_text(encoding="utf-8")
    assert f"by {mean} ({low} to {high}, p = {float(cells[5]):.{digits}f})" in record
    if arm == "rare":
        [dice] = [line.split(" | ") for line in lines if line.startswith("| `dice` |")]
        alone = f"{float(dice[4].split()[0]):.3f}"
        for page in (STUDIES.parents[1] / "README.md", STUDIES.parent / "which-map.md"):
            text = page.read_text(encoding="utf-8")
            assert f"{mean} higher ({low} to {high}, 20 seeds)" in text
            assert f"Dice alone ({alone})" in text or f"`dice` alone {alone}" in text


def test_where_a_map_is_proved_to_have_the_better_topology():
    """TopoMortar at 512 x 512: the two pages name the means of the table."""
    lines = runpy.run_path(str(RECORD / "tables.py"))["table"]("topomortar_512")
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    errors = {row[0]: row[-2] for row in rows}
    found = [errors[f"`{name}`"] for name in ("rectified", "dice_ce")]
    front, which = (
        page.read_text(encoding="utf-8")
        for page in (STUDIES.parents[1] / "README.md", STUDIES.parent / "which-map.md")
    )
    assert f"({found[0]} and {found[1]}, 10 seeds)" in front
    assert f"a Betti-0 error of {found[0]}, and Dice + CE {found[1]} (10 seeds" in which


def test_the_runs_that_lost_a_class_with_boundary_alone():
    """The table of docs/which-map.md, with two classes, with three and with four."""
    runs_of = runpy.run_path(str(RECORD / "tables.py"))["runs_of"]
    page = (STUDIES.parent / "which-map.md").read_text(encoding="utf-8")
    lines = [
        line for line in page.splitlines() if re.match(r"\| .*\(studies/record/\w+/runs", line)
    ]
    assert len(lines) == 7
    for line in lines:
        arm = re.search(r"studies/record/(\w+)/runs", line)[1]
        lost = {
            name: f"{sum(run['lost'] for run in runs.values())} of {len(runs)}"
            for (name,), runs in runs_of(arm, ()).items()
        }
        assert [cell.strip(" |") for cell in line.split(" | ")[2:]] == [
            lost["boundary"],
            lost["rectified"],
            f"{lost['rectified_dice']} each",
        ]
        assert lost["rectified_dice"] == lost["dice_ce"]
    rare, times = runs_of("phantom_020", ()), {0: "never", 2: "twice", 3: "three times"}
    often = {name: times.get(sum(r["lost"] for r in own.values())) for (name,), own in rare.items()}
    assert (
        f"`rectified` lost that class {often['rectified']}, `rectified.with_link(0.3)` "
        f"{often['rectified_q03']}, and `rectified + dice` {often['rectified_dice']}."
    ) in page
    lung = runs_of("lung", ())
    seeds = [
        {seed for seed, run in lung[name,].items() if run["lost"]}
        for name in ("boundary", "boundary_max")
    ]
    assert seeds[0] == seeds[1]
    assert f"lost the tumor of the lung patches in {len(seeds[1])} of 8 runs too" in page


def test_class_weighted_kept_the_classes_that_rectified_lost():
    """What the page says of one study beside the other."""
    found = {}
    for folder in WITH_AXES:
        with (folder / "runs.csv").open(newline="", encoding="utf-8") as file:
            rows = [r for r in csv.DictReader(file) if int(r["seed"]) < 3]
        for name, rate in {(row["map"], row["learning_rate"]) for row in rows}:
            own = [r for r in rows if (r["map"], r["learning_rate"]) == (name, rate)]
            dice = {row["seed"]: float(row["test_dice_mean"]) for row in own}
            lost = [row["collapsed"] == "True" for row in own]
            found[name, rate] = (sum(lost), len(lost), f"{statistics.fmean(dice.values()):.3f}")
    assert found["rectified", "0.016"] == (6, 6, "0.000")
    assert found["class_weighted", "0.016"] == (0, 6, "0.639")
    assert [found["dice_ce", rate][2] for rate in ("0.004", "0.016")] == ["0.811", "0.797"]
