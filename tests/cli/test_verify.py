"""`rwloss verify` and its `--repair`: what it prints, and with which exit code it ends."""

import json
import re

import numpy as np
import pytest

from rwloss import maps, store
from rwloss.maps import plugin_file, registry
from rwloss.precompute import precompute
from rwloss.store.verify import MapCheck


@pytest.fixture
def made(source, tmp_path):
    """A store of three cases."""
    precompute(source, tmp_path / "maps", "rectified", num_classes=3, jobs=0)
    return tmp_path / "maps"


@pytest.fixture
def cases(made):
    return list(store.open(made))


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("repair", [(), ("--repair",)])
def test_a_complete_store(rwloss_command, made, repair):
    log = (made / "log.jsonl").read_bytes()
    code, out, err = rwloss_command("verify", made, "-j0", *repair)
    assert code == 0
    assert f"3 maps of rectified in {made}: all complete and up to date with the labels" in out
    assert len(out.splitlines()) == 1
    assert err.startswith("checked: 3 of 3 cases")
    assert (made / "log.jsonl").read_bytes() == log


def test_problems_in_a_table(rwloss_command, made, source, cases):
    flip_a_bit(made / f"{cases[0]}_true.nii.gz")
    (source / f"{cases[1]}.nii.gz").write_bytes((source / f"{cases[2]}.nii.gz").read_bytes())
    (made / f"{cases[2]}_labels.nii.gz").unlink()
    (made / "notes.txt").write_text("x")
    (made / ".rwloss-part-1.nii.gz").write_text("x")
    code, out, err = rwloss_command("verify", made, "-j0")
    assert code == 1
    lines = out.splitlines()
    assert lines[0] == f"missing  {cases[2]}  {cases[2]}_labels.nii.gz is missing"
    assert lines[1].startswith(f"stale    {cases[1]}  its labels, or their spacing, changed")
    assert lines[2] == "foreign  notes.txt        it belongs to no case"
    assert lines[3].startswith(f"damaged  {cases[0]}  {cases[0]}_true.nii.gz is damaged")
    assert lines[4].startswith(".rwloss-part-1.nii.gz was left")
    assert ": 4 problems, 1 missing, 1 stale, 1 foreign, 1 damaged (" in lines[5]
    assert "--repair" in lines[6]
    assert len(lines) == 7
    assert "3 with problems" in err


def test_repair(rwloss_command, made, cases):
    untouched = made / f"{cases[1]}_true.nii.gz"
    before = untouched.stat()  # not the time of access: verify reads it
    flip_a_bit(made / f"{cases[0]}_true.nii.gz")
    lines = (made / "manifest.jsonl").read_text().splitlines()
    (made / "manifest.jsonl").write_text("\n".join([*lines[:2], lines[2][:50], ""]))
    code, out, err = rwloss_command("verify", made, "-j0", "--repair")
    assert code == 0, err
    assert "damaged  manifest.jsonl   line 3 can't be read" in out
    assert "2 maps recomputed, 1 kept, in " in out
    assert "all complete and up to date with the labels" in out.splitlines()[-1]
    after = untouched.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    # Without its line, nothing of the third can be checked.
    for line in ("checked: 2 of 2 cases", "repaired: 3 of 3", "checked again: 3 of 3"):
        assert line in err
    assert rwloss_command("verify", made, "-j0")[0] == 0


def test_what_repair_can_not_make_good(rwloss_command, made, source, cases):
    (made / "notes.txt").write_text("mine")
    (source / f"{cases[0]}.nii.gz").write_bytes(b"torn")
    code, out, err = rwloss_command("verify", made, "-j0", "--repair")
    assert code == 1
    assert f"1 of 3 cases failed:\n{cases[0]}  cannot read" in err
    assert ": 2 problems, 1 stale, 1 foreign (" in out
    assert (made / "notes.txt").read_text() == "mine"
    assert "--repair" not in out


