"""The package as a whole: what it loads, what it names, who imports whom, what lies in its tree."""

import ast
import graphlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import rwloss

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rwloss"
HEAVY = ("torch", "monai")
UNUSED = {*HEAVY, "matplotlib.pyplot"}


# --- What is loaded


def fresh(code: str, *argv: str, **env: str) -> str:
    """The last line that a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


LIGHT = f"""
import json, sys
import rwloss
heavy = {{"import rwloss": sorted({set(HEAVY)} & set(sys.modules))}}
from rwloss.cli import main
if __name__ == "__main__":
    for argv in json.loads(sys.argv[1]):
        sys.argv = ["rwloss", *argv]
        try:
            code = main()
        except SystemExit as end:
            code = end.code
        heavy[" ".join(argv)] = code or sorted({set(HEAVY)} & set(sys.modules))
    print(json.dumps(heavy))
"""


def test_import_and_commands_are_light(tmp_path: Path) -> None:
    """Worker processes too: a torch and a MONAI that can't be imported stand first on the path."""
    for name in HEAVY:
        (tmp_path / "traps" / name).mkdir(parents=True)
        trap = tmp_path / "traps" / name / "__init__.py"
        trap.write_text(f"raise RuntimeError('{name} was imported')\n")
    (tmp_path / "labels").mkdir()
    sample = Path(rwloss.data.sample_dir("hippocampus")) / "labelsTr"
    for source in sorted(sample.glob("*.nii.gz"))[:2]:
        shutil.copy(source, tmp_path / "labels")
    labels, out, picture = (str(tmp_path / name) for name in ("labels", "maps", "a.png"))
    precompute = ["precompute", labels, out, "--map", "rectified", "--num-classes", "3"]
    commands = [
        ["--help"],
        ["maps"],
        ["maps", "rectified"],
        *([command, "--help"] for command in ("predict", "evaluate", "train", "compare")),
        [*precompute, "--jobs", "1"],
        ["check", labels, "--map", "boundary", "--probs", "random", "-o", picture],
    ]
    path = os.pathsep.join([str(tmp_path / "traps"), str(ROOT)])
    heavy = json.loads(fresh(LIGHT, json.dumps(commands), PYTHONPATH=path))
    assert len(heavy) == 1 + len(commands)
    assert not {done: found for done, found in heavy.items() if found}
    assert len(list(rwloss.store.open(out))) == 2
    assert Path(picture).exists()


FIRST_LOSS = """
import json, sys, torch
before = set(sys.modules)
import rwloss
loss = rwloss.RegionWiseLoss("rectified + dice")
logits = torch.zeros(1, 2, 8, 8, requires_grad=True)
loss(logits, torch.zeros(1, 8, 8, dtype=torch.long)).backward()
print(json.dumps(list(set(sys.modules) - before)))
"""


def test_first_loss_is_light() -> None:
    """It costs little more than torch: no compiler, and nothing that this loss has no use for."""
    unused = ("torch._dynamo", "torch._inductor", "sympy", "monai", "scipy", "nibabel", "PIL")
    unused += ("lightning", "matplotlib", "pandas", "typer", "rich", "triton", "rwloss.data")
    unused += ("rwloss.files",)
    assert not {name for name in json.loads(fresh(FIRST_LOSS)) if name.startswith(unused)}


# --- What is named


