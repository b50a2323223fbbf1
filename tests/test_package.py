"""The package as a whole: what it loads, what it names, who imports whom, what lies in its tree."""

from __future__ import annotations

import ast
import graphlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rwloss

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rwloss"
HEAVY = ("torch", "monai")


# --- What is loaded


def loaded_after(code: str, *argv: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded once `code` has run."""
    script = (
        f"import json, sys\n{code}\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *argv],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


RUN_MAIN = """
from rwloss.cli import main
try:
    code = main()
except SystemExit as end:
    code = end.code
if code:
    sys.exit(f"rwloss ended with {code}")
"""


def two_sample_cases(folder: Path) -> Path:
    from rwloss.data import sample_dir

    labels = folder / "labels"
    labels.mkdir()
    for source in sorted((Path(sample_dir("hippocampus")) / "labelsTr").glob("*.nii.gz"))[:2]:
        shutil.copy(source, labels)
    assert len(list(labels.iterdir())) == 2
    return labels


def test_import_is_light() -> None:
    assert loaded_after("import rwloss; rwloss.__version__") == set()


@pytest.mark.parametrize("argv", [["--help"], ["maps"], ["maps", "rectified"]], ids=" ".join)
def test_command_is_light(argv: list[str]) -> None:
    assert loaded_after(RUN_MAIN, *argv) == set()


def test_precompute_is_light(tmp_path: Path) -> None:
    labels, out = two_sample_cases(tmp_path), tmp_path / "maps"
    argv = ["precompute", str(labels), str(out), "--map", "rectified", "--num-classes", "3"]
    assert loaded_after(RUN_MAIN, *argv, "--jobs", "1") == set()
    assert len(list(rwloss.store.open(out))) == 2


def test_workers_of_precompute_are_light(tmp_path: Path) -> None:
    """Worker processes too: a torch and a MONAI that can't be imported stand first on the path."""
    traps = tmp_path / "traps"
    for name in HEAVY:
        (traps / name).mkdir(parents=True)
        (traps / name / "__init__.py").write_text(f"raise RuntimeError('{name} was imported')\n")
    labels, out = two_sample_cases(tmp_path), tmp_path / "maps"
    code = "import sys; from rwloss.cli import main; sys.exit(main())"
    argv = ["precompute", str(labels), str(out), "--map", "rectified", "--num-classes", "3"]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv, "--jobs", "2"],
        env={**os.environ, "PYTHONPATH": str(traps)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(rwloss.store.open(out))) == 2


# --- What is named


