"""What mkdocs needs beside the pages: home, reference, tabs, and files outside docs/.

The README is the home. A link that leads out of docs/ leads to a copy of the file in the site, at
repository/: so every link of the pages works on a code host, in a clone and in the site.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent
ALWAYS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
PLACES = {ROOT / "README.md": "index.md", ROOT / "docs/README.md": "pages.md"}

HIDDEN = {
    "atlas.md": ["toc"],
    "index.md": ["navigation"],
    "studies/record/README.md": ["navigation"],
}
"""Columns that pages leave out: for wide tables, or because they list one page."""

_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_TABS = re.compile(r"^<!-- tabs -->\n(.*?)^<!-- end of tabs -->$", re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the reference into the navigation."""
    for entry in config.nav or []:
        if isinstance(entry, dict) and "Reference" in entry:
            entry["Reference"] += [
                {page.title: reference.address(page)} for page in reference.PAGES
            ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated, and what pages link to outside docs/."""
    for place, content in reference.pages():
        files.append(File.generated(config, place, content=content))
    linked = {ROOT / name for name in ALWAYS} | set(PLACES)
    todo = [Path(page.abs_src_path) for page in files.documentation_pages() if page.abs_src_path]
    todo += linked
    while todo:
        found = {path for path in _links(todo.pop()) if not path.is_relative_to(ROOT / "docs")}
        found -= linked
        linked |= found
        todo += [path for path in found if path.suffix == ".md"]
    for path in sorted(linked):
        files.append(File.generated(config, _place(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links lead to places in the site, and headings between two comments become tabs."""
    source = page.file.abs_src_path
    if source is None:
        return markdown
    here = page.file.src_uri
    if here in HIDDEN:
        page.meta["hide"] = HIDDEN[here]

    def moved(match: re.Match[str]) -> str:
        target = (Path(source).parent / match[2]).resolve()
        if "://" in match[2] or not target.exists():
            return match[0]
        to = posixpath.relpath(_place(target), posixpath.dirname(here) or ".")
        return f"{match[1]}{to}{match[3]}"

    return _TABS.sub(_tabs, _LINK.sub(moved, markdown))


def _tabs(match: re.Match[str]) -> str:
    """Each heading of the third level, and what follows it, as a tab."""
    parts = re.split(r"^### (.*)\n", match[1], flags=re.MULTILINE)
    tabs = []
    for title, content in zip(parts[1::2], parts[2::2], strict=True):
        indented = re.sub(r"^(?=.)", "    ", content.strip(), flags=re.MULTILINE)
        tabs.append(f'=== "{title}"\n\n{indented}\n')
    return "\n".join([parts[0], *tabs])


def _links(page: Path) -> Iterator[Path]:
    """Files of the repository that a page links to."""
    for match in _LINK.finditer(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        target = (page.parent / match[2]).resolve()
        if "://" not in match[2] and target.is_file():
            yield target


def _place(path: Path) -> str:
    """Where a file of the repository is in the site."""
    if path in PLACES:
        return PLACES[path]
    if path.is_relative_to(ROOT / "docs"):
        return path.relative_to(ROOT / "docs").as_posix()
    return f"repository/{path.relative_to(ROOT).as_posix()}"
