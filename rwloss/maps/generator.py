"""The door for maps: what a generator is, and the checks around its maths."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

from rwloss.arrays import Array, is_torch, namespace
from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression
from rwloss.regions import Regions
from rwloss.rwmap import RWMap
from rwloss.spelling import nearest

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True)
class MapTags:
    """What a generator promises; the conformance tests hold it to that.

    stable: no violating voxel, whatever the labels. signed: has values below 0. unit: of the
    values, for pictures and tables, "" for unknown. commutes_with:
    moves of the labels after which moving the map gives the same as making it anew.
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
        parts = {
            part: _finished(self.name, part, getattr(result, part), regions)
            for part in ("true", "other", "values")
            if getattr(result, part) is not None
        }
        return RWMap(regions.labels, regions.num_classes, **parts)

    def __str__(self) -> str:
        """The generator as text, with the parameters that differ from their defaults.

        `maps.get` reads it back.
        """
        given = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}({', '.join(given)})" if given else self.name


def parameters(generator: type[MapGenerator]) -> dict[str, Any]:
    """Parameter names of a generator with their annotations, in order."""
    hints = _hints(generator)
    return {field.name: hints[field.name] for field in dataclasses.fields(generator)}  # type: ignore[arg-type]


def build(generator: type[MapGenerator], given: dict[str, Any]) -> MapGenerator:
    """A generator with these parameters; an unknown one is an error that names the nearest."""
    known = parameters(generator)
    for name in given:
        if name not in known:
            raise RWLossError(
                f"{generator.name} has no parameter {name!r}{nearest(name, known)}; "
                f"it has: {', '.join(known) or 'none'}"
            )
    return generator(**given)


@cache
def _hints(generator: type[MapGenerator]) -> dict[str, Any]:
    return get_type_hints(generator)


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
    from pydantic import ConfigDict, TypeAdapter

    # Text has no way to write infinity.
    return TypeAdapter(_hints(generator)[name], config=ConfigDict(allow_inf_nan=False))


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
