"""Augmentation: moves are those of rwloss.moves, zoom and grey values do what they say."""

import itertools

import pytest
import torch

from rwloss import Regions, maps, moves
from rwloss.training import Augmentation
from rwloss.training.augment import UNIFORM, PatchTransform, seed_of, shaded, uniform, zoomed

ALL = Augmentation(
    flip=0.5, flip_axes=(-2, -1), turn=0.5, planes=((-2, -1),), zoom=0.5, intensity=0.5
)


def drawn(augmentation, count):
    """The transforms of the first examples."""
    return list(map(augmentation.transform, uniform(range(count), UNIFORM)))


def test_a_map_moves_as_rwloss_moves_moves_it(device):
    """Compact and dense, and it stays the map of the moved labels."""
    labels = torch.randint(0, 3, (1, 6, 6), generator=torch.Generator().manual_seed(0)).to(device)
    regions = Regions(labels, 3, (1.0, 2.5))
    cases = itertools.product([(), (-1,), (-2,), (-2, -1)], range(4), ["rectified", "boundary"])
    for flips, quarters, text in cases:
        plane = (-2, -1) if quarters else None
        change = PatchTransform(flips=flips, plane=plane, quarters=quarters)
        rwmap = maps.get(text)(regions)
        wanted = moves.rot90(moves.flip(rwmap, flips), quarters, (-2, -1))
        moved = rwmap.with_arrays(change.moved)
        assert torch.equal(moved.labels, wanted.labels), (flips, quarters)
        assert all(map(torch.equal, moved.parts, wanted.parts))
        spacing_mm = change.spacing((1.0, 2.5))
        turned = moves.rot90(moves.flip(regions, flips), quarters, (-2, -1))
        assert turned.spacings_mm == (spacing_mm,)
        again = maps.get(text)(Regions(change.moved(labels), 3, spacing_mm))
        assert torch.equal(again.dense(), wanted.dense())


@pytest.mark.parametrize(("shape", "size"), [((9, 7), (4, 4)), ((6, 5, 7), (2, 4, 4))])
def test_a_patch_walks_through_its_source_as_it_is_moved(shape, size):
    values = torch.arange(torch.Size(shape).numel()).reshape(shape)
    starts = (3, 1, 2)[: len(size)]
    cut = values[tuple(slice(a, a + n) for a, n in zip(starts, size, strict=True))]
    axes = range(-len(size), 0)
    flips = itertools.chain.from_iterable(itertools.combinations(axes, n) for n in range(3))
    for flip, quarters, plane in itertools.product(flips, range(4), [(-2, -1), (-1, -2)]):
        change = PatchTransform(flip, plane if quarters else None, quarters)
        walks = change.walks(starts, size)
        moved = change.moved(cut)
        for place in itertools.product(*map(range, size)):
            source = {
                axis: first + i * direction
                for i, (axis, first, direction) in zip(place, walks, strict=True)
            }
            assert moved[place] == values[tuple(source[axis] for axis in range(len(size)))]


def test_moves_of_volumes():
    values = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    change = PatchTransform(flips=(-3, -1), plane=(-2, -1), quarters=1)
    assert torch.equal(change.moved(values), values.flip(1, 3).rot90(1, (2, 3)))
    assert change.spacing((1.0, 2.0, 3.0)) == (1.0, 3.0, 2.0)


def test_draws_depend_on_the_numbers_and_follow_the_probabilities():
    changes = drawn(ALL, 2000)
    assert changes == drawn(ALL, 2000)

    def share(which):
        return sum(map(which, changes)) / len(changes)

    assert share(lambda c: -1 in c.flips) == pytest.approx(0.5, abs=0.05)
    assert share(lambda c: -2 in c.flips and -1 in c.flips) == pytest.approx(0.25, abs=0.05)
    assert share(lambda c: c.quarters == 2) == pytest.approx(1 / 6, abs=0.04)
    assert share(lambda c: c.zoom > 1) == pytest.approx(0.25, abs=0.05)
    assert share(lambda c: c.noise > 0 and c.gamma != 1) == pytest.approx(0.25, abs=0.05)
    assert {c.plane for c in changes} == {None, (-2, -1)}
    assert all(0.8 <= c.zoom <= 1.25 and 0 <= c.noise <= 0.15 for c in changes)


