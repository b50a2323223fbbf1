"""Exported charts and tables against those of the page; names are made safe, folders are kept."""

import csv
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from strange_studies import HOSTILE, dice_of

from rwloss.errors import RWLossError
from rwloss.study.report import check_page, export
from rwloss.study.report.charts import COLOURS, Line, looks
from rwloss.study.report.contents import all_charts, all_tables
from rwloss.study.report.drawing import draw, shared
from rwloss.study.report.exports import as_csv, as_latex
from rwloss.study.report.run_charts import charts_of_runs
from rwloss.study.report.tables import Cell, Table, TableRow


def texts_of(path):
    """Texts of an SVG; it must be well-formed."""
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    return ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]


def svg(chart, results, tmp_path):
    path = tmp_path / f"{chart.id}.svg"
    draw(chart, looks(results.study.maps, results.reference), path)
    return path


@pytest.mark.slow
def test_every_chart_and_table_is_a_file(strange, tmp_path):
    results, study = strange
    files = export(results, study, tmp_path / "figures")
    names = [path.name for path in files]
    charts = [chart for group in all_charts(results).values() for chart in group]
    assert len(files) == 2 * (len(charts) + len(all_tables(results))) == len({*names})
    assert all(re.fullmatch(r"[\w.-]{1,84}\.(svg|pdf|csv|tex)", name) for name in names)
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".svg":
            texts_of(path)
        assert path.suffix != ".pdf" or content.startswith(b"%PDF")
        assert b"/srv/" not in content
    name = "score-mean"
    chart = next(chart for chart in charts if chart.id == name)
    [first] = [path for path in files if path.name.startswith(name) and path.suffix == ".svg"]
    assert svg(chart, results, tmp_path).read_bytes() == first.read_bytes()


def test_a_drawing_has_the_texts_and_colours_of_its_chart(strange, tmp_path):
    results, _ = strange
    path = svg(charts_of_runs(results)["learning"][0], results, tmp_path)
    assert {HOSTILE, "training step", "validation Dice", "boundary", "rw", "dice_ce"} <= {
        *texts_of(path)
    }
    assert COLOURS[0].lower() in path.read_text().lower()
    path = svg(charts_of_runs(results)["scores"][0], results, tmp_path)
    assert {"Mean over classes", "test Dice", "boundary", "0.2"} <= {*texts_of(path)}


def test_lines_rise_as_the_chart_has_them(strange, tmp_path):
    results, _ = strange
    chart = replace(charts_of_runs(results)["learning"][0], without_mean=[0])
    root = ElementTree.fromstring(svg(chart, results, tmp_path).read_text())
    drawn = []
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        numbers = [float(each) for each in re.findall(r"-?[0-9.]+", path.get("d"))]
        if re.fullmatch(r"M \S+ \S+\s+L \S+ \S+\s*", path.get("d")):
            (x, y, to_x, to_y) = numbers
            if x != to_x and y != to_y:  # not of the axes and the grid
                drawn.append((to_y - y) / (to_x - x))
    rises = {(line.map, line.seed): line.y[1] - line.y[0] for line in chart.lines}
    wanted = [*rises.values()]
    for number in (1, 2):  # the mean of the first is not drawn
        own = [rise for (of, _), rise in rises.items() if of == number]
        wanted.append(sum(own) / len(own))
    shown = sorted(-each for each in drawn)
    assert np.array(shown) / shown[-1] == pytest.approx(np.sort(wanted) / max(wanted), abs=1e-4)


def test_means_of_lines_are_those_of_their_common_steps():
    lines = [Line(0, 0, True, [1, 2, 3], [0.1, None, 0.5]), Line(0, 1, True, [1, 3], [0.3, 0.7])]
    steps, values = shared(lines)
    assert steps.tolist() == [1, 3]
    assert values.mean(axis=0) == pytest.approx([0.2, 0.6])
    assert np.size(shared([])[0]) == 0


NASTY = Table(
    "t",
    "Caption of 5 %",
    {"map": "", "a_b": ""},
    (
        TableRow((Cell("=1+1"), Cell("\N{MINUS SIGN}0.450", -0.45, "5 & 6")), 0),
        TableRow((Cell("x\\y^~{$}"), Cell("\N{EN DASH}")), 0),
    ),
)


def test_cells_are_neutral_in_csv_and_escaped_in_latex():
    rows = list(csv.reader(io.StringIO(as_csv(NASTY))))
    assert rows == [["map", "a_b", "a_b, more"], ["'=1+1", "-0.45", "5 & 6"], ["x\\y^~{$}", "", ""]]
    text = as_latex(NASTY)
    assert r"map & a\_b \\" in text
    assert r"=1+1 & $-$0.450 (5 \& 6) \\" in text
    assert r"x\textbackslash{}y\textasciicircum{}\textasciitilde{}\{\$\} & -- \\" in text
    assert r"\begin{tabular}{lr}" in text


def test_tables_hold_the_figures_of_the_page(strange):
    results, _ = strange
    runs = next(table for table in all_tables(results) if table.id == "runs")
    rows = list(csv.DictReader(io.StringIO(as_csv(runs))))
    found = {(row["map"], row["seed"]): row["end Dice"] for row in rows}
    for name, seed in (("boundary", 2), ("rw", 0)):
        assert float(found[name, f"{seed}.0"]) == pytest.approx(
            sum(dice_of(name, seed)[-1]) / 2, abs=5e-4
        )


def test_only_a_folder_of_such_files_is_written_to(strange, tmp_path):
    results, study = strange
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RWLossError, match=r"notes\.txt.*--export"):
        export(results, study, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(RWLossError, match="not a folder"):
        export(results, study, tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["x.pdf", "x.csv", "x"])
def test_the_page_gets_no_other_suffix(name, tmp_path):
    with pytest.raises(RWLossError, match=r"name it x\.html.*--export DIR"):
        check_page(tmp_path / name)
    check_page(tmp_path / "x.HTML")
