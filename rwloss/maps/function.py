"""Terms from plain functions of the regions (static) or of probabilities and truth (dynamic)."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rwloss.errors import RWLossError
from rwloss.maps import registry
from rwloss.maps.expression import Expression
from rwloss.maps.generator import MapGenerator, MapTags, types_of
from rwloss.maps.loss_term import LossTerm, Prediction
from rwloss.maps.plugin_file import is_loaded
from rwloss.regions import Regions
from rwloss.rwmap import RWMap

if TYPE_CHECKING:
    from torch import Tensor


def register(
    name: str,
    *,
    tags: MapTags | None = None,
    citation: str = "",
    minimum: float = 0.0,
    takes_soft_labels: bool = False,
) -> Callable[[Callable[..., RWMap | Tensor]], Callable[..., MapGenerator]]:
    """Turn a function into a term with this name, for this process.

    A static term is a map: it takes `regions: Regions` with labels (b *s) and returns an RWMap. A
    dynamic term is a loss: it takes `probs: Tensor` (b c *s) and the one-hot `truth: Tensor`
    (b c *s), both 0 at ignored voxels, and returns one number () or one per image and class (b c),
    whose mean is the loss. All further arguments are parameters of the term: each has a type, and
    may have a default. The decorator replaces the function with a class (a frozen dataclass): call
    the class with parameters, and the term with regions.

    tags, citation: as on a class; without tags nothing is promised. minimum: the minimum of a loss.
    takes_soft_labels: whether a loss is valid if the truth has fractions of classes.

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
        module = function.__module__
        where = function.__qualname__ if is_loaded(module) else f"{module}:{function.__qualname__}"
        registry.check_name(name, f"{where}, name")
        base, inputs = _kind(function, where)
        fields = _fields(function, base, inputs, where)

        def values(term: MapGenerator) -> dict[str, Any]:
            return {parameter: getattr(term, parameter) for parameter, *_ in fields}

        def compute(term: MapGenerator, regions: Regions) -> RWMap:
            made: RWMap = function(regions, **values(term))
            return made

        def loss(term: LossTerm, prediction: Prediction) -> Tensor:
            made: Tensor = function(prediction.probs, prediction.one_hot, **values(term))
            return made

        namespace = {
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "__doc__": inspect.getdoc(function) or f"The term that {where} computes.",
            "name": name,
            "tags": tags or MapTags(uses_spacing=inputs == 1),
            "citation": citation,
        }
        of_loss = {"loss": loss, "minimum": minimum, "takes_soft_labels": takes_soft_labels}
        namespace |= {"compute": compute} if inputs == 1 else of_loss
        try:
            generator = dataclasses.make_dataclass(
                function.__name__, fields, bases=(base,), namespace=namespace, frozen=True
            )
        except (TypeError, ValueError) as error:  # a default that can be changed, such as a list
            raise RWLossError(f"{where}: {error}") from error
        generator.__module__ = function.__module__  # from Python 3.12 on it would be this one
        registry.add(generator)
        return generator

    return made


@dataclass(frozen=True)
class FromLoss(LossTerm):
    """A term from `from_loss`. Its text is only a name, which `maps.parse` can't read back."""

    fn: Callable[[Tensor, Tensor], Tensor]
    given_name: str
    least: float
    soft: bool

    name = "from_loss"
    tags = MapTags(uses_spacing=False)

    def __post_init__(self) -> None:
        """Check that `fn` is a function. Name and minimum are those of this instance."""
        if not callable(self.fn) or isinstance(self.fn, Expression):
            raise RWLossError(f"from_loss: expected a function of (probs, truth), got {self.fn!r}")
        vars(self).update(name=self.given_name, minimum=self.least, takes_soft_labels=self.soft)

    def loss(self, prediction: Prediction) -> Tensor:
        """The function's value. () or (b c)."""
        return self.fn(prediction.probs, prediction.one_hot)

    def __str__(self) -> str:
        """The name."""
        return self.name


def from_loss(
    fn: Callable[[Tensor, Tensor], Tensor],
    *,
    name: str | None = None,
    minimum: float = 0.0,
    include_background: bool = True,
    takes_soft_labels: bool = False,
) -> LossTerm:
    """Make a term from any differentiable loss of probabilities, for use in Python.

    Text can't name it. On the command line, in stores and in workers, use `register` instead.

    fn: takes probs (b c *s) and the one-hot truth (b c *s), and returns one number () or one per
    image and class (b c), whose mean is the loss. Both are 0 in every class where voxels are
    ignored or masked out. minimum: the least value of the loss. include_background: False gives
    `fn` the classes without class 0. takes_soft_labels: whether `fn` is right where the truth has
    fractions of classes.

    >>> import torch
    >>> brier = from_loss(lambda probs, truth: ((probs - truth) ** 2).mean(), name="brier")
    >>> brier.name
    'brier'
    """
    name = name or str(getattr(fn, "__name__", type(fn).__name__))
    return FromLoss(fn, name, minimum, takes_soft_labels, include_background=include_background)


def _kind(function: Any, where: str) -> tuple[type[MapGenerator], int]:
    """Which kind of term this function is, and how many of its arguments are inputs."""
    first = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ][:2]
    # As text: its names may exist for type checkers only.
    types = ["" if p.annotation is p.empty else str(p.annotation) for p in first]
    if first and (first[0].name == "regions" or re.search(r"\bRegions\b", types[0])):
        return MapGenerator, 1
    if len(first) == 2 and all(not text or re.search(r"\bTensor\b", text) for text in types):
        return LossTerm, 2
    raise RWLossError(
        f"{where}: expected (regions: Regions, ...) as the first argument of a map, or "
        "(probs: Tensor, truth: Tensor, ...) as the first two of a loss of probabilities"
    )


def _fields(function: Any, base: type[MapGenerator], inputs: int, where: str) -> list[Any]:
    """The parameters as fields of a dataclass: name, type and default."""
    parameters = list(inspect.signature(function).parameters.values())[inputs:]
    for p in parameters:
        wrong = ""
        if p.kind not in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}:
            wrong = (
                f"{p} can't be a parameter of a map: a parameter needs a name and a type, such as "
                "alpha: float = 1.0"
            )
        elif p.annotation is p.empty:
            wrong = f"{p.name} has no type: write, for example, {p.name}: float"
        elif hasattr(base, p.name) or p.name == "name":
            wrong = f"{p.name!r} has another meaning in maps: rename the parameter"
        if wrong:
            raise RWLossError(f"{where}: {wrong}")
    types = types_of({p.name: p.annotation for p in parameters}, function.__globals__, where)
    defaults = [dataclasses.MISSING if p.default is p.empty else p.default for p in parameters]
    return [
        (p.name, types[p.name], field(default=default, kw_only=p.kind is p.KEYWORD_ONLY))
        for p, default in zip(parameters, defaults, strict=True)
    ]
