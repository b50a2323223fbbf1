"""The axes of a study: training settings with several values each."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from rwloss.errors import RWLossError
from rwloss.training.settings import RunSettings
from rwloss.words import nearest

AxisValues: TypeAlias = Mapping[str, Any]
"""One value per axis, by the name of the setting. A setting that is None is "none", or "all"."""

DRAWN = ("split_seed", "fold")
"""Axes whose values are random, like seeds: their runs are repetitions of a cell, not new cells.
Runs that share a split are not independent, so maps are compared by the means of splits."""

_NO_AXES = {"groups_table", "splits_file", "network_options", "label_sets"}  # paths and tables

OF_RUNS = frozenset({"data", "map", "maps", "out", "seed", "steps", "epochs"})
"""Settings of a run that belong to the study or differ between runs anyway."""

_NONE = {"train_cases": "all"}


def checked(axes: Mapping[str, Sequence[Any]], where: str) -> dict[str, tuple[Any, ...]]:
    """The axes with each value in the type of its setting.

    Raises RWLossError, after `where`, for a setting that does not exist or cannot be an axis, and
    for an invalid or repeated value.

    >>> checked({"learning_rate": ["1e-3", 1], "train_cases": [10, "all"]}, "study")
    {'learning_rate': (0.001, 1.0), 'train_cases': (10, 'all')}
    """
    found: dict[str, tuple[Any, ...]] = {}
    for name, values in axes.items():
        if name not in RunSettings.model_fields:
            raise RWLossError(
                f"{where}: there is no setting {name!r}{nearest(name, RunSettings.model_fields)}"
            )
        if name in OF_RUNS | _NO_AXES:
            raise RWLossError(
                f"{where}: {name} cannot be an axis: it belongs to the study, differs between runs "
                "or is a path or a table"
            )
        kept = tuple(_checked(name, value, where) for value in values)
        folders = [_folder(name, value).lower() for value in kept]
        if not kept or len({*folders}) < len(folders):
            raise RWLossError(
                f"{where}: expected one value or more of {name}, each once, got {[*values]}"
            )
        found[name] = kept
    return found


def _checked(name: str, value: Any, where: str) -> Any:
    if RunSettings.model_fields[name].default is None and value in ("all", "none", None):
        return _NONE.get(name, "none")
    settings = RunSettings.of(where, {"data": "", "out": "", name: value})
    return getattr(settings, name)


def settings_of(values: AxisValues) -> dict[str, Any]:
    """The settings of a run with these values."""
    return {
        name: None if value == _NONE.get(name, "none") else value for name, value in values.items()
    }


def base_value(name: str, training: Mapping[str, Any]) -> Any:
    """The value of a setting without its axis: that of [training], else the default."""
    default = RunSettings.model_fields[name].default
    return _checked(name, training.get(name, default), "[training]")


def combinations(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """One value per axis, in all combinations; one empty combination without axes.

    >>> combinations({"split_seed": [0, 1]}), combinations({})
    ([{'split_seed': 0}, {'split_seed': 1}], [{}])
    """
    return [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values())]


def kept_apart(values: Mapping[str, Any]) -> dict[str, Any]:
    """The axes, or their values, that make cells: all but those in DRAWN."""
    return {name: value for name, value in values.items() if name not in DRAWN}


def drawn(values: Mapping[str, Any]) -> dict[str, Any]:
    """The axes, or their values, that repeat cells."""
    return {name: value for name, value in values.items() if name in DRAWN}


def unit(axes: Mapping[str, Sequence[Any]]) -> str:
    """The independent unit of a study: the seed, or the split if it has several."""
    return "split" if len(combinations(drawn(axes))) > 1 else "seed"


def unit_of(axes: Mapping[str, Sequence[Any]], seed: int, values: AxisValues) -> int | str:
    """The seed or the split of a run, whichever is independent."""
    return seed if unit(axes) == "seed" else named(drawn(values))


def text_of(value: Any) -> str:
    """A value as text.

    >>> text_of(0.001), text_of((32, 32)), text_of(True)
    ('0.001', '32,32', 'true')
    """
    if isinstance(value, tuple | list):
        return ",".join(map(text_of, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def named(values: AxisValues) -> str:
    """Values with the names of their settings.

    >>> named({"learning_rate": 0.001, "train_cases": "all"})
    'learning_rate 0.001, train_cases all'
    """
    return ", ".join(f"{name} {text_of(value)}" for name, value in values.items())


def cell_name(map_name: str, values: AxisValues) -> str:
    """A map with one value per axis.

    >>> cell_name("rw", {"learning_rate": 0.001}), cell_name("rw", {})
    ('rw (learning_rate 0.001)', 'rw')
    """
    return f"{map_name} ({named(values)})" if values else map_name


def folders(values: AxisValues, training: Mapping[str, Any]) -> list[str]:
    """The folders of a run between those of its map and its seed, in the order of names.

    Values that a run would have without the axis add no folder. So an axis can be added to a study
    with finished runs: they stay where they are.
    """
    return [
        _folder(name, values[name])
        for name in sorted(values)
        if values[name] != base_value(name, training)
    ]


def _folder(name: str, value: Any) -> str:
    return f"{name}_{re.sub(r'[^A-Za-z0-9.,+-]+', '_', text_of(value))}"


def joined(
    before: Mapping[str, Sequence[Any]],
    now: Mapping[str, Sequence[Any]],
    training: Mapping[str, Any],
    *,
    begun: bool,
) -> dict[str, tuple[Any, ...]]:
    """The axes of both, with all values of both.

    begun: whether runs exist; their value then belongs to each new axis.
    """
    found = {}
    for name in {**before, **now}:
        values = [*before.get(name, ()), *now.get(name, ())]
        if begun and name not in before:
            values.insert(0, base_value(name, training))
        found[name] = _in_order(dict.fromkeys(values))
    return found


def _in_order(values: Iterable[Any]) -> tuple[Any, ...]:
    """Numbers in ascending order, "all" last; other values in the given order."""
    listed = [*values]
    if all(isinstance(value, int | float) or value == "all" for value in listed):
        listed.sort(key=lambda value: float("inf") if value == "all" else value)
    return tuple(listed)


def read_option(text: str) -> tuple[str, list[Any]]:
    """NAME=V1,V2 as a setting and its values.

    Raises RWLossError for any other text.

    >>> read_option("learning_rate=1e-3,0.01"), read_option("patch-size=[32,32],[64,64]")
    (('learning_rate', [0.001, 0.01]), ('patch_size', [[32, 32], [64, 64]]))
    >>> read_option("preset=tiny,small")
    ('preset', ['tiny', 'small'])
    """
    name, is_named, values = text.partition("=")
    if not (is_named and name.strip() and values.strip(" ,")):
        raise RWLossError(
            "expected --axis as a setting and its values, such as learning_rate=1e-3,1e-2, got "
            f"{text!r}"
        )
    return name.strip().lstrip("-").replace("-", "_"), read_values(values)


def read_values(text: str) -> list[Any]:
    """Values separated by commas: numbers, true and false, lists in brackets, or words.

    >>> read_values("10,50,all")
    [10, 50, 'all']
    """
    try:
        listed: list[Any] = json.loads(f"[{text.strip().rstrip(',')}]")
    except ValueError:
        listed = [_plain(part.strip()) for part in text.split(",") if part.strip()]
    return listed


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
