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


def test_it_opens_with_three_sentences_a_picture_and_two_commands():
    opening = README.split("```python")[0]
    sentences = opening.split("![")[0].split("# rwloss")[1].strip()
    assert len(re.findall(r"[.](?:\s|$)", sentences)) == 3
    assert opening.index("docs/images/four_maps.png") < opening.index("make demo")
    assert opening.index("make demo") < opening.index("make test")
