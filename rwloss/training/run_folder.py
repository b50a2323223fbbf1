"""The folder of a run: what lies where, and how it begins, goes on and is read."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwloss.data.splits import Split, SplitPart
from rwloss.errors import RWLossError
from rwloss.files.atomic import TEMPORARY_PREFIX, whole_file
from rwloss.files.lock import LOCK_FILE, hold
from rwloss.training import settings as settings_file
from rwloss.training.settings import RunSettings
from rwloss.words import some


@dataclass(frozen=True)
class RunFolder:
    """Paths and log of a run.

    run.toml: the settings. splits.json: the cases of each part. metrics.jsonl: a line for each
    start, record and validation. checkpoints/last.pt and best.pt. test.json: the end.
    """

    path: Path

    @property
    def settings(self) -> Path:
        """run.toml."""
        return self.path / "run.toml"

    @property
    def splits(self) -> Path:
        """splits.json."""
        return self.path / "splits.json"

    @property
    def metrics(self) -> Path:
        """metrics.jsonl."""
        return self.path / "metrics.jsonl"

    @property
    def last(self) -> Path:
        """checkpoints/last.pt."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        """checkpoints/best.pt."""
        return self.path / "checkpoints" / "best.pt"

    @property
    def test(self) -> Path:
        """test.json."""
        return self.path / "test.json"

    def check(self, settings: RunSettings, split: Split, *, checkpoint_bytes: int) -> None:
        """Raise RWLossError where the folder holds another run, can't be written, or is too small.

        checkpoint_bytes: size of one checkpoint, of which three may lie there for a moment. Those
        that are there already take no more room, and a run that is done none at all.
        """
        if self.settings.exists():
            before = settings_file.read(self.settings)
            if different := before.difference(settings):
                raise RWLossError(
                    f"{str(self.path)!r} holds a run with other settings: {'; '.join(different)}; "
                    "name another folder with --out, or give the same settings to go on"
                )
            if before.steps > settings.steps:
                raise RWLossError(
                    f"{str(self.path)!r} holds a run of {before.steps} steps, asked for are "
                    f"{settings.steps}: steps may grow, not shrink"
                )
            if self.splits.exists():
                self._check_cases(Split.read(self.splits), split, settings.data)
            if self.is_done(settings):
                return
        elif self.path.is_dir() and any(map(_is_strange, self.path.iterdir())):
            raise RWLossError(
                f"{str(self.path)!r} is neither empty nor a run (it has no run.toml): name another "
                "folder with --out"
            )
        try:
            self.last.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.last.parent):
                pass
            free = shutil.disk_usage(self.path).free
            there = sum(path.stat().st_size for path in (self.last, self.best) if path.exists())
        except OSError as error:
            raise RWLossError(
                f"cannot write to {str(self.path)!r} ({error.strerror or error}): name another "
                "folder with --out"
            ) from error
        needed = 3 * checkpoint_bytes - there
        if free < needed:
            raise RWLossError(
                f"{str(self.path)!r} has {free / 2**20:.0f} MiB left on its disk, and its "
                f"checkpoints may take {needed / 2**20:.0f} more: free some, or name another "
                "folder with --out"
            )

    def _check_cases(self, before: Split, now: Split, where: str) -> None:
        if changed := before.changed(now):
            raise RWLossError(
                f"images or labels in {where!r} are not those that the run {str(self.path)!r} "
                f"began with: case {some(changed)}; put them back, or name another folder with "
                "--out"
            )
        if before != now:
            raise RWLossError(
                f"{str(self.path)!r} holds a run on other cases than there are now in {where!r}: "
                "name another folder with --out"
            )

    def is_done(self, settings: RunSettings) -> bool:
        """Whether the run has been tested after this number of steps."""
        return self.test.exists() and self.read_test()["steps"] == settings.steps

    def cases(self, part: SplitPart) -> tuple[str, ...]:
        """Names of the cases of one part of the split. Raises RWLossError where it has none."""
        split = Split.read(self.splits)
        names: tuple[str, ...] = getattr(split, part)
        if not names:
            raise RWLossError(
                f"the run {str(self.path)!r} has no {part} cases ({split.made_by}): choose another "
                "part of its split"
            )
        return names

    @contextmanager
    def held(self) -> Iterator[None]:
        """One writer at a time. Raises RWLossError that names the other where there is one."""
        with hold(self.path):
            yield

    def begin(self, settings: RunSettings, split: Split) -> None:
        """Write what the run is. Again at each start: the number of steps may have grown."""
        with _saying(self.path):
            self.test.unlink(missing_ok=True)  # of fewer steps
            settings_file.write(settings, self.settings)
            split.write(self.splits)

    def log(self, kind: str, step: int, **fields: Any) -> None:
        """Append a line to metrics.jsonl. It is on the disk's side when this returns."""
        line = json.dumps({"kind": kind, "step": step, **fields})
        with _saying(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl. A last one that a killed run left half written is no line.

        Raises RWLossError that names a damaged one.
        """
        if not self.metrics.exists():
            return
        text = self.metrics.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.split("\n")[:-1], 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise RWLossError(
                    f"line {number} of {str(self.metrics)!r} is damaged ({error}): delete "
                    f"{str(self.path)!r}, and start the run again"
                ) from error

    def rewind(self, step: int) -> None:
        """Forget lines of steps that will come again, after a start from this step's checkpoint."""
        kept = [json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step]
        with _saying(self.metrics), whole_file(self.metrics) as part:
            part.write_text("".join(kept), encoding="utf-8")

    def write_test(self, content: dict[str, Any]) -> None:
        """Write test.json, whole."""
        with _saying(self.test), whole_file(self.test) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def read_test(self) -> dict[str, Any]:
        """What test.json holds."""
        try:
            content: dict[str, Any] = json.loads(self.test.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RWLossError(
                f"cannot read {str(self.test)!r} ({error}): the run has not ended yet, or the file "
                "was changed"
            ) from error
        if not (isinstance(content, dict) and isinstance(content.get("steps"), int)):
            raise RWLossError(
                f"{str(self.test)!r} is no test of a run (it has no number of steps): delete it, "
                "and the same command tests again"
            )
        return content


@contextmanager
def _saying(path: Path) -> Iterator[None]:
    """What the system says of a file becomes an RWLossError that names it."""
    try:
        yield
    except OSError as error:
        raise RWLossError(
            f"cannot write {str(path)!r} ({error.strerror or error}): the last checkpoint is kept; "
            "make room and start again"
        ) from error


def _is_strange(path: Path) -> bool:
    """Whether a file can't come from a start that was killed before run.toml was there."""
    return path.name not in {"checkpoints", LOCK_FILE} and not path.name.startswith(
        TEMPORARY_PREFIX
    )
