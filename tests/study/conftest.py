"""Studies of tiny networks."""

import pytest

from rwloss.study import plan


@pytest.fixture
def study_of(squares):
    """A study of very few steps."""

    def study(maps, **changes):
        short = {"batch_size": 2, "accelerator": "cpu", "record_every": 2, "validate_every": 2}
        given = {"data": str(squares), "maps": maps, "seeds": [0], "steps": 4, "training": short}
        return plan.make(**{**given, **changes})

    return study
