"""A small data set, and studies of tiny networks on it."""

import pytest
from raw_folders import make_raw

from rwloss.study import plan


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """Eight 2-D cases of 16 x 16 with three classes."""
    return make_raw(tmp_path_factory.mktemp("squares"), [f"case{i}" for i in range(8)])


@pytest.fixture
def study_of(squares):
    """A study of very few steps."""

    def study(maps, **changes):
        short = {"batch_size": 2, "accelerator": "cpu", "record_every": 2, "validate_every": 2}
        given = {"data": str(squares), "maps": maps, "seeds": [0], "steps": 4, "training": short}
        return plan.make(**{**given, **changes})

    return study
