"""The plan of a study: maps by name, seeds, settings, axes; and study.toml, which holds it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PositiveInt, ValidationError

from rwloss import maps as generators
from rwloss.data.splits import Seed
from rwloss.errors import RWLossError
from rwloss.files import toml
from rwloss.files.atomic import naming_write_errors, write_text
from rwloss.files.lock import LOCK_FILE
from rwloss.study import axes as study_axes
from rwloss.study.axes import OF_RUNS
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
"""Common maps by name: region losses, both papers' strategies with a boundary map, links q."""

REFERENCE = BASELINES["dice_ce"]
"""If it fails as well, the training is too short or too hard; otherwise the map is the reason."""

NULL_SEEDS = 1_000_000
"""Added to the seeds of `Study.null`, so that it shares no weights and no batches."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,79}")


class Study(toml.TomlSettings):
    """Maps by seeds and, if there are axes, by their values.

    `steps` and [training] hold settings of `rwloss train` that all runs share; [axes] holds those
    that take several values. A cell is a map with one value per axis.
    """

    data: str = Field(description="nnU-Net raw folder with images")
    maps: dict[str, str] = Field(
        min_length=1,
        description="name of each map (also the name of its folder) and its expression",
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
    null: str | None = Field(
        None,
        description="name of the map that repeats the reference with other seeds (A/A test)",
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="settings of `rwloss train` that all runs share"
    )
    axes: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict,
        description="settings of `rwloss train` with several values; each map is trained with each",
    )

    @classmethod
    def of(cls, where: str, values: Mapping[str, Any]) -> Self:
        """A validated study: names, seeds, settings, axes. Maps stay text: see `make`.

        Raises RWLossError that names the error, after `where`.
        """
        try:
            study = cls(**values)
        except ValidationError as error:
            problem = error.errors()[0]
            name = ".".join(map(str, problem["loc"]))
            message = settings_error(where, error, cls.model_fields)
            if problem["type"] == "extra_forbidden" and name in RunSettings.model_fields:
                message = f"{where}: there is no setting {name!r}: it belongs under [training]"
            elif name == "seeds":
                given = str(problem["input"])[:80]
                message = f"{where}: seeds must be a list such as [0, 1, 2], got {given}"
            raise RWLossError(message) from error
        if wrong := sorted(OF_RUNS & study.training.keys()):
            raise RWLossError(
                f"{where}: [training] cannot hold {wrong[0]}: it belongs to the study, or differs "
                "between runs"
            )
        if len({*study.seeds}) < len(study.seeds):
            raise RWLossError(f"{where}: expected each seed once, got {list(study.seeds)}")
        lower = [name.lower() for name in study.maps]
        for name in study.maps:
            if not _NAME.fullmatch(name) or lower.count(name.lower()) > 1:
                raise RWLossError(
                    f"{where}: {name!r} can't name a map: expected letters, digits and _.+-, and a "
                    "name that no other map has, ignoring case, because it becomes a folder"
                )
        if study.reference is not None and study.reference not in study.maps:
            raise RWLossError(
                f"{where}: the reference {study.reference!r} is not a map of the study"
                f"{nearest(study.reference, study.maps)}"
            )
        _check_null(study, where)
        _settings(study, where=f"{where}: [training]")
        axes = study_axes.checked(study.axes, f"{where}: [axes]")
        if len({"patch", *axes.get("map_of", ())}) > 1 and study.training.get("zoom") != 0:
            raise RWLossError(
                f"{where}: [axes] holds map_of, and maps of whole slices and volumes can't follow "
                "a zoom, so cells would differ in more than maps: give --zoom 0, in a new study"
            )
        return study.model_copy(update={"axes": axes})

    def as_toml(self) -> str:
        """The study as TOML text for `read`.

        >>> print(Study(data="DATA", maps={"rw": "rectified"}, seeds=[0, 1]).as_toml(), end="")
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
        optional = {"training": self.training or None, "axes": self.axes or None}
        return toml.dumps({**self.model_dump(), **optional})

    def write(self, path: Path) -> None:
        """Write a TOML file atomically; creates its folder."""
        with naming_write_errors(path, "name another folder with --out"):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.as_toml(), "name another folder with --out")

    def at(self, values: study_axes.AxisValues) -> Self:
        """The study with one value for each axis that makes cells; random axes are kept."""
        training = {**self.training, **study_axes.settings_of(values)}
        axes = study_axes.drawn(self.axes)
        return self.model_copy(update={"training": training, "axes": axes})


