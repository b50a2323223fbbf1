"""The README's Python runs as it stands."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run_in_order(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert capsys.readouterr().out == "24 True\n"


def test_it_opens_with_the_problem_a_picture_and_the_commands():
    opening = README.split("```python")[0]
    problem, after = opening.split("![")
    assert len(re.findall(r"[.](?:\s|$)", problem.split("# rwloss")[1].strip())) == 3
    places = [
        after.index(text) for text in ("lost_class.png", "pip install", "make demo", "make test")
    ]
    assert places == sorted(places)
    assert opening.count("\n") < 30  # one screen
