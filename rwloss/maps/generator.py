"""Base class of generators: parameters, tags, and the checks around `compute`."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from abc import abstractmethod
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, reduce
from types import SimpleNamespace
from typing import (
    Any,
    ClassVar,
    Self,
    SupportsIndex,
    cast,
    dataclass_transform,
    get_type_hints,
)

import numpy as np

from rwloss.arrays import Array, fails, on_device
from rwloss.errors import RWLossError
from rwloss.maps import limits
from rwloss.maps.expression import Expression
from rwloss.maps.plugin_file import empty_instance, place_of, remember_source
from rwloss.regions import Regions
from rwloss.rwmap import RWMap
from rwloss.words import listed, nearest


@dataclass(frozen=True)
class MapTags:
    """Promises of a generator, which `rwloss.testing` checks.

    stable: no violating voxel, for any labels. signed: values can be below 0. unit: of the
    values, for pictures and tables: "mm", "unitless", or another power such as "1/mm"; "" if
    unknown. commutes_with: moves of the labels ("flip", "rot90", "crop", see `rwloss.moves`) for
    which the map of the moved labels is the moved map. uses_spacing: False if values are the same
    at every voxel spacing, so that none has to be known. uses_image: True if values depend on
    `regions.image`. The scale of a channel must not matter: a x + b with a > 0 gives the same map.

    The other tags are for `rwloss maps` and the atlas, with default parameters; None if unknown.

    stable_with_two: no violating voxel with two classes. compact: the map has two values per voxel;
    that of a loss is dense. pull_exponent: of a loss; a fixed map has 1. limits: least and largest
    value of a map, or of a loss; each None where there is no limit. uses_components: it needs
    `regions.components`. ingredient: of a loss, what it needs of the labels that no prediction
    changes, so that it can be computed once: "distance", "components".
    """

    stable: bool = False
    signed: bool = True
    unit: str = ""
    commutes_with: Set[str] = frozenset()
    uses_spacing: bool = True
    uses_image: bool = False
    stable_with_two: bool | None = None
    compact: bool | None = None
    pull_exponent: float | None = None
    limits: tuple[float | None, float | None] | None = None
    uses_components: bool = False
    ingredient: str = ""

    def __post_init__(self) -> None:
        """Any set of moves will do, or the name of one."""
        moves = self.commutes_with
        named = frozenset([moves] if isinstance(moves, str) else moves)
        object.__setattr__(self, "commutes_with", named)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
@dataclass(frozen=True)
class MapGenerator(Expression):
    """A named map with typed parameters, tags and a citation; the simplest expression.

    A subclass sets `name` and defines `compute`. It is a frozen dataclass, with or without the
    decorator, and its fields are the parameters. The base class checks the parameters when an
    instance is made, and the map after `compute`.
    """

    name: ClassVar[str]
    tags: ClassVar[MapTags] = MapTags()
    citation: ClassVar[str] = ""
    official_code: ClassVar[str] = ""  # address of the authors' code
    used_by: ClassVar[tuple[str, ...]] = ()  # packages and their names for it: "MONAI DiceLoss"
    # Of a built-in: another one where its values changed, so that older stores are out of date.
    map_version: ClassVar[str] = ""

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Refuse annotations such as `name: str = ...`, which would be parameters."""
        super().__init_subclass__(**keywords)
        remember_source(cls.__module__)
        for word, annotation in inspect.get_annotations(cls).items():
            if word in _OF_THE_CLASS and "ClassVar" not in str(annotation):
                raise RWLossError(
                    f"{cls.__qualname__}: {word} belongs to the class, it is not a parameter: "
                    f"write {word}: ClassVar[...] = ..., or {word} = ... without a type"
                )

    def __new__(cls, *values: Any, **keywords: Any) -> Self:
        """An instance, after the class has become a dataclass."""
        del values, keywords
        made = super().__new__(cls)  # refuses abstract classes
        as_dataclass(cls)
        return made

    def __post_init__(self) -> None:
        """Check each parameter against its annotation, and convert it to that type."""
        kinds, usual = _types(type(self)), _usual(type(self))
        given = {name: getattr(self, name) for name in kinds}
        new = [name for name in kinds if name not in usual or given[name] is not usual[name][0]]
        found = {name: fit for name, (_, fit) in usual.items()}
        try:
            if new:
                found |= limits.checked({name: kinds[name] for name in new}, given)
        except limits.Misfit as error:
            raise RWLossError(
                f"{self.name}({error.name}={given[error.name]!r}): must be {error}"
            ) from error
        except limits.UnknownType as error:
            raise RWLossError(f"{self.name}: {error}") from error
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @property
    def is_static(self) -> bool:
        """True: the map depends on the labels alone. `maps.LossTerm` is the dynamic kind."""
        return True

    @property
    def is_stable(self) -> bool:
        """What its tags promise."""
        return self.tags.stable

    @property
    def uses_spacing(self) -> bool:
        """What its tags say."""
        return self.tags.uses_spacing

    @property
    def uses_image(self) -> bool:
        """What its tags say."""
        return self.tags.uses_image

    @property
    def unit(self) -> str:
        """Unit of the map's values, for pictures and tables."""
        return self.tags.unit

    @abstractmethod
    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> map of the same labels."""

    def make(self, regions: Regions, probs: Array | None) -> RWMap:
        """The checked map: shape, type and finite values; 0 at ignored voxels."""
        self.expect_image(regions.image)
        return self._checked(self.compute(regions), regions)

    def expect_image(self, image: Array | None) -> None:
        """Raise RWLossError where the map needs an image and there is none."""
        if image is None and self.uses_image:
            raise RWLossError(
                f"{self.name} needs the image: pass image= (b c *s), in loss(logits, labels, "
                "image=images) or Regions(labels, num_classes, image=images)"
            )

    def _checked(self, result: object, regions: Regions) -> RWMap:
        returned = f"{self.name}.compute returned"
        if not isinstance(result, RWMap):
            raise RWLossError(f"{returned} {type(result).__name__}: expected an RWMap")
        for what, of_map, wanted in (
            ("classes", result.num_classes, regions.num_classes),
            ("labels", tuple(result.labels.shape), tuple(regions.labels.shape)),
        ):
            if of_map != wanted:
                raise RWLossError(f"{returned} {of_map} {what}, the regions have {wanted}")
        # On a GPU a check would read all values again, which takes as long as some maps.
        if not (regions.kernels and self._is_finite()):
            _check_values(self.name, result, regions.xp)
        parts = result.parts
        if regions.ignored is not None:
            parts = tuple(_zero_where_ignored(part, regions) for part in parts)
        elif result.labels is regions.labels and result.expression is None:
            return result
        return RWMap(regions.labels, regions.num_classes, parts)

    def _is_finite(self) -> bool:
        """Whether values by Triton's kernels are float32 and finite for any labels."""
        return False

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """For pickle: a class from a file is recorded by its path, so that workers can load it."""
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
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        place = place_of(type(self))
        if place is not None:
            return f"file({', '.join([repr(str(place)), *given])})"
        return f"{self.name}({', '.join(given)})" if given else self.name