def test_public_names_are_those_of_the_stub() -> None:
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    [names] = [
        ast.literal_eval(node.value)
        for node in stub.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert sorted(names) == sorted(rwloss.__all__)
    assert all(getattr(rwloss, name) is not None for name in names)
    assert set(names) <= set(dir(rwloss))


# --- Versions


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_citation_and_changelog_lead_to_this_version() -> None:
    """The newest release is this version, or an older one and [Unreleased] says what is new."""
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: *(\S+)$", citation, re.M) == [rwloss.__version__]
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

FOUNDATION = {"_lazy", "_version", "arrays", "errors", "words"}
"""Rooms under all others: they know none but each other."""

FLOORS = [
    {"files"},
    {"work"},
    {"distance"},
    {"regions"},
    {"rwmap"},
    {"moves"},
    {"maps"},
    {"losses"},
    {"stability"},
    {"testing"},
    {"data"},
    {"store"},
    {"precompute"},
    {"pictures"},
    {"metrics"},
    {"training"},
    {"study"},
    {"integrations"},
]
"""Rooms from the ground up: a room may know those of the floors below its own."""

MAY_IMPORT: dict[str, set[str]] = {
    room: set().union(*FLOORS[:number]) for number, floor in enumerate(FLOORS) for room in floor
}
"""Each room with the rooms it may know, beside the foundation; `cli` may know every one."""


MODULES = {
    ".".join(parts[:-1] if parts[-1] == "__init__" else parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    for parts in [path.relative_to(ROOT).with_suffix("").parts]
}
"""Every module of the package by its dotted name."""


def homes() -> Iterator[tuple[str, str]]:
    """Names that packages load on demand, each with the module that the package's stub names."""
    for stub in sorted(PACKAGE.rglob("__init__.pyi")):
        package = ".".join(stub.parent.relative_to(ROOT).parts)
        for node in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
                for alias in node.names:
                    yield f"{package}.{alias.name}", f"{package}.{node.module}"


HOME_OF = dict(homes())


def waits(node: ast.AST) -> bool:
    """Whether what is in the node does not run when the module loads."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test).endswith("TYPE_CHECKING")
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def import_nodes(tree: ast.AST) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Imports anywhere in a module, each with whether it runs when the module loads."""
    remaining: list[tuple[ast.AST, bool]] = [(tree, True)]
    while remaining:
        node, at_load = remaining.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, at_load
        at_load = at_load and not waits(node)
        remaining.extend((child, at_load) for child in ast.iter_child_nodes(node))


@cache
def imports_of(module: str) -> list[tuple[str, bool]]:
    """Modules of rwloss that `module` imports at any depth, each with whether on loading."""
    found = []
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node, at_load in import_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            source = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(source, package)
            targets = [f"{base}.{alias.name}" for alias in node.names]
        for target in targets:
            if target.split(".")[0] == "rwloss":
                found.append((nearest_module(target), at_load))
    return found


def nearest_module(dotted: str) -> str:
    """The module that a dotted name comes from: itself, or its source, or its holder."""
    while dotted not in MODULES:
        dotted = HOME_OF.get(dotted, dotted.rpartition(".")[0])
    return dotted


def room(module: str) -> str:
    """The second part of a dotted name; the root itself is none."""
    return module.split(".")[1] if "." in module else ""


def test_rules_of_the_house_have_no_circle() -> None:
    graphlib.TopologicalSorter(MAY_IMPORT).prepare()


def test_every_room_has_its_place() -> None:
    known = FOUNDATION | MAY_IMPORT.keys() | {"cli", "__main__", ""}
    assert {room(module) for module in MODULES} <= known, "a new room: give it a place above"


def test_imports_obey_the_house() -> None:
    strangers = {
        f"{module} may not import {target}"
        for module in MODULES
        if (here := room(module)) not in {"cli", "__main__"}
        for target, _ in imports_of(module)
        if room(target) not in FOUNDATION | MAY_IMPORT.get(here, set()) | {here, ""}
    }
    assert not strangers


def test_no_modules_load_in_a_circle() -> None:
    """Between rooms there is no circle at all, by the rules above; inside one, none on loading.

    In maps there is none inside functions either.
    """
    graph = {
        module: {
            target
            for target, at_load in imports_of(module)
            if target != module and (at_load or room(module) == room(target) == "maps")
        }
        for module in MODULES
    }
    graphlib.TopologicalSorter(graph).prepare()


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
        check=False,
    )
    if listed.returncode:
        pytest.skip(f"git: {listed.stderr.strip()}")
    names = filter(None, listed.stdout.split("\0"))
    return [ROOT / name for name in names if os.path.lexists(ROOT / name)]


def test_links_of_the_root_are_relative() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("an sdist has no links")
    for name in ("maps", "cli"):
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
