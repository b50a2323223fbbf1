"""The plan of a study: maps by name, seeds, shared settings; and study.toml, which holds it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from rwloss import maps as generators
from rwloss.data.splits import Seed
from rwloss.errors import RWLossError
from rwloss.files import toml
from rwloss.files.atomic import naming_write_errors
from rwloss.files.lock import LOCK_FILE
from rwloss.training.settings import RunSettings
from rwloss.words import listed, nearest, settings_error

BASELINES = {
    "cross_entropy": "cross_entropy",
    "dice_ce": "dice + cross_entropy",
    "gdl": "generalized_dice",
    "focal": "focal",
    **{
        f"boundary_gdl_{schedule}": f"blend(generalized_dice, boundary, schedule='{schedule}')"
        for schedule in ("rebalance", "constant", "increase", "steal")
    },
    **{
        f"rectified_q{q}".replace(".", ""): f"rectified.with_link({q})"
        for q in ("0.1", "0.3", "0.5", "0.7")
    },
}
"""Usual maps by name: region losses, both papers' strategies of a boundary map, links q."""

REFERENCE = BASELINES["dice_ce"]
"""Where it fails as well, the training is too short or too hard; else the map is the reason."""

OF_RUNS = frozenset({"data", "map", "maps", "out", "seed", "steps"})
"""Settings of a run that are not in [training]: they belong to the study or differ between runs."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,79}")


class Study(BaseModel):
    """Maps by seeds. `steps` and [training] hold settings of `rwloss train` that all runs share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = Field(description="nnU-Net raw folder with images")
    maps: dict[str, str] = Field(
        min_length=1, description="name of each map, which names a folder, and its expression"
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field(
        (0, 1, 2), description="seeds; each map is trained once per seed"
    )
    steps: PositiveInt = Field(
        RunSettings.model_fields["steps"].default, description="training steps of each run"
    )
    reference: str | None = Field(
        None,
        description="name of the map that the others are compared with; by default Dice + CE, if "
        "the study has it",
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="settings of `rwloss train` that all runs share"
    )


@dataclass(frozen=True)
class Run:
    """One run of a study."""

    name: str
    seed: int
    settings: RunSettings

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.settings.out)

    @property
    def failure(self) -> Path:
        """The file with the reason if it failed, beside its folder."""
        return self.folder.with_name(f"{self.folder.name}.failed.txt")


def make(**values: Any) -> Study:
    """A study from options, checked as a whole: expressions, names, seeds, shared settings.

    Raises RWLossError that names what is wrong.
    """
    return _checked(values, "study")


def read(path: Path) -> Study:
    """The study of a TOML file. Raises RWLossError, naming the file."""
    return _checked(toml.read(path), repr(str(path)))


