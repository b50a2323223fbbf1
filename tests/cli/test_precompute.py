import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

import rwloss
from rwloss import data
from rwloss.precompute.cases import MapTask

RUN = "import sys; from rwloss.cli import main; sys.exit(main())"


def precompute(source, out, *options):
    return "precompute", source, out, "--map", "rectified", "--num-classes", 3, "-j0", *options


def test_makes_a_store(rwloss_command, source, tmp_path):
    out = tmp_path / "o"
    code, printed, told = rwloss_command(
        "precompute", source, "-o", out, "--map", "rectified", "-j0"
    )
    assert code == 0, told
    assert "3 maps of rectified made in" in printed
    assert "labels read: 3 of 3 cases" in told
    assert "maps: 3 of 3 cases" in told
    assert len(rwloss.store.open(out)) == 3
    voxels = sum(data.read_labels(file).labels.size for file in source.iterdir())
    stored = sum(file.stat().st_size for file in out.glob("*.nii.gz"))
    assert f"{voxels:,} voxels, 3 classes: {stored / 2**20:.2f} MiB, " in printed
    assert f", {12 * voxels / stored:.3g} times smaller than dense float32" in printed
    _, printed, _ = rwloss_command(*precompute(source, out))
    assert "0 maps of rectified made, 3 kept from an earlier run" in printed


def test_a_truncated_case_is_named_and_the_others_are_done(rwloss_command, source, tmp_path):
    bad = sorted(source.iterdir())[1]
    bad.write_bytes(bad.read_bytes()[:250])
    code, out, err = rwloss_command(*precompute(source, tmp_path / "o"))
    assert code == 1
    assert "2 maps" in out
    table = err[err.index("1 of 3 cases failed:\n") :].splitlines()
    assert len(table) == 2
    assert table[1].startswith(f"{data.case_name(bad)}  cannot read ")
    assert "3 of 3 cases, " in err
    assert "1 failed" in err
    [line] = (tmp_path / "o" / "failures.jsonl").read_text().splitlines()
    assert table[1].endswith(json.loads(line)["reason"])
    code, _, err = rwloss_command(*precompute(source, tmp_path / "dry", "--dry-run"))
    assert code == 1
    assert f"1 of 3 cases failed:\n{data.case_name(bad)}  cannot read" in err


def test_distances_without_a_spacing_are_said_to_be_in_voxels(rwloss_command, source, tmp_path):
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "a.npy", np.eye(6, dtype=np.uint8))
    for data_, text, options, said in (
        (folder, "boundary", (), True), (folder, "boundary", ("--spacing", "1,2"), False),
        (folder, "rectified", (), False), (source, "boundary", (), False),
    ):  # fmt: skip
        command = "precompute", data_, tmp_path / "o", "--map", text, "-j0", "--dry-run"
        code, out, _ = rwloss_command(*command, "--num-classes", 3, *options)
        assert code == 0
        assert ("1 case without a spacing: distances are in voxels" in out) == said


def test_wrong_use(assert_refused, source, tmp_path):
    for options, message in [
        (["--map", "rectifed"], "did you mean 'rectified'"),
        (["--map", "rectified(scop='image')"], "did you mean 'scope'"),
        (["--map", "rectified(scope='galaxy')"], "scope='galaxy'"),
        (["--map", "rectified", "--spacing", "1,x"], "'--spacing': expected numbers"),
        (["--map", "rectified", "--jobs", "-1"], "--jobs"),
        (["--map", "rectified", "--max-voxels", "0"], "--max-voxels"),
        (["--map", "rectified", "--format", "png"], "--format"),
        (["--map", "rectified", "-j0", "--num-classes", "100000000"], "at most 65536 classes"),
        (["--map", "rectified", "--dtype", "float16", "-j0"], "nifti stores values as"),
        (["--map", "rectified", "--scheduler", "nowhere", "-j0"], "expected tcp://HOST:PORT"),
        *(
            (["--map", text, "-j0"], "depends on the prediction, so there is no map to precompute")
            for text in ("dice", "cross_entropy + dice", "(dice + rectified).stabilized()")
        ),
        ([], "--map"),
    ]:
        assert_refused(message, "precompute", source, "o", *options)
    (tmp_path / "empty").mkdir()
    assert_refused("no label files", *precompute("empty", "o"))
    (tmp_path / "file").write_text("")
    assert_refused("can't be written", *precompute(source, "file/o"))
    if os.geteuid():  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        assert_refused("can't be written", *precompute(source, "locked"))


