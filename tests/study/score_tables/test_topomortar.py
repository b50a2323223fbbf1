"""TopoMortar's published scores, and what docs/results-of-others.md says of them."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import topomortar

DOCS = Path(__file__).parents[3] / "docs" / "results-of-others.md"

pytestmark = pytest.mark.slow


@pytest.fixture
def published(shared_data):
    return shared_data("topomortar") / "published"


@pytest.fixture
def rows(published):
    return topomortar.rows(published)


def test_the_authors_test_gives_all_of_their_marks(rows):
    assert len(rows) == 168
    assert sum(row.is_bold for row in rows) == 83
    assert [row for row in rows if row.their_claim != row.is_bold] == []


def test_their_means_are_those_of_the_files(rows, published):
    """To the last digit that they print."""
    found = topomortar.results(published)
    for row in rows:
        [at] = [
            each
            for each in found.table.settings
            if "/".join([each.settings[n] for n in ("training", "labels", "size")]) == row.setting
            and each.settings["images"] == row.images
        ]
        [metric] = [name for name, short in topomortar.METRICS.items() if short == row.metric]
        [loss] = [name for name, short in topomortar.LOSSES.items() if short == row.loss]
        means = at.scores[metric].mean(axis=(1, 2))
        for name, printed in zip((topomortar.REFERENCE, loss), row.means, strict=True):
            assert str(np.round(means[at.methods.index(name)], 2)) == printed


def test_our_p_is_that_of_scipy(rows, published):
    """From the files themselves, for one comparison of each setting."""
    groups = dict(line.split(",") for line in (published / "groups.csv").read_text().split()[1:])
    for row in rows[::24]:
        [metric] = [name for name, short in topomortar.METRICS.items() if short == row.metric]
        means = {}
        for loss in (topomortar.REFERENCE, "RegionWiseLoss"):
            for seed in range(1, 11):
                lines = (published / row.setting / loss / f"{seed}.csv").read_text().splitlines()
                place = lines[0].split(",").index(metric)
                cells = [line.split(",") for line in lines[1:]]
                scores = [float(cell[place]) for cell in cells if groups[cell[0]] == "indistr"]
                means.setdefault(loss, []).append(np.mean(scores))
        gaps = np.subtract(means["RegionWiseLoss"], means[topomortar.REFERENCE])
        assert (row.images, row.loss) == ("ID", "RWLoss")
        assert row.difference == pytest.approx(gaps.mean())
        test = stats.permutation_test((gaps,), np.mean, permutation_type="samples")
        assert row.p == pytest.approx(test.pvalue)


def test_the_table_and_the_numbers_of_the_page_are_fresh(rows):
    text = DOCS.read_text(encoding="utf-8")
    [committed] = re.findall(r"<!-- topomortar -->\n\n(.*?)\n\n<!-- end -->", text, re.DOTALL)
    assert committed == topomortar.table(rows)
    verdicts = Counter((row.is_bold, row.verdict) for row in rows)
    assert verdicts == {
        (True, "better"): 67, (True, "not significant"): 16,
        (False, "better"): 7, (False, "worse"): 49, (False, "not significant"): 29,
    }  # fmt: skip
    reasons = Counter(row.reason for row in rows if row.reason)
    said = dict(re.findall(r"^\| (rounding|Holm|two sides|seeds) \| (\d+) \|", text, re.MULTILINE))
    assert {name: int(number) for name, number in said.items()} == reasons
    rounded = [row for row in rows if row.reason == "rounding"]
    assert all(row.metric == "Dice" and row.their_p < 0.05 for row in rounded)


def test_verdicts_with_other_units(published):
    """Without pairs, and over cases, as the page counts them."""
    paired = topomortar.results(published)
    seeds = topomortar.verdicts(paired.whole.differences)
    without = topomortar.verdicts(topomortar.results(published, unpaired=True).whole.differences)
    cases = topomortar.verdicts(paired.of_cases)
    assert seeds.keys() == without.keys() == cases.keys()
    assert sum(seeds[key] == without[key] for key in seeds) == 161
    changes = Counter((seeds[key], cases[key]) for key in seeds if seeds[key] != cases[key])
    assert changes == {
        ("better", "not significant"): 16, ("worse", "not significant"): 11,
        ("not significant", "better"): 8, ("not significant", "worse"): 5,
    }  # fmt: skip


def test_what_the_page_says_of_the_region_wise_loss(rows):
    own = [row for row in rows if row.loss == "RWLoss"]
    verdicts = Counter((row.images, row.metric, row.verdict) for row in own)
    assert verdicts["ID", "Dice", "better"] == 7
    assert verdicts["ID", "HD95", "better"] == 6
    assert verdicts["ID", "Betti0", "worse"] == verdicts["ID", "Betti1", "worse"] == 6
    assert verdicts["OOD", "Dice", "worse"] == 6
