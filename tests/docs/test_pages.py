"""The pages in docs/ do what they say: their Python and their commands run, their links lead on.

In a page, code marked `python` runs, block after block, in one namespace and one folder; what it
prints must be what the page shows: `print(...)  # value`, or a `text` block right after. Lines
that begin with `rwloss` in a block marked `sh` run too, in a folder that holds `samples` like the
root of a clone. Code that is not run is marked `py`, which looks the same; if it begins with
`# name.py`, it is in that file when the other blocks run.
"""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from itertools import zip_longest
from pathlib import Path
from urllib.parse import unquote

import pytest

import rwloss
from rwloss.cli import main

ROOT = Path(__file__).parent.parent.parent
DOCS = sorted(ROOT.glob("docs/**/*.md"))
READMES = [
    page
    for name in ("README.md", "CONTRIBUTING.md", "samples/README.md", "benchmarks/README.md")
    if (page := ROOT / name).is_file()
]

# Pages for people who use these; the others do without.
FRAMEWORKS = {
    "get-started.md": ("monai", "lightning"),
    "monai.md": ("monai", "ignite"),
    "lightning.md": ("lightning",),
    "nnunet.md": ("nnunetv2",),
    "segmentation-models.md": ("segmentation_models_pytorch", "torchseg"),
    "torchio.md": ("torchio",),
    "own-map.md": ("monai", "plotly"),
    "your-results.md": ("plotly",),
}

# Notebooks that train or write reports: seconds each.
TUTORIALS = [page for page in DOCS if page.parent.name == "tutorials"]
PAGES = [
    pytest.param(page, marks=pytest.mark.slow) if page in TUTORIALS else page
    for page in DOCS + READMES
]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
SHOWN = re.compile(r"^ *print\(.*\)  # (.*)$", flags=re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page):
    """Language, content and the `text` block that follows directly, for each block of code."""
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    for block, after in zip_longest(found, found[1:]):
        language, content = block.groups()
        shown = None
        if after is not None and after.group(1) == "text":
            between = text[block.end() : after.start()]
            shown = after.group(2) if not between.strip() else None
        yield language, content, shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_runs_and_prints_what_is_shown(page, tmp_path, monkeypatch):
    runs = [block for block in blocks(page) if block[0] in {"python", "sh"}]
    if not any(language == "python" or "rwloss " in code for language, code, _ in runs):
        return
    for optional in ("skimage", "matplotlib", *FRAMEWORKS.get(page.name, ())):
        pytest.importorskip(optional, reason=f"the pages use {optional}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples").symlink_to(ROOT / "samples", target_is_directory=True)
    for link in ("maps", "cli"):  # taken in the root of a clone, so no page may write there
        (tmp_path / link).mkdir()
        (tmp_path / link / "__init__.py").touch()
    for language, code, _ in blocks(page):
        if language == "py" and (name := re.match(r"# (\w+\.py)\n", code)):
            (tmp_path / name[1]).write_text(code, encoding="utf-8")
    names = {"__name__": "page"}
    for language, code, shown in runs:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("error")
            # ignite, which MONAI imports: as an error it would leave MONAI without it for good.
            warnings.filterwarnings("ignore", ".torch.jit.*is deprecated")
            if language == "python":
                exec(compile(code, str(page), "exec"), names)
            else:
                run_commands(code, monkeypatch)
        if language == "sh" and shown is None:
            continue  # a command without its output
        if page in READMES and shown is None:
            continue  # tests of their own
        wanted = SHOWN.findall(code) + (shown or "").splitlines()
        assert [line.rstrip() for line in printed.getvalue().splitlines()] == wanted, code


def run_commands(code, monkeypatch):
    for line in code.replace("\\\n", " ").splitlines():
        command = shlex.split(line, comments=True)
        if command[:1] != ["rwloss"] or command[1:2] == ["demo"]:  # the demo takes minutes
            continue
        # The workers have tests of their own; starting them costs more than these commands do.
        here = ["--jobs", "0"] if command[1] in {"precompute", "verify"} else []
        monkeypatch.setattr(sys, "argv", [*command, *here])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, line


