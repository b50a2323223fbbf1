"""The page in a real browser: drawn, filtered, sorted, printed, and never believing a name."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from scores_of_others import long_rows, made_scores
from scores_of_others import write as write_rows
from strange_studies import HOSTILE, dice_of, write_run

from rwloss.study.plan import make, runs
from rwloss.study.report import write, write_table_page
from rwloss.study.results import collect
from rwloss.study.score_tables.options import TableOptions
from rwloss.study.score_tables.results import collect_table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(strange, tmp_path_factory):
    found, folder = strange
    return write(found, folder, tmp_path_factory.mktemp("page") / "report.html").as_uri()


@pytest.fixture
def open_page(browser, address):
    """Opens the page; at the end nothing may have been asked for, said or raised."""
    heard, contexts = [], []

    def opened(width=1400, scheme="light", address=address, last="#tie-7"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: heard.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: heard.append(request.url))
        page.goto(address)
        assert heard.pop(0) == address
        page.wait_for_selector(f"{last} .main-svg")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in heard if not text.startswith("data:")] == []


def until(page, expression):
    """Waits for it; playwright's own way evaluates text in the page, which the page forbids."""
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {expression}")


def shown(page, selector):
    return [each.inner_text() for each in page.query_selector_all(selector) if each.is_visible()]


def box(page, name, value):
    return page.locator(f'#filters input[name="{name}"][value="{value}"]')


def traces(page, chart):
    return page.evaluate(
        "id => document.getElementById(id).data.map(t => ({x: t.x, y: t.y, role: t.mode,"
        " width: t.line?.width, symbol: t.marker?.symbol, text: t.text}))",
        chart,
    )


def test_every_chart_is_drawn(open_page):
    page = open_page()
    charts = json.loads(page.inner_text("#data") or page.text_content("#data"))["charts"]
    assert len(charts) == page.locator(".chart").count() > 20
    for chart in charts:
        drawn = page.evaluate(
            "id => document.querySelectorAll(`#${id} svg .trace`).length", chart["id"]
        )
        assert drawn > 0, chart["id"]
        titles = page.locator(f"#{chart['id']} :is(.xtitle, .ytitle)").all_text_contents()
        assert chart["xaxis"]["title"] in titles


def test_means_are_those_of_the_seeds_shown(open_page):
    page = open_page()

    def mean_of_rectified():
        means = [t for t in traces(page, "learning-0") if t["width"] == 2.5]  # a line per map
        return means[1]["y"]

    def naive(seeds):
        values = [[dice[0] for dice in dice_of("rw", seed)] for seed in seeds]
        return pytest.approx([sum(column) / len(seeds) for column in zip(*values, strict=True)])

    assert mean_of_rectified() == naive([0, 1])  # seed 2 failed
    box(page, "seed", 0).uncheck()
    assert mean_of_rectified() == naive([1])
    [means] = [t for t in traces(page, "score-mean") if t["symbol"] == "line-ns-open"]
    assert means["x"][1] == pytest.approx((0.81 + 0.7) / 2)


def test_filters_act_on_charts_tables_and_pictures(open_page):
    page = open_page()
    box(page, "map", 0).uncheck()
    assert [len(trace["x"]) for trace in traces(page, "score-mean")] == [6, 2]
    names = [each.splitlines()[0] for each in shown(page, "#maps-whole-table tbody th")]
    assert names == ["rw", "dice_ce"]
    assert not page.locator('#cases [data-map="0"]').is_visible()
    assert "2 of 3 maps" in page.inner_text("#shown")
    ticks = page.evaluate("document.getElementById('score-mean').layout.yaxis.ticktext")
    assert ticks == ["rw", "dice_ce"]

    box(page, "class", 0).uncheck()
    assert shown(page, "#learning figcaption") == ["b"]
    assert {row.split("\t")[1] for row in shown(page, "#classes-table tbody tr")} == {"b"}
    box(page, "seed", 1).uncheck()
    rows = [row.split("\t")[1] for row in shown(page, "#runs-table tbody tr")]
    assert {seed.split()[0] for seed in rows} == {"0", "2"}

    page.get_by_role("button", name="Show all").click()
    until(page, "document.getElementById('score-mean').data[0].x.length === 9")
    assert len(shown(page, "#runs-table tbody tr")) == 9
    for number in range(3):
        box(page, "map", number).uncheck()
    assert "nothing to show" in page.text_content("#score-mean")


def test_seeds_where_the_reference_failed_can_be_left_out(open_page):
    page = open_page()
    button = page.get_by_role("button", name="Leave out the seeds")
    assert not page.locator("#maps-without-table").is_visible()
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator("#maps-without-table").is_visible()
    assert not page.locator("#maps-whole-table").is_visible()
    assert not box(page, "seed", 1).is_checked()
    button.press("Space")
    assert page.locator("#comparisons-whole-table").is_visible()
    assert box(page, "seed", 1).is_checked()


