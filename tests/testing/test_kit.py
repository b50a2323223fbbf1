"""Choosing and running checks: by tags and kind, with known failures, with pytest and without."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from rwloss import RWLossError, RWMap, maps, testing

CROPPED = "relative to the deepest voxel"
run = partial(testing.run_map_checks, raise_on_failure=False)


class SaysCrop(maps.Rectified):
    """A promise that it breaks."""

    name = "says_crop"
    tags = maps.MapTags(commutes_with=frozenset({"crop"}))


class OfThree(maps.MapGenerator):
    """For three classes only."""

    name = "of_three"

    def compute(self, regions):
        if regions.num_classes != 3:
            raise RWLossError("of_three is for 3 classes")
        return RWMap.compact(regions.labels, 3, regions.full(0.0), regions.full(1.0))


class Negative(maps.MapGenerator):
    """Breaks its promise at every voxel."""

    name = "negative"
    tags = maps.MapTags(signed=False)

    def compute(self, regions):
        return RWMap.compact(
            regions.labels, regions.num_classes, regions.full(-2.5), regions.full(1.0)
        )


def chosen(generator):
    return {name for name, _ in testing.map_checks(generator)}


def test_checks_follow_the_tags():
    every = set(testing.CHECKS)
    dynamic = {"check_minimum", "check_pull_exponent"}
    unstable = {"check_stable_with_two"}
    of_images = {"check_image_scale"}
    assert chosen(maps.ActiveContour()) == every - dynamic - unstable - of_images
    assert chosen(maps.Rectified()) == every - dynamic - unstable - of_images - {
        "check_crops",
        "check_never_below_zero",
        "check_spacing_unused",
    }
    boundary = chosen(maps.Boundary())
    assert boundary == (chosen(maps.Rectified()) | unstable) - {"check_stable"}
    with_defaults = {"check_limits", "check_compact"}
    assert chosen(maps.Rectified(clip_mm=2.0)) == chosen(maps.Rectified()) - with_defaults
    moves = {"check_flips", "check_quarter_turns", "check_axis_order"}
    assert not chosen(maps.SkeletonRecall()) & (moves | {"check_ball", "check_single_voxel"})
    assert dynamic | unstable | {"check_limits"} <= chosen(maps.Dice())
    assert "check_text" not in chosen(SaysCrop())  # there is no way to read it


def test_results_without_pytest():
    results = {result.name: result for result in run(SaysCrop())}
    assert results.keys() == chosen(SaysCrop())
    failed = [result for result in results.values() if result.state != "passed"]
    assert [(result.name, result.state) for result in failed] == [("check_crops", "failed")]


class Raises(maps.LossTerm):
    """Raises, and has wrong tags."""

    name = "raises"
    tags = "stable"

    def loss(self, prediction):
        raise ZeroDivisionError("in the loss")


def test_an_exception_is_a_failure_and_the_other_checks_run():
    results = {r.name: r for r in run(Raises())}
    assert results["check_tags"].message.startswith("raises: tags are 'stable'")
    assert results["check_pickle"].state == "passed"
    wanted = "raises raised ZeroDivisionError: in the loss\n  input: few voxels, Regions(np.array("
    assert results["check_edge_cases"].message.startswith("raises raised ZeroDivisionError")
    assert results["check_determinism"].message.startswith(wanted)
    assert results["check_minimum"].message == "raised ZeroDivisionError: in the loss"


def test_failures_raise_unless_told_otherwise():
    with pytest.raises(AssertionError, match=r"^negative fails 1 of .* checks:") as caught:
        testing.run_map_checks(Negative())
    assert "check_never_below_zero: negative promises signed=False" in str(caught.value)
    assert "input: few voxels" in str(caught.value)


def test_a_message_has_claim_place_and_an_input_to_try():
    [failed] = [r for r in run(Negative()) if r.state == "failed"]
    claim, place, given = failed.message.split("\n")
    assert claim == "negative promises signed=False"
    assert place.startswith("  expected 0 or more, got -2.5 at image 0, class ")
    what, _, code = given.removeprefix("  input: ").partition(", ")
    assert what == "few voxels"
    regions = eval(code, {"Regions": __import__("rwloss").Regions, "np": np})
    assert (Negative()(regions).dense() < 0).any()


def test_known_failures_have_to_fail():
    known = {"check_crops": CROPPED}
    states = {r.name: r.state for r in run(SaysCrop(), known)}
    assert states["check_crops"] == "known"
    assert set(states.values()) == {"passed", "known"}
    by_generator = run(SaysCrop(), lambda generator: known)
    assert {r.name: r.state for r in by_generator} == states

    [gone] = [r for r in run(Negative(), {"check_pickle": "why"}) if "why" in r.message]
    assert gone.state == "failed"
    assert gone.message == "known to fail (why), but it passes: remove it from the list"


def test_wrong_known_failures():
    for known, message in [
        ({"check_crop": "why"}, "there is no 'check_crop': did you mean 'check_crops'"),
        ({"check_crops": ""}, "check_crops needs a reason"),
    ]:
        with pytest.raises(RWLossError, match=message):
            run(SaysCrop(), known)
        with pytest.raises(RWLossError, match=message):
            testing.parametrize_with_map_checks([SaysCrop()], known)


def test_parametrized_tests_have_readable_names_and_strict_marks():
    mark = testing.parametrize_with_map_checks(
        [SaysCrop(), maps.Boundary("valverde")],
        lambda generator: {"check_crops": CROPPED} if isinstance(generator, SaysCrop) else {},
    ).mark
    names, params = mark.args
    assert names == ("generator", "check")
    by_id = {param.id: param for param in params}
    assert (
        len(by_id)
        == len(params)
        == len(chosen(SaysCrop())) + len(chosen(maps.Boundary("valverde")))
    )
    assert "boundary(convention='valverde')-check_flips" in by_id
    marked = [param for param in params if param.marks]
    assert [param.id for param in marked] == ["says_crop-check_crops"]
    [xfail] = marked[0].marks
    assert xfail.kwargs == {"reason": CROPPED, "strict": True, "raises": Exception}
    generator, check = marked[0].values
    with pytest.raises(AssertionError, match="promises 'crop'"):
        check(generator)


@testing.parametrize_with_map_checks(
    [SaysCrop(scope="component")], {"check_crops": "components are cut"}
)
def test_as_it_is_used(generator, check):
    check(generator)


def test_generator_for_another_number_of_classes():
    failed = [r for r in run(OfThree()) if r.state == "failed"]
    assert all("raised RWLossError: of_three is for 3 classes" in r.message for r in failed)
    assert {r.state for r in run(OfThree(), num_classes=3)} == {"passed"}


@pytest.mark.parametrize("num_classes", [3, 9])
def test_other_numbers_of_classes(num_classes):
    for generator in (maps.Rectified(), maps.Dice()):
        results = run(generator, num_classes=num_classes)
        assert {r.state for r in results} == {"passed"}, results


def test_wrong_use():
    with pytest.raises(RWLossError, match="num_classes of 3 or more, got 2"):
        run(maps.Rectified(), num_classes=2)
    with pytest.raises(RWLossError, match=r"expected a generator such as MyMap\(\)"):
        run(maps.Rectified)


def test_it_needs_neither_pytest_nor_torch():
    """But for the one check that compares with torch."""
    code = """
import sys
from rwloss import maps, testing
for name, check in testing.map_checks(maps.Rectified()):
    if name != "check_numpy_is_torch":
        check(maps.Rectified())
        print(name)
assert not {"pytest", "torch"} & sys.modules.keys()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert {*done.stdout.split(), "check_numpy_is_torch"} == chosen(maps.Rectified())
