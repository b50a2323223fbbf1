"""Generators in a file: `path/to/file.py:Name`, here, in workers, and in a store's text."""

import copy
import hashlib
import importlib
import os
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import plug_ins
import pytest
import torch

import rwloss.store
from rwloss import Regions, RegionWiseLoss, RWLossError, maps, stability, testing
from rwloss.maps import registry
from rwloss.precompute import precompute

FILE = (
    plug_ins.MINE
    + '''

@maps.register("mine_too")
def mine_too(regions, factor: float = 1.0):
    """Minus the depth at the true class, 0 elsewhere."""
    true = -factor * regions.depth_mm
    return RWMap.compact(regions.labels, regions.num_classes, true, regions.full(0.0))


@maps.register("absolute_error")
def absolute_error(probs: "Tensor", truth: "Tensor", power: float = 1.0) -> "Tensor":
    """|p - y|^power. (b c)."""
    return ((probs - truth).abs() ** power).flatten(2).mean(dim=2)


Rectified, number = maps.Rectified, 3


def plain(regions):
    return None
'''
)
REGIONS = Regions(np.array([[[0, 1, 1]]]), 2)


def renamed(name):
    """The file with other names of its maps; the first is this one."""
    text = FILE.replace('"mine"', f'"{name}"').replace('"mine_too"', f'"{name}_too"')
    return text.replace('"absolute_error"', f'"{name}_error"')


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with the file in `lib`."""
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "my_maps.py").write_text(FILE)
    return tmp_path


def test_equivalent_spellings():
    for text in (
        "lib/my_maps.py:Mine(factor=3)",
        "file('lib/my_maps.py:Mine', factor=3)",
        'file("./lib/../lib/my_maps.py:Mine", factor=3)',
        " lib/my_maps.py:Mine( factor = 3.0, ) ",
        "1 * file('lib/my_maps.py:Mine', factor=3)",
    ):
        mine = maps.parse(text)
        assert mine == maps.get("lib/my_maps.py:Mine", factor=3)
        assert str(mine) == "file('lib/my_maps.py:Mine', factor=3.0)"
        assert maps.parse(str(mine)) == mine
        assert mine(REGIONS).true.tolist() == [[[-3, -3, -6]]]


MINE = "file('lib/my_maps.py:Mine')"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (
            "lib/my_maps.py:Mine.stabilized().with_link(0.5)",
            f"{MINE}.stabilized().with_link(0.5)",
        ),
        ("lib/my_maps.py:mine_too * 2 - dice", "2 * file('lib/my_maps.py:mine_too') - dice"),
        (
            "rectified + 0.1 * file('lib/my_maps.py:mine_too', factor=2)",
            "rectified + 0.1 * file('lib/my_maps.py:mine_too', factor=2.0)",
        ),
        (f"blend(dice, {MINE})", f"blend(dice, {MINE}, schedule='rebalance')"),
        (
            "blend('dice', 'lib/my_maps.py:Mine')",
            f"blend(dice, {MINE}, schedule='rebalance')",
        ),
        ("lib/my_maps.py:Rectified(scope='component')", "rectified(scope='component')"),
    ],
)
def test_files_in_expressions(text, canonical):
    expression = maps.parse(text)
    assert str(expression) == canonical
    assert maps.parse(canonical) == expression


def test_the_same_class_from_everywhere(folder, monkeypatch):
    """The path is relative to where one is; the class is that of the file."""
    mine = maps.get("lib/my_maps.py:Mine")
    absolute = (folder / "lib" / "my_maps.py").as_posix()
    assert maps.parse(f"file({absolute + ':Mine'!r})") == mine
    monkeypatch.chdir(folder / "lib")
    assert str(mine) == "file('my_maps.py:Mine')"
    assert maps.parse("my_maps.py:Mine") == mine
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert str(mine) == f"file({absolute + ':Mine'!r})"
    assert maps.parse(str(mine)) == maps.parse("../lib/my_maps.py:Mine") == mine


def test_any_path_reads_back(folder):
    for i, name in enumerate(["my maps (1).py", "it's mine.py", "karten-größe.py", "a.b.py"]):
        (folder / name).write_text(renamed(f"mine_{i}"))
        mine = maps.get(f"{name}:Mine")
        assert maps.parse(str(mine)) == mine
        assert maps.parse(f"rectified + {mine}") == maps.Rectified() + mine


def test_nothing_is_left_behind(folder):
    """No byte code, no name in the import path, and no module under a name that people use."""
    path = list(sys.path)
    maps.get("lib/my_maps.py:Mine")
    assert [file.name for file in (folder / "lib").iterdir()] == ["my_maps.py"]
    assert sys.path == path
    assert "my_maps" not in sys.modules


def test_the_name_is_known_once_the_file_is_loaded():
    with pytest.raises(RWLossError, match="unknown map 'mine_too'"):
        maps.get("mine_too")
    mine = maps.get("lib/my_maps.py:mine_too")
    assert maps.get("mine_too") == mine
    assert str(maps.parse("mine_too")) == "file('lib/my_maps.py:mine_too')"


# --- The same file imported as a module


@pytest.fixture
def importable(folder, monkeypatch):
    """`import my_maps` finds the file, and is forgotten after the test."""
    monkeypatch.syspath_prepend(folder / "lib")
    monkeypatch.setitem(sys.modules, "my_maps", None)
    del sys.modules["my_maps"]


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("name", ["Mine", "mine_too"])
@pytest.mark.parametrize("first", ["import", "path"])
def test_one_class_imported_and_loaded_by_path(first, name):
    if first == "import":
        module = importlib.import_module("my_maps")
    found = maps.load(f"lib/my_maps.py:{name}")
    if first == "path":
        module = importlib.import_module("my_maps")
    imported = getattr(module, name)
    assert found is imported
    assert maps.load(found.name) is imported
    assert maps.parse(f"lib/my_maps.py:{name}(factor=3)") == imported(3)
    assert str(imported(3)) == f"file('lib/my_maps.py:{name}', factor=3.0)"
    assert pickle.loads(pickle.dumps(imported(3))) == imported(3)


@pytest.mark.usefixtures("importable")
def test_a_file_that_changed_since_its_import_is_read(folder):
    module = importlib.import_module("my_maps")
    (folder / "lib" / "my_maps.py").write_text(FILE.replace("-factor", "+factor"))
    found = maps.get("lib/my_maps.py:mine_too")
    assert found != module.mine_too()
    assert found(REGIONS).true.tolist() == [[[1, 1, 2]]]


# --- What is wrong with it

WRONG = {
    "no file": ("lib/none.py:Mine", "column 1: no file 'lib/none.py' .*No such file"),
    "no name": (
        "lib/my_maps.py:Min",
        "lib/my_maps.py has no 'Min': did you mean 'Mine'.* Its maps",
    ),
    "its maps": ("lib/my_maps.py:X", "Its maps are: Mine, mine_too, absolute_error\n"),
    "a number": ("lib/my_maps.py:number", "lib/my_maps.py:number is not a subclass of maps.MapG"),
    "a function": ("lib/my_maps.py:plain", r"plain function: put @maps.register\('plain'\)"),
    "not quoted": ("dice + lib/my_maps.py:Mine", "column 8: a file needs quotes here: file"),
    "sign": ("-lib/my_maps.py:Mine", r"column 2: a file needs .* file\('lib/my_maps.py:Mine'\)"),
    "parameter": ("lib/my_maps.py:Mine(facto=1)", "column 21: mine has no parameter 'facto'"),
    "type": ("dice + file('lib/my_maps.py:Mine', factor='a')", "column 13: mine.factor='a'"),
    "by place": ("lib/my_maps.py:Mine(2)", "column 21: give lib/my_maps.py:Mine's parameters by"),
    "two places": ("file('lib/my_maps.py:Mine', 2)", "column 6: expected file.'path/to/file.py:N"),
    "no place": ("dice + file('rectified')", "column 13: expected file.'path/to/file.py:Name'"),
    "nothing": ("file()", "column 1: expected file"),
    "no call": ("dice + file", "column 8: file loads a map"),
    "a name": ("file(rectified)", "column 6: expected file"),
    "not Python": ("file('lib/my_maps.txt:Mine')", "column 6: expected file"),
    "an attribute": ("lib/my_maps.py:Mine.compute", "expected names of maps"),
    "a method": ("lib/my_maps.py:Mine.compute()", "unknown method .compute"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_errors_name_the_place(text, message):
    with pytest.raises(RWLossError, match=message) as caught:
        maps.parse(text)
    assert str(caught.value).startswith("map, column ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("def Mine(", "SyntaxError: .* was never closed"),
        ("\0", "SyntaxError|ValueError"),
        # Without the name of a module that stands for the file.
        (
            "from rwloss import maps\n@maps.register('mine')\ndef mine(regions, tau): ...",
            "(?<=load: )mine: tau has no type",
        ),
    ],
)
def test_a_file_that_does_not_run_is_named(folder, text, message):
    (folder / "broken.py").write_text(text)
    with pytest.raises(RWLossError, match=rf"broken.py failed to load: .*{message}") as caught:
        maps.load("broken.py:Mine")
    assert caught.value.__cause__ is not None
    assert maps.get("lib/my_maps.py:Mine").name == "mine"
    (folder / "broken.py").write_text(renamed("fixed"))
    assert maps.get("broken.py:Mine").name == "fixed"


def test_two_maps_with_one_name_are_both_named(folder):
    (folder / "other.py").write_text(FILE)
    maps.load("lib/my_maps.py:mine_too")
    with pytest.raises(RWLossError, match="two maps are named 'mine_too'") as caught:
        maps.load("other.py:mine_too")
    assert "lib/my_maps.py:mine_too (sha256 " in str(caught.value)
    assert "other.py:mine_too (sha256 " in str(caught.value)
    (folder / "other.py").write_text(renamed("rectified"))
    with pytest.raises(RWLossError, match="two maps are named 'rectified'") as caught:
        maps.load("other.py:Mine")
    assert "rwloss.maps.static.rectified:Rectified of rwloss" in str(caught.value)
    assert "other.py:Mine (sha256 " in str(caught.value)


# --- Content


def test_what_it_was_made_with_is_known(folder):
    generator = maps.load("lib/my_maps.py:Mine")
    digest = hashlib.sha256(FILE.encode()).hexdigest()
    assert maps.revision(generator) == f"sha256:{digest}"
    assert maps.origin("lib/my_maps.py:Mine") == f"lib/my_maps.py:Mine (sha256 {digest[:12]})"


def test_a_changed_file_is_another_class(folder, monkeypatch):
    """Also within the second that byte code would take for the same."""
    before = maps.get("lib/my_maps.py:mine_too")
    (folder / "lib" / "my_maps.py").write_text(FILE.replace("-factor", "+factor"))
    after = maps.get("lib/my_maps.py:mine_too")
    assert before != after
    assert before(REGIONS).true.tolist() == [[[-1, -1, -2]]]
    assert after(REGIONS).true.tolist() == [[[1, 1, 2]]]
    assert maps.get("mine_too") == after
    assert copy.deepcopy(before) == before
    # Another process has only the file.
    monkeypatch.delitem(sys.modules, type(before).__module__)
    with pytest.raises(RWLossError, match=r"lib/my_maps.py:mine_too changed while it was in use"):
        pickle.loads(pickle.dumps(before))


# --- Worker processes


def test_it_travels():
    for name in ("Mine", "mine_too"):
        expression = maps.parse(f"rectified + 2 * file('lib/my_maps.py:{name}', factor=3)")
        assert copy.deepcopy(expression) == expression
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(expression, protocol)) == expression


def test_a_loss_in_a_file(folder):
    """It is checked, and trained with; a store can't hold it."""
    term = maps.parse("lib/my_maps.py:absolute_error(power=2)")
    assert pickle.loads(pickle.dumps(term)) == term
    assert stability.check_expression(term, REGIONS).total.voxels == 3
    logits = torch.zeros(1, 2, 1, 3, requires_grad=True)
    target = torch.as_tensor(REGIONS.labels)
    loss = RegionWiseLoss(f"rectified + 4 * {term}")(logits, target)
    assert loss.item() == pytest.approx(RegionWiseLoss("rectified")(logits, target).item() + 1)
    loss.backward()
    assert logits.grad.any()
    (folder / "labels").mkdir()
    np.save(folder / "labels" / "case.npy", np.eye(5, dtype=np.uint8))
    with pytest.raises(RWLossError, match="depends on the prediction, so there is no map to prec"):
        precompute(folder / "labels", folder / "out", term, num_classes=2, jobs=0)


