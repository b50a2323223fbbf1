"""Which runs of a study train together, where, and that results do not depend on it."""

import pytest
import torch

from rwloss import RWLossError
from rwloss.study import plan, stacking
from rwloss.study.execution import RunEnd, carry_out, rehearsed
from rwloss.study.results import collect
from rwloss.study.stacking import planned
from rwloss.training import RunFolder

MAPS = {"rw": "rectified", "dice": "dice", "ce": "cross_entropy"}


@pytest.fixture
def many(study_of, tmp_path):
    """Three maps, two seeds, two learning rates, with other settings if given."""

    def runs(**training):
        study = study_of(
            MAPS, seeds=[0, 1], axes={"learning_rate": [1e-3, 4e-3]},
            training={"batch_size": 2, "accelerator": "cpu", **training},
        )  # fmt: skip
        return list(plan.runs(study, tmp_path))

    return runs


@pytest.fixture
def gpus(monkeypatch):
    """Pretend GPUs with free memory for so many runs each."""

    def pretend(names, fitting):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (1000 * fitting + 1, 0))
        monkeypatch.setattr(stacking, "_bytes_per_run", lambda settings: 800)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(names))

    return pretend


def sizes(runs, **options):
    return [len(stack) for stack in planned(runs, **options).stacks]


def test_on_the_cpu_runs_train_together_only_if_asked(many, monkeypatch):
    runs = many()
    assert sizes(runs) == [1] * 12
    assert sizes(runs, together=5) == [4, 4, 4]
    assert sizes(runs, together=100) == [12]
    assert [run for stack in planned(runs, together=5).stacks for run in stack] == runs
    monkeypatch.setattr(stacking, "available_cores", lambda: 3)
    assert (planned(runs).jobs, planned(runs, jobs=0).jobs) == (3, 0)
    assert planned(runs).environments == []
    with pytest.raises(RWLossError, match="expected --together"):
        planned(runs, together=0)


def test_only_runs_of_equal_settings_train_together(many, study_of, tmp_path):
    other = study_of(MAPS, seeds=[0], training={"batch_size": 3, "accelerator": "cpu"})
    assert sizes([*many(), *plan.runs(other, tmp_path)], together=100) == [12, 3]
    compiled = planned(many(compile=True), together=4)
    assert [len(stack) for stack in compiled.stacks] == [1] * 12
    assert compiled.apart == ("12 runs one by one: compile=True",)
    assert planned(many(compile=True)).apart == ()


def test_a_gpu_holds_as_many_as_fit_and_all_gpus_work(many, gpus, monkeypatch):
    runs = many(accelerator="auto")
    gpus(["0"], fitting=5)
    assert sizes(runs) == [4, 4, 4]
    assert planned(runs).jobs == 1
    gpus(["4", "7"], fitting=100)
    both = planned(runs)
    assert [len(stack) for stack in both.stacks] == [6, 6]
    assert both.environments == [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "7"}]
    four = planned(runs, jobs=4)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in four.environments] == ["4", "7", "4", "7"]
    gpus(["4", "7"], fitting=5)
    assert sizes(runs, jobs=4) == [2] * 6  # two processes share a GPU
    monkeypatch.setattr(stacking, "_MOST", 3)
    assert sizes(runs) == [3] * 4
    gpus(["4"], fitting=0)
    assert sizes(runs) == [1] * 12
    assert sizes(runs, together=6) == [6, 6]
    assert planned(runs, scheduler="local").environments == []
    assert sizes(runs, scheduler="local") == [1] * 12
    assert sizes(many()) == [1] * 12  # accelerator="cpu"


def test_results_tell_runs_that_trained_together_by_their_start_alone(study_of, tmp_path):
    study = study_of({"rw": "rectified", "dice": "dice"}, training={
        "batch_size": 2, "accelerator": "cpu", "learning_rate": 1e-5, "record_every": 2,
    })  # fmt: skip
    rows, keys = {}, {}
    for number in (1, 2):
        folder = tmp_path / str(number)
        runs = list(plan.runs(study, folder))
        seen = []
        ends = carry_out(runs, jobs=0, together=number, on_end=seen.append)
        assert seen == ends == [RunEnd("rw", 0), RunEnd("dice", 0)]
        start = next(RunFolder(runs[0].folder).lines())
        assert start.get("together") == (None if number == 1 else 2)
        rows[number] = [row.outcome for row in collect(study, folder).runs]
        keys[number] = [sorted(path.name for path in run.folder.rglob("*")) for run in runs]
        assert planned(runs, together=number).done == tuple(runs)
    assert keys[1] == keys[2]
    for one, other in zip(rows[1], rows[2], strict=True):
        assert other.test_dice == pytest.approx(one.test_dice, abs=1e-3)


def test_a_stack_that_can_not_start_fails_in_all_its_runs(study_of, tmp_path, monkeypatch):
    study = study_of({"rw": "rectified", "dice": "dice"})
    runs = list(plan.runs(study, tmp_path))
    monkeypatch.setattr(
        "rwloss.study.execution.run_tasks", lambda tasks, **_: [task.died() for task in tasks]
    )
    for end, run in zip(carry_out(runs, together=2), runs, strict=True):
        assert "with 2 runs together: try fewer with --together" in end.reason
        assert run.failure.read_text() == f"{end.reason}\n"
    monkeypatch.undo()
    monkeypatch.setattr("rwloss.training.together.fabric_of", lambda settings: 1 / 0)
    for end in carry_out(runs, jobs=0, together=2):
        assert "ZeroDivisionError" in end.reason


def test_a_rehearsal_says_what_will_be_done_and_writes_nothing(study_of, tmp_path, gpus):
    study = study_of({"rw": "rectified", "dice": "dice"}, seeds=[0, 1])
    folder = tmp_path / "study"
    first, how, memory, time = rehearsed(study, folder, jobs=1, together=3)
    assert first == "4 runs: 0 done, 4 to train"
    assert how == "2 stacks of up to 2 runs together, in 1 process on the CPU"
    assert memory.startswith("memory: about ")
    assert time.startswith("time: about 0:00:")
    assert "for 16 steps, from a few steps of 2 runs, timed now" in time
    assert not folder.exists()
    carry_out(list(plan.runs(study, folder))[:1], jobs=0)
    study.write(folder / "study.toml")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    first, how, _, time = rehearsed(study, folder, jobs=0)
    assert first == "4 runs: 1 done, 3 to train"
    assert how == "each run separately, in this process on the CPU"
    assert "for 12 steps, from 1 run done;" in time
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
