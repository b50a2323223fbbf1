"""`rwloss train`: one U-Net, trained with one map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwloss.cli import options as opt
from rwloss.cli.listing import print_scores
from rwloss.cli.progress import Progress, progress
from rwloss.words import count_of, length_unit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rwloss.training import RunResult, TrainingProgress


def train(
    data: Annotated[str | None, typer.Argument(metavar="DATA")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    as_json: opt.AsJson = False,
    **settings: Any,
) -> None:
    """Train a U-Net with a map and test it.

    To resume an interrupted run, give the same command again: it continues from the last
    checkpoint. The checkpoint with the highest mean foreground Dice on the validation cases is
    tested.

    data: nnU-Net raw folder with images; may be in --config instead.
    config: TOML file of settings, such as the run.toml of another run; options override it.
    """
    from rwloss.training import require_training
    from rwloss.work.processes import end_with_first_process

    end_with_first_process()  # before PyTorch is imported, because that takes seconds
    require_training()
    from rwloss.training import RunSettings, is_first_process
    from rwloss.training import train as run
    from rwloss.training.architectures import named_code

    if data is not None:
        settings["data"] = data
    if config is None:
        chosen = RunSettings.of("settings", settings)
    else:
        chosen = RunSettings.read(config, **settings)
        named_code(settings)
    with progress(lambda _: "the same command resumes the run") as shown:
        # A settings file must not choose which code is run; by now the options have.
        result = run(chosen, _shown_on(shown, Path(chosen.out).name), files=config is None)
    if not is_first_process():
        return
    if as_json:
        typer.echo(json.dumps(as_fields(result)))
    else:
        _print(result)


def as_fields(result: RunResult) -> dict[str, Any]:
    """A result as --json prints it."""
    return {
        "out": result.settings.out,
        "map": result.settings.map,
        "steps": result.settings.steps,
        "best_step": result.best_step,
        "seconds": result.seconds,
        "parameters": result.parameters,
        "test_cases": [case.name for case in result.scores.cases],
        "test": {
            each.name: {
                "cases": each.cases,
                "both": each.both,
                **{name: found.mean for name, found in each.values.items()},
                "missed": each.missed,
                "false_alarms": each.false_alarms,
                "empty": each.empty,
            }
            for each in result.scores.summary()
        },
    }


def _shown_on(shown: Progress, name: str) -> TrainingProgress:
    """Progress of a run called `name`."""
    from rwloss.training import TrainingProgress

    class Shown(TrainingProgress):
        def note(self, text: str) -> None:
            shown.line(text)

        def begin(self, done: int, steps: int) -> None:
            self.steps, self.loss = steps, ""
            shown.update(name, done, steps)

        def step(self, step: int, loss: float | None) -> None:
            self.loss = self.loss if loss is None else f"loss {loss:.3f}"
            shown.update(name, step, self.steps, self.loss)

        def validated(self, step: int, dice: Mapping[str, float | None], *, is_best: bool) -> None:
            values = ", ".join(f"{name} {_number(value)}" for name, value in dice.items())
            shown.line(f"validation at step {step}: Dice {values}{' (best)' if is_best else ''}")

        def testing(self, cases: int) -> None:
            shown.line(f"testing {count_of(cases, 'case')}")

    return Shown()


def _print(result: RunResult) -> None:
    settings, cases = result.settings, result.scores.cases
    chosen = "by validation"
    if settings.test_checkpoint == "last":
        chosen = "(the last: --test-checkpoint last)"
    elif settings.folds is None and settings.validation_fraction == 0:
        chosen = "(the last: there are no validation cases)"
    typer.echo(
        f"{settings.map}: {settings.steps} steps in {result.seconds:.0f} s, checkpoint of step "
        f"{result.best_step} {chosen}, tested on {count_of(len(cases), 'case')}"
    )
    if cases:
        unit = length_unit(case.spacing_mm is not None for case in cases)
        print_scores(result.scores.summary(), unit)
    typer.echo(
        f"{settings.out}: run.toml, splits.json, metrics.jsonl, checkpoints/best.pt, test.json"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
