"""`rwloss train`: one U-Net, trained with one map."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwloss.cli.options import AsJson, IgnoreLabel, NumClasses, Spacing, parse_spacing
from rwloss.cli.progress import stoppable
from rwloss.cli.score_table import print_scores
from rwloss.cli.steps import bars
from rwloss.errors import RWLossError
from rwloss.words import count_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rwloss.training import RunResult, RunSettings


def train(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="An nnU-Net raw folder with images. May stand in --config instead.",
            show_default=False,
        ),
    ] = None,
    map_text: Annotated[
        str | None,
        typer.Option(
            "--map",
            metavar="EXPR",
            help='Expression of the loss, such as "rectified + dice"; `rwloss maps` lists the '
            "maps. With --maps, the store's by default.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="RUN", help="Folder of the run.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file of settings, such as the run.toml of another run; options given here "
            "come before those in the file.",
            show_default=False,
        ),
    ] = None,
    maps: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Maps of `rwloss precompute`; made on the fly without.",
            show_default=False,
        ),
    ] = None,
    dims: Annotated[
        int, typer.Option(help="2: slices across the axis of largest spacing; 3: volumes.")
    ] = 2,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 1500,
    batch_size: Annotated[int, typer.Option(help="Patches a step, on each device.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="At the first step.")] = 4e-3,
    learning_rate_schedule: Annotated[str, typer.Option(help="constant, poly or cosine.")] = "poly",
    optimizer: Annotated[str, typer.Option(help="adam or adamw.")] = "adam",
    weight_decay: Annotated[float, typer.Option(help="Of the optimizer.")] = 0.0,
    gradient_clip: Annotated[
        float | None,
        typer.Option(help="Largest L2 norm of the gradient; any by default.", show_default=False),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of first weights, batches and augmentation, whatever the map.")
    ] = 0,
    preset: Annotated[str, typer.Option(help="U-Net: tiny, small or large.")] = "tiny",
    patch_size: Annotated[
        str | None,
        typer.Option(
            metavar="N,N[,N]",
            help="Voxels an axis; by default what holds every slice, up to 256 each (2-D) or 64 "
            "(3-D).",
            show_default=False,
        ),
    ] = None,
    slice_axis: Annotated[
        int | None,
        typer.Option(help="Axis that slices lie across, from 0.", show_default=False),
    ] = None,
    test_part: Annotated[
        str,
        typer.Option(
            help="folder: imagesTs and labelsTs; split: drawn from the cases; auto: the folder "
            "where there is one."
        ),
    ] = "auto",
    test_fraction: Annotated[float, typer.Option(help="Part of the cases for testing.")] = 0.2,
    validation_fraction: Annotated[
        float, typer.Option(help="Part of the other cases for choosing the checkpoint.")
    ] = 0.2,
    folds: Annotated[
        int | None,
        typer.Option(help="Validate on one of so many folds.", show_default=False),
    ] = None,
    fold: Annotated[
        int | None, typer.Option(help="Which of --folds, from 0.", show_default=False)
    ] = None,
    group_pattern: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Cases whose names match with the same text in the brackets stay together, such "
            'as "(lung[0-9]+)_.*". Without it each case stands for itself.',
            show_default=False,
        ),
    ] = None,
    groups_table: Annotated[
        str | None,
        typer.Option(
            metavar="CSV",
            help="The same from a file with lines of case,group.",
            show_default=False,
        ),
    ] = None,
    split_seed: Annotated[
        int, typer.Option(help="Of the split alone: runs of other seeds share it.")
    ] = 0,
    balanced: Annotated[
        bool,
        typer.Option("--balanced", help="Every second patch holds a foreground class drawn first."),
    ] = False,
    flip: Annotated[float, typer.Option(help="Probability of a flip, an axis.")] = 0.0,
    flip_axes: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N]", help="Axes that may be flipped; all by default.", show_default=False
        ),
    ] = None,
    turn: Annotated[
        float, typer.Option(help="Probability of a turn by 90, 180, 270 degrees.")
    ] = 0.0,
    zoom: Annotated[float, typer.Option(help="Probability of a zoom.")] = 0.2,
    intensity: Annotated[
        float, typer.Option(help="Probability of gain and offset, of gamma, and of noise.")
    ] = 0.2,
    steps_per_epoch: Annotated[int, typer.Option(help="For schedules of the map.")] = 50,
    record_every: Annotated[int, typer.Option(help="Steps between lines of the record.")] = 50,
    validate_every: Annotated[int, typer.Option(help="Steps between validations.")] = 250,
    checkpoint_every: Annotated[int, typer.Option(help="Steps that a kill may cost.")] = 100,
    num_classes: NumClasses = None,
    spacing: Spacing = None,
    ignore_label: IgnoreLabel = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes, one a device.")] = 1,
    precision: Annotated[str, typer.Option(help="32-true or bf16-mixed.")] = "32-true",
    compile_network: Annotated[
        bool, typer.Option("--compile", help="Compile the network with torch.compile.")
    ] = False,
    data_on_device_gib: Annotated[
        float, typer.Option(help="Data sets up to this size lie in the device's memory whole.")
    ] = 8.0,
    as_json: AsJson = False,
) -> None:
    """Train one U-Net with one map, and test it.

    Stopped at any moment, the same command goes on from the last checkpoint. The checkpoint that is
    tested is that with the highest mean foreground Dice on the validation cases.
    """
    from rwloss.training import require_training

    require_training()
    from rwloss.training import RunSettings, is_first_process
    from rwloss.training import settings as settings_file
    from rwloss.training import train as run

    given = _given(context, RunSettings.model_fields)
    settings = (
        settings_file.make(**given) if config is None else settings_file.read(config, **given)
    )
    with stoppable(lambda: "the same command goes on from there"), ExitStack() as stack:
        result = run(settings, _shown(stack, settings))
    if not is_first_process():
        return
    if as_json:
        typer.echo(json.dumps(as_fields(result)))
    else:
        _tell(result)


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
                "dice": each.dice.mean,
                "hd95_mm": each.hd95_mm.mean,
                "assd_mm": each.assd_mm.mean,
                "missed": each.missed,
                "false_alarms": each.false_alarms,
                "empty": each.empty,
            }
            for each in result.scores.summary()
        },
    }


def _given(context: typer.Context, known: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from the options that the user wrote; the others keep the file's or the defaults."""
    names = {"map_text": "map", "compile_network": "compile"}
    given: dict[str, Any] = {}
    for parameter, value in context.params.items():
        source = context.get_parameter_source(parameter)
        name = names.get(parameter, parameter)
        if name in known and source is not None and source.name == "COMMANDLINE":
            given[name] = value
    for name in ("patch_size", "flip_axes"):
        if name in given:
            given[name] = _whole_numbers(name, given[name])
    if "spacing" in given:
        given["spacing"] = parse_spacing(given["spacing"])
    return given


