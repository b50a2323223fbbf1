"""Checks that every map must pass, and checks of the promises of its tags."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice

import numpy as np

from rwloss.arrays import is_torch, to_numpy
from rwloss.errors import RWLossError
from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.maps.loss_term import LossTerm, Prediction
from rwloss.maps.parser import parse
from rwloss.maps.registry import check_name
from rwloss.testing.inputs import TOLERANCE, CheckInput, check_input, dense, edge_cases, ordinary

MOVES = frozenset({"flip", "rot90", "crop"})
GEOMETRY = ("labels", "image", "counts", "depth_mm", "peak_depth_mm", "components")


def check_tags(generator: MapGenerator, num_classes: int = 4) -> None:
    """The tags are `MapTags` with known moves, and expressions can hold the name."""
    del num_classes
    assert isinstance(generator.tags, MapTags), f"{generator}: tags are {generator.tags!r}"
    unknown = sorted(generator.tags.commutes_with - MOVES)
    assert not unknown, f"{generator} commutes with {unknown}: known are {sorted(MOVES)}"
    check_name(generator.name, str(generator))


def check_text(generator: MapGenerator, num_classes: int = 4) -> None:
    """Its text reads back to an equal generator: stores and runs record that text."""
    del num_classes
    text = str(generator)
    try:
        back = parse(text)
    except RWLossError as error:
        raise AssertionError(f"the text of a generator must read back: {error}") from error
    assert back == generator, f"{text!r} reads back as {back}: expected an equal generator"


def check_pickle(generator: MapGenerator, num_classes: int = 4) -> None:
    """It can be pickled for worker processes, and is equal there."""
    del num_classes
    try:
        back = pickle.loads(pickle.dumps(generator))
    except Exception as error:
        raise AssertionError(
            f"{generator} can't be pickled for the worker processes of precompute: define it at "
            f"the top level of its file ({error})"
        ) from error
    assert back == generator, f"{generator} comes back from pickle as {back}"


def check_edge_cases(generator: MapGenerator, num_classes: int = 4) -> None:
    """Full, absent and tiny classes, thin images, ignored voxels: finite, of the right shape.

    For other numbers of classes the generator may raise RWLossError.
    """
    for case in edge_cases(num_classes):
        _check_complete(generator, case)
    for other in sorted({2, 3, 17} - {num_classes}):
        labels = np.arange(30).reshape(1, 5, 6) % other
        try:
            _check_complete(generator, check_input(f"{other} classes", labels, other))
        except AssertionError as error:
            if not isinstance(error.__cause__, RWLossError):
                raise


def check_finite(generator: MapGenerator, num_classes: int = 4) -> None:
    """Very fine and very coarse spacing, and predictions of 0 and 1, give finite values."""
    for case in ordinary(num_classes):
        for factor in (1e-4, 1e4):
            spacing_mm = tuple(tuple(factor * side for side in row) for row in case.spacing_mm)
            _check_complete(generator, replace(case, spacing_mm=spacing_mm))
        for shift in () if generator.is_static else (0, 1):  # right everywhere, wrong everywhere
            sure = np.zeros_like(case.probs)
            np.put_along_axis(sure, ((case.labels + shift) % num_classes)[:, None], 1.0, axis=1)
            what = f"{case.what}, probabilities of 0 and 1"
            _check_complete(generator, replace(case, what=what, probs=sure))


def check_label_types(generator: MapGenerator, num_classes: int = 4) -> None:
    """The same labels in another integer type or memory order give the same map."""
    for case in islice(ordinary(num_classes), 3):
        wanted = case.dense(generator)
        kinds: dict[str, object] = {
            "uint8": case.labels.astype(np.uint8),
            "int16": case.labels.astype(np.int16),
            "int32": case.labels.astype(np.int32),
            "Fortran order": np.asfortranarray(case.labels),
            "strided": np.repeat(case.labels, 2, axis=-1)[..., ::2],
        }
        for kind, labels in kinds.items():
            regions = case.regions(generator, labels)
            claim = f"{generator}: the same labels ({kind}) must give the same map"
            case.expect_same(case.dense(generator, regions), wanted, claim)


def check_determinism(generator: MapGenerator, num_classes: int = 4) -> None:
    """The same input gives the same bytes, now and after other inputs."""
    first = [case.dense(generator) for case in ordinary(num_classes)]
    for case, wanted in zip(ordinary(num_classes), first, strict=True):
        claim = f"{generator}: a second call must give the same"
        case.expect_same(case.dense(generator), wanted, claim, tolerance=0.0)


def check_input_untouched(generator: MapGenerator, num_classes: int = 4) -> None:
    """Labels, probabilities and the geometry of the regions stay unchanged.

    Other maps read the same `depth_mm`: a change in place would change them too.
    """
    for case in ordinary(num_classes):
        regions, probs = case.regions(), case.probs.copy()
        before = {name: to_numpy(getattr(regions, name)).copy() for name in GEOMETRY}
        case.map_of(generator, regions, probs)
        for name, wanted in before.items():
            same = np.array_equal(to_numpy(getattr(regions, name)), wanted)
            case.expect(same, f"{generator} changed regions.{name} in place: work on a copy")
        same = np.array_equal(probs, case.probs)
        case.expect(same, f"{generator} changed the probabilities in place: work on a copy")


def check_batch_is_single(generator: MapGenerator, num_classes: int = 4) -> None:
    """Each image of a batch gets the same map as alone: no statistics of the batch.

    Dynamic terms take the mean over voxels that count, so they are checked without ignored voxels.
    """
    for case in ordinary(num_classes):
        if case.ignore_label is not None and not generator.is_static:
            continue
        together = case.dense(generator)
        for i in range(len(case.labels)):
            claim = f"{generator}: image {i} of a batch must have the same map as alone"
            case.expect_same(together[i : i + 1], case.image(i).dense(generator), claim)


def check_numpy_is_torch(generator: MapGenerator, num_classes: int = 4) -> None:
    """Torch labels give a torch map with the values that NumPy labels give."""
    import torch

    for case in ordinary(num_classes):
        wanted = case.map_of(generator)
        labels = torch.as_tensor(case.labels.copy())
        regions = case.regions(generator, labels)
        found = case.map_of(generator, regions, torch.as_tensor(case.probs.copy()))
        kinds = all(is_torch(part) for part in found.parts)
        case.expect(kinds, f"{generator}: torch labels must give torch values")
        claim = f"{generator}: torch labels must give the values that NumPy labels give"
        case.expect_same(dense(found), dense(wanted), claim)
        types = [str(rwmap.dense().dtype).removeprefix("torch.") for rwmap in (wanted, found)]
        assert types[0] == types[1], f"{generator}: {types[0]} with NumPy, {types[1]} with torch"


def check_image_scale(generator: MapGenerator, num_classes: int = 4) -> None:
    """The scale of a channel must not matter: stored maps see raw values, training others."""
    for case in ordinary(num_classes):
        factor = np.array([2.0, 0.5], dtype=np.float32).reshape(2, *[1] * (case.labels.ndim - 1))
        claim = f"{generator}: a channel times a number plus a number must give the same map"
        other = replace(case, grey=factor * case.grey + 7)
        case.expect_same(other.dense(generator), case.dense(generator), claim, tolerance=1e-3)


def check_ignored_voxels(generator: MapGenerator, num_classes: int = 4) -> None:
    """Ignored voxels have the value 0, and the prediction there changes nothing."""
    for case in ordinary(num_classes):
        if case.ignore_label is None:
            continue
        ignored = np.broadcast_to((case.labels == case.ignore_label)[:, None], case.probs.shape)
        wanted = case.dense(generator)
        claim = f"{generator}: expected 0 where voxels are ignored"
        case.expect_same(np.where(ignored, wanted, 0.0), np.zeros_like(wanted), claim)
        probs = np.where(ignored, np.roll(case.probs, 1, axis=1), case.probs)
        claim = f"{generator}: the prediction at ignored voxels must change nothing"
        case.expect_same(replace(case, probs=probs).dense(generator), wanted, claim)


def check_stable(generator: MapGenerator, num_classes: int = 4) -> None:
    """At every voxel all wrong classes share one value, and the true class is not higher."""
    for case in _all_cases(num_classes):
        values = case.dense(generator)
        slack = TOLERANCE * np.abs(values).max(initial=0)
        for k in range(num_classes):
            wrong = np.delete(values, k, axis=1)
            lowest, highest = wrong.min(axis=1), wrong.max(axis=1)
            here = case.labels == k
            for reason, bad in {
                "wrong classes have different values": here & (highest - lowest > slack),
                "the true class is higher than a wrong one": here & (values[:, k] > lowest + slack),
            }.items():
                for image, *voxel in np.argwhere(bad)[:1].tolist():
                    found = values[(image, slice(None), *voxel)].tolist()
                    case.expect(
                        False,
                        f"{generator} promises stable=True, but {reason}\n  {found} at image "
                        f"{image}, voxel {tuple(voxel)} of class {k}; {int(bad.sum())} voxels",
                    )


def check_never_below_zero(generator: MapGenerator, num_classes: int = 4) -> None:
    """A map that is tagged signed=False has no value below 0."""
    for case in _all_cases(num_classes):
        values = case.dense(generator)
        if (values < 0).any():
            place = np.unravel_index(int(values.argmin()), values.shape)
            claim, count = f"{generator} promises signed=False", int((values < 0).sum())
            case.fail(claim, place, "0 or more", f"{values[place]:.9g}", count)


def check_minimum(generator: MapGenerator, num_classes: int = 4) -> None:
    """A loss is never below its `minimum`, at a random prediction or at the right one."""
    assert isinstance(generator, LossTerm)
    for case in ordinary(num_classes):
        for name, value in _losses(generator, case).items():
            claim = (
                f"{generator}: expected a loss of {generator.minimum} or more at {name} "
                f"prediction, got {value}"
            )
            case.expect(value >= generator.minimum - TOLERANCE, claim)


def check_limits(generator: MapGenerator, num_classes: int = 4) -> None:
    """The map, or the loss at a random, a right and a wrong prediction, is within its limits."""
    low, high = generator.tags.limits or (None, None)
    for case in ordinary(num_classes):
        if isinstance(generator, LossTerm):
            values = list(_losses(generator, case).values())
        else:
            dense_values = case.dense(generator)
            values = [float(dense_values.min()), float(dense_values.max())]
        slack = TOLERANCE * max(map(abs, values))
        above = low is None or min(values) >= low - slack
        below = high is None or max(values) <= high + slack
        claim = f"{generator} promises limits={(low, high)}, got {min(values)} to {max(values)}"
        case.expect(above and below, claim)


def check_compact(generator: MapGenerator, num_classes: int = 4) -> None:
    """Maps are compact, or dense, as the tag says."""
    for case in islice(ordinary(num_classes), 1):
        found, wanted = case.map_of(generator).is_compact, generator.tags.compact
        case.expect(found == wanted, f"{generator} promises compact={wanted}, got {found}")


def check_stable_with_two(generator: MapGenerator, num_classes: int = 4) -> None:
    """With two classes the true class is nowhere the dearer one; somewhere, if the tag says so."""
    del num_classes
    wanted, violated = generator.tags.stable_with_two, False
    for case in ordinary(2):
        values, labels = case.dense(generator), np.where(case.labels == 1, 1, 0)
        truth = np.take_along_axis(values, labels[:, None], axis=1)
        wrong = truth > values.min(axis=1, keepdims=True) + TOLERANCE * np.abs(values).max()
        violated |= bool(wrong.any())
        claim = f"{generator} promises stable_with_two=True: the true class is dearer at"
        case.expect(not (violated and wanted), f"{claim} {int(wrong.sum())} voxels")
    assert violated or wanted, f"{generator} has stable_with_two=False, but it holds: write True"


def check_pull_exponent(generator: MapGenerator, num_classes: int = 4) -> None:
    """The pull on a class that has died fades with the power that the tag says."""
    from rwloss.stability import check_expression

    wanted = generator.tags.pull_exponent
    for case in islice(ordinary(num_classes), 1):
        found = check_expression(generator, case.regions(generator)).pull_exponent[1:]
        known = found[~np.isnan(found)]
        same = bool(np.all(np.abs(known - (wanted or 0.0)) < 0.02))
        case.expect(same, f"{generator} promises pull_exponent={wanted}, got {found.tolist()}")


def _losses(generator: LossTerm, case: CheckInput) -> dict[str, float]:
    """The loss at a random prediction, at the right one, and with each voxel in another class."""
    import torch

    regions = case.regions()
    labels = torch.as_tensor(regions.labels)
    classes = np.arange(case.num_classes).reshape(-1, *[1] * (labels.ndim - 1))
    right = case.labels[:, None] == classes
    wrong = np.roll(right, 1, axis=1)
    found = {}
    for name, probs in {"any": case.probs, "the right": right, "a wrong": wrong}.items():
        log_probs = torch.as_tensor(np.maximum(probs, 1e-30)).log()
        prediction = Prediction.of(log_probs, labels, regions.spacings_mm, regions=regions)
        found[name] = float(generator.value(prediction))
    return found


def _all_cases(num_classes: int) -> Iterator[CheckInput]:
    return chain(ordinary(num_classes), edge_cases(num_classes))


def _check_complete(generator: MapGenerator, case: CheckInput) -> None:
    values, wanted = case.dense(generator), case.probs.shape
    case.expect(values.shape == wanted, f"{generator}: expected {wanted}, got {values.shape}")
    bad = values[~np.isfinite(values)]
    case.expect(not bad.size, f"{generator}: expected finite values, got {bad[:1]}")
