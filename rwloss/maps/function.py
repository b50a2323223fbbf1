"""Terms from plain functions of the regions (static) or of probabilities and truth (dynamic)."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, Protocol, overload

from rwloss.errors import RWLossError
from rwloss.maps import registry
from rwloss.maps.expression import Expression
from rwloss.maps.generator import MapGenerator, MapTags, types_of
from rwloss.maps.loss_term import LossTerm, Prediction
from rwloss.regions import Regions
from rwloss.rwmap import RWMap

if TYPE_CHECKING:
    from torch import Tensor

P = ParamSpec("P")


class _Decorator(Protocol):
    @overload
    def __call__(
        self, function: Callable[Concatenate[Regions, P], RWMap]
    ) -> Callable[P, MapGenerator]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Tensor, Tensor, P], Tensor]
    ) -> Callable[P, LossTerm]: ...


@dataclass(frozen=True)
class FunctionMap(MapGenerator):
    """A map that a function of the regions computes; `register` makes a subclass for each."""

    function: ClassVar[Callable[..., RWMap]]

    def compute(self, regions: Regions) -> RWMap:
        """The function's map. labels (b *s) -> map of the same labels."""
        return type(self).function(regions, **_values(self))


@dataclass(frozen=True)
class FunctionLoss(LossTerm):
    """A loss that a function of probabilities and truth computes; see `FunctionMap`."""

    function: ClassVar[Callable[..., Tensor]]

    def loss(self, prediction: Prediction) -> Tensor:
        """The function's value. () or (b c)."""
        return type(self).function(prediction.probs, prediction.one_hot, **_values(self))


def register(
    name: str, *, tags: MapTags | None = None, citation: str = "", minimum: float = 0.0
) -> _Decorator:
    """Turn a function into a term with this name, for this process.

    A static term is a map: it takes `regions: Regions` with labels (b *s) and returns an RWMap. A
    dynamic term is a loss: it takes `probs: Tensor` (b c *s) and the one-hot `truth: Tensor`
    (b c *s), both 0 at ignored voxels, and returns one number () or one per image and class (b c),
    whose mean is the loss. All further arguments are parameters of the term: each has a type, and
    may have a default. The decorator replaces the function with a class (a frozen dataclass): call
    the class with parameters, and the term with regions.

    tags, citation: as on a class; without tags nothing is promised. minimum: the least value of a
    loss.

    Raises RWLossError for any other signature, and for a name that another map has (the message
    names both).

    Example::

        @maps.register("flat")
        def flat(regions: Regions, cost: float = 1.0) -> RWMap:
            true, other = regions.full(0.0), regions.full(cost)
            return RWMap.compact(regions.labels, regions.num_classes, true, other)

        flat(cost=3) == maps.parse("flat(cost=3)")


        @maps.register("brier")
        def brier(probs: Tensor, truth: Tensor, power: float = 2.0) -> Tensor:
            return ((probs - truth).abs() ** power).flatten(2).mean(dim=2)

        maps.parse("rectified + 0.5 * brier(power=1)")
    """
    if not isinstance(name, str):
        raise RWLossError('write @maps.register("name") with the name of the map')

    def made(function: Any) -> Any:
        if not inspect.isfunction(function):
            raise RWLossError(
                f"maps.register({name!r}) is for functions, got {function!r}: a class needs no "
                "decorator"
            )
        where = f"{function.__module__}:{function.__qualname__}"
        registry.check_name(name, f"{where}, name")
        base, inputs = _kind(function, where)
        namespace = {
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "__doc__": inspect.getdoc(function) or f"The term that {where} computes.",
            "name": name,
            "tags": tags or MapTags(),
            "citation": citation,
            "function": staticmethod(function),
        }
        if issubclass(base, LossTerm):
            namespace["minimum"] = minimum
        try:
            generator = dataclasses.make_dataclass(
                function.__name__,
                _fields(function, base, inputs, where),
                bases=(base,),
                namespace=namespace,
                frozen=True,
            )
        except (TypeError, ValueError) as error:  # a default that can be changed, such as a list
            raise RWLossError(f"{where}: {error}") from error
        registry.add(generator)
        return generator

    return made