@dataclass(frozen=True)
class Run:
    """One run of a study. values: one per axis."""

    map: str
    seed: int
    settings: RunSettings
    values: study_axes.AxisValues = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The map with the values of the run."""
        return study_axes.cell_name(self.map, self.values)

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.settings.out)

    @property
    def failure(self) -> Path:
        """The file with the reason if it failed, next to its folder."""
        return self.folder.with_name(f"{self.folder.name}.failed.txt")


def make(*, files: bool = True, **values: Any) -> Study:
    """A study from options, with maps that can be parsed. Raises RWLossError that names the error.

    files: False refuses maps and networks from Python code that was not named before, as in
    `maps.parse`.
    """
    study = Study.of("study", values)
    for text in study.maps.values():
        generators.parse(text, files=files)
    load_networks(study.training, study.axes, files=files)
    return study


def load_networks(
    training: Mapping[str, Any], axes: Mapping[str, Sequence[Any]], *, files: bool = True
) -> None:
    """Load the networks of a study from Python code, or refuse those that no option named."""
    from rwloss.training.architectures import is_code, network_class

    for name in (training.get("network", "UNet"), *axes.get("network", ())):
        if is_code(name):
            network_class(name, files=files)


def joined(before: Study, now: Study, *, begun: bool) -> Study:
    """Both studies joined: maps, seeds and axes may be added later; see `_check_steps` for steps.

    begun: whether runs exist; their value belongs to a new axis. Raises RWLossError if anything
    else differs, because the runs could not be compared.
    """
    one, other = _settings(before), _settings(now)
    different = one.difference(other)
    if before.data != now.data:
        different.insert(0, f"data {before.data!r} (now {now.data!r})")
    different += [
        f"map {name} {text!r} (now {now.maps[name]!r})"
        for name, text in before.maps.items()
        if name in now.maps and not generators.is_same(now.maps[name], text)
    ]
    if different:
        raise RWLossError(
            f"the folder holds a study with other settings: {'; '.join(different)}; name another "
            "folder with --out"
        )
    if begun:
        _check_steps(before, now, one.learning_rate_schedule)
    both = {
        "maps": before.maps | now.maps,
        "seeds": sorted({*before.seeds, *now.seeds}),
        "reference": now.reference or before.reference,
        "null": now.null or before.null,
        "axes": study_axes.joined(before.axes, now.axes, now.training, begun=begun),
    }
    return make(files=False, **now.model_dump() | both)


def _check_steps(before: Study, now: Study, learning_rate_schedule: str) -> None:
    """Raise RWLossError if a resumed run had a different learning rate or map from a new one."""
    if before.steps == now.steps:
        return
    asked = f"the folder holds a study of {before.steps} steps, not {now.steps}"
    fix = f"leave --steps out to keep {before.steps}, or name another folder with --out"
    if now.steps < before.steps:
        raise RWLossError(f"{asked}, and its runs have begun, so steps cannot shrink; {fix}")
    parsed = {name: generators.parse(text, files=False) for name, text in before.maps.items()}
    spread = [f"the map {name}" for name in parsed if parsed[name].needs_total]
    if learning_rate_schedule != "constant":
        spread.insert(0, f"the learning rate ({learning_rate_schedule})")
    if spread:
        raise RWLossError(
            f"{asked}, and its runs have begun: {listed(spread)} would follow another schedule in "
            f"resumed runs than in new ones; {fix}. Steps can grow if learning_rate_schedule is "
            "constant and no map changes over the run"
        )


def placed(study: Study, folder: Path) -> Study:
    """The study that a folder will hold: joined with the one already in it.

    Raises RWLossError if the folder holds another study or other files. Writes nothing.
    """
    path = folder / "study.toml"
    if path.exists():
        begun = any(folder.glob("runs/**/run.toml"))
        return joined(Study.read(path), study, begun=begun)
    if folder.is_dir() and any(file.name != LOCK_FILE for file in folder.iterdir()):
        raise RWLossError(
            f"{str(folder)!r} is neither empty nor a study (it has no study.toml): name another "
            "folder with --out"
        )
    return study


def runs(study: Study, folder: Path) -> Iterator[Run]:
    """All runs, seed by seed and split by split, so that an interrupted study covers all maps.

    The folder of a run is runs/MAP/seed_N, with a folder per value of an axis before that of the
    seed (`axes.folders`).
    """
    repeats = study_axes.combinations(study_axes.drawn(study.axes))
    cells = study_axes.combinations(study_axes.kept_apart(study.axes))
    for seed, repeat, cell in itertools.product(study.seeds, repeats, cells):
        values = {name: (repeat | cell)[name] for name in study.axes}
        between = study_axes.folders(values, study.training)
        for name, text in study.maps.items():
            out = folder.joinpath("runs", name, *between, f"seed_{seed}")
            own, drawn = study.at(values), seed + NULL_SEEDS * (name == study.null)
            yield Run(name, seed, _settings(own, text, str(out), drawn), values)


def reference_of(study: Study) -> str | None:
    """The name of the reference: the given one, else the first map that is Dice + CE."""
    if study.reference is not None:
        return study.reference
    names = (name for name in study.maps if name != study.null)
    return next((n for n in names if generators.is_same(study.maps[n], REFERENCE)), None)


def with_null(study: Study) -> Study:
    """The study with its reference under a second name, trained with other seeds: an A/A test.

    Such a pair differs only by chance. Raises RWLossError without a reference.
    """
    reference = reference_of(study)
    if reference is None:
        raise RWLossError(
            "--null trains the reference a second time, and the study has none: add --baseline "
            "dice_ce, or name a map with --reference"
        )
    name = study.null or f"{reference}_again"
    if study.null is None and name in study.maps:
        raise RWLossError(
            f"--null adds a map {name!r}, but the study has a map of that name: rename it"
        )
    content = study.model_dump() | {"null": name}
    return make(files=False, **content | {"maps": study.maps | {name: study.maps[reference]}})


def _check_null(study: Study, where: str) -> None:
    """Raise RWLossError unless `null`, if any, is the reference with other seeds."""
    null, reference = study.null, reference_of(study)
    if null is None:
        return
    if null not in study.maps:
        raise RWLossError(f"{where}: null {null!r} is not a map of the study")
    if reference in {None, null} or not generators.is_same(
        study.maps[null], study.maps[reference or null]
    ):
        raise RWLossError(
            f"{where}: null {null!r} must be the reference with another name, and the reference "
            f"is {reference!r}: keep that of the A/A test"
        )
    if max(study.seeds) >= NULL_SEEDS:
        raise RWLossError(f"{where}: an A/A test adds {NULL_SEEDS:,} to seeds: give lower ones")


def _settings(
    study: Study, text: str = REFERENCE, out: str = "out", seed: int = 0, where: str = "settings"
) -> RunSettings:
    """The settings of a run; by default the shared ones, with any map and seed."""
    own = {"data": study.data, "map": text, "out": out, "seed": seed, "steps": study.steps}
    return RunSettings.of(where, {**own, **study.training})
