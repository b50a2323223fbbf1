"""`rwloss compare`: from options or a file to a table and sentences."""

import csv
import json
from importlib.util import find_spec

import pytest
from raw_folders import make_raw

from rwloss.files.lock import LOCK_FILE, hold
from rwloss.study import plan

SHORT = ("--steps", 2, "--batch-size", 2, "--accelerator", "cpu", "--jobs", 0)


@pytest.fixture
def no_page(monkeypatch):
    """Leave the page of the study out, which takes seconds: the first test looks at it."""
    monkeypatch.setattr("rwloss.cli.compare.write_if_possible", lambda *_: None)


def write_study(folder, data, **maps):
    """The study.toml of a study of one seed and two steps."""
    training = {"batch_size": 2, "accelerator": "cpu"}
    study = plan.make(data=str(data), maps=maps, seeds=[0], steps=2, training=training)
    study.write(folder / "study.toml")


def test_options_then_more_seeds_and_the_file(squares, tmp_path, rwloss_command):
    out = tmp_path / "study"
    options = ("compare", squares, "--map", "rw=rectified", "--baseline", "dice_ce", *SHORT)
    code, printed, told = rwloss_command(*options, "--seeds", 1, "--out", out)
    assert code == 0, told
    assert told.startswith("reading 8 cases ...\n2 runs: 0 of 4 steps\n")
    assert "2 of 2: dice_ce, seed 0: done" in told
    lines = printed.splitlines()
    assert lines[0].split()[:3] == ["map", "runs", "failed"]
    assert lines[1].split()[:3] == ["rw", "1", "0"]
    assert "2 of 2 runs are done." in printed
    assert "6 seeds are needed" in printed
    assert lines[-1].endswith(str(out / "report.html"))
    assert json.loads((out / "results.json").read_text())["reference"] == "dice_ce"
    before = (out / "runs" / "rw" / "seed_0" / "metrics.jsonl").read_bytes()

    # More seeds from the file, whose settings hold.
    code, printed, told = rwloss_command(
        "compare", out / "study.toml", "--seeds", "4,", "--map", "dice", "--jobs", 0, "--json"
    )
    assert code == 0, told
    content = json.loads(printed)
    assert [row["seed"] for row in content["runs"]] == [0, 0, 0, 4, 4, 4]
    assert plan.Study.read(out / "study.toml").seeds == (0, 4)
    assert list(plan.Study.read(out / "study.toml").maps) == ["rw", "dice_ce", "dice"]
    assert (out / "runs" / "rw" / "seed_0" / "metrics.jsonl").read_bytes() == before


def test_a_dry_run_says_the_plan(squares, tmp_path, rwloss_command):
    out = tmp_path / "study"
    options = ("compare", squares, "--map", "rw=rectified", "--map", "dice", *SHORT)
    stack = ("--together", 4, "--seeds", 2, "--out", out, "--dry-run")
    config = tmp_path / "run.toml"
    config.write_text("seed = 3\nsteps = 900\nlearning_rate_schedule = 'cosine'\n")
    code, printed, told = rwloss_command(*options, *stack, "--config", config)
    assert code == 0
    assert f"not taken from '{config}': seed 3." in told
    lines = printed.splitlines()
    assert lines[0] == "4 runs: 0 done, 4 to train"
    assert lines[1] == "1 stack of up to 4 runs together, in this process on the CPU"
    assert [line.split(":")[0] for line in lines[2:]] == ["memory", "time", "nothing was written"]
    assert not out.exists()
    for wrong in ("0", "some"):
        code, _, told = rwloss_command(*options, "--together", wrong, "--out", out)
        assert code == 2
        assert f"expected --together as a number of runs or auto, got '{wrong}'" in told


