"""A study with names that a page must not believe."""

import pytest
from strange_studies import strange_study


@pytest.fixture(scope="session")
def strange(tmp_path_factory):
    """Its results and its folder."""
    folder = tmp_path_factory.mktemp("strange")
    return strange_study(folder), folder