def write(study: Study, path: Path) -> None:
    """A study as a TOML file, whole or not at all."""
    with naming_write_errors(path, "name another folder with --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        toml.write(path, _values(study))


def as_toml(study: Study) -> str:
    """A study as text that `read` takes.

    >>> print(as_toml(Study(data="DATA", maps={"rw": "rectified"}, seeds=[0, 1])), end="")
    data = "DATA"
    seeds = [
        0,
        1,
    ]
    steps = 1500
    <BLANKLINE>
    [maps]
    rw = "rectified"
    """
    return toml.dumps(_values(study))


def _values(study: Study) -> dict[str, Any]:
    return {**study.model_dump(), "training": study.training or None}


def assembled(source: str, out: Path | None, given: Mapping[str, Any]) -> tuple[Study, Path]:
    """The study that options ask for, and its folder.

    source: a study's file, or the data. given: what else was given; None or empty where nothing
    was. What neither says is taken from the study in the folder, because defaults would change a
    study that has begun.

    Raises RWLossError where a folder or the maps are missing, and for what is wrong with them.
    """
    path = Path(source)
    if path.suffix.lower() == ".toml":
        said, folder = read(path).model_dump(exclude_unset=True), out or path.parent
        if not (folder / "study.toml").exists() and out is None:
            raise RWLossError(
                f"{str(path)!r} is not in the folder of a study: rename it to study.toml, so that "
                "its folder becomes the study's, or give --out STUDY"
            )
    elif out is None:
        raise RWLossError("no folder for the study: give --out STUDY")
    else:
        said, folder = {"data": source}, out
    file = folder / "study.toml"
    layers = [read(file).model_dump()] if file.exists() else []
    content: dict[str, Any] = {"maps": {}, "training": {}}
    for layer in (*layers, said, given):
        for name, value in layer.items():
            if isinstance(value, dict):
                content[name] = content[name] | value
            elif value is not None:
                content[name] = value
    if not content["maps"]:
        raise RWLossError(
            "no maps: give --map or --baseline, such as --map rectified --baseline dice_ce"
        )
    return make(**content), folder


def steps_before(study: Study, folder: Path) -> int:
    """Steps of the study that the folder holds; those of this one where it holds none."""
    file = folder / "study.toml"
    return read(file).steps if file.exists() else study.steps


def joined(before: Study, now: Study, *, begun: bool) -> Study:
    """The study of both: maps and seeds may come later; see `_check_steps` for steps.

    begun: whether there are runs already. Raises RWLossError where anything else differs, because
    the runs could not be compared.
    """
    one, other = (_settings(study, REFERENCE, "out", 0) for study in (before, now))
    different = one.difference(other)
    if before.data != now.data:
        different.insert(0, f"data {before.data!r} (now {now.data!r})")
    different += [
        f"map {name} {text!r} (now {now.maps[name]!r})"
        for name, text in before.maps.items()
        if name in now.maps and _canonical(now.maps[name]) != _canonical(text)
    ]
    if different:
        raise RWLossError(
            f"the folder holds a study with other settings: {'; '.join(different)}; name another "
            "folder with --out"
        )
    if begun:
        _check_steps(before, now, one.learning_rate_schedule)
    return make(
        **now.model_dump()
        | {
            "maps": before.maps | now.maps,
            "seeds": sorted({*before.seeds, *now.seeds}),
            "reference": now.reference or before.reference,
        }
    )


def _check_steps(before: Study, now: Study, learning_rate_schedule: str) -> None:
    """Raise RWLossError where a resumed run with more steps differs from a new one.

    A schedule over all steps has ended in a run that is done: resumed, it has had another learning
    rate or map than a run that starts now.
    """
    if before.steps == now.steps:
        return
    asked = f"the folder holds a study of {before.steps} steps, not {now.steps}"
    fix = f"leave --steps out to keep {before.steps}, or name another folder with --out"
    if now.steps < before.steps:
        raise RWLossError(f"{asked}, and its runs have begun, so steps cannot shrink; {fix}")
    spread = [
        f"the map {name}"
        for name, text in before.maps.items()
        if generators.parse(text).needs_total
    ]
    if learning_rate_schedule != "constant":
        spread.insert(0, f"the learning rate ({learning_rate_schedule})")
    if spread:
        raise RWLossError(
            f"{asked}, and its runs have begun: {listed(spread)} would follow another schedule in "
            f"resumed runs than in new ones; {fix}. Steps can grow if learning_rate_schedule is "
            "constant and no map changes over the run"
        )


def placed(study: Study, folder: Path) -> Study:
    """The study that a folder will hold: joined with the one that it holds already.

    Raises RWLossError where the folder holds another study or something else. Writes nothing.
    """
    path = folder / "study.toml"
    if path.exists():
        begun = any(folder.glob("runs/*/*/run.toml"))
        return joined(read(path), study, begun=begun)
    if folder.is_dir() and any(file.name != LOCK_FILE for file in folder.iterdir()):
        raise RWLossError(
            f"{str(folder)!r} is neither empty nor a study (it has no study.toml): name another "
            "folder with --out"
        )
    return study


def runs(study: Study, folder: Path) -> Iterator[Run]:
    """All runs, seed by seed, so that an interrupted study compares all maps."""
    for seed in study.seeds:
        for name, text in study.maps.items():
            out = folder / "runs" / name / f"seed_{seed}"
            yield Run(name, seed, _settings(study, text, str(out), seed))


def reference_of(study: Study) -> str | None:
    """The name of the reference: the one given, else the first map that is Dice + CE."""
    if study.reference is not None:
        return study.reference
    wanted = {_canonical(REFERENCE), _canonical("cross_entropy + dice")}
    return next((name for name, text in study.maps.items() if _canonical(text) in wanted), None)


def columns(texts: Sequence[str] = (), baselines: Sequence[str] = ()) -> dict[str, str]:
    """Maps by name, from NAME=EXPR or EXPR, and from names of BASELINES.

    Raises RWLossError for two maps of one name, and for an unknown baseline.

    >>> columns(["rectified + dice", "mine=rectified.with_link(0.3)"], ["dice_ce"])
    {'rectified_dice': 'rectified + dice', 'mine': 'rectified.with_link(0.3)', 'dice_ce': 'dice + \
cross_entropy'}
    """
    found: dict[str, str] = {}
    for given in texts:
        # The first = of an expression, if any, stands in brackets.
        named = re.fullmatch(r"\s*([\w.+-]+)\s*=(.*)", given, re.DOTALL)
        name, text = named.groups() if named else (_name_of(given), given)
        _add(found, name, text.strip())
    for name in baselines:
        if name not in BASELINES:
            raise RWLossError(
                f"there is no baseline {name!r}{nearest(name, BASELINES)}; there are "
                f"{', '.join(BASELINES)}"
            )
        _add(found, name, BASELINES[name])
    return found


def _add(found: dict[str, str], name: str, text: str) -> None:
    if name in found:
        raise RWLossError(
            f"two maps are called {name!r}: {found[name]!r} and {text!r}; name one with NAME=EXPR"
        )
    found[name] = text


def _name_of(text: str) -> str:
    """A folder's name for an expression.

    >>> _name_of("blend(generalized_dice, boundary, schedule='steal')")
    'blend_generalized_dice_boundary_schedule_steal'
    """
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:80]


