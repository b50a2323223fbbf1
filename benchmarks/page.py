"""The tables of benchmarks/README.md and docs/atlas.md, from the newest results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import atlas
from benchmarks.gpu import LINES
from benchmarks.measure import RESULTS, Row, table

PAGE = Path(__file__).parent / "README.md"
_MARK = "<!-- results: {} -->"
_NONE = "No result is stored."


def main() -> None:
    """Write each result file's table behind its mark in the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name in ("distance", "loss", "precompute", "step", "study", "monai", "report"):
        begin, end = _MARK.format(name), _MARK.format("end")
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        tables = [_table(path) for path in sorted(RESULTS.glob(f"{name}-*.json"))]
        shown = "\n\n".join(tables) or _NONE
        text = f"{head}{begin}\n\n{shown}\n\n{end}{tail}"
    begin, end = _MARK.format("gpu"), _MARK.format("end")
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    text = f"{head}{begin}\n\n{gpu_table(LINES)}\n\n{end}{tail}"
    PAGE.write_text(text, encoding="utf-8")
    atlas.PAGE.write_text(atlas.page(), encoding="utf-8")


def gpu_table(path: Path) -> str:
    """The newest row of each measurement of `python -m benchmarks gpu`, run by run, or none."""
    if not path.exists():
        return _NONE
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    newest = {(each["row"]["what"], each["row"]["method"]): each for each in lines if "row" in each}
    runs: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if "problem" in line or line in newest.values():
            runs.setdefault(json.dumps(_facts(line)), []).append(line)
    return "\n\n".join(_of_run(json.loads(facts), own) for facts, own in runs.items())


def _facts(line: dict[str, Any]) -> dict[str, str]:
    """When and on what a row was measured, as far as it says so."""
    told = {name: line[name] for name in ("started", "python") if name in line}
    return {**told, **line["versions"]}


def _of_run(facts: dict[str, str], lines: list[dict[str, Any]]) -> str:
    card = next((line["card"] for line in lines if line.get("card")), {})
    named = {"Python" if name == "python" else name: value for name, value in facts.items()}
    started = [named.pop("started")] if "started" in named else []
    head = ", ".join([*started, *(f"{k} {v}" for k, v in {**card, **named}.items())])
    rows = [Row(**line["row"]) for line in lines if "row" in line]
    problems = [f"- {line['part']}: {line['problem']}" for line in lines if "problem" in line]
    return "\n\n".join(filter(None, [f"{head}.", table(rows), "\n".join(problems)]))


def _table(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    rows = [Row(**row) for row in content["rows"]]
    head = f"{content['machine']}, {content['date']}, Python {content['python']}, {versions}."
    return "\n\n".join([head, table(rows), *content["notes"]])