def test_axes_are_extended_and_their_runs_kept(squares, tmp_path, rwloss_command, no_page):
    out = tmp_path / "study"
    options = ("compare", squares, "--map", "rw=rectified", "--seeds", 1)
    code, _, told = rwloss_command(*options, *SHORT, "--out", out)
    assert code == 0, told
    first = (out / "runs/rw/seed_0/metrics.jsonl").read_bytes()
    more = ("--learning-rates", "1e-3", "--axis", "optimizer=adam", "--split-seeds", "0,1")
    more += ("--train-cases", "2,all")
    code, printed, told = rwloss_command("compare", squares, *more, "--jobs", 0, "--out", out)
    assert code == 0, told
    assert plan.Study.read(out / "study.toml").axes == {
        "learning_rate": (0.001, 0.004), "train_cases": (2, "all"), "split_seed": (0, 1),
        "optimizer": ("adam",),
    }  # fmt: skip
    assert "8 runs: 2 of 16 steps" in told
    assert (out / "runs/rw/seed_0/metrics.jsonl").read_bytes() == first
    assert len(list(out.glob("runs/**/test.json"))) == 8
    head, *rows = [line.split() for line in printed.splitlines()[:5]]
    assert head[:5] == ["map", "learning_rate", "train_cases", "optimizer", "runs"]
    assert [row[1:5] for row in rows] == [
        [rate, cases, "adam", "2"] for rate in ("0.001", "0.004") for cases in ("2", "all")
    ]
    rows = csv.DictReader((out / "runs.csv").read_text().splitlines())
    assert {row["learning_rate"] for row in rows} == {"0.001", "0.004"}
    splits = json.loads(
        (out / "runs/rw/learning_rate_0.001/train_cases_2/seed_0/splits.json").read_text()
    )
    assert len(splits["train"]) == 2


def test_what_is_not_given_is_as_the_study_has_it(squares, tmp_path, rwloss_command, no_page):
    out = tmp_path / "study"
    maps = ("--map", "rw=rectified", "--map", "dice", "--reference", "dice")
    shared = ("--learning-rate", 0.001, "--balanced", "--patch-size", "16,16", "--flip", 0.5)
    options = (*maps, *SHORT, *shared, "--seeds", "1,", "--out", out)
    code, _, told = rwloss_command("compare", squares, *options)
    assert code == 0, told
    before = plan.Study.read(out / "study.toml")
    assert before.training == {
        "learning_rate": 0.001, "balanced": True, "patch_size": [16, 16], "flip": 0.5,
        "batch_size": 2, "accelerator": "cpu",
    }  # fmt: skip
    metrics = (out / "runs" / "rw" / "seed_1" / "metrics.jsonl").read_bytes()

    more = ("--map", "focal", "--jobs", 0, "--out", out)
    code, _, told = rwloss_command("compare", squares, *more)
    assert code == 0, told
    now = plan.Study.read(out / "study.toml")
    assert list(now.maps) == ["rw", "dice", "focal"]
    assert now.model_copy(update={"maps": before.maps}) == before
    assert (out / "runs" / "rw" / "seed_1" / "metrics.jsonl").read_bytes() == metrics
    assert "steps grow" not in told

    # Of another file too: it says no steps, seeds or settings.
    other = tmp_path / "other.toml"
    other.write_text(f'data = "{squares}"\n[maps]\n"again" = "rectified"\n')
    code, _, told = rwloss_command("compare", other, "--jobs", 0, "--out", out)
    assert code == 0, told
    assert plan.Study.read(out / "study.toml").steps == 2
    assert plan.Study.read(out / "study.toml").seeds == (1,)
    # And without a map: the same study again.
    assert rwloss_command("compare", squares, "--jobs", 0, "--out", out)[0] == 0
    code, _, told = rwloss_command("compare", squares, "--learning-rate", 1, "--out", out)
    assert code == 2
    assert "learning_rate 0.001 (now 1.0)" in told


