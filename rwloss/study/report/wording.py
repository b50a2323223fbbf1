"""What a page says first, and how it writes numbers, names and paths."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rwloss.study.results import Results
from rwloss.study.statistics import Comparison
from rwloss.study.wording import NO_CASE, NO_SCORES, diverged
from rwloss.words import listed

NOTHING = "\N{EN DASH}"
"""Where there is no number."""

# The last part of an absolute path says which file; the rest says whose machine it was.
_QUOTED = re.compile(r"""(["'])(?:[A-Za-z]:)?[/\\](?:[^"'\n]*[/\\])?([^"'/\\\n]*)[/\\]*\1""")
_BARE = re.compile(
    r"(?<![\w.:/\\'\"<~-])(?:/|[A-Za-z]:[/\\])(?:[^\s/\\'\":;,]+[/\\])*([^\s/\\'\":;,]+)"
)


def question(results: Results, data_name: str) -> str:
    """What the study asks."""
    if len(results.study.maps) == 1:
        return f"Does the map {next(iter(results.study.maps))} train on {data_name}?"
    return f"Which of {len(results.study.maps)} maps train on {data_name}, and which lose a class?"


def lead(results: Results) -> list[str]:
    """The answer in a few sentences: which maps diverged, and what came of runs that are done."""
    return [*_divergences(results), *_losses(results), *_claims(results), *_caution(results)]


def without_paths(text: str, *known: str | Path) -> str:
    """A text with the last part alone of every absolute path.

    known: folders and files that are taken out wherever they stand, whatever their names hold; a
    path with a blank is otherwise found between quotation marks alone. The home folder becomes ~.

    >>> without_paths("cannot read '/srv/ann/data/a b.nii' or /tmp/x/y.txt; 1/2 of it")
    "cannot read 'a b.nii' or y.txt; 1/2 of it"
    """
    names: dict[str, str] = {}
    for path in map(Path, known):
        names |= {str(each): each.name for each in (path, path.absolute(), path.resolve())}
    names |= {str(Path.home()): "~"}
    # What lies inside another is taken out first. A single part, such as DATA, tells nothing.
    for whole, name in sorted(names.items(), key=lambda pair: -len(pair[0])):
        if name and whole != name:
            for written in {whole, repr(whole)[1:-1]}:  # as errors write it
                pattern = rf"(?<![\w.~-]){re.escape(written)}(?![\w-]|\.\w)"
                text = f"/{name}".join(re.split(pattern, text))
    return _BARE.sub(r"\1", _QUOTED.sub(r"\1\2\1", text))


def decimal(value: float | None, digits: int = 3) -> str:
    """A number with fixed digits.

    >>> decimal(0.12345), decimal(None) == NOTHING
    ('0.123', True)
    """
    return NOTHING if value is None else f"{value:.{digits}f}"


def significant(value: float | None) -> str:
    """A number with two significant digits; never 0 for what is not 0.

    >>> [significant(value) for value in (0.0312, 1e-8, 0)]
    ['0.031', '1e-08', '0']
    """
    return NOTHING if value is None else f"{value:.2g}"


def _divergences(results: Results) -> Iterator[str]:
    told = [f"{each.map} {diverged(each)}" for each in results.whole.maps if each.diverged]
    if told:
        yield f"{listed(told)}."


def _losses(results: Results) -> Iterator[str]:
    done = [each for each in results.whole.maps if each.done]
    if not done:
        other = "other " if any(each.diverged for each in results.whole.maps) else ""
        yield f"No run is done yet, so there is no {other}answer."
        return
    known = [each for each in done if each.lost_known]
    unknown = [each.map for each in done if not each.lost_known]
    all_done = all(row.status == "done" for row in results.runs)
    losing = [each for each in known if each.lost]
    keeping = [each.map for each in known if not each.lost and not each.diverged]
    if losing:
        first, *more = losing
        runs = "runs" if all_done else "runs that are done"
        told = [f"{first.map} lost a class in {first.lost} of {first.lost_known} {runs}"]
        told += [f"{each.map} in {each.lost} of {each.lost_known}" for each in more]
        yield f"{listed(told)}."
    if keeping:
        yield f"{listed(keeping)} lost no class in any run{'' if all_done else ' that is done'}."
    for each in known:
        if each.diverged and not each.lost:
            runs = "the run that is" if each.done == 1 else f"the {each.done} runs that are"
            yield f"{each.map} lost no class in {runs} done."
    if unknown:
        of = f" with {listed(unknown)}" if known else ""
        yield f"Whether a class was lost{of} is not known: {NO_CASE}."
    if classes := list(dict.fromkeys(name for each in known for name in each.unknown)):
        it = "it" if len(classes) == 1 else "them"
        yield f"Of {listed(classes)} it is not known: no validation case has {it}."


def _claims(results: Results) -> Iterator[str]:
    if results.whole.untested:
        yield NO_SCORES
        return
    compared = [each for each in results.whole.comparisons if each.difference is not None]
    if not compared:
        return
    reference = compared[0].reference
    claimed = [each for each in compared if each.significant]
    if claimed:
        yield f"Significant differences in test Dice: {listed([_claim(each) for each in claimed])}."
    elif any(each.can_claim for each in compared):
        yield f"No difference in test Dice from {reference} is significant."
    else:
        yield (
            f"No difference in test Dice from {reference} is claimed: so few seeds can't show one, "
            f"however large it is; {compared[0].seeds_needed} would be needed."
        )


def _claim(each: Comparison) -> str:
    assert each.difference is not None
    way = "above" if each.difference.mean > 0 else "below"
    return (
        f"{each.map} is {abs(each.difference.mean):.3f} {way} {each.reference} (corrected p = "
        f"{significant(each.corrected_p)})"
    )


def _caution(results: Results) -> Iterator[str]:
    if results.reference is None:
        yield (
            "Without a reference such as Dice + CE, a lost class may be the fault of the training "
            "and not of the map."
        )
    elif results.reference_failures:
        yield (
            f"The reference {results.reference} itself failed or lost a class on "
            f"{_seeds(results.reference_failures)}: what is lost there may be the training's fault."
        )


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {listed([str(seed) for seed in seeds])}"