_OF_THE_CLASS = (
    "name",
    "tags",
    "citation",
    "official_code",
    "used_by",
    "map_version",
    "minimum",
)


def as_dataclass(generator: type[MapGenerator]) -> None:
    """Make the class and its bases frozen dataclasses if they are not.

    Raises RWLossError for a class without a name.
    """
    for base in reversed(generator.__mro__):
        if issubclass(base, MapGenerator) and "__dataclass_params__" not in vars(base):
            try:
                dataclass(frozen=True)(base)
            except (TypeError, ValueError) as error:  # such as a list as a default
                raise RWLossError(f"{base.__qualname__}: {error}") from error
    if not hasattr(generator, "name"):
        raise RWLossError(
            f"{generator.__qualname__} has no name for expressions: write "
            f"name: ClassVar[str] = {generator.__qualname__.lower()!r}"
        )


def parameters(generator: type[MapGenerator]) -> dict[str, Any]:
    """Parameter names of a generator with their annotations, in order."""
    as_dataclass(generator)
    return dict(_types(generator))


def build(generator: type[MapGenerator], given: dict[str, Any]) -> MapGenerator:
    """A generator with these parameters. Raises RWLossError for an unknown or a missing one."""
    known = parameters(generator)
    for name in given:
        if name not in known:
            raise RWLossError(
                f"{generator.name} has no parameter {name!r}{nearest(name, known) or '.'} "
                f"It has: {', '.join(known) or 'none'}"
            )
    optional = {
        field.name
        for field in dataclasses.fields(generator)
        if (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
    }
    missing = [name for name in known if name not in {*given, *optional}]
    if missing:
        raise RWLossError(
            f"{generator.name} needs {listed(missing)}: "
            f"{generator.name}({', '.join(f'{name}=...' for name in missing)})"
        )
    return generator(**given)


def types_of(annotations: dict[str, Any], scope: dict[str, Any], where: str) -> dict[str, Any]:
    """Annotations with their text resolved to types. scope: the names of the module.

    where: for the RWLossError about an unknown type.
    """
    try:
        alone = SimpleNamespace(__annotations__=annotations)
        return get_type_hints(alone, globalns=scope, localns={}, include_extras=True)
    except (NameError, SyntaxError) as error:
        raise RWLossError(
            f"{where}: the type of a parameter can't be read ({error}): import it outside of "
            "`if TYPE_CHECKING`"
        ) from error


@cache
def _types(generator: type[MapGenerator]) -> dict[str, Any]:
    """Types of the fields alone: other annotations may exist for type checkers only."""
    names = [field.name for field in dataclasses.fields(generator)]
    found: dict[str, Any] = {}
    for base in reversed(generator.__mro__):
        own = inspect.get_annotations(base)
        scope = vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}
        of_fields = {name: own[name] for name in names if name in own}
        found |= types_of(of_fields, scope, generator.__qualname__)
    return {name: found[name] for name in names}