def test_json(rwloss_command, made, cases):
    code, out, _ = rwloss_command("verify", made, "-j0", "--json")
    found = json.loads(out)
    assert code == 0
    assert found.pop("seconds") > 0
    assert found == {
        "store": str(made),
        "expression": "rectified",
        "data": str(made.parent / "labels"),
        "cases": 3,
        "counts": {"missing": 0, "stale": 0, "foreign": 0, "damaged": 0},
        "problems": [],
        "leftovers": [],
        "note": "",
        "uncompared": [],
        "repair": None,
    }
    flip_a_bit(made / f"{cases[0]}_true.nii.gz")
    code, out, _ = rwloss_command("verify", made, "-j0", "--json")
    assert code == 1
    [problem] = json.loads(out)["problems"]
    assert (problem["kind"], problem["name"]) == ("damaged", cases[0])
    code, out, _ = rwloss_command("verify", made, "-j0", "--json", "--repair")
    assert code == 0
    found = json.loads(out)
    assert found["problems"] == []
    assert found["repair"]["problems_before"] == [problem]
    assert found["repair"]["counts"] == {"made": 1, "kept": 2, "failed": 0, "missing": 0}


def test_without_its_data_set(rwloss_command, made, source, cases):
    moved = source.rename(source.with_name("moved"))
    code, out, _ = rwloss_command("verify", made, "-j0")
    assert code == 0
    first, second = out.splitlines()
    assert "all complete (" in first
    assert second.startswith("Labels were not compared (there is no file or folder")
    assert rwloss_command("verify", made, "-j0", "--data", moved)[1].count("\n") == 1
    (made / f"{cases[0]}_true.nii.gz").unlink()
    code, _, err = rwloss_command("verify", made, "-j0", "--repair")
    assert code == 2
    assert "--data" in err
    assert rwloss_command("verify", made, "-j0", "--repair", "--data", moved)[0] == 0


def test_a_damaged_map_json(rwloss_command, made):
    (made / "map.json").write_text("{")
    code, out, _ = rwloss_command("verify", made, "-j0", "--repair")
    assert code == 1
    assert out.startswith("damaged  map.json  map.json of ")
    assert "make the maps in another folder" in out
    assert f"{made}: 1 problem, 1 damaged" in out
    assert "--repair" not in out


def test_a_store_of_an_older_version(rwloss_command, made, monkeypatch):
    """The plain command tells, and recomputes nothing: the whole store is of other values."""
    monkeypatch.setattr(maps.Rectified, "map_version", "2")
    code, out, _ = rwloss_command("verify", made, "-j0", "--repair")
    assert code == 1
    assert out.startswith("stale  map.json  it has other code of rectified (built in, now 2): make")
    assert f"{made}: 1 problem, 1 stale" in out
    assert "--repair" not in out


def test_wrong_use(assert_refused, made):
    for arguments, message in [
        (["none"], "is not a store of maps"),
        (["maps", "--data", "none"], "no file or folder 'none'"),
        (["maps", "--jobs", "-1"], "--jobs"),
        (["maps", "--max-voxels", "0"], "--max-voxels"),
        (["maps", "--map", "boundary"], "holds maps of rectified, not of boundary"),
        (["maps", "--map", "dice"], "'dice' has no static part: a store holds nothing of it"),
        ([], "STORE"),
    ]:
        assert_refused(message, "verify", *arguments)


def test_names_that_would_garble_the_output(rwloss_command, made):
    (made / "new\nline \x1b[31m[bold]").write_text("x")
    _, out, _ = rwloss_command("verify", made, "-j0")
    assert out.splitlines()[0] == r"foreign  new\nline \x1b[31m[bold]  it belongs to no case"


