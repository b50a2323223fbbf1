"""The door for maps: what a generator is, and the checks around its maths."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex, get_type_hints

from rwloss.arrays import Array, is_torch, namespace
from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression
from rwloss.maps.plugin_file import empty_instance, place_of
from rwloss.regions import Regions
from rwloss.rwmap import RWMap
from rwloss.words import nearest

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True)
class MapTags:
    """What a generator promises; `rwloss.testing` holds it to that.

    stable: no violating voxel, whatever the labels. signed: may have values below 0. unit: of the
    values, for pictures and tables: "mm", "unitless", or another power such as "1/mm"; "" for
    unknown. commutes_with: moves of the labels ("flip", "rot90", "crop", see `rwloss.moves`) after
    which moving the map gives the same as making it anew.
    """

    stable: bool = False
    signed: bool = True
    unit: str = ""
    commutes_with: frozenset[str] = frozenset()


class MapGenerator(Expression):
    """A named map with typed parameters, tags and a citation; the simplest expression.

    Subclass it as a frozen dataclass whose fields are the parameters, set `name`, and write
    `compute`. The base checks parameters before and the map after, once for every generator.
    """

    name: ClassVar[str]
    tags: ClassVar[MapTags] = MapTags()
    citation: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check each parameter against its annotation, and bring it to that type."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _checked(type(self), field.name, value))

    @property
    def is_static(self) -> bool:
        """True: the map follows from the labels alone. `maps.LossTerm` is the dynamic kind."""
        return True

    @property
    def unit(self) -> str:
        """Unit of the map's values, for pictures and tables."""
        return self.tags.unit

    @abstractmethod
    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> map of the same labels."""

    def __call__(self, regions: Regions, probs: Array | None = None) -> RWMap:
        """The checked map: shape, type and finite values; 0 at ignored voxels.

        probs (b k *s) matter to dynamic terms alone. Raises RWLossError that names the generator
        and what it did wrong.
        """
        return self._checked(self.compute(regions), regions)

    def _checked(self, result: object, regions: Regions) -> RWMap:
        if not isinstance(result, RWMap):
            raise RWLossError(
                f"{self.name}.compute returned {type(result).__name__}: expected an RWMap"
            )
        if result.num_classes != regions.num_classes:
            raise RWLossError(
                f"{self.name}.compute returned {result.num_classes} classes, "
                f"the regions have {regions.num_classes}"
            )
        if tuple(result.labels.shape) != tuple(regions.labels.shape):
            raise RWLossError(
                f"{self.name}.compute returned labels {tuple(result.labels.shape)}, "
                f"the regions have {tuple(regions.labels.shape)}"
            )
        parts = tuple(
            _finished(self.name, name, part, regions)
            for name, part in zip(result.part_names, result.parts, strict=True)
        )
        return self._named(RWMap(regions.labels, regions.num_classes, parts), regions)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """As pickle wants it. A class from a file is named by its place, for workers to load."""
        reduced = super().__reduce_ex__(protocol)
        place = place_of(type(self))
        if place is None or not isinstance(reduced, tuple):
            return reduced
        return (empty_instance, (place,), *reduced[2:])

    def __str__(self) -> str:
        """The generator as text, with the parameters that differ from their defaults.

        `maps.parse` reads it back.
        """
        given = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, field.name) != field.default
        ]
        place = place_of(type(self))
        if place is not None:
            return f"file({', '.join([repr(str(place)), *given])})"
        return f"{self.name}({', '.join(given)})" if given else self.name


def parameters(generator: type[MapGenerator]) -> dict[str, Any]:
    """Parameter names of a generator with their annotations, in order."""
    hints = _hints(generator)
    return {field.name: hints[field.name] for field in dataclasses.fields(generator)}  # type: ignore[arg-type]


def build(generator: type[MapGenerator], given: dict[str, Any]) -> MapGenerator:
    """A generator with these parameters; an unknown or a missing one is an error that names it."""
    known = parameters(generator)
    for name in given:
        if name not in known:
            raise RWLossError(
                f"{generator.name} has no parameter {name!r}{nearest(name, known)}; "
                f"it has: {', '.join(known) or 'none'}"
            )
    missing = [name for name in required(generator) if name not in given]
    if missing:
        raise RWLossError(
            f"{generator.name} needs {' and '.join(missing)}: "
            f"{generator.name}({', '.join(f'{name}=...' for name in missing)})"
        )
    return generator(**given)


def required(generator: type[MapGenerator]) -> list[str]:
    """Names of the parameters without a default, in order."""
    return [
        field.name
        for field in dataclasses.fields(generator)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


@cache
def _hints(generator: type[MapGenerator]) -> dict[str, Any]:
    try:
        return get_type_hints(generator, include_extras=True)
    except NameError as error:
        raise RWLossError(
            f"{generator.__qualname__}: the type of a parameter can't be read ({error}): import "
            "it where it is there at run time"
        ) from error


def _checked(generator: type[MapGenerator], name: str, value: Any) -> Any:
    from pydantic import ValidationError

    if isinstance(value, list):  # what people write for a tuple; a set would lose the order
        value = tuple(value)
    try:
        return _adapter(generator, name).validate_python(value, strict=True)
    except ValidationError as error:
        wanted = "; or ".join(dict.fromkeys(item["msg"] for item in error.errors()))
        raise RWLossError(f"{generator.name}({name}={value!r}): {wanted}") from error


@cache
def _adapter(generator: type[MapGenerator], name: str) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter

    kind = _hints(generator)[name]
    try:
        # Text has no way to write infinity.
        return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))
    except PydanticSchemaGenerationError as error:
        raise RWLossError(
            f"{generator.name}: parameter {name} has the type {kind}, which can't be checked: use "
            "float, int, bool, str, None, Literal, or a tuple of them"
        ) from error


def _finished(name: str, part: str, values: Any, regions: Regions) -> Any:
    xp = namespace(values)
    if values.dtype not in (xp.float32, xp.float64):
        raise RWLossError(f"{name}: `{part}` is {values.dtype}: expected float32 or float64")
    if not _finite(xp, _each_once(values)):
        raise RWLossError(f"{name}: `{part}` has values that are not finite (NaN or infinity)")
    if regions.ignored is None:
        return values
    ignored = regions.ignored if values.ndim == regions.ignored.ndim else regions.ignored[:, None]
    return xp.where(ignored, xp.asarray(0.0, dtype=values.dtype), values)


def _finite(xp: Any, values: Array) -> bool:
    """Whether all values are: both ends carry a NaN, and no array of flags is made."""
    if 0 in values.shape:
        return True
    return bool(xp.isfinite(xp.min(values)) & xp.isfinite(xp.max(values)))


def _each_once(values: Array) -> Array:
    """The values without the axes along which a constant was broadcast."""
    strides = values.stride() if is_torch(values) else values.strides
    return values[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)]
