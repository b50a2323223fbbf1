"""Checks of what every map owes to its callers, whatever its formula."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import islice

import numpy as np

from rwloss.arrays import is_torch, to_numpy
from rwloss.errors import RWLossError
from rwloss.maps.generator import MapGenerator
from rwloss.maps.parser import parse
from rwloss.regions import Regions
from rwloss.rwmap import RWMap
from rwloss.testing.trial import Trial, edge_cases, ordinary, trial
from rwloss.testing.verdict import assert_same, dense, made, map_of

GEOMETRY = ("labels", "counts", "depth_mm", "peak_depth_mm", "components")


def check_edge_cases(generator: MapGenerator, num_classes: int = 4) -> None:
    """Full, absent and tiny classes, thin images, ignored voxels: finite, of the right shape.

    With another number of classes the map may be an RWLossError instead.
    """
    for of in edge_cases(num_classes):
        _assert_whole(made(generator, of), generator, of)
    for other in sorted({2, 3, 17} - {num_classes}):
        labels = np.arange(30).reshape(1, 5, 6) % other
        of = trial(f"{other} classes", labels, other)
        try:
            rwmap = generator(of.regions(), of.probs.copy())
        except RWLossError:
            continue
        except Exception as error:
            raise AssertionError(
                f"{generator} raised {type(error).__name__}: {error}\n  expected a map, or an "
                f"RWLossError if it is for {num_classes} classes only\n  input: {of}"
            ) from error
        _assert_whole(rwmap, generator, of)


def check_finite(generator: MapGenerator, num_classes: int = 4) -> None:
    """Very fine and very coarse spacing, and predictions of 0 and 1, give finite values."""
    for of in ordinary(num_classes):
        for factor in (1e-4, 1e4):
            spacing_mm = tuple(tuple(factor * side for side in row) for row in of.spacing_mm)
            _assert_whole(made(generator, replace(of, spacing_mm=spacing_mm)), generator, of)
        if generator.is_static:
            continue
        for shift in (0, 1):  # right everywhere, wrong everywhere
            sure = np.zeros_like(of.probs)
            np.put_along_axis(sure, ((of.labels + shift) % num_classes)[:, None], 1.0, axis=1)
            certain = replace(of, what=f"{of.what}, probabilities of 0 and 1", probs=sure)
            _assert_whole(made(generator, certain), generator, certain)


def check_label_types(generator: MapGenerator, num_classes: int = 4) -> None:
    """The same labels in another integer type or memory order give the same map."""
    for of in islice(ordinary(num_classes), 3):
        wanted = dense(made(generator, of))
        for kind in (np.uint8, np.int16, np.int32):
            _assert_same_labels(generator, of, of.labels.astype(kind), wanted, kind.__name__)
        _assert_same_labels(generator, of, np.asfortranarray(of.labels), wanted, "Fortran order")
        strided = np.repeat(of.labels, 2, axis=-1)[..., ::2]
        _assert_same_labels(generator, of, strided, wanted, "strided")


def check_determinism(generator: MapGenerator, num_classes: int = 4) -> None:
    """The same input gives the same bytes, now and after other inputs."""
    first = [dense(made(generator, of)) for of in ordinary(num_classes)]
    for of, wanted in zip(ordinary(num_classes), first, strict=True):
        found = dense(made(generator, of))
        assert_same(found, wanted, f"{generator}: a second time it must be the same", of, 0.0)


def check_input_untouched(generator: MapGenerator, num_classes: int = 4) -> None:
    """Labels, probabilities and the geometry of the regions are as they were.

    Other maps read the same `depth_mm`: to change it in place changes theirs.
    """
    for of in ordinary(num_classes):
        regions, probs = of.regions(), of.probs.copy()
        before = {name: to_numpy(getattr(regions, name)).copy() for name in GEOMETRY}
        map_of(generator, regions, probs, of)
        for name, wanted in before.items():
            assert np.array_equal(to_numpy(getattr(regions, name)), wanted), (
                f"{generator} changed regions.{name} in place: work on a copy\n  input: {of}"
            )
        assert np.array_equal(probs, of.probs), (
            f"{generator} changed the probabilities in place: work on a copy\n  input: {of}"
        )


def check_batch_is_single(generator: MapGenerator, num_classes: int = 4) -> None:
    """Each image of a batch gets the map that it gets alone: no statistics of the batch.

    Dynamic terms are a mean over voxels that count, so for them no voxel is ignored here.
    """
    for of in ordinary(num_classes):
        if of.ignore_label is not None and not generator.is_static:
            continue
        together = dense(made(generator, of))
        for i in range(len(of.labels)):
            claim = f"{generator}: image {i} of a batch must have the map that it has alone"
            alone = dense(made(generator, of.image(i)))
            assert_same(together[i : i + 1], alone, claim, of)


def check_numpy_is_torch(generator: MapGenerator, num_classes: int = 4) -> None:
    """Torch labels give a torch map with the values that NumPy labels give."""
    import torch

    for of in ordinary(num_classes):
        wanted = made(generator, of)
        regions = Regions(
            torch.as_tensor(of.labels.copy()), num_classes, of.spacing_mm, of.ignore_label
        )
        found = map_of(generator, regions, torch.as_tensor(of.probs.copy()), of)
        kinds = [is_torch(part) for part in found.parts]
        assert all(kinds), f"{generator}: torch labels must give torch values\n  input: {of}"
        claim = f"{generator}: torch labels must give the values that NumPy labels give"
        assert_same(dense(found), dense(wanted), claim, of)
        types = [str(rwmap.dense().dtype).removeprefix("torch.") for rwmap in (wanted, found)]
        assert types[0] == types[1], f"{generator}: {types[0]} with NumPy, {types[1]} with torch"


def check_ignored_voxels(generator: MapGenerator, num_classes: int = 4) -> None:
    """Ignored voxels have the value 0, and what is predicted there changes nothing."""
    for of in ordinary(num_classes):
        if of.ignore_label is None:
            continue
        ignored = np.broadcast_to((of.labels == of.ignore_label)[:, None], of.probs.shape)
        wanted = dense(made(generator, of))
        claim = f"{generator}: expected 0 where voxels are ignored"
        assert_same(np.where(ignored, wanted, 0.0), np.zeros_like(wanted), claim, of)
        if generator.is_static:
            continue
        probs = np.where(ignored, np.roll(of.probs, 1, axis=1), of.probs)
        claim = f"{generator}: what is predicted at ignored voxels must change nothing"
        assert_same(dense(made(generator, replace(of, probs=probs))), wanted, claim, of)


def check_pickle(generator: MapGenerator, num_classes: int = 4) -> None:
    """It travels to worker processes, and is the same there."""
    del num_classes
    try:
        back = pickle.loads(pickle.dumps(generator))
    except Exception as error:
        raise AssertionError(
            f"{generator} can't be pickled, and worker processes of precompute need that: define "
            f"it at the top level of its file ({error})"
        ) from error
    assert back == generator, f"{generator} comes back from pickle as {back}"


def check_text(generator: MapGenerator, num_classes: int = 4) -> None:
    """Its text reads back to an equal generator: stores and runs record that text."""
    del num_classes
    text = str(generator)
    try:
        back = parse(text)
    except RWLossError as error:
        raise AssertionError(f"the text of a generator must read back: {error}") from error
    assert back == generator, f"{text!r} reads back as {back}: expected an equal generator"


def _assert_whole(rwmap: RWMap, generator: MapGenerator, of: Trial) -> None:
    values = dense(rwmap)
    assert values.shape == of.probs.shape, (
        f"{generator}: expected values {of.probs.shape}, got {values.shape}\n  input: {of}"
    )
    assert np.isfinite(values).all(), (
        f"{generator}: expected finite values, got {values[~np.isfinite(values)][0]}\n  input: {of}"
    )


def _assert_same_labels(
    generator: MapGenerator, of: Trial, labels: object, wanted: object, what: str
) -> None:
    regions = Regions(labels, of.num_classes, of.spacing_mm, of.ignore_label)
    found = dense(map_of(generator, regions, of.probs.copy(), of))
    claim = f"{generator}: the same labels ({what}) must give the same map"
    assert_same(found, np.asarray(wanted), claim, of)