def test_patients_in_several_parts_are_told_of_with_the_option(tmp_path, rwloss_command, no_page):
    data = tmp_path / "data"
    data.mkdir()
    make_raw(data, [f"lung{i // 2:03}_{i % 2}" for i in range(8)])
    command = "compare", data, "--map", "rectified", *SHORT, "--seeds", 1, "--out"
    code, _, told = rwloss_command(*command, tmp_path / "torn")
    assert code == 0, told
    [line] = [line for line in told.splitlines() if "--group-pattern" in line]
    assert "may belong to one patient" in line
    pattern = line.split("'")[-2]
    code, _, told = rwloss_command(*command, tmp_path / "kept", "--group-pattern", pattern)
    assert code == 0, told
    assert "patient" not in told
    cases = json.loads((tmp_path / "kept/runs/rectified/seed_0/splits.json").read_text())
    parts = [{name[:7] for name in cases[part]} for part in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 4


def test_more_steps_are_told_of(squares, tmp_path, rwloss_command, no_page):
    out = tmp_path / "study"
    write_study(out, squares, rw="rectified")
    code, _, told = rwloss_command("compare", out / "study.toml", "--steps", 3, "--jobs", 0)
    assert code == 0, told
    assert "steps grow from 2 to 3, in every run" in told


def test_where_nothing_can_train_the_study_stays_as_it_is(
    squares, tmp_path, assert_refused, monkeypatch
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    wrong = [(("--accelerator", "gpu"), "this machine has no --accelerator gpu")]
    if find_spec("distributed"):
        monkeypatch.setattr("rwloss.work.dask._TIMEOUT_S", 0.1)
        wrong.append((("--scheduler", "tcp://127.0.0.1:1"), "no Dask scheduler answers"))
    given = {"data": str(squares), "maps": {"rw": "rectified", "dice": "dice"}}
    for options, message in wrong:
        assert_refused(message, "compare", squares, "--map", "dice", *options, "--out", "new")
        file = tmp_path / options[0] / "study.toml"
        training = {"accelerator": "gpu" if options[1] == "gpu" else "auto"}
        plan.make(**given, training=training).write(file)
        before = file.read_bytes()
        assert_refused(message, "compare", file, "--reference", "dice", *options)
        assert file.read_bytes() == before


def test_a_file_of_another_name_needs_a_folder(squares, tmp_path, assert_refused):
    plan.make(data=str(squares), maps={"rw": "rectified"}).write(tmp_path / "my.toml")
    advice = "rename it to study.toml to make its folder that of the study, or give --out STUDY"
    assert_refused(advice, "compare", "my.toml")


def test_a_failed_run_is_named_and_the_others_go_on(squares, tmp_path, rwloss_command):
    strange = tmp_path / "study" / "runs" / "rw" / "seed_0"
    write_study(tmp_path / "study", squares, rw="rectified", dice="dice")
    strange.mkdir(parents=True)
    (strange / "notes.txt").touch()
    code, printed, told = rwloss_command("compare", tmp_path / "study/study.toml", "--jobs", 0)
    assert code == 1
    assert "rw, seed 0: failed: " in told
    assert "1 of 2 runs failed" in told
    assert "1 of 2 runs are done, 1 failed." in printed


def test_one_at_a_time_in_a_study(squares, tmp_path, rwloss_command, no_page):
    out = tmp_path / "study"
    options = ("compare", squares, "--map", "rw=rectified", *SHORT, "--seeds", 1, "--out", out)
    out.mkdir()
    with hold(out):
        code, _, told = rwloss_command(*options)
        assert code == 2
        assert "another run is writing to" in told
        assert [path.name for path in out.iterdir()] == [LOCK_FILE]
    (out / LOCK_FILE).touch()  # what a kill leaves
    assert rwloss_command(*options)[0] == 0
    assert plan.Study.read(out / "study.toml").seeds == (0,)
    assert not (out / LOCK_FILE).exists()


def test_wrong_use(squares, assert_refused):
    for options, message in [
        (("--map", "rectified"), "no folder for the study: give --out"),
        (("--out", "study"), "no maps: give --map"),
        (("--map", "rectifed", "--out", "study"), "did you mean 'rectified'"),
        (("--map", "dice", "--map", "dice", "--out", "study"), "two maps are called 'dice'"),
        (("--baseline", "dice", "--out", "study"), "dice_ce, gdl, focal"),
        (("--map", "dice", "--axis", "lr", "--out", "study"), "such as learning_rate=1e-3,1e-2"),
        (("--map", "dice", "--axis", "preset=x", "--out", "study"), "preset must be 'tiny', "),
        (("--map", "dice", "--train-cases", "99", "--out", "study"), "99 is too large"),
        (
            ("--map", "dice", "--axis", "train_cases=1", "--train-cases", "2", "--out", "study"),
            "expected each axis once, got train_cases, train_cases",
        ),
        (("--map", "dice", "--seeds", "a", "--out", "study"), "--seeds as a number"),
        *(
            (("--map", "dice", f"--seeds={seeds}", "--out", "study"), "--seeds as a number of 1")
            for seeds in ("", "0", "-2", ",", "1,-3", "1.5")
        ),
        (("--map", "dice", "--dims", "3", "--out", "study"), "train on them with --dims 2"),
        (("--map", "dice", "--reference", "rw", "--out", "study"), "reference 'rw' is not a map"),
    ]:
        assert_refused(message, "compare", squares, *options)
