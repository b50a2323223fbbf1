"""A/A tests on recorded runs: a map under two names claims a difference in at most 5 % of studies.

The studies are drawn from runs of one map that were really trained. No run is on both sides, or
twice on one, and the pairs are drawn too, as runs of different seeds have nothing in common. What
claims a difference is the code that claims one in a study.
"""

import math
from itertools import chain

import numpy as np
import pytest
from recorded_studies import METRICS, STUDIES, write_recorded
from scipy.stats import binom

from rwloss.study.differences import differences_in, null_certificate
from rwloss.study.plan import Study, reference_of
from rwloss.study.results import collect
from rwloss.study.statistics import ALPHA

DRAWN = 200
FEWEST = 12  # 6 pairs can claim a difference, 5 cannot

MOST = int(binom.ppf(0.999, DRAWN, ALPHA))
"""Claims of DRAWN studies that a procedure at 5 % exceeds once in a thousand times: 21 of 200.
There are four scores, and several studies. The draws are the same each time, so what passes does
not fail by chance later."""


def recorded(name, folder):
    """The outcomes of all runs of the reference of a study, under whatever name."""
    results = collect(write_recorded(name, folder), folder)
    own = {results.reference, results.study.null}
    return [row.outcome for row in results.runs if row.map in own and row.status == "done"]


def claims(drawn):
    """Of studies (one side, the other), how many claim a difference, by the score."""
    found = dict.fromkeys(METRICS, 0)
    for sides in drawn:
        runs = {name: dict(enumerate(own)) for name, own in zip("ab", sides, strict=True)}
        for each in chain(*differences_in([runs], "a")):
            found[each.metric] += each.comparison.significant
    return found


def recorded_studies():
    """The folders of studies, in docs/studies, with enough runs of a reference."""
    for path in sorted(STUDIES.rglob("runs.csv")):
        study = Study.read(path.with_name("study.toml"))
        own = len(study.seeds) * math.prod(map(len, study.axes.values())) * (2 if study.null else 1)
        if reference_of(study) is not None and len(study.seeds) >= FEWEST // 2 and own >= FEWEST:
            yield path.parent.relative_to(STUDIES).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*recorded_studies()])
def test_a_map_under_two_names_claims_no_difference(name, tmp_path):
    outcomes = recorded(name, tmp_path)
    assert len(outcomes) >= FEWEST
    rng, half = np.random.default_rng(0), len(outcomes) // 2
    drawn = [[outcomes[i] for i in rng.permutation(len(outcomes))] for _ in range(DRAWN)]
    found = claims((each[:half], each[half : 2 * half]) for each in drawn)
    assert max(found.values()) <= MOST, found
    # The test alone is fast. Of 4,000 studies a rate of 5 % gives up to 5.7 % in 97.5 % of draws.
    for metric in METRICS:
        many = null_certificate([each.tested(metric) for each in outcomes], studies=4000)
        assert many.rate.mean <= binom.ppf(0.975, 4000, ALPHA) / 4000 < 0.057, metric


@pytest.mark.slow
def test_another_map_claims_one(learning_rates):
    """The same draws see a real difference: without this, silence would prove nothing."""
    by_map = {
        name: [row.outcome for row in learning_rates.done(name)]
        for name in ("dice_ce", "rectified")
    }
    rng = np.random.default_rng(0)
    drawn = [
        [[own[i] for i in rng.permutation(len(own))[:12]] for own in by_map.values()]
        for _ in range(20)
    ]
    assert claims(drawn)["dice"] >= 15