def _canonical(text: str) -> str:
    return str(generators.parse(text))


def _settings(study: Study, text: str, out: str, seed: int, where: str = "settings") -> RunSettings:
    own = {"data": study.data, "map": text, "out": out, "seed": seed, "steps": study.steps}
    return RunSettings.of(where, {**own, **study.training})


def _checked(values: Mapping[str, Any], where: str) -> Study:
    try:
        study = Study(**values)
    except ValidationError as error:
        raise _in_words(where, error) from error
    if wrong := sorted(OF_RUNS & study.training.keys()):
        raise RWLossError(
            f"{where}: [training] cannot hold {wrong[0]}: it belongs to the study, or differs "
            "between runs"
        )
    if len({*study.seeds}) < len(study.seeds):
        raise RWLossError(f"{where}: expected each seed once, got {list(study.seeds)}")
    lower = [name.lower() for name in study.maps]
    for name, text in study.maps.items():
        if not _NAME.fullmatch(name) or lower.count(name.lower()) > 1:
            raise RWLossError(
                f"{where}: {name!r} can't name a map: expected letters, digits and _.+-, and a "
                "name that no other map has, ignoring case, because it becomes a folder"
            )
        generators.parse(text)
    if study.reference is not None and study.reference not in study.maps:
        raise RWLossError(
            f"{where}: the reference {study.reference!r} is not a map of the study"
            f"{nearest(study.reference, study.maps)}"
        )
    _settings(study, REFERENCE, "out", 0, where=f"{where}: [training]")
    return study


def _in_words(where: str, error: ValidationError) -> RWLossError:
    problem = error.errors()[0]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden" and name in RunSettings.model_fields:
        return RWLossError(f"{where}: there is no setting {name!r}: it belongs under [training]")
    if problem["loc"] == ("seeds",):
        return RWLossError(
            f"{where}: seeds must be a list of one or more, such as [0, 1, 2], got "
            f"{str(problem['input'])[:80]}"
        )
    return RWLossError(settings_error(where, error, Study.model_fields))
