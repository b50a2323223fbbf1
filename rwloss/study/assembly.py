"""Assemble a study from options, settings files, and the study already in its folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rwloss import maps as generators
from rwloss.errors import RWLossError
from rwloss.files import toml
from rwloss.study.axes import OF_RUNS
from rwloss.study.plan import BASELINES, Study, load_networks, make, runs
from rwloss.training.settings import RunSettings
from rwloss.words import count_of, listed, nearest

Note = Callable[[str], None]


def assembled(
    source: str,
    out: Path | None,
    given: Mapping[str, Any],
    config: Path | None = None,
    note: Note = lambda text: None,
) -> tuple[Study, Path]:
    """The study that the options describe, and its folder.

    source: a study's file, or the data. given: the other options; None or empty if not given.
    config: settings of `rwloss train`, which the options override; see `_of_config`. Everything
    else is taken from the study in the folder, because defaults would change a study that has
    begun. Files never choose which Python code runs; only `given` does.

    Raises RWLossError if a folder or the maps are missing or invalid.
    """
    for text in given.get("maps", {}).values():
        generators.parse(text)
    load_networks(given.get("training", {}), given.get("axes", {}))
    path = Path(source)
    if path.suffix.lower() == ".toml":
        said, folder = Study.read(path).model_dump(exclude_unset=True), out or path.parent
        if not (folder / "study.toml").exists() and out is None:
            raise RWLossError(
                f"{str(path)!r} is not in the folder of a study: rename it to study.toml to make "
                "its folder that of the study, or give --out STUDY"
            )
    elif out is None:
        raise RWLossError("no folder for the study: give --out STUDY")
    else:
        said, folder = {"data": source}, out
    file = folder / "study.toml"
    layers = [Study.read(file).model_dump()] if file.exists() else []
    of_config = {} if config is None else _of_config(config, note)
    epochs = of_config.pop("epochs", None)
    content: dict[str, Any] = {"maps": {}, "training": {}, "axes": {}}
    for layer in (*layers, said, of_config, given):
        for name, value in layer.items():
            if isinstance(value, dict):
                content[name] = content[name] | value
            elif value is not None:
                content[name] = value
    if not content["maps"]:
        raise RWLossError(
            "no maps: give --map or --baseline, such as --map rectified --baseline dice_ce"
        )
    study = make(files=False, **content)
    if epochs is not None and given.get("steps") is None:
        study = _of_epochs(study, folder, epochs, note)
    return study, folder


def _of_config(path: Path, note: Note) -> dict[str, Any]:
    """The settings that a study takes from a settings file of `rwloss train`: all but OF_RUNS.

    The length of the runs is taken too, as steps or epochs. The maps and seeds of a study are given
    as options, so those of the file are not used, and `note` is called to say so.
    """
    RunSettings.read(path, data="", out="")  # names what is wrong with it
    values = toml.read(path)
    length = {name: values.pop(name) for name in ("steps", "epochs") if name in values}
    left_out = sorted(OF_RUNS & values.keys())
    if left_out:
        shown = listed([f"{name} {values[name]!r}" for name in left_out])
        note(f"not taken from {str(path)!r}: {shown}. A study has its own: give --map and --seeds")
    return length | {"training": {name: values[name] for name in values if name not in left_out}}


def _of_epochs(study: Study, folder: Path, epochs: int, note: Note) -> Study:
    """The study with the number of steps that its first run takes for this many epochs."""
    from rwloss.training.preparation import prepare

    first = next(runs(study, folder)).settings.model_dump(exclude_unset=True, exclude={"steps"})
    found = prepare(RunSettings.of("settings", {**first, "epochs": epochs}), files=False).settings
    note(
        f"{count_of(epochs, 'epoch')} of the first run are {count_of(found.steps, 'step')}, which "
        "all runs have"
    )
    lengths = {name: getattr(found, name) for name in ("steps_per_epoch", "validate_every")}
    content = study.model_dump() | {"steps": found.steps, "training": study.training | lengths}
    return make(files=False, **content)


def columns(texts: Sequence[str] = (), baselines: Sequence[str] = ()) -> dict[str, str]:
    """Maps by name, from NAME=EXPR or EXPR, and from names of BASELINES.

    Raises RWLossError for two maps of one name, and for an unknown baseline.

    >>> columns(["rectified + dice", "mine=rectified.with_link(0.3)"], ["dice_ce"])
    {'rectified_dice': 'rectified + dice', 'mine': 'rectified.with_link(0.3)', 'dice_ce': 'dice + \
cross_entropy'}
    """
    pairs = []
    for given in texts:
        # The first = of an expression, if any, is inside parentheses.
        named = re.fullmatch(r"\s*([\w.+-]+)\s*=(.*)", given, re.DOTALL)
        folder = re.sub(r"[^A-Za-z0-9]+", "_", given).strip("_")[:80]
        pairs.append((named[1], named[2].strip()) if named else (folder, given.strip()))
    for name in baselines:
        if name not in BASELINES:
            raise RWLossError(
                f"there is no baseline {name!r}{nearest(name, BASELINES) or '.'} There are "
                f"{', '.join(BASELINES)}"
            )
        pairs.append((name, BASELINES[name]))
    found: dict[str, str] = {}
    for name, text in pairs:
        if name in found:
            raise RWLossError(
                f"two maps are called {name!r}: {found[name]!r} and {text!r}; name one with "
                "NAME=EXPR"
            )
        found[name] = text
    return found
