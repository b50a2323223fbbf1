"""The site: what its reference holds, and the built pages opened in a browser at two widths.

`make docs` builds it and runs these tests, with its folder in RWLOSS_SITE. Without that they are
skipped.
"""

import doctest
import importlib.util
import os
import re
from html.parser import HTMLParser
from inspect import ismodule
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = ROOT / "docs" / "site"
SITE = Path(os.environ.get("RWLOSS_SITE", "")).resolve()

pytestmark = pytest.mark.skipif(
    "RWLOSS_SITE" not in os.environ, reason="the site is not built: make docs"
)


def source(name):
    """A module of docs/site/."""
    spec = importlib.util.spec_from_file_location(name, SOURCES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- The sources


@pytest.fixture(scope="module")
def package():
    """rwloss as the reference reads it."""
    griffe = pytest.importorskip("griffe", reason="the site needs the extra docs")
    extensions = griffe.load_extensions("dataclasses", source("docstrings").Docstrings)
    return griffe.load("rwloss", extensions=extensions, search_paths=[ROOT], allow_inspection=False)


def public(package):
    """Name and object of everything that the reference shows, methods included."""
    reference = source("reference")
    for page in reference.PAGES:
        for name in reference.public_names(page):
            one = package.modules_collection[page.package][name]
            one = one.final_target if one.is_alias else one
            yield f"{page.package}.{name}", one
            for member, inside in one.members.items() if one.is_class else ():
                if not member.startswith("_") and not inside.is_alias and inside.is_function:
                    yield f"{page.package}.{name}.{member}", inside


def test_every_parameter_of_every_public_name_is_described(package):
    undocumented = source("docstrings").undocumented
    found = {}
    for name, one in public(package):
        if one.is_function or one.is_class:
            found[name] = list(undocumented(one))
        else:
            found[name] = [] if one.docstring else ["docstring"]
    assert len(found) > 300
    assert {name: missing for name, missing in found.items() if missing} == {}


def test_public_names_are_those_of_the_packages():
    reference = source("reference")
    for page in reference.PAGES:
        assert reference.public_names(page), page
    for package in ("rwloss", "rwloss.maps", "rwloss.losses", "rwloss.store", "rwloss.training"):
        shown = {
            name
            for page in reference.PAGES
            if page.package in {package, "rwloss"}
            for name in reference.public_names(page)
        }
        module = importlib.import_module(package)
        assert {name for name in module.__all__ if not ismodule(getattr(module, name))} <= shown


def test_docstrings_become_sections(package):
    del package  # for griffe
    module = source("docstrings")
    assert doctest.testmod(module).failed == 0
    text = "One.\n\na (b *s): labels. b: in mm.\n\n    code(a)\n\n>>> f(1)\n2\n"
    assert module.with_sections(text, ["a", "b"], {}) == (
        "One.\n\n    code(a)\n\nArgs:\n    a: (b *s), labels.\n    b: In mm.\n\n"
        "```pycon\n>>> f(1)\n2\n```"
    )


# --- The built pages


class Page(HTMLParser):
    """Anchors of a page, and what it links to and loads."""

    def __init__(self, file):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), [], []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in {"script", "img", "iframe", "source"} and given.get("src"):
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") in {"stylesheet", "icon", "preload", "preconnect"}:
            self.loaded.append(given["href"])


@pytest.fixture(scope="module")
def pages():
    """The pages of the site but the reports, which are tested by themselves."""
    found = {
        file: Page(file)
        for file in SITE.rglob("*.html")
        if file.name not in {"report.html", "404.html"}
    }
    assert len(found) > 40
    return found


def test_every_link_leads_to_a_page_and_a_heading(pages):
    wrong = []
    for file, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            to = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            heading = unquote(parts.fragment)
            if not to.exists() or (heading and to in pages and heading not in pages[to].anchors):
                wrong.append(f"{file.relative_to(SITE)}: {link}")
    assert wrong == []


