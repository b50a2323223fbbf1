"""docs/atlas.md is what its script makes, with a row per built-in; its links and names hold.

The facts of the rows are computed in test_losses_table.py and by the conformance kit.
"""

import importlib.util
import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest

from rwloss import maps
from rwloss.maps.facts import facts

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import atlas  # noqa: E402

sys.path.remove(str(ROOT))

BUILT_INS = [n for n in maps.names() if maps.load(n).__module__.startswith("rwloss.")]


def test_the_page_is_what_its_script_makes():
    again = "docs/atlas.md is out of date: run python -m benchmarks page"
    assert atlas.PAGE.read_text(encoding="utf-8") == atlas.page(), again


@cache
def rows(heading):
    """The cells of the rows below a heading by title, for each name."""
    text = (
        atlas.PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    )
    lines = [line for line in text.splitlines() if line.startswith("|")]
    titles, _, *cells = ([c.strip() for c in re.split(r"(?<!\\)\|", x)[1:-1]] for x in lines)
    assert all(len(each) == len(titles) for each in cells)
    return {each[0].strip("`"): dict(zip(titles, each, strict=True)) for each in cells}


@pytest.mark.parametrize("heading", ["Properties", "Sources"])
def test_every_term_has_a_row(heading):
    assert list(rows(heading)) == BUILT_INS
    assert len(BUILT_INS) >= 35


@pytest.mark.parametrize("name", BUILT_INS)
def test_rows_say_what_the_term_says(name):
    term, row = facts(maps.load(name)), rows("Properties")[name]
    assert row["kind"].startswith(term.kind)
    assert row["kind"].endswith(term.ingredient)
    assert row["form"] == term.form
    assert row["principle"] == term.principle
    needs = [] if row["also needs"] == "nothing" else row["also needs"].split(", ")
    assert tuple(needs) == term.inputs
    exponent = row["pull exponent"]
    assert (None if exponent == "none" else float(exponent)) == term.pull_exponent
    values, _, unit = row["values"].replace("−", "-").partition(", in ")
    assert unit == term.unit.removesuffix("unitless")
    low, high = (re.search(rf"{sign} (\S+)", values) for sign in "≥≤")
    both = re.fullmatch(r"(\S+) to (\S+)", values)
    ends = both.groups() if both else [each and each[1] for each in (low, high)]
    assert tuple(None if end is None else float(end) for end in ends) == term.range


def test_costs_are_those_that_were_measured():
    """What is made inside costs more than what is stored or prepared."""
    measured = json.loads(atlas.COSTS.read_text(encoding="utf-8"))["rows"]
    base = next(row for row in measured if row["method"] == "cross-entropy (torch)")
    values = {row["method"]: row["value"] / base["value"] for row in measured}
    for name, row in rows("Properties").items():
        assert float(row["cost, CPU"]) == pytest.approx(values[name], rel=0.05)
        if row["all made inside"] != "same":
            inside = float(row["all made inside"])
            assert inside == pytest.approx(values[f"{name}, made inside"], rel=0.05)
            assert inside > float(row["cost, CPU"])


def test_the_gpu_column_takes_the_newest_run_with_four_classes(tmp_path):
    own, path = tmp_path / "atlas-gpu.json", tmp_path / "gpu.jsonl"
    assert atlas.gpu_costs(own, path) == {}
    lines = [
        {"part": part, "row": {"what": f"logits 2 x {k} x 128³", "method": name, "ratio": ratio}}
        for part, k, name, ratio in [
            ("loss", 4, "rectified, stored", 3.0),
            ("loss", 16, "rectified, stored", 9.0),
            ("step", 4, "rectified, stored", 8.0),
            ("loss", 4, "rectified, stored", 2.0),
            ("loss", 4, "peak memory: rectified, stored", None),
        ]
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"part": "loss"}]))
    assert atlas.gpu_costs(own, path) == {"rectified": 2.0}
    own.write_text('{"rows": [{"method": "dice", "ratio": 1.5}]}')
    assert atlas.gpu_costs(own, path) == {"dice": 1.5}


@pytest.mark.slow
def test_each_term_makes_a_step():
    """As python -m benchmarks atlas measures it, on smaller images."""
    pytest.importorskip("skimage")
    small = atlas.Workload("small", (2, 24, 24), 4, (1.0, 1.0), 0.4)
    steps = atlas.steps(small, "cpu")
    assert set(BUILT_INS) < set(steps)
    for step in steps.values():
        step()


@pytest.mark.parametrize("name", BUILT_INS)
def test_sources(name):
    """Links lead to the paper that they name; pictures are there."""
    term, row = facts(maps.load(name)), rows("Sources")[name]
    assert re.sub(r"\[(.*?)\]\(.*?\)", r"\1", row["source"]) == term.citation.replace("|", r"\|")
    for shown, address in re.findall(r"\[arXiv ([\d.]+)\]\(([^)]*)\)", row["source"]):
        assert address == f"https://arxiv.org/abs/{shown}"
    if term.official_code:
        owner_and_name = r"https://github\.com/[\w-]+/[\w-]+"
        assert re.fullmatch(owner_and_name, term.official_code)
        assert f"]({term.official_code})" in row["authors' code"]
    for picture in re.findall(r'src="([^"]*)"', row["picture"]):
        assert (atlas.PAGE.parent / picture).is_file()


PACKAGES = {
    "MONAI": "monai/losses",  # read, not imported: that takes seconds
    "smp": "segmentation_models_pytorch/losses",
    "torch": "torch/nn/modules",
    # Not to be installed beside the others; their files were read at these commits.
    "nnU-Net": {"DC_and_CE_loss", "TopKLoss"},  # 0e49508
    "MIST": {  # 1745059, the files of mist/loss_functions/losses
        "boundary",
        "cl_dice",
        "dice",
        "dice_cross_entropy",
        "generalized_surface",
        "hausdorff_one_sided",
    },
    "SegLossOdyssey": {  # d562441, the classes of losses_pytorch
        "BDLoss",
        "CrossentropyND",
        "DisPenalizedCE",
        "FocalLoss",
        "FocalTversky_loss",
        "GDiceLoss",
        "HausdorffDTLoss",
        "LovaszSoftmax",
        "SoftDiceLoss",
        "TopKLoss",
        "TverskyLoss",
    },
    "BiCC-Loss": {"VectorizedCCLoss", "VectorizedBlobLoss"},  # 80c52b1
}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_have_what_is_said_to_be_in_them(package):
    said = [use.split() for name in BUILT_INS for use in maps.load(name).used_by]
    names = {name for owner, name in said if owner == package}
    assert names
    assert {owner for owner, _ in said} == set(PACKAGES)
    there = PACKAGES[package]
    if isinstance(there, str):
        module, _, folder = there.partition("/")
        found = importlib.util.find_spec(module)
        if found is None:
            pytest.skip(f"{module} is not installed")
        files = Path(found.origin).parent.joinpath(folder).glob("*.py")
        text = "\n".join(file.read_text(encoding="utf-8") for file in files)
        there = set(re.findall(r"^class (\w+)", text, flags=re.MULTILINE))
    assert names <= there
