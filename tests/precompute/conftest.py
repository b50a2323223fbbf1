"""A command to disturb."""

import pytest
from commands import MAP, Command, make_cases


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A command for so many cases, in a format; its map makes trouble when it is asked to."""
    monkeypatch.setenv("RWLOSS_TEST_TROUBLE", str(tmp_path))

    def made(count=6, format="nifti", jobs=2, **settings):
        source, settings = tmp_path / "labels", {"format": format, "jobs": jobs, **settings}
        return Command(make_cases(source, count), tmp_path / "out", MAP, settings)

    return made
