"""The English of pages, help, messages and docstrings: turns that an English speaker would not use.

A word or two in a pattern stand for a habit that once ran through the project. A match is fixed by
saying the sentence as one would say it to a colleague; the second column says how it is said.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

TURNS = {
    r"go(?:es)? on\b": "resume, continue",
    r"mend(?:s|ed|ing)?\b": "fix",
    r"anew\b": "again, or: recompute, rewrite, resample",
    r"data sets?\b": "dataset",
    r"who(?:m)?ever\b": "anyone who, or no person at all",
    r"trainings\b": "runs, training runs",
    r"(?:a|another|each|every|one|this) training(?=[,.;:)]| that\b| of\b| and\b| ends)": "run",
    r"(?:number|value|line|row|file|patch|patches|worker|idea|column)s? an? "
    r"(?:axis|voxel|case|class|channel|step|run|core|sentence|GPU|seed)\b": "per",
    r"tells? (?:the rest|apart|for itself)\b": "shows, distinguishes",
    r"(?:is|are) whole\b": "is complete",
    r"whole or not at all": "atomically",
    r"less (?:that|the weight|the loss) of\b": "minus, −",
    r"the same matter": "this also holds for",
    r"what (?:came of|repeats|comes of)\b": "the result of, reproduces",
    r"makes? (?:it |them )?anew\b": "recompute",
    r"at the least\b": "at least",
    r"may be had\b": "is available",
    r"and the like\b": "such as",
    r"stands in (?:the|its|a) ": "is in",
    r"(?:counts?|has a part|have a part) (?:nowhere|in no)\b": "is left out of all",
    r"none (?:is|are) left out in silence": "nothing is left out silently",
    r"(?:is|are) there twice\b": "occurs twice",
    r"in the place of\b": "instead of",
    r"of the user's own\b": "the user's own",
    r"what is wrong (?:with them|with it) is\b": "the error is",
    r"as far as (?:it|they|the runs|its runs) (?:has|have) come\b": "so far",
    r"newest run\b": "latest run",
    r"no more than N are\b": "at most N",
    r"is no (?:text|number|table|success|harm|regular)\b": "is not a",
    r"where to\?": "name what is missing",
    r", for (?:there|it|they|that) (?:is|are|may|can|has|have)\b": "because",
    r"takes? for granted": "assume",
    r"(?:an?|the) trained net\b": "trained network",
    r"(?:bear|bears|bore) (?:the|a) class\b": "the class is born",
}

BRITISH = (
    r"\w*(?:normal|organ|general|penal|standard|optim|recogn|summar|initial|visual|minim|parametr)"
    r"is(?:e|es|ed|ing|ation)\b|colours?\b|grey\b|licences?\b|(?:milli)?metres?\b|centres?\b|"
    r"favour\w*|neighbour\w*|behaviour\w*|cancelled\b|judgement\b|set-ups?\b"
)

# Titles of papers, names of files and of Python, and the label of a sample.
NAMES = re.compile(
    r"`[^`\n]*`|https?://\S+|Generalised Wasserstein Dice Score|\bcolours:|\bgrey \(b 2|^ *>>>.*$|"
    r"Look\(colour=[^)]*\)",
    flags=re.MULTILINE,
)
FENCE = re.compile(r"^```.*?^```$", flags=re.DOTALL | re.MULTILINE)
TEMPLATE = re.compile(r"{[{%#].*?[}%#]}|<[^>]*>", flags=re.DOTALL)

PAGES = sorted(
    {*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "samples/README.md"}
    - {ROOT / "docs/studies/record/PLAN.md"}  # written before the first run, and not changed since
)


def literals(path):
    """(line, text) of each string of two words or more; docstrings and parts of f-strings too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


@cache
def sentences():
    """(where, text) of everything that a user can read, without code, each text on one line."""
    found = []
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        found += [
            (f"{page.relative_to(ROOT)}:~{number}", line)
            for number, line in enumerate(text.splitlines(), 1)
        ]
    for path in sorted((ROOT / "rwloss").rglob("*.py")):
        found += [(f"{path.relative_to(ROOT)}:{number}", text) for number, text in literals(path)]
    for path in sorted((ROOT / "rwloss").rglob("*.j2")):
        text = TEMPLATE.sub(" ", path.read_text(encoding="utf-8"))
        found.append((str(path.relative_to(ROOT)), text))
    return [(where, re.sub(r"\s+", " ", NAMES.sub(" ", text))) for where, text in found]


def matches(pattern):
    regex = re.compile(rf"(?<![\w-]){pattern}" if pattern[0] != "," else pattern, re.IGNORECASE)
    return [
        f"{where}: ...{text[max(0, match.start() - 40) : match.end() + 20]}..."
        for where, text in sentences()
        for match in regex.finditer(text)
    ]


@pytest.mark.parametrize(("turn", "instead"), TURNS.items())
def test_turns_that_nobody_would_say(turn, instead):
    assert not matches(turn), f"say: {instead}"


def test_spelling_is_american():
    assert not matches(rf"(?:{BRITISH})")


def test_patterns_find_what_they_are_for():
    said = (
        "Where a number an axis is given, mend the data set; who trained it, whoever it was, "
        "tells the rest, and the run goes on: the file is whole, for it is written anew. "
        "What came of it is less that of Dice, as is a training."
    )
    found = [turn for turn in TURNS if re.search(turn, said, re.IGNORECASE)]
    assert len(found) == 12
