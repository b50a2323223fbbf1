"""Studies of tiny networks, and one with names that a page must not believe."""

import pytest
from recorded_studies import write_recorded
from strange_studies import strange_study

from rwloss.study import plan
from rwloss.study.results import collect


@pytest.fixture(autouse=True, scope="module")
def quick_training(small_networks):
    """Whatever a module trains."""


@pytest.fixture
def study_of(squares):
    """A study of very few steps."""

    def study(maps, **changes):
        short = {"batch_size": 2, "accelerator": "cpu", "record_every": 2, "validate_every": 2}
        given = {"data": str(squares), "maps": maps, "seeds": [0], "steps": 4, "training": short}
        return plan.make(**{**given, **changes})

    return study


@pytest.fixture(scope="session")
def strange(tmp_path_factory):
    """Results with strange names, and their folder."""
    folder = tmp_path_factory.mktemp("strange")
    return strange_study(folder), folder


@pytest.fixture(scope="session")
def learning_rates(tmp_path_factory):
    """Results of the recorded study of 4 maps, 4 learning rates and 6 seeds."""
    folder = tmp_path_factory.mktemp("learning_rates")
    return collect(write_recorded("learning_rates", folder), folder)