def test_spawned_workers_load_the_file_again():
    """Though they never parsed the text, and in another folder."""
    expression = maps.parse("rectified + file('lib/my_maps.py:Mine', factor=3)")
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=os.chdir, initargs=(os.sep,)
    ) as pool:
        found = pool.submit(expression, REGIONS).result()
    np.testing.assert_array_equal(found.true, expression(REGIONS).true)


def test_precompute_with_a_worker(folder):
    labels = folder / "labels"
    labels.mkdir()
    for i in range(2):
        np.save(labels / f"case_{i}.npy", np.eye(5 + i, dtype=np.uint8))
    expression = "lib/my_maps.py:mine_too(factor=3)"
    assert not precompute(labels, folder / "out", expression, num_classes=2, jobs=1).failed
    # Reading a store needs no plug-in.
    (folder / "lib" / "my_maps.py").unlink()
    store = rwloss.store.open("out")
    assert store.expression == "file('lib/my_maps.py:mine_too', factor=3.0)"
    assert len(store) == 2
    stored = store["case_0"]
    np.testing.assert_allclose(stored.true[stored.labels == 1], -3.0, rtol=3e-4)


def test_a_generator_of_a_file_passes_the_kit():
    results = testing.run_map_checks(maps.get("lib/my_maps.py:Mine"))
    assert {result.state for result in results} == {"passed"}, results
    assert "check_text" in {result.name for result in results}