def test_public_names_are_those_of_the_stub() -> None:
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    [names] = [
        ast.literal_eval(node.value)
        for node in stub.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert sorted(names) == sorted(rwloss.__all__)


@pytest.mark.parametrize("name", rwloss.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(rwloss, name) is not None
    assert name in dir(rwloss)


# --- Versions


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_citation_names_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: *(\S+)$", citation, re.M) == [rwloss.__version__]


def test_changelog_leads_to_this_version() -> None:
    """The newest release is this version, or an older one and [Unreleased] says what is new."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## \[([^]]+)\][^\n]*\n(.*?)(?=^## |\Z)", changelog, re.M | re.S))
    assert next(iter(sections)) == "Unreleased"
    releases = [as_numbers(name) for name in sections if name != "Unreleased"]
    assert releases == sorted(releases, reverse=True)
    now = as_numbers(rwloss.__version__)
    assert all(release <= now for release in releases)
    if now not in releases:
        assert re.search(r"^- ", sections["Unreleased"], re.M), "nothing under [Unreleased]"


# --- Who may import whom

FOUNDATION = {"_version", "arrays", "errors", "spelling"}
"""Rooms under all others: they know none but each other."""

MAPS = {"distance", "regions", "rwmap", "maps"}
BESIDE = {"stability", "losses", "data", "store"}
MAY_IMPORT: dict[str, set[str]] = {
    "distance": set(),
    "regions": {"distance"},
    "rwmap": {"distance", "regions"},
    "maps": {"distance", "regions", "rwmap"},
    "stability": MAPS,
    "losses": MAPS | {"stability"},
    "data": {"regions", "rwmap"},
    "store": {"regions", "rwmap"},
    "precompute": MAPS | BESIDE,
    "training": MAPS | BESIDE | {"precompute"},
    "study": MAPS | BESIDE | {"precompute", "training"},
    "integrations": MAPS | BESIDE,
    "testing": MAPS | BESIDE,
}
"""Each room with the rooms it may know, beside the foundation; `cli` may know every one."""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def import_nodes(tree: ast.AST) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Imports anywhere in a module, each with whether only a type checker sees it."""
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, typing_only = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, typing_only
        typing_only = typing_only or is_for_type_checkers(node)
        waiting.extend((child, typing_only) for child in ast.iter_child_nodes(node))


def imports_of(module: str) -> Iterator[tuple[str, bool]]:
    """Modules of rwloss that `module` imports at any depth; names of the root by their source."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node, typing_only in import_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, *filter(None, [node.module])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        for target in targets:
            if target.split(".")[0] == "rwloss":
                yield nearest_module(target), typing_only


def nearest_module(dotted: str) -> str:
    """The module that a dotted name comes from: itself, or the one that holds it.

    The root holds nothing of its own, so a name of its stub counts for where it comes from.
    """
    while dotted not in MODULES:
        dotted, _, name = dotted.rpartition(".")
        if dotted == "rwloss":
            source = sys.modules[type(getattr(rwloss, name)).__module__].__name__
            value = getattr(rwloss, name)
            source = getattr(value, "__module__", source)
            return source if source in MODULES else "rwloss"
    return dotted


def room(module: str) -> str:
    """The second part of a dotted name; the root itself is none."""
    return module.split(".")[1] if "." in module else ""


def test_rules_of_the_house_have_no_circle() -> None:
    graphlib.TopologicalSorter(MAY_IMPORT).prepare()


def test_every_room_has_its_place() -> None:
    known = FOUNDATION | MAY_IMPORT.keys() | {"cli", "__main__", ""}
    assert {room(module) for module in MODULES} <= known, "a new room: give it a place above"


@pytest.mark.parametrize("module", MODULES)
def test_imports_obey_the_house(module: str) -> None:
    here = room(module)
    if here in {"cli", "__main__"}:
        return
    allowed = FOUNDATION | MAY_IMPORT.get(here, set()) | {here}
    strangers = {target for target, _ in imports_of(module) if room(target) not in allowed}
    assert not strangers, f"{module} may not import {sorted(strangers)}"


def test_no_module_imports_in_a_circle() -> None:
    graph = {
        module: {target for target, typing_only in imports_of(module) if not typing_only} - {module}
        for module in MODULES
    }
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", [name for name in MODULES if not name.endswith("__main__")])
def test_module_can_be_imported(module: str) -> None:
    importlib.import_module(module)


# --- What lies in the tree


def tree_files() -> list[Path]:
    """Files of the checkout that git knows, or would take."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and os.path.lexists(ROOT / name)]


@pytest.mark.parametrize("name", ["maps", "cli"])
def test_links_of_the_root_are_relative(name: str) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("an sdist has no links")
    assert (ROOT / name).is_symlink()
    assert (ROOT / name).readlink() == Path("rwloss") / name
    assert (ROOT / name).is_dir()


def test_no_file_names_a_path_of_one_machine() -> None:
    machine = re.compile(rb"(?<![\w.~-])/(?:home|root|Users|work)/\w[^\s\"'`]*")
    found = {
        path.relative_to(ROOT).as_posix(): match[0].decode(errors="replace")
        for path in tree_files()
        if path.is_file()
        and not path.is_symlink()
        and b"\0" not in (content := path.read_bytes())
        and (match := machine.search(content))
    }
    assert not found
