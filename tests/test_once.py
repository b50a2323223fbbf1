"""Properties that are computed once."""

from dataclasses import dataclass

import pytest

from rwloss.once import once


@dataclass(frozen=True)
class Counted:
    calls: list

    @once
    def answer(self):
        """What is computed."""
        self.calls.append("answer")
        return 42

    @once
    def failing(self):
        self.calls.append("failing")
        raise ValueError("no")


def test_computed_on_first_use_and_kept():
    counted = Counted([])
    assert not counted.calls
    assert (counted.answer, counted.answer) == (42, 42)
    assert counted.calls == ["answer"]


def test_kept_by_each_instance():
    one, other = Counted([]), Counted([])
    assert one.answer == other.answer
    assert other.calls == ["answer"]


def test_an_error_is_not_kept():
    counted = Counted([])
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            _ = counted.failing
    assert counted.calls == ["failing", "failing"]


def test_the_class_shows_its_documentation():
    assert Counted.answer.__doc__ == "What is computed."