def test_what_is_switched_off_changes_nothing_else():
    """So that runs with and without a store meet the same flips."""
    others = drawn(Augmentation(**{**vars(ALL), "zoom": 0.0}), 50)
    for with_zoom, without in zip(drawn(ALL, 50), others, strict=True):
        assert without == PatchTransform(**{**vars(with_zoom), "zoom": 1.0})
    assert drawn(Augmentation(), 2) == [PatchTransform()] * 2


@pytest.mark.parametrize("shape", [(8, 6), (5, 6, 4)])
@pytest.mark.parametrize("zoom", [0.77, 1.3])
def test_zoom_against_a_naive_loop(shape, zoom):
    """About the centre: place p comes from c + (p - c) / zoom. Labels: the nearest voxel."""
    labels = torch.randint(0, 5, (1, *shape), generator=torch.Generator().manual_seed(0))
    ramp = torch.arange(shape[-1]).expand(1, 1, *shape).float()
    images, found = zoomed(ramp, labels, [zoom])
    for place in itertools.product(*map(range, shape)):
        centre = [(length - 1) / 2 for length in shape]
        source = [c + (p - c) / zoom for p, c in zip(place, centre, strict=True)]
        nearest = tuple(round(s) for s in source)
        is_inside = all(0 <= s < length for s, length in zip(nearest, shape, strict=True))
        assert found[0][place] == (labels[0][nearest] if is_inside else -1)
        if all(0 <= s <= length - 1 for s, length in zip(source, shape, strict=True)):
            assert images[0, 0][place] == pytest.approx(source[-1], abs=1e-4)


def test_zoom_keeps_labels_whole_and_ignored_voxels_ignored(device):
    labels = torch.randint(-1, 200, (2, 16, 16), generator=torch.Generator().manual_seed(1))
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    images, labels = images.to(device), labels.to(device)
    new_images, new_labels = zoomed(images, labels, [1.0, 1.2])
    assert torch.equal(new_images[0], images[0])
    assert torch.equal(new_labels[0], labels[0])
    assert set(new_labels[1].unique().tolist()) <= set(labels[1].unique().tolist())
    assert new_labels.dtype == labels.dtype
    assert not torch.equal(new_labels[1], labels[1])
    assert PatchTransform(zoom=2.0).spacing((1.0, 3.0)) == (0.5, 1.5)


def test_grey_values_by_formula(device):
    images = torch.tensor([0.0, 1.0, 4.0], device=device).reshape(1, 1, 1, 3).repeat(3, 1, 1, 1)
    changes = [PatchTransform(gain=2.0, offset=0.5), PatchTransform(gamma=0.5), PatchTransform()]
    found = shaded(images, changes, [0, 1, 2]).flatten(1)
    assert found[0].tolist() == [0.5, 2.5, 8.5]
    assert found[1].tolist() == [0.0, 2.0, 4.0]
    assert found[2].tolist() == [0.0, 1.0, 4.0]


def test_noise_is_of_the_example_and_of_its_strength(device):
    images = torch.zeros(2, 2, 50, 50, device=device)
    changes = [PatchTransform(noise=0.1), PatchTransform()]

    def noisy():
        return shaded(images, changes, [seed_of(0, "noise", number) for number in range(2)])

    assert torch.equal(noisy(), noisy())
    random = torch.Generator(device).manual_seed(seed_of(0, "noise", 0))
    assert torch.equal(noisy()[0], 0.1 * torch.randn(2, 50, 50, generator=random, device=device))
    assert float(noisy()[0].std()) == pytest.approx(0.1, rel=0.05)
    assert not noisy()[1].any()
    assert not images.any()


def test_seeds_differ_in_seed_purpose_and_number():
    keys = list(itertools.product((0, 1), ("example", "noise"), (1, 2)))
    seeds = [seed_of(*key) for key in keys]
    assert len({*seeds}) == len({u for [u] in uniform(seeds, 1)}) == len(keys)
    assert seed_of(0, "order", 7) == 6439086119279432104  # it never changes


def test_numbers_are_those_of_one_generator_each():
    """In however many parts they are drawn."""
    for seed, row in zip((3, 1), uniform((3, 1), 22), strict=True):
        random = torch.Generator().manual_seed(seed)
        assert row == torch.cat([torch.rand(n, generator=random) for n in (6, 16)]).tolist()