def test_nothing_is_loaded_from_elsewhere(pages):
    for file, page in pages.items():
        assert [each for each in page.loaded if urlsplit(each).netloc] == [], file
    for style in SITE.rglob("*.css"):
        assert re.findall(r"url\(['\"]?(?:https?:)?//", style.read_text(encoding="utf-8")) == []


def test_every_page_of_the_docs_is_there(pages):
    for source_file in ROOT.glob("docs/**/*.md"):
        place = source_file.relative_to(ROOT / "docs")
        names = {"README.md": "index.html"}
        name = "pages.html" if str(place) == "README.md" else place.with_suffix(".html")
        if place.name in names and len(place.parts) > 1:
            name = place.with_name("index.html")
        assert SITE / name in pages


def test_every_public_name_has_an_anchor(pages):
    reference = source("reference")
    for page in reference.PAGES:
        anchors = pages[SITE / Path(reference.address(page)).with_suffix(".html")].anchors
        for name in reference.public_names(page):
            assert f"{page.package}.{name}" in anchors


@pytest.fixture
def tab(browser, request):
    """A page of the browser. Nothing may come from elsewhere, fail, or be logged."""
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    heard = []
    page = context.new_page()
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("requestfailed", lambda asked: heard.append(asked.url))
    page.on(
        "request",
        lambda asked: None if asked.url.startswith(SITE.as_uri()) else heard.append(asked.url),
    )
    yield page
    context.close()
    assert [text for text in heard if not text.startswith(("data:", "blob:", "about:"))] == []


WIDTHS = (1280, 400)
widths = pytest.mark.parametrize("tab", WIDTHS, indirect=True)


@pytest.mark.parametrize("tab", [WIDTHS[0]], indirect=True)
def test_every_page_opens_and_fits_the_window(tab, pages):
    """Wide tables, code and pictures scroll by themselves or shrink; the page never does."""
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    for file in pages:
        tab.goto(file.as_uri(), wait_until="domcontentloaded")
        for width in WIDTHS:
            tab.set_viewport_size({"width": width, "height": 900})
            assert tab.locator("h1").first.is_visible(), file
            # Waits, because a script of the theme puts each table into a box that scrolls.
            tab.wait_for_function(f"document.scrollingElement.scrollWidth <= {width}")
        assert tab.evaluate(broken) == [], file


@widths
def test_search_finds_a_parameter(tab):
    tab.goto((SITE / "index.html").as_uri())
    if tab.viewport_size["width"] < 1000:
        tab.locator("label[for=__search]").first.click()
    tab.locator("input.md-search__input").click()
    # It reads the index when the field is first used.
    tab.wait_for_function(
        "!document.querySelector('.md-search-result__meta').innerText.includes('Initializing')"
    )
    tab.locator("input.md-search__input").press_sequentially("deep_supervision_weights")
    tab.locator('.md-search-result__link[href*="rwloss.RegionWiseLoss"]').first.wait_for(
        state="attached"
    )


@pytest.mark.parametrize("tab", [1280], indirect=True)
def test_tables_of_the_atlas_sort_by_their_columns(tab):
    tab.goto((SITE / "atlas.html").as_uri())
    table = tab.locator("table").first

    def column(number):
        return table.locator(f"tbody tr td:nth-child({number})").all_inner_texts()

    for title, key in (("cost, CPU", float), ("name", str), ("all made inside", None)):
        button = table.get_by_role("button", name=title, exact=True)
        number = 1 + table.locator("th").all_inner_texts().index(title)
        button.click()
        found = column(number)
        if key is None:  # numbers before words
            numbers = [float(text) for text in found if text != "same"]
            assert found[: len(numbers)] == [text for text in found if text != "same"]
            assert numbers == sorted(numbers)
            continue
        assert [key(text) for text in found] == sorted(map(key, found))
        button.click()
        assert [key(text) for text in column(number)] == sorted(map(key, found), reverse=True)
    assert len(column(1)) == len(set(column(1))) > 35
