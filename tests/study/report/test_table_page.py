"""The page and the export of results that others made."""

import json
import re
from dataclasses import replace

import pytest
from scores_of_others import METHODS, long_rows, made_scores, write

from rwloss.study.figures import bounds, decimal, significant
from rwloss.study.report import check_export, export, write_table_page
from rwloss.study.report.table_contents import charts_of_table, tables_of_table
from rwloss.study.score_tables.options import TableOptions
from rwloss.study.score_tables.results import collect_table

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two settings, and a method with a name that a page must not believe."""
    head, *rows = long_rows(made_scores())
    rows = [
        f"{row.replace('boundary', HOSTILE)},{size}" for size in ("a</script>", "b") for row in rows
    ]
    path = write(tmp_path_factory.mktemp("page") / "scores.csv", f"{head},size", *rows)
    options = TableOptions(
        path,
        {"Dice": True, "HD95": False},
        "dice_ce",
        columns_of={"method": "loss"},
        groups=("size",),
    )
    return collect_table(options)


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "page.html"
    assert write_table_page(results, path) == path
    assert path.stat().st_size < 20e6
    return path.read_text(encoding="utf-8")


def test_the_page_shows_what_the_data_hold_and_no_more(page, results):
    body = page.partition("<body>")[2].partition('<script type="application/json"')[0]
    assert "Which of 2 methods are better than dice_ce?" in body
    for heading in ("The answer", "size b", "Every run", "What the words mean"):
        assert f">{heading}</h2>" in body
    for absent in ("Learning curves", "Birth", "Known before training", "wrong-way", "pull ratio"):
        assert absent not in body
    assert HOSTILE not in body
    assert "a</script>" not in page.partition("<body>")[2].split("const all", maxsplit=1)[0]
    assert str(results.options.source.parent) not in page
    # Every link within the page leads somewhere.
    targets = {*re.findall(r'href="#([^"]+)"', body)}
    assert targets <= {*re.findall(r'id="([^"]+)"', body)}
    ids = re.findall(r'id="([^"]+)"', body)
    assert len(ids) == len({*ids})


@pytest.mark.parametrize("kind", ["settings", "unpaired", "one run", "means"])
def test_the_page_has_a_place_for_each_chart(kind, results, page, tmp_path):
    if kind != "settings":
        head, *rows = long_rows(made_scores())
        keep, columns = {
            "unpaired": ("", head),
            "one run": (",3,case", head.replace("seed", "run")),
            "means": (",case3", head.replace("case", "note")),
        }[kind]
        kept = [row for row in rows if keep in row]
        options = replace(
            results.options,
            source=write(tmp_path / "t.csv", columns, *kept),
            groups=(),
            unpaired=kind == "unpaired",
        )
        found = collect_table(options)
        page = write_table_page(found, tmp_path / "page.html").read_text("utf-8")
        assert ("Over runs:" in page) == (kind != "one run")
        assert ("Over cases:" in page) == (kind != "means")
        assert all(table.rows for table in tables_of_table(found))
    body, _, rest = page.partition('<script type="application/json" id="data">')
    charts = json.loads(rest.partition("</script>")[0])["charts"]
    places = re.findall(r'<div class="chart" id="([^"]+)"', body)
    assert [chart["id"] for chart in charts] == sorted(
        places, key=[chart["id"] for chart in charts].index
    )


def test_tables_hold_the_figures_of_the_results(results):
    scores, differences, of_cases, runs = tables_of_table(results)
    assert len(runs.rows) == len(results.runs) == 2 * 3 * 7
    row = next(row for row in runs.rows if row.cells[0].text == "rw" and row.seed == 3)
    run = next(run for run in results.runs if (run.map, run.seed) == ("rw", 3))
    assert [cell.text for cell in row.cells] == [
        *("rw", "a</script>", "3", "9"),
        *(decimal(run.outcome.tested(metric)) for metric in ("Dice", "HD95")),
    ]
    assert list(scores.columns) == ["method", "size", "runs", "Dice", "HD95"]
    for row, each in zip(scores.rows, results.whole.maps, strict=True):
        shown = [(cell.text, cell.detail) for cell in row.cells[3:]]
        assert shown == [(decimal(of.mean), bounds(of)) for of in each.test.values()]
    assert next(iter(differences.columns)) == "method"
    for table, found in ((differences, results.whole.differences), (of_cases, results.of_cases)):
        for row, each in zip(table.rows, found, strict=True):
            cells = dict(zip(table.columns, row.cells, strict=True))
            assert cells["method"].text == each.comparison.map
            assert cells["corrected p"].text == significant(each.comparison.corrected_p)
            assert cells["difference"].sort == each.comparison.difference.mean
            assert cells["score"].text == each.metric
            verdict = "significant" if each.comparison.significant else "not significant"
            assert cells["verdict"].text == verdict


def test_charts_have_a_point_per_run_and_case(results):
    charts = charts_of_table(results)
    assert list(charts) == [f"{name}-{n}" for n in (0, 1) for name in ("scores", "forest", "cases")]
    assert [len(chart.points) for chart in charts["scores-1"]] == [21, 21]
    assert [len(chart.points) for chart in charts["forest-0"]] == [14, 14]
    [cases] = charts["cases-1"]
    assert len(cases.points) == 27
    ids = [chart.id for group in charts.values() for chart in group]
    assert len(ids) == len({*ids})


def test_export(results, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "rwloss.study.report.exports.draw", lambda chart, looks, *paths: drawn.append(chart.id)
    )
    files = export(results, results.options.source, tmp_path / "out")
    check_export(tmp_path / "out")
    assert len(drawn) == 10
    assert {path.name for path in files if path.suffix == ".csv"} == {
        *("scores.csv", "differences.csv", "of-cases.csv", "runs.csv")
    }
    text = (tmp_path / "out" / "scores.csv").read_text()
    assert text.splitlines()[0] == 'method,size,runs,Dice,"Dice, more",HD95,"HD95, more"'
    assert {line.split(",")[0] for line in text.splitlines()[1:]} == {"dice_ce", "rw", HOSTILE}
    assert METHODS[0] in text