def _whole_numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        option = name.replace("_", "-")
        raise RWLossError(
            f"expected --{option} as whole numbers with commas, got {text!r}"
        ) from error


def _shown(stack: ExitStack, settings: RunSettings) -> Any:
    """Progress on standard error; the bar ends with the stack."""
    from rwloss.training import Progress

    class Shown(Progress):
        def note(self, text: str) -> None:
            typer.echo(text, err=True)

        def begin(self, done: int, steps: int) -> None:
            if done:
                self.note(f"going on after step {done} of {steps}")
            shown = bars([Path(settings.out).name], steps, done=done, parts=10)
            self.on_step, self.line = stack.enter_context(shown)

        def step(self, step: int, loss: float) -> None:
            self.on_step(0, step, loss)

        def validated(self, step: int, dice: Mapping[str, float | None], *, is_best: bool) -> None:
            values = ", ".join(f"{name} {_number(value)}" for name, value in dice.items())
            self.line(f"validation at step {step}: Dice {values}{' (best)' if is_best else ''}")

        def testing(self, cases: int) -> None:
            self.line(f"testing {count_of(cases, 'case')}")

    return Shown()


def _tell(result: RunResult) -> None:
    settings, cases = result.settings, result.scores.cases
    validates = settings.folds is not None or settings.validation_fraction > 0
    chosen = "by validation" if validates else "(the last: there are no validation cases)"
    typer.echo(
        f"{settings.map}: {settings.steps} steps in {result.seconds:.0f} s, checkpoint of step "
        f"{result.best_step} {chosen}, tested on {count_of(len(cases), 'case')}"
    )
    # Files without a spacing, such as PNG, are measured in voxels.
    in_voxels = any(case.spacing_mm is None for case in cases)
    if cases:
        print_scores(result.scores.summary(), "voxels" if in_voxels else "mm")
    typer.echo(
        f"{settings.out}: run.toml, splits.json, metrics.jsonl, checkpoints/best.pt, test.json"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
