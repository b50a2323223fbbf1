"""CSV that spreadsheets do not run."""

import csv
import io

import pytest

from rwloss.files.csv_text import csv_text


def test_texts_that_begin_like_a_formula_are_neutralised_and_numbers_stay():
    formulas = ["=HYPERLINK(1)", "+1", "-1 * boundary", "@SUM(A1)", "\tx", "\n=1"]
    texts = [*formulas, "a=b", "'", "", 'a,"b\nc']
    rows = [{"text": text, "number": number} for number, text in enumerate(texts, -3)]
    read = list(csv.DictReader(io.StringIO(csv_text(["text", "number"], rows), newline="")))
    assert [row["text"] for row in read] == [f"'{text}" for text in formulas] + texts[6:]
    assert [float(row["number"]) for row in read] == list(range(-3, 7))
    assert csv_text(["a"], [{"a": "\r=1"}, {"a": "b\rc"}]) == 'a\n"\'\n=1"\n"b\nc"\n'
    assert csv_text(["a", "b"], [{"a": -1e-9}, {"b": None}]) == "a,b\n-1e-09,\n,\n"
    with pytest.raises(ValueError, match="c"):
        csv_text(["a"], [{"c": 1}])
