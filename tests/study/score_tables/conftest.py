"""Tables of scores as people have them."""

import pytest
from scores_of_others import long_rows, made_scores, write

from rwloss.study.score_tables.options import TableOptions
from rwloss.study.score_tables.results import collect_table


@pytest.fixture(autouse=True, scope="module")
def quick_training():
    """Nothing is trained here."""


@pytest.fixture(scope="session")
def scores():
    return made_scores()


@pytest.fixture(scope="session")
def long_csv(scores, tmp_path_factory):
    return write(tmp_path_factory.mktemp("long") / "scores.csv", *long_rows(scores))


@pytest.fixture
def options(long_csv):
    """What one says of a table; by default of `long_csv`."""

    def of(source=long_csv, **given):
        given = {
            "metrics": {"Dice": True, "HD95": False},
            "reference": "dice_ce",
            "columns_of": {"method": "loss"},
            **given,
        }
        return TableOptions(source, **given)

    return of


@pytest.fixture
def collect(options):
    """The results of a table."""
    return lambda *source, **given: collect_table(options(*source, **given))