def test_relative_links_lead_to_files_and_headings():
    for page in DOCS + READMES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.~])/(work|home|root|tmp|Users)/", text), page.name
        for match in LINK.finditer(re.sub(FENCE, "", text)):
            target = unquote(match.group(1) or match.group(2))
            if re.match(r"[a-z]+:", target):  # https:, mailto:
                continue
            path, _, heading = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if file.name == "report.html" and not (ROOT / ".git").exists():
                continue  # 5 MB each, so not in the sdist
            assert file.exists(), f"{page.name}: {target}"
            assert file.is_relative_to(ROOT), f"{page.name}: {target} leaves the repository"
            if heading:
                assert heading in anchors(file), f"{page.name}: {target}"


def anchors(page):
    """Headings of a page as code hosts write them in links."""
    text = re.sub(FENCE, "", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/*.md"):
        if page.name != "README.md":
            assert f"({page.name})" in index


# --- docs/write-a-map.md, whose files are written and whose commands run, in order. A block marked
# `py` begins with the name of its file. Each line of a block marked `bash` is a command; a block
# marked `text` right after it is what it prints.

# One interpreter for all commands, because each would import torch. Their outputs end with a zero.
RUN = """
import json, runpy, sys
from rwloss.cli import main

if __name__ == "__main__":
    sys.path.insert(0, ".")
    for program, *arguments in json.loads(sys.argv[1]):
        sys.argv = arguments = [program, *arguments]
        try:
            if program == "rwloss":
                code = main()
            elif arguments[1] == "-m":
                sys.argv = arguments[2:]
                code = runpy.run_module(arguments[2], run_name="__main__", alter_sys=True) and 0
            else:
                sys.argv = arguments[1:]
                code = runpy.run_path(arguments[1], run_name="__main__") and 0
        except SystemExit as end:
            code = end.code
        if code:
            sys.exit(f"{' '.join(arguments)} ended with {code}")
        print(end="\\0", flush=True)
"""
WRITE_A_MAP = (ROOT / "docs" / "write-a-map.md").read_text(encoding="utf-8")
BLOCKS = FENCE.findall(WRITE_A_MAP)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The folder that someone who follows the page ends up with, and what each command printed."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "samples").symlink_to(ROOT / "samples", target_is_directory=True)
    for name in re.findall(r"^# (\w+\.py)$", WRITE_A_MAP, flags=re.MULTILINE):
        [content] = [text for _, text in BLOCKS if text.startswith(f"# {name}\n")]
        (folder / name).write_text(content)
    commands = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps([shlex.split(line) for line in commands])],
        cwd=folder,
        # Plug-ins of pytest take longer to load than the checks take.
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return folder, dict(zip(commands, done.stdout.split("\0"), strict=False))


def output(printed, beginning):
    [found] = [out for line, out in printed[1].items() if line.startswith(beginning)]
    return found


def test_ten_lines():
    [block] = [content for _, content in BLOCKS if content.startswith("# my_map.py")]
    lines = [line for line in block.splitlines() if line and not line.startswith("#")]
    assert len(lines) <= 10


# The commands of docs/write-a-map.md, each in a process of its own.


@pytest.mark.slow
def test_the_map_is_shown_and_stored(printed):
    out = output(printed, "rwloss maps")
    assert "tau_mm: float = 3.0" in out
    assert "From: my_map.py:soft_depth" in out
    store = rwloss.store.open(printed[0] / "out")
    assert store.expression == "file('my_map.py:soft_depth', tau_mm=6.0)"
    assert len(store) == 24


@pytest.mark.slow
def test_it_prints_what_the_page_shows(printed):
    for command in ("python train.py", "python use_my_loss.py"):
        index = BLOCKS.index(("bash", f"{command}\n"))
        language, shown = BLOCKS[index + 1]
        assert language == "text"
        assert output(printed, command) == shown
    assert re.search(r"\d\d passed", output(printed, "python -m pytest"))
