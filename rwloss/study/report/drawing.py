"""Draw the charts of a report as SVG and PDF, with the same lines and points as the page."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwloss.study.report.charts import DASHES, Chart, Line, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = {
    "circle": "o", "x": "x", "square": "s", "diamond": "D", "triangle-up": "^",
    "triangle-left": "<", "cross": "P", "star": "*",
}  # fmt: skip
_POINTS_PER_PIXEL = 0.75


def draw(chart: Chart, looks: Mapping[str, Look], *paths: Path) -> None:
    """Write a chart to files whose suffixes are .svg or .pdf. looks: of each map, in order.

    SVG keeps text as text. The same chart gives identical files, byte for byte.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = [*looks]
    shown = [n for n in range(len(names)) if chart.in_rows and _has_row(chart, n)]
    tall = (100 + 40 * max(1, len(shown)) if chart.in_rows else chart.height + 60) / 100
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "rwloss", "font.size": 8}
    with mpl.rc_context(style):
        figure = Figure(figsize=(5, tall), layout="constrained")
        axes = figure.subplots()
        _lines(axes, chart, looks)
        _banded(axes, chart, looks)
        _points(axes, chart, looks, shown)
        _axis(axes.xaxis, chart.xaxis)
        if chart.xaxis.get("zeroline"):
            axes.axvline(0, color="#59626c", linewidth=0.8, zorder=0)
        if chart.in_rows:
            axes.set_yticks(range(len(shown)), [_text(names[n]) for n in shown])
            axes.set_ylim(len(shown) - 0.45, -0.55)
        else:
            _axis(axes.yaxis, chart.yaxis)
            handles, labels = axes.get_legend_handles_labels()
            if labels:
                figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        title = [chart.heading, *[chart.note] * bool(chart.note)]
        axes.set_title(_text("\n".join(title)), fontsize=9, loc="left", wrap=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dde1e5", linewidth=0.5, axis="x" if chart.in_rows else "both")
        axes.set_axisbelow(True)
        for path in paths:
            dates: Any = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
            figure.savefig(path, format=path.suffix[1:], metadata=dates)


def _has_row(chart: Chart, number: int) -> bool:
    of_all = chart.has_means and not chart.of_others
    return of_all or any(point.map == number for point in chart.points)


def _text(text: str) -> str:
    """A literal text: with $, without HTML tags and characters that XML forbids."""
    plain = html.unescape(text.replace("<br>", "\n")).replace("$", r"\$")
    return "".join(c if c.isprintable() or c == "\n" else " " for c in plain)


def _style(look: Look) -> dict[str, Any]:
    dash = DASHES[look.round]
    pattern: Any = "-"
    if dash != "solid":
        pattern = (
            0,
            [_POINTS_PER_PIXEL * float(each.removesuffix("px")) for each in dash.split(",")],
        )
    return {"color": look.colour, "linestyle": pattern}


def _lines(axes: Axes, chart: Chart, looks: Mapping[str, Look]) -> None:
    for number, (name, look) in enumerate(looks.items()):
        lines = [line for line in chart.lines if line.map == number]
        split = number in chart.without_mean
        for line in lines:
            thin = _style(look) if line.done else {"color": look.colour, "linestyle": ":"}
            values = [np.nan if y is None else y for y in line.y]
            axes.plot(line.x, values, **thin, linewidth=0.7, alpha=0.8 if split else 0.35)
        steps, values = shared([line for line in lines if line.done])
        if len(steps) and not split:
            axes.fill_between(
                steps, values.min(axis=0), values.max(axis=0), color=look.colour, alpha=0.14,
                linewidth=0,
            )  # fmt: skip
            axes.plot(steps, values.mean(axis=0), **_style(look), linewidth=2, label=_text(name))
        elif lines:
            axes.plot([], [], **_style(look), label=_text(name))


def shared(lines: Sequence[Line]) -> tuple[Any, Any]:
    """Steps at which all lines have a value, and the values: (steps), (lines steps)."""
    found = [{x: y for x, y in zip(line.x, line.y, strict=True) if y is not None} for line in lines]
    steps = sorted(set.intersection(*map(set, found))) if found else []
    return np.array(steps), np.array([[of[step] for step in steps] for of in found])


def _banded(axes: Axes, chart: Chart, looks: Mapping[str, Look]) -> None:
    names = [*looks]
    for one in chart.banded:
        look = looks[names[one.map]]
        axes.fill_between(
            one.x, one.low, one.high, color=look.colour, alpha=0.14, linewidth=0.5,
            step="post" if one.in_steps else None,
        )  # fmt: skip
        drawn = {"drawstyle": "steps-post"} if one.in_steps else {"marker": "o", "markersize": 4}
        label = _text(names[one.map])
        axes.plot(one.x, one.y, **_style(look), **drawn, linewidth=2, label=label)


def _points(axes: Axes, chart: Chart, looks: Mapping[str, Look], shown: Sequence[int]) -> None:
    colours = [look.colour for look in looks.values()]
    names = [*looks]
    groups = defaultdict(list)
    for point in chart.points:
        groups[point.map, point.symbol].append(point)
    named: set[int] = set()
    for (number, symbol), points in groups.items():
        base, *endings = symbol.split("-")
        if base == "triangle":
            base, *endings = f"{base}-{endings[0]}", *endings[1:]
        is_open = "open" in endings or base == "x"
        colour = colours[number]
        places = [point.y + (shown.index(number) if chart.in_rows else 0) for point in points]
        x = [point.x for point in points]
        face: dict[str, Any] = {"color": colour} if base == "x" else {
            "facecolors": "none" if is_open else colour, "edgecolors": colour,
        }  # fmt: skip
        label = None if chart.in_rows or number in named else _text(names[number])
        named.add(number)
        axes.scatter(
            x, places, s=[(_POINTS_PER_PIXEL * point.size) ** 2 for point in points],
            marker=_MARKERS[base], linewidths=1, label=label, clip_on=False, **face,
        )  # fmt: skip
        if "dot" in endings:
            axes.scatter(x, places, s=3, color=colour if is_open else "white")
    for span in chart.spans:
        if span.map in shown:
            height = shown.index(span.map) + 0.3
            axes.plot([span.low, span.high], [height] * 2, color=colours[span.map], linewidth=2.2)
    for place, number in enumerate(shown if chart.has_means else ()):
        values = [p.x for p in chart.points if p.map == number and p.counts]
        if values:
            axes.scatter(np.mean(values), place, s=200, marker="|", color=colours[number])


def _axis(axis: Any, told: Mapping[str, Any]) -> None:
    """Set up an axis as the page's script does."""
    from matplotlib.ticker import MultipleLocator

    limits = axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim
    is_log = told.get("type") == "log"
    if is_log:
        (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    axis.set_label_text(_text(told.get("title", "")))
    if "range" in told:
        low, high = (10.0**end if is_log else end for end in told["range"])
        limits(low, high)
    elif told.get("rangemode") == "tozero":
        limits(0, None)
    if "tickvals" in told:
        axis.set_ticks(told["tickvals"], labels=[*map(_text, told["ticktext"])])
        axis.set_ticks([], minor=True)
    elif "dtick" in told and not is_log:
        axis.set_major_locator(MultipleLocator(told["dtick"]))
