"""Plan which runs of a study train together, on which devices, and at what cost."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from statistics import mean
from typing import Literal, TypeAlias

from rwloss.errors import RWLossError
from rwloss.files.journal import read_regular
from rwloss.study.plan import Run
from rwloss.training.run_folder import RunFolder
from rwloss.training.settings import RunSettings
from rwloss.words import count_of, listed
from rwloss.work.tasks import available_cores

RunsTogether: TypeAlias = int | Literal["auto"]

_SHARE_OF_MEMORY = 0.8  # of what is free on a GPU: estimates are rough
_MOST = 128  # runs that "auto" trains together: each keeps a lock file open


@dataclass(frozen=True)
class ExecutionPlan:
    """The plan of execution of a study's runs.

    stacks: runs to train; each stack is one model, and a single run is a stack of one. done:
    finished runs. jobs: worker processes, each of which works on one stack at a time; 0 to use this
    process. gpus: names for CUDA_VISIBLE_DEVICES; none on the CPU. apart: sentences that say which
    runs are trained one by one, and why.
    """

    stacks: tuple[tuple[Run, ...], ...]
    done: tuple[Run, ...]
    jobs: int
    gpus: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()

    @property
    def environments(self) -> list[dict[str, str]]:
        """The variables of each worker process: one GPU each, in turn."""
        gpus = self.gpus
        return [{"CUDA_VISIBLE_DEVICES": gpus[job % len(gpus)]} for job in range(self.jobs) if gpus]


def planned(
    runs: Sequence[Run],
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    together: RunsTogether = "auto",
) -> ExecutionPlan:
    """Plan a study.

    together: how many runs train as one model. "auto" is as many as are estimated to fit into the
    free memory of each GPU, at most 128; on the CPU, each run is trained separately. jobs: by
    default one per GPU, or one per core. scheduler: a Dask scheduler, whose workers choose their
    own devices.
    """
    from rwloss.training.together import MAY_DIFFER, reasons_apart

    if together != "auto" and together < 1:
        raise RWLossError(f"expected --together as a number of runs or auto, got {together}")
    done: list[Run] = []
    alike: dict[str, list[Run]] = {}  # by the settings that the runs of a stack share
    for run in runs:
        shared = run.settings.model_dump_json(exclude={*MAY_DIFFER})
        (done if is_done(run) else alike.setdefault(shared, [])).append(run)
    gpus = () if scheduler is not None else _visible_gpus(runs[0].settings)
    jobs = (len(gpus) or available_cores()) if jobs is None else jobs
    stacks: list[tuple[Run, ...]] = []
    apart: list[str] = []
    for group in alike.values():
        limit = 1 if together == "auto" else together
        if together == "auto" and gpus:
            limit = _fitting(group, max(jobs, 1), len(gpus))
        if limit > 1 and (reasons := reasons_apart(group[0].settings)):
            apart.append(f"{count_of(len(group), 'run')} one by one: {listed(reasons)}")
            limit = 1
        stacks += _even_parts(group, limit)
    return ExecutionPlan(tuple(stacks), tuple(done), jobs, gpus, tuple(apart))


def is_done(run: Run) -> bool:
    """Whether the folder holds this run, finished. Unlike a start, this does not read the data."""
    folder, now = RunFolder(run.folder), run.settings
    if not folder.is_done(now):
        return False
    before = RunSettings.read(folder.settings)
    given = now.model_fields_set - {"out"}
    return not [name for name in given if getattr(before, name) != getattr(now, name)]


def steps_done(run: Run) -> int:
    """Steps that a run has done, from the last line of its log; 0 if unreadable.

    Never raises, because another process or machine may be writing to the log.
    """
    try:
        lines = read_regular(RunFolder(run.folder).metrics).split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def described(plan: ExecutionPlan) -> Iterator[str]:
    """The plan in sentences: runs, stacks, memory, and time, with how it was estimated.

    Reads the cases, and may train a few steps; writes nothing.
    """
    runs = [run for stack in plan.stacks for run in stack]
    total = count_of(len(runs) + len(plan.done), "run")
    yield f"{total}: {len(plan.done):,} done, {len(runs):,} to train"
    if not runs:
        return
    yield from plan.apart
    largest = max(plan.stacks, key=len)
    where = count_of(len(plan.gpus), "GPU") if plan.gpus else "the CPU"
    workers = count_of(plan.jobs, "process") if plan.jobs else "this process"
    if len(largest) == 1:
        yield f"each run separately, in {workers} on {where}"
    else:
        stacks = count_of(len(plan.stacks), "stack")
        yield f"{stacks} of up to {len(largest)} runs together, in {workers} on {where}"
    own = _bytes_per_run(largest[0].settings) / 2**20
    per = f"{own:,.0f} MiB per run"
    if len(largest) > 1:
        per = f"{own * len(largest):,.0f} MiB per stack, {own:,.0f} per run"
    yield (
        f"memory: about {per}, estimated "
        "from the weights with their gradient and moments, and from what a step keeps of a batch"
    )
    seconds, source = _seconds_per_step_of_a_run(plan)
    left = sum(run.settings.steps - min(steps_done(run), run.settings.steps) for run in runs)
    at_once = max(min(plan.jobs, len(plan.stacks)), 1)
    estimated = timedelta(seconds=math.ceil(left * seconds / at_once))
    yield f"time: about {estimated} for {left:,} steps, {source}; validation and test not counted"


def _seconds_per_step_of_a_run(plan: ExecutionPlan) -> tuple[float, str]:
    """The time of a step per run, and what it is estimated from."""
    from rwloss.training.estimate import seconds_per_step

    known = [RunFolder(run.folder).read_result() for run in plan.done]
    if known:
        seconds = mean(each.seconds / each.settings.steps for each in known)
        return seconds, f"from {count_of(len(known), 'run')} done"
    [first, *_] = plan.stacks
    seconds = seconds_per_step([run.settings for run in first]) / len(first)
    return seconds, f"from a few steps of {count_of(len(first), 'run')}, timed now"


def _fitting(group: Sequence[Run], jobs: int, gpus: int) -> int:
    """How many of these runs one worker trains together on its GPU, so that all workers are
    busy."""
    import torch

    free = min(torch.cuda.mem_get_info(gpu)[0] for gpu in range(gpus))
    own = _SHARE_OF_MEMORY * free / math.ceil(jobs / gpus)
    fitting = int(own / _bytes_per_run(group[0].settings))
    return max(1, min(fitting, math.ceil(len(group) / jobs), _MOST))


def _bytes_per_run(settings: RunSettings) -> int:
    from rwloss.training.estimate import bytes_per_run
    from rwloss.training.preparation import prepare

    return bytes_per_run(prepare(settings))


def _visible_gpus(settings: RunSettings) -> tuple[str, ...]:
    """Names of the GPUs that a run may use, as in CUDA_VISIBLE_DEVICES."""
    import torch

    if settings.accelerator == "cpu" or not torch.cuda.is_available():
        return ()
    named = tuple(filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")))
    return named or tuple(map(str, range(torch.cuda.device_count())))


def _even_parts(group: Sequence[Run], limit: int) -> list[tuple[Run, ...]]:
    """The runs in the fewest parts of at most `limit` runs, whose sizes differ by at most one."""
    number = math.ceil(len(group) / limit)
    ends = [len(group) * part // number for part in range(number + 1)]
    return [tuple(group[first:last]) for first, last in pairwise(ends)]
