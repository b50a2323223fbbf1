"""Text of any script, drawn as it stands."""

from __future__ import annotations

import pytest
from anatomy import anatomy
from drawn import drawn, pixels, words


@pytest.mark.parametrize(
    "title", ["$x$ and \\alpha_{", "a--b <&>", "名前", "случай", "\udcff\x1b[1m", "  ", "w" * 5000]
)
def test_any_text_can_be_a_title_a_class_and_a_unit(tmp_path, title):
    labels = anatomy(5, (30, 40), 2)
    path = tmp_path / "a.png"
    names, units = ("background", title), {"rectified": title}
    drawn(path, labels, 2, "rectified", title=title, class_names=names, units=units)
    assert pixels(path).shape[1] < 2000


def test_a_dollar_stays_a_dollar(tmp_path):
    svg = drawn(tmp_path / "a.svg", anatomy(5, (9, 9), 2), 2, "rectified", title="$x^2$ cost $5")
    assert "$x^2$ cost $5" in words(svg)