@cache
def _usual(generator: type[MapGenerator]) -> dict[str, tuple[Any, Any]]:
    """Defaults that fit their types, each with what it becomes."""
    found = {}
    for field in dataclasses.fields(generator):
        kind = {field.name: _types(generator)[field.name]}
        with suppress(limits.Misfit, limits.UnknownType):
            fit = limits.checked(kind, {field.name: field.default})
            found[field.name] = field.default, fit[field.name]
    return found


def _check_values(name: str, rwmap: RWMap, xp: Any) -> None:
    """Raise RWLossError for parts of another type than float32 or float64, or not finite."""
    if xp is not np:
        import torch as xp  # the array API's own functions take longer
    reach = {}
    for part, values in zip(rwmap.part_names, rwmap.parts, strict=True):
        if values.dtype not in (xp.float32, xp.float64):
            raise RWLossError(f"{name}: `{part}` is {values.dtype}: expected float32 or float64")
        # Broadcast axes once.
        strides = values.strides if xp is np else values.stride()
        once = values[tuple(slice(1 if stride == 0 else None) for stride in strides)]
        if 0 not in once.shape:
            reach[part] = _reach(once, xp)
    # One check for both parts: on a GPU each takes operations of its own.
    wrong = "values that are not finite (NaN or infinity)"
    if reach and fails(reduce(xp.maximum, reach.values()) < np.inf, f"{name}: a map has {wrong}"):
        part = next(part for part, value in reach.items() if not value < np.inf)
        raise RWLossError(f"{name}: `{part}` has {wrong}")


def _reach(values: Any, xp: Any) -> Any:
    """The largest size of a value, NaN where one is NaN, without an array of sizes. ()."""
    if xp is np:
        return np.maximum(values.max(), -values.min())
    if values.is_cpu:
        low, high = values.aminmax()
        return xp.maximum(high, -low)
    return xp.linalg.vector_norm(values, ord=np.inf)


def _zero_where_ignored(values: Any, regions: Regions) -> Any:
    xp, ignored = regions.xp, cast("Any", regions.ignored)
    ignored = ignored if values.ndim == ignored.ndim else ignored[:, None]
    return xp.where(ignored, xp.zeros((), dtype=values.dtype, **on_device(values)), values)
