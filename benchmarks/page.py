"""The tables of benchmarks/README.md and docs/atlas.md, from the newest results."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import atlas
from benchmarks.gpu import LINES
from benchmarks.measure import RESULTS, Row, table

PAGE = Path(__file__).parent / "README.md"
_MARK = "<!-- results: {} -->"


def main() -> None:
    """Write each result file's table behind its mark in the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name in ("distance", "loss", "precompute", "step", "study", "monai"):
        begin, end = _MARK.format(name), _MARK.format("end")
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        tables = [_table(path) for path in sorted(RESULTS.glob(f"{name}-*.json"))]
        text = f"{head}{begin}\n\n" + "\n\n".join(tables) + f"\n\n{end}{tail}"
    begin, end = _MARK.format("gpu"), _MARK.format("end")
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    text = f"{head}{begin}\n\n{gpu_table(LINES)}\n\n{end}{tail}"
    PAGE.write_text(text, encoding="utf-8")
    atlas.PAGE.write_text(atlas.page(), encoding="utf-8")


def gpu_table(path: Path) -> str:
    """The newest run of `python -m benchmarks gpu`, or that there is none."""
    if not path.exists():
        return "None has been made."
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    newest = [line for line in lines if line["started"] == lines[-1]["started"]]
    card = next((line["card"] for line in newest if line.get("card")), {})
    facts = {**card, "Python": newest[0]["python"], **newest[0]["versions"]}
    head = ", ".join([newest[0]["started"], *(f"{name} {value}" for name, value in facts.items())])
    rows = [Row(**line["row"]) for line in newest if "row" in line]
    problems = [f"- {line['part']}: {line['problem']}" for line in newest if "problem" in line]
    return "\n\n".join(filter(None, [f"{head}.", table(rows), "\n".join(problems)]))


def _table(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    rows = [Row(**row) for row in content["rows"]]
    head = f"{content['machine']}, {content['date']}, Python {content['python']}, {versions}."
    return "\n\n".join([head, table(rows), *content["notes"]])
