"""The chart of test cases: which cases are hard for which map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rwloss.study.figures import decimal
from rwloss.study.outcomes import mean_of
from rwloss.study.report.charts import Chart, Point, Span, fitted, plain
from rwloss.study.results import Results
from rwloss.words import count_of

MOST_CASES = 150
"""Most points in a row; of more cases, this many are drawn, evenly spaced by rank."""


def case_charts(results: Results, metric: str = "dice") -> Iterator[Chart]:
    """A score of every test case for every map, mean over its runs; none without test cases."""
    title = results.title(metric)
    points: list[Point] = []
    spans: list[Span] = []
    most = 0
    for number, name in enumerate(results.study.maps):
        found: dict[str, list[float]] = defaultdict(list)
        for row in results.done(name):
            for case, score in row.outcome.tested_cases(metric).items():
                found[case].append(score)
        ranked = sorted(
            (mean_of(all_of) or 0.0, case, len(all_of)) for case, all_of in found.items()
        )
        if not ranked:
            continue
        most = max(most, last := len(ranked) - 1)
        drawn = min(MOST_CASES, len(ranked))
        for place in range(drawn):
            score, case, runs = ranked[round(place * last / max(1, drawn - 1))]
            text = f"{name}, {case}: {title} {decimal(score)}, mean of {count_of(runs, 'run')}"
            # Spread over the row, so that cases with equal scores do not hide each other.
            y = round(0.4 * (place * 0.618034 % 1 - 0.5), 4)
            points.append(
                Point(number, None, None, round(score, 6), y, plain(text, 120), "circle", 6)
            )
        spans.append(Span(number, ranked[round(last / 4)][0], ranked[round(3 * last / 4)][0]))
    if points:
        yield Chart(
            "test-cases",
            heading="Test cases: mean over classes and runs",
            label=f"{title} of every test case by map, mean over the runs that are done.",
            points=points,
            spans=spans,
            xaxis={"title": f"test {title}", **fitted([point.x for point in points])},
            in_rows=True,
            has_means=True,
            note=f"Of {most + 1} cases, {MOST_CASES} are drawn, evenly by rank."
            if most + 1 > MOST_CASES
            else "",
        )