def test_tables_are_sorted_by_keyboard(open_page):
    page = open_page()

    def column():
        return page.locator("#runs-table tbody td:nth-child(4)").all_text_contents()

    head = page.locator("#runs-table th", has_text="test Dice")
    head.locator(".sort").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    *numbers, unknown = column()
    assert numbers == sorted(numbers, key=float)
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    *numbers, last = column()
    assert numbers == sorted(numbers, key=float, reverse=True)
    assert last == unknown == "\N{EN DASH}"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#term-test-dice"

    # The keyboard skips to the report, and headings leave out no level.
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4,h5')].map(e => Number(e.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def ground(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(open_page, scheme):
    page = open_page(scheme=scheme)
    dark, light = "rgb(20, 23, 27)", "rgb(255, 255, 255)"
    first, second = (dark, light) if scheme == "dark" else (light, dark)

    def axis_colour():
        return page.evaluate(
            "document.getElementById('score-mean')._fullLayout.xaxis.tickfont.color"
        )

    before = axis_colour()
    assert ground(page) == first
    page.locator("#theme").press("Enter")
    assert ground(page) == second
    assert axis_colour() != before


def test_print_is_white_without_controls_and_fits_a_page(open_page):
    page = open_page(scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    until(page, "document.getElementById('score-mean').layout.width === 312")
    assert ground(page) == "rgb(255, 255, 255)"
    assert not page.locator("aside").is_visible()
    widths = page.evaluate("[...document.querySelectorAll('.main-svg')].map(e => e.clientWidth)")
    assert max(widths) <= 640
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="screen")
    until(page, "!document.getElementById('score-mean').layout.width")


def test_many_charts_are_all_drawn_and_many_seeds_chosen_at_once(browser, tmp_path):
    rates = [10.0**-n for n in (2, 3, 4)]
    study = make(data="D", maps={"m": "rectified"}, seeds=range(9), steps=20,
                 axes={"learning_rate": rates})  # fmt: skip
    for run in runs(study, tmp_path):
        write_run(run, dice_of("rw", run.seed), 0)
    page = browser.new_page()
    page.goto(write(collect(study, tmp_path), tmp_path).as_uri())
    charts = json.loads(page.text_content("#data"))["charts"]
    assert len(charts) > 40
    until(
        page, f"document.querySelectorAll('.chart .main-svg:first-child').length >= {len(charts)}"
    )
    page.get_by_role("button", name="None").click()
    assert "0 of 9 seeds" in page.inner_text("#shown")
    page.get_by_role("button", name="All", exact=True).click()
    assert "9 of 9 seeds" in page.inner_text("#shown")
    page.close()


def test_narrow_screens_need_no_sideways_scrolling(open_page):
    page = open_page(width=360)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#controls summary").click()
    assert page.locator("#filters").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator('nav a[href="#cases"]').click()
    assert not page.locator("#filters").is_visible()


BOXES = """id => {
    const place = document.getElementById(id), frame = place.getBoundingClientRect();
    const box = (e) => e.getBoundingClientRect();
    const ends = (e) => [box(e).left - frame.left, frame.right - box(e).right];
    return {
        ticks: [...place.querySelectorAll(".xtick text")].map(e => [box(e).left, box(e).right]),
        room: [...place.querySelectorAll(".xtick text, .xtitle")].flatMap(ends),
    };
}"""


@pytest.mark.parametrize("width", [360, "print"])
def test_ticks_and_titles_have_room_where_it_is_narrow(browser, tmp_path, width):
    study = make(data="D", maps={"boundary_gdl_rebalance": "boundary"}, seeds=[0], steps=20)
    for run in runs(study, tmp_path):
        write_run(run, dice_of("boundary", 0), 0)
    found = replace(collect(study, tmp_path), study=study.model_copy(update={"steps": 1500}))
    path = write(found, tmp_path)
    context = browser.new_context(viewport={"width": 700 if width == "print" else width,
                                            "height": 900})  # fmt: skip
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("#residual-1 .main-svg")
    if width == "print":
        page.emulate_media(media="print")
        until(page, "document.getElementById('residual-1').layout.width === 312")
    for chart in ("birth-0", "residual-1"):
        boxes = page.evaluate(BOXES, chart)
        ticks = sorted(boxes["ticks"])
        assert len(ticks) > 1
        assert all(one[1] < other[0] for one, other in pairwise(ticks)), chart
        assert min(boxes["room"]) >= 0, chart
    context.close()


def test_names_are_shown_as_they_are_and_never_run(open_page):
    page = open_page()
    assert HOSTILE in page.inner_text("h1")
    assert HOSTILE in shown(page, "#learning figcaption")
    assert page.locator("img:not([src^='data:'])").count() == 0
    assert page.locator("script").count() == 3
    # In Plotly's own text, which reads tags.
    page.evaluate(
        "Plotly.Fx.hover(document.getElementById('tie-6'), [{curveNumber: 0, pointNumber: 0}])"
    )
    page.wait_for_selector("#tie-6 .hovertext")
    assert HOSTILE in page.text_content("#tie-6 .hovertext")


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_of_a_table(open_page, tmp_path, width):
    head, *rows = long_rows(made_scores())
    rows = [f"{row.replace('boundary', HOSTILE)},{size}" for size in (10, 50) for row in rows]
    path = write_rows(tmp_path / "t.csv", f"{head},size", *rows)
    columns = {"method": "loss"}
    options = TableOptions(path, {"Dice": True}, "dice_ce", columns_of=columns, groups=("size",))
    written = write_table_page(collect_table(options), tmp_path / "page.html")
    page = open_page(width, address=written.as_uri(), last="#test-cases-at-1")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert shown(page, "#scores-table tbody th") == ["dice_ce", HOSTILE, "rw"] * 2
    if width > 1000:
        page.click('input[name="map"][value="1"]')
        assert page.inner_text("#shown") == "Shown: 2 of 3 methods, 7 of 7 seeds"
        assert shown(page, "#scores-table tbody th") == ["dice_ce", "rw"] * 2