# --- Texts that the user did not type

HIDDEN = [
    "file('lib/my_maps.py:Mine')",
    "lib/my_maps.py:Mine(factor=2)",
    "rectified + 0.1 * file('lib/my_maps.py:mine_too')",
    "blend(dice, 'lib/my_maps.py:Mine')",
    r"blend(dice, '\x66ile(\'lib/my_maps.p\x79:Mine\')')",
    "blend(dice, boundary='blend(dice, \"lib/my_maps.py:Mine\")')",
    "ｆｉｌｅ('lib/my_maps.py:Mine')",
    "file('lib/my_maps.py:Mine').stabilized().with_link(0.5)",
]


def test_a_text_from_elsewhere_runs_no_file(folder):
    (folder / "lib" / "my_maps.py").write_text("raise AssertionError('it ran')")
    os.mkfifo(folder / "lib" / "pipe.py")  # reading it would never end
    for text in [*HIDDEN, "file('lib/pipe.py:Mine')"]:
        with pytest.raises(RWLossError, match=r"name it yourself first, for example --map 'lib/"):
            maps.parse(text, files=False)
    assert maps.parse("rectified + blend('dice', boundary)", files=False)


def test_a_file_that_was_named_before_is_no_danger(folder):
    """What the message tells to do helps, until the file changes."""
    maps.parse("lib/my_maps.py:Mine")
    for text in HIDDEN:
        assert maps.parse(text, files=False) == maps.parse(text)
    (folder / "lib" / "my_maps.py").write_text(FILE + "\n")
    with pytest.raises(RWLossError, match="must not choose which code runs"):
        maps.parse(HIDDEN[0], files=False)
