"""The folder of a run: its files, checks before resuming, and its result."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwloss.data.splits import Split, SplitPart
from rwloss.errors import RWLossError
from rwloss.files.atomic import TEMPORARY_PREFIX, naming_write_errors, write_text
from rwloss.files.journal import append_line, json_line, read_regular
from rwloss.files.lock import LOCK_FILE, hold
from rwloss.training.scores import CaseScore, Scores
from rwloss.training.settings import RunSettings
from rwloss.words import some

_FIX = "the last checkpoint is kept; free some space and rerun"


@dataclass(frozen=True)
class RunResult:
    """The result of a training run, read from its folder.

    settings: with the values derived from the data. scores: of the test cases, with the weights of
    best_step. losses: of the batch of each step. num_items: number of training slices or volumes.
    seconds: wall-clock time of the training steps. best_step: the step of the best validation.
    parameters: number of weights.
    """

    settings: RunSettings
    scores: Scores
    losses: tuple[float, ...]
    best_step: int
    num_items: int
    parameters: int
    seconds: float


class RunFolder:
    """Paths and log of a run.

    splits: the cases of each part. metrics: one line per start, record and validation. last, best:
    the checkpoints. test: written at the end.
    """

    def __init__(self, path: str | Path) -> None:
        """The folder; it need not exist yet."""
        self.path = Path(path)
        self.settings = self.path / "run.toml"
        self.splits = self.path / "splits.json"
        self.metrics = self.path / "metrics.jsonl"
        self.last, self.best = self.checkpoint("last"), self.checkpoint("best")
        self.test = self.path / "test.json"

    def checkpoint(self, name: str) -> Path:
        """The file of a checkpoint by name."""
        return self.path / "checkpoints" / f"{name}.pt"

    def read_settings(self) -> RunSettings:
        """The settings, with the current path as `out`. Raises RWLossError if there are none."""
        self._expect(self.settings)
        return RunSettings.read(self.settings, out=str(self.path))

    def data_settings(self) -> RunSettings:
        """The settings, with the ignore label from dataset.json, which only test.json holds."""
        settings = self.read_settings()
        if settings.ignore_label is not None or not self.test.exists():
            return settings
        return settings.model_copy(update={"ignore_label": self.read_test().get("ignore_label")})

    def check(self, settings: RunSettings, split: Split, *, checkpoint_bytes: int) -> None:
        """Raise RWLossError if the folder holds another run, is not writable, or is too small.

        checkpoint_bytes: size of one checkpoint. Up to three exist at the same time; those already
        there need no more space, and a finished run needs none.
        """
        if self.settings.exists():
            self._check_resumable(settings, split)
            if self.is_done(settings):
                return
        elif self.path.is_dir() and any(
            # Unless a start was killed before it wrote run.toml.
            file.name not in {"checkpoints", LOCK_FILE}
            and not file.name.startswith(TEMPORARY_PREFIX)
            for file in self.path.iterdir()
        ):
            raise RWLossError(
                f"{str(self.path)!r} is neither empty nor a run folder (it has no run.toml): name "
                "another folder with --out"
            )
        try:
            self.last.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.last.parent):
                pass
            free = shutil.disk_usage(self.path).free
            used = sum(path.stat().st_size for path in (self.last, self.best) if path.exists())
        except OSError as error:
            raise RWLossError(
                f"cannot write to {str(self.path)!r} ({error.strerror or error}): name another "
                "folder with --out"
            ) from error
        needed = 3 * checkpoint_bytes - used
        if free < needed:
            raise RWLossError(
                f"{str(self.path)!r} has {free / 2**20:.0f} MiB left on its disk, and its "
                f"checkpoints may take {needed / 2**20:.0f} more: free some space, or name another "
                "folder with --out"
            )

    def _check_resumable(self, settings: RunSettings, split: Split) -> None:
        """Raise RWLossError unless these settings and cases match the run in the folder."""
        before = RunSettings.read(self.settings)
        if different := before.difference(settings):
            raise RWLossError(
                f"{str(self.path)!r} holds a run with other settings: {'; '.join(different)}; "
                "name another folder with --out, or give the same settings to resume it"
            )
        if before.steps > settings.steps:
            raise RWLossError(
                f"{str(self.path)!r} holds a run of {before.steps} steps, and you asked for "
                f"{settings.steps}: steps may grow, not shrink"
            )
        if not self.splits.exists():
            return
        cases = Split.read(self.splits)
        if changed := cases.changed(split):
            raise RWLossError(
                f"images or labels in {settings.data!r} have changed since the run "
                f"{str(self.path)!r} began: case {some(changed)}; restore them, or name another "
                "folder with --out"
            )
        if cases != split:
            raise RWLossError(
                f"{str(self.path)!r} holds a run on other cases than those now in "
                f"{settings.data!r}: name another folder with --out"
            )

    def is_done(self, settings: RunSettings) -> bool:
        """Whether the run has been tested after this number of steps."""
        return self.test.exists() and self.read_test()["steps"] == settings.steps

    def cases(self, part: SplitPart) -> tuple[str, ...]:
        """Names of the cases of one part of the split. Raises RWLossError if it has none."""
        self._expect(self.splits)
        split = Split.read(self.splits)
        names: tuple[str, ...] = getattr(split, part)
        if not names:
            raise RWLossError(
                f"the run {str(self.path)!r} has no {part} cases ({split.made_by}): choose another "
                "part of its split"
            )
        return names

    def held(self) -> AbstractContextManager[None]:
        """Lock the folder. Raises RWLossError that names the other writer if there is one."""
        return hold(self.path)

    def begin(self, settings: RunSettings, split: Split, step: int) -> None:
        """Write run.toml and splits.json, and drop log lines after `step`, where this start begins.

        Called at each start, because the number of steps may have grown.
        """
        with naming_write_errors(self.path, _FIX):
            self.test.unlink(missing_ok=True)  # after fewer steps
            settings.write(self.settings)
            split.write(self.splits)
        kept = [json_line(line).decode() for line in self.lines() if line["step"] <= step]
        write_text(self.metrics, "".join(kept), _FIX)

    def log(self, kind: str, step: int, **fields: Any) -> None:
        """Append a line to metrics.jsonl, and flush it to the system.

        kind: what the line tells.
        """
        with naming_write_errors(self.metrics, _FIX):
            append_line(self.metrics, json_line({"kind": kind, "step": step, **fields}))

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl, without an incomplete last line left by a killed run.

        Raises RWLossError that names a damaged line.
        """
        try:
            lines = read_regular(self.metrics).split(b"\n")[:-1]
        except FileNotFoundError:
            return
        except OSError as error:
            raise RWLossError(f"cannot read {str(self.metrics)!r}: {error.strerror}") from error
        for number, line in enumerate(lines, 1):
            try:
                fields = json.loads(line)
                _ = fields["kind"], int(fields["step"])  # each line has both
                yield fields
            except (ValueError, LookupError, TypeError) as error:
                raise RWLossError(
                    f"line {number} of {str(self.metrics)!r} is damaged ({error}): delete "
                    f"{str(self.path)!r}, and rerun"
                ) from error

    def write_test(self, content: dict[str, Any]) -> None:
        """Write test.json.

        content: what becomes JSON.
        """
        write_text(self.test, json.dumps(content, indent=1) + "\n", _FIX)

    def read_test(self) -> dict[str, Any]:
        """The content of test.json. Raises RWLossError if it is missing or damaged."""
        try:
            content: dict[str, Any] = json.loads(read_regular(self.test))
        except (OSError, ValueError) as error:
            raise RWLossError(
                f"cannot read {str(self.test)!r} ({error}): the run has not ended yet, or the file "
                "was changed"
            ) from error
        if not (isinstance(content, dict) and isinstance(content.get("steps"), int)):
            raise RWLossError(
                f"{str(self.test)!r} is not the test of a run (it has no number of steps): delete "
                "it and rerun the command, which then tests again"
            )
        return content

    def read_result(self) -> RunResult:
        """The result of a finished run. Raises RWLossError if it has none yet."""
        content = self.read_test()
        try:
            return RunResult(
                settings=self.read_settings(),
                scores=Scores(
                    cases=tuple(map(CaseScore.of_fields, content["cases"])),
                    class_names=tuple(map(str, content["class_names"])),
                ),
                losses=tuple(
                    math.nan if loss is None else float(loss)  # JSON has no infinity
                    for line in self.lines()
                    if line["kind"] == "record"
                    for loss in line["losses"]
                ),
                best_step=int(content["step"]),
                num_items=int(content["num_items"]),
                parameters=int(content["parameters"]),
                seconds=float(content["seconds"]),
            )
        except (ValueError, LookupError, TypeError) as error:
            raise RWLossError(
                f"{str(self.test)!r} or {str(self.metrics)!r} is not a valid file of a run "
                f"({type(error).__name__}: {error}): delete {str(self.path)!r}, and rerun"
            ) from error

    def _expect(self, path: Path) -> None:
        if not path.is_file():
            raise RWLossError(
                f"{str(self.path)!r} is not a run folder: expected run.toml, splits.json and "
                "checkpoints in it, as rwloss train leaves them"
            )