def test_a_foreign_file_is_a_note(rwloss_command, made, source, cases):
    """What nothing can repair must not fail for ever; `--strict` asks for it."""
    (made / "notes.txt").write_text("x")
    for options, expected in (((), 0), (("--repair",), 0), (("--strict",), 1)):
        code, out, _ = rwloss_command("verify", made, "-j0", *options)
        assert code == expected
        note, last = out.splitlines()
        assert note == "foreign  notes.txt  it belongs to no case"
        assert "all complete and up to date with the labels; 1 foreign is left alone (" in last
    (source / f"{cases[0]}.nii.gz").unlink()  # nor a map whose case has left the dataset
    code, out, _ = rwloss_command("verify", made, "-j0")
    assert (code, "2 foreign are left alone" in out) == (0, True)
    code, out, _ = rwloss_command("verify", made, "-j0", "--json")
    assert (code, json.loads(out)["counts"]["foreign"]) == (0, 2)


PLUG_IN = """
from pathlib import Path
from rwloss import maps

Path("ran").touch()

class Mine(maps.Rectified):
    name = "mine"
"""


def test_a_map_from_a_file_is_repaired_where_the_user_names_it(
    rwloss_command, source, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PLUG_IN)

    def rwloss(*arguments):
        # As in a new process.
        monkeypatch.setattr(plugin_file, "_SOURCES", {})
        monkeypatch.setattr(plugin_file, "_BY_PATH", set())
        monkeypatch.setattr(registry, "_registered", {})
        code, out, err = rwloss_command(*arguments, "-j0")
        ran = (tmp_path / "ran").exists()
        (tmp_path / "ran").unlink(missing_ok=True)
        return code, ran, out + err

    named = "--map", "mine.py:Mine"
    assert rwloss("precompute", source, "o", *named)[:2] == (0, True)
    next((tmp_path / "o").glob("*_true.nii.gz")).unlink()
    code, ran, told = rwloss("verify", "o")
    assert (code, ran, "--repair" in told) == (1, False, True)
    code, ran, told = rwloss("verify", "o", "--repair")
    assert (code, ran) == (2, False)
    assert "for example --map 'mine.py:Name'" in told
    code, ran, told = rwloss("verify", "o", "--repair", "--map", "rectified")
    assert (code, ran) == (2, False)
    assert "o holds maps of file('mine.py:Mine'), not of rectified" in told
    code, ran, told = rwloss("verify", "o", "--repair", *named)
    assert (code, ran, "1 map recomputed" in told) == (0, True, True)
    code, ran, told = rwloss("verify", "o", *named)
    assert (code, ran, "not compared" in told) == (0, True, False)
    code, ran, told = rwloss("verify", "o")
    assert (code, ran) == (0, False)
    assert "The code of mine was not compared: name the map with --map\n" in told
    for named_too, uncompared in (((), ["mine"]), (named, [])):
        told = rwloss("verify", "o", "--json", *named_too)[2]
        assert json.loads(told[: told.rindex("}") + 1])["uncompared"] == uncompared
    # A changed file is another map, also where nothing is missing.
    (tmp_path / "mine.py").write_text(PLUG_IN + "# changed")
    changed = r"other code of mine \(sha256:[0-9a-f]{12}, now sha256:[0-9a-f]{12}\)"
    for command, words in (
        (["verify", "o", *named], f"o holds maps that were made with {changed}: precompute them "),
        (["verify", "o", "--repair", *named], f"made with {changed}: precompute them again into "),
        (["precompute", source, "o", *named], f"o holds another map, with {changed}: name another"),
    ):
        code, _, told = rwloss(*command)
        assert code == 2
        assert re.search(words, told), told


def test_stopped(rwloss_command, made, monkeypatch):
    def stopped(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(MapCheck, "__call__", stopped)
    code, out, err = rwloss_command("verify", made, "-j0")
    assert (code, out) == (130, "")
    assert err == "interrupted: after 0 cases; run the same command again\n"


def test_max_voxels_is_for_labels_that_grew(rwloss_command, made, source, cases):
    np.save(source / "big.npy", np.zeros((100, 100, 100), np.uint8))
    (source / f"{cases[0]}.nii.gz").unlink()
    (source / "big.npy").rename(source / f"{cases[0]}.npy")
    code, out, _ = rwloss_command("verify", made, "-j0", "--max-voxels", 500_000)
    assert code == 1
    assert f"stale  {cases[0]}  its files can't be compared" in out