def test_labels_that_are_no_classes_fail_their_case_alone(rwloss_command, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    np.save(folder / "good.npy", np.array([[0, 1], [2, 2]], np.uint8))
    for name, wrong in (("high", 3), ("low", -2), ("part", 0.5)):
        np.save(folder / f"{name}.npy", np.array([[0, 1], [wrong, 2]]))
    code, out, err = rwloss_command(*precompute(folder, tmp_path / "o"))
    assert code == 1
    assert "1 map of rectified made" in out
    assert "3 of 4 cases failed:\nhigh  label 3 found, but num_classes=3 allows 0..2" in err
    assert "\nlow   label -2 found, but num_classes=3 allows 0..2" in err
    assert "\npart  " in err
    assert "expected whole numbers, got 0.5" in err
    assert list(rwloss.store.open(tmp_path / "o")) == ["good"]


def test_what_is_stored_is_the_static_part(rwloss_command, source, tmp_path):
    for text, static in [
        ("2 * rectified.with_link(0.5) + dice", "2 * rectified"),
        ("rectified + 0.010*boundary()", "rectified + 0.01 * boundary"),
    ]:
        code, out, err = rwloss_command(
            "precompute", source, tmp_path / static, "--map", text, "-j0"
        )
        assert code == 0, err
        assert f"3 maps of {static} made" in out
        assert (f"This is the static part of {text}: " in out) == ("dice" in text)
    text = "rectified(weights='dataset_inverse')"
    code, out, err = rwloss_command("precompute", source, tmp_path / "o", "--map", text, "-j0")
    assert code == 0, err
    assert "labels read: 3 of 3 cases" in err
    assert "class weights were computed from" in out
    assert "static part" not in out


# --- Settings


def test_settings_arrive(rwloss_command, source, tmp_path):
    for kind, dtype in [("nifti", "float32"), ("nifti", "int16"), ("zarr", "float16")]:
        out = tmp_path / f"{kind} {dtype}"
        code, _, err = rwloss_command(*precompute(source, out, "--format", kind, "--dtype", dtype))
        assert code == 0, err
        info = rwloss.store.open(out).info
        assert (info.format, info.dtype) == (kind, dtype)
    sizes = sorted(data.read_labels(file).labels.size for file in source.iterdir())
    code, out, err = rwloss_command(*precompute(source, tmp_path / "o", "--max-voxels", sizes[1]))
    assert code == 1
    assert "2 maps" in out
    assert "1 of 3 cases failed" in err
    assert str(sizes[1]) in err


def test_the_timeout_holds_for_a_scheduler_that_does_not_answer(rwloss_command, source):
    """Nobody listens at a port that is only bound. Fewer seconds than a second are one."""
    pytest.importorskip("distributed")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{bound.getsockname()[1]}"
        given = ("--map", "rectified", "--scheduler", address, "--timeout", 0.1)
        code, out, err = rwloss_command("precompute", source, source.parent / "out", *given)
    assert (code, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith(f"rwloss: no Dask scheduler answers at '{address}'")
    assert " 1 s" in line


@pytest.mark.slow
def test_a_scheduler_on_this_machine(rwloss_command, source, tmp_path):
    """In a process of its own: what Dask leaves running ends with it."""
    pytest.importorskip("distributed", reason="needs Dask: pip install 'rwloss[dask]'")
    assert rwloss_command(*precompute(source, tmp_path / "here"))[0] == 0
    command = [*map(str, precompute(source, tmp_path / "dask")), "--scheduler", "local"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *command, "--jobs", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "3 maps of rectified made" in done.stdout
    made = sorted((tmp_path / "here").glob("*.gz"))
    assert len(made) == 6
    for file in made:
        assert file.read_bytes() == (tmp_path / "dask" / file.name).read_bytes()


def test_an_address(rwloss_command, source):
    pytest.importorskip("zarr", reason="needs zarr: pip install 'rwloss[zarr]'")
    where = f"memory://precompute-{os.getpid()}/maps"
    code, out, err = rwloss_command(*precompute(source, where, "--format", "zarr"))
    assert code == 0, err
    assert out.splitlines()[0].endswith(where)
    assert len(rwloss.store.open(where)) == 3
    code, _, err = rwloss_command(*precompute(source, where))
    assert code == 2
    assert "format zarr only" in err


# --- Dry runs


def test_a_dry_run_writes_nothing_and_says_how_large_it_would_be(rwloss_command, source, tmp_path):
    store = tmp_path / "o"
    code, out, err = rwloss_command(*precompute(source, store), "--dry-run")
    assert code == 0, err
    assert f"Dry run: 3 maps of rectified would be made in {store}\n" in out
    assert "cases: 3 of 3 cases" in err
    assert not store.exists()
    planned = json.loads(rwloss_command(*precompute(source, store), "--dry-run", "--json")[1])
    made = json.loads(rwloss_command(*precompute(source, store), "--json")[1])
    assert planned["planned"]
    assert planned["counts"] == {"made": 0, "kept": 0, "failed": 0, "missing": 3}
    assert planned["voxels"] == made["voxels"]
    assert planned["dense_bytes"] == made["dense_bytes"]
    assert planned["stored_bytes"] == made["stored_bytes"]  # of three, each is measured
    before = sorted((file.name, file.stat().st_mtime_ns) for file in store.iterdir())
    _, out, _ = rwloss_command(*precompute(source, store), "--dry-run")
    assert "Dry run: 0 maps of rectified would be made, 3 kept" in out
    assert sorted((file.name, file.stat().st_mtime_ns) for file in store.iterdir()) == before


# --- For programs


def test_json_is_all_there_is_on_standard_output(rwloss_command, source, tmp_path):
    bad = sorted(source.iterdir())[1]
    bad.write_bytes(bad.read_bytes()[:250])
    code, out, _ = rwloss_command(*precompute(source, tmp_path / "o", "--json"))
    assert code == 1
    found = json.loads(out)
    [failure] = found.pop("failures")
    assert failure["case"] == data.case_name(bad)
    assert bad.name in failure["reason"]
    assert found.pop("seconds") > 0
    voxels, stored = found["voxels"], found["stored_bytes"]
    assert found.pop("ratio") == pytest.approx(12 * voxels / stored, abs=0.01)
    assert found == {
        "store": str(tmp_path / "o"),
        "expression": "rectified",
        "asked": "rectified",
        "num_classes": 3,
        "planned": False,
        "counts": {"made": 2, "kept": 0, "failed": 1, "missing": 0},
        "voxels": voxels,
        "stored_bytes": sum(file.stat().st_size for file in (tmp_path / "o").glob("*.gz")),
        "dense_bytes": 12 * voxels,
    }
    for file in source.iterdir():
        file.write_bytes(b"torn")
    code, out, _ = rwloss_command(*precompute(source, tmp_path / "none", "--json"))
    found = json.loads(out)
    assert (code, found["voxels"], found["ratio"]) == (1, 0, None)


# --- Names


@pytest.mark.parametrize("good", [True, False])
def test_no_name_garbles_the_output(rwloss_command, tmp_path, good):
    for name, shown in [
        ("new\nline", r"new\nline"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("[bold]x", "[bold]x"),
        ("\u202eright to left", r"\u202eright to left"),
        (os.fsdecode(b"latin\xe9"), r"latin\udce9"),
        ("海马体", "海马体"),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        if good:
            np.save(folder / f"{name}.npy", np.eye(4, dtype=np.uint8))
        else:
            (folder / f"{name}.npy").write_bytes(b"torn")
        np.save(folder / "other.npy", np.eye(4, dtype=np.uint8))
        code, out, err = rwloss_command(*precompute(folder, folder / "o"))
        assert code == (0 if good else 1)
        assert all(char.isprintable() or char == "\n" for char in out + err)
        assert f"{shown}/o\n" in out
        assert len(out.splitlines()) == 2
        if not good:
            assert err.splitlines()[-1].startswith(f"{shown}  cannot read ")


# --- Ctrl-C


def test_a_stopped_run_says_how_far_it_is_and_goes_on(
    rwloss_command, source, tmp_path, monkeypatch
):
    make, calls = MapTask.__call__, []

    def stopped_at_the_third(task):
        calls.append(task.case.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return make(task)

    with monkeypatch.context() as patched:
        patched.setattr(MapTask, "__call__", stopped_at_the_third)
        code, out, err = rwloss_command(*precompute(source, tmp_path / "o"))
    assert (code, out) == (130, "")
    [line] = err.splitlines()
    assert line == "interrupted: 2 of 3 cases are done; the same command resumes the run"
    assert list(rwloss.store.open(tmp_path / "o")) == calls[:2]
    _, out, _ = rwloss_command(*precompute(source, tmp_path / "o"))
    assert "1 map of rectified made, 2 kept" in out


def test_stopped_before_the_first_map(rwloss_command, source, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "find", stopped)
    code, _, err = rwloss_command(*precompute(source, tmp_path / "o"))
    assert code == 130
    assert err == "interrupted: no map was made; run the same command to start again\n"
