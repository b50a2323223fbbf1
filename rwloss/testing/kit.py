"""The list of checks, the selection for a generator, and functions to run them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from rwloss.errors import RWLossError
from rwloss.maps.generator import MapGenerator
from rwloss.maps.loss_term import LossTerm
from rwloss.maps.plugin_file import place_of
from rwloss.maps.registry import names
from rwloss.testing import contract, symmetry
from rwloss.words import count_of, nearest

if TYPE_CHECKING:
    import pytest

Check: TypeAlias = Callable[..., None]
KnownFailures: TypeAlias = Mapping[str, str] | Callable[[MapGenerator], Mapping[str, str]]
"""Reasons by name of the check; a function gives them per generator."""

CHECKS: dict[str, Check] = {
    name: check
    for module in (contract, symmetry)
    for name, check in vars(module).items()
    if name.startswith("check_") and check.__module__ == module.__name__
}
"""Every check by its name: a function of a generator and a number of classes (optional)."""


_ONLY_FOR: dict[str, Callable[[MapGenerator], object]] = {
    "check_text": lambda g: g.name in names() or place_of(type(g)) is not None,
    "check_ball": lambda g: g.tags.commutes_with & {"flip", "rot90"},
    "check_single_voxel": lambda g: "flip" in g.tags.commutes_with,
    "check_flips": lambda g: "flip" in g.tags.commutes_with,
    "check_quarter_turns": lambda g: "rot90" in g.tags.commutes_with,
    "check_axis_order": lambda g: g.tags.commutes_with >= {"flip", "rot90"},
    "check_crops": lambda g: "crop" in g.tags.commutes_with,
    "check_spacing_scale": lambda g: symmetry.power_of_mm(g.unit) is not None,
    "check_spacing_unused": lambda g: not g.uses_spacing,
    "check_image_scale": lambda g: g.uses_image,
    "check_stable": lambda g: g.is_stable,
    "check_never_below_zero": lambda g: not g.tags.signed,
    "check_minimum": lambda g: isinstance(g, LossTerm),
    "check_limits": lambda g: g.tags.limits is not None and g == type(g)(),
    "check_compact": lambda g: g.tags.compact is not None and g == type(g)(),
    "check_stable_with_two": lambda g: g.tags.stable_with_two is not None and g == type(g)(),
    "check_pull_exponent": lambda g: g.tags.pull_exponent is not None and g == type(g)(),
}
"""Checks that only some generators must pass, with the condition."""


@dataclass(frozen=True)
class CheckResult:
    """Result of one check.

    name: of the check. state: "known" where it failed as expected. message: why it failed.
    """

    name: str
    state: Literal["passed", "failed", "known"]
    message: str = ""


def map_checks(generator: MapGenerator, *, num_classes: int = 4) -> Iterator[tuple[str, Check]]:
    """Names and checks that this generator must pass, by its tags and its kind.

    num_classes: of the inputs, 3 or more. Set it for a generator that accepts only one number.

    >>> from rwloss import maps
    >>> "check_crops" in dict(map_checks(maps.Rectified()))
    False
    """
    if not isinstance(generator, MapGenerator):
        raise RWLossError(f"expected a generator such as MyMap(), got {generator!r}")
    if num_classes < 3:
        raise RWLossError(f"expected num_classes of 3 or more, got {num_classes}")
    for name, check in CHECKS.items():
        applies: object = name not in _ONLY_FOR
        with suppress(Exception):  # of wrong tags: check_tags reports them
            applies = applies or _ONLY_FOR[name](generator)
        if applies:
            yield name, partial(check, num_classes=num_classes)


def run_map_checks(
    generator: MapGenerator,
    known_failures: KnownFailures | None = None,
    *,
    num_classes: int = 4,
    raise_on_failure: bool = True,
) -> list[CheckResult]:
    """Run all checks of a generator, even if some fail or raise.

    known_failures: reasons by name of the check. Such a check must fail; if it passes, that is a
    failure too. raise_on_failure: whether a failure raises.

    Raises AssertionError with all failures; with raise_on_failure=False they are in the results.

    >>> from rwloss import maps
    >>> {result.state for result in run_map_checks(maps.ActiveContour())}
    {'passed'}
    """
    known = _known(known_failures, generator)
    results = [
        _run(name, check, generator, known.get(name))
        for name, check in map_checks(generator, num_classes=num_classes)
    ]
    failed = [result for result in results if result.state == "failed"]
    if failed and raise_on_failure:
        messages = "\n\n".join(f"{result.name}: {result.message}" for result in failed)
        raise AssertionError(
            f"{generator} fails {len(failed)} of {count_of(len(results), 'check')}:\n\n{messages}"
        )
    return results


def _run(name: str, check: Check, generator: MapGenerator, known: str | None) -> CheckResult:
    """Run one check. known: the reason if it is known to fail."""
    try:
        check(generator)
    except Exception as error:
        raised = "" if isinstance(error, AssertionError) else f"raised {type(error).__name__}: "
        return CheckResult(name, "failed" if known is None else "known", f"{raised}{error}")
    if known is None:
        return CheckResult(name, "passed")
    message = f"known to fail ({known}), but it passes: remove it from the list"
    return CheckResult(name, "failed", message)


def parametrize_with_map_checks(
    generators: Iterable[MapGenerator],
    known_failures: KnownFailures | None = None,
    *,
    num_classes: int = 4,
) -> pytest.MarkDecorator:
    """Parametrize a test function of (generator, check) with generators and their checks.

    known_failures: reasons by name of the check, or a function that gives them for a generator.
    Such a check must fail (a strict xfail). generators: the terms to check.
    """
    import pytest

    def marks(generator: MapGenerator, name: str) -> list[pytest.MarkDecorator]:
        reason = _known(known_failures, generator).get(name)
        if reason is None:
            return []
        return [pytest.mark.xfail(reason=reason, strict=True, raises=Exception)]

    return pytest.mark.parametrize(
        ("generator", "check"),
        [
            pytest.param(generator, check, id=f"{generator}-{name}", marks=marks(generator, name))
            for generator in generators
            for name, check in map_checks(generator, num_classes=num_classes)
        ],
    )


def _known(known_failures: KnownFailures | None, generator: MapGenerator) -> Mapping[str, str]:
    if known_failures is None:
        return {}
    known = known_failures(generator) if callable(known_failures) else known_failures
    for name, reason in known.items():
        if name not in CHECKS:
            raise RWLossError(f"known_failures: there is no {name!r}{nearest(name, CHECKS)}")
        if not reason:
            raise RWLossError(f"known_failures: {name} needs a reason")
    return known