@dataclass(frozen=True)
class FromLoss(LossTerm):
    """A term from `from_loss`. Its text is only a name, which `maps.parse` can't read back."""

    fn: Callable[[Tensor, Tensor], Tensor]
    given_name: str
    least: float = 0.0

    def __post_init__(self) -> None:
        """Check that `fn` is a function."""
        if not callable(self.fn) or isinstance(self.fn, Expression):
            raise RWLossError(f"from_loss: expected a function of (probs, truth), got {self.fn!r}")

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name that was given, or that of the function."""
        return self.given_name

    @property
    def minimum(self) -> float:  # type: ignore[override]
        """The least value that was given."""
        return self.least

    def loss(self, prediction: Prediction) -> Tensor:
        """The function's value. () or (b c)."""
        return self.fn(prediction.probs, prediction.one_hot)

    def __str__(self) -> str:
        """The name."""
        return self.name


def from_loss(
    fn: Callable[[Tensor, Tensor], Tensor], *, name: str | None = None, minimum: float = 0.0
) -> LossTerm:
    """A term from any differentiable loss of probabilities, for use in Python.

    Text can't name it. On the command line, in stores and in workers, use `register` instead.

    fn: takes probs (b c *s) and the one-hot truth (b c *s), and returns one number () or one per
    image and class (b c), whose mean is the loss. Both are 0 in every class where voxels are
    ignored or masked out. minimum: the least value of the loss.

    >>> import torch
    >>> brier = from_loss(lambda probs, truth: ((probs - truth) ** 2).mean(), name="brier")
    >>> brier.name
    'brier'
    """
    return FromLoss(fn, name or str(getattr(fn, "__name__", type(fn).__name__)), minimum)


def _values(term: MapGenerator) -> dict[str, Any]:
    return {field.name: getattr(term, field.name) for field in dataclasses.fields(term)}


def _kind(function: Any, where: str) -> tuple[type[FunctionMap | FunctionLoss], int]:
    """Which kind of term this function is, and how many of its arguments are inputs."""
    first = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ][:2]
    texts = [_type_text(parameter) for parameter in first]
    if first and (texts[0].endswith("Regions") or first[0].name == "regions"):
        return FunctionMap, 1
    if len(first) == 2 and all(not text or re.search(r"\bTensor\b", text) for text in texts):
        return FunctionLoss, 2
    raise RWLossError(
        f"{where}: expected (regions: Regions, ...) as the first argument of a map, or "
        "(probs: Tensor, truth: Tensor, ...) as the first two of a loss of probabilities"
    )


def _type_text(parameter: inspect.Parameter) -> str:
    """An annotation as text, "" if none: its names may exist for type checkers only."""
    kind = parameter.annotation
    if kind is parameter.empty:
        return ""
    return kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))


def _fields(function: Any, base: type[MapGenerator], inputs: int, where: str) -> list[Any]:
    """The parameters as fields of a dataclass: name, type and default."""
    parameters = list(inspect.signature(function).parameters.values())[inputs:]
    for parameter in parameters:
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise RWLossError(
                f"{where}: {parameter} can't be a parameter of a map: a parameter needs a name and "
                "a type, such as alpha: float = 1.0"
            )
        if parameter.annotation is parameter.empty:
            raise RWLossError(
                f"{where}: {parameter.name} has no type: write, for example, "
                f"{parameter.name}: float"
            )
        if hasattr(base, parameter.name) or parameter.name in {"name", "function"}:
            raise RWLossError(
                f"{where}: {parameter.name!r} means something else in maps: rename the parameter"
            )
    annotations = {parameter.name: parameter.annotation for parameter in parameters}
    types = types_of(annotations, function.__globals__, where)
    fields = []
    for p in parameters:
        default: Any = dataclasses.MISSING if p.default is p.empty else p.default
        field = dataclasses.field(default=default, kw_only=p.kind is p.KEYWORD_ONLY)
        fields.append((p.name, types[p.name], field))
    return fields
