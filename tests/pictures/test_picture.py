"""What a picture says: the classes of its columns, and its note."""

from __future__ import annotations

import numpy as np
from drawn import drawn, note, words

from rwloss import pictures


def test_many_classes_are_limited_and_counted(tmp_path):
    labels = np.repeat(np.arange(16), 5)[None].repeat(30, axis=0)
    labels[:, :40] = 3
    svg = drawn(tmp_path / "a.svg", labels, 16, "rectified")
    assert f"{pictures.MAX_CLASSES} of 16 classes" in note(svg)
    found = words(svg)
    # Six columns, of the largest and the first of equals; the legend names the present ones.
    assert found.count("class 3") == 2
    assert found.count("class 8") == 2
    assert found.count("class 14") == 1
    assert found.count("class 1") == 0
