import pytest
import torch

from rwloss import RWLossError, RWMap
from rwloss.training import Examples, batches


def numbered(count, *, dense=False):
    """Examples whose pixels all hold their number."""
    number = torch.arange(count)[:, None, None].expand(count, 2, 2)
    labels = number % 2
    if dense:
        rwmap = RWMap.from_dense(labels, torch.stack([number + 0.5, number + 0.25], dim=1))
    else:
        rwmap = RWMap.compact(labels, 2, true=number + 0.5, other=number + 0.25)
    return Examples(number[:, None].float(), labels, rwmap)


def order(examples, **settings):
    return [batch.images[:, 0, 0, 0].tolist() for batch in batches(examples, **settings)]


@pytest.mark.parametrize("dense", [False, True], ids=["compact", "dense"])
def test_all_parts_of_a_batch_are_of_the_same_examples(dense):
    batch = numbered(10, dense=dense)[torch.tensor([7, 2, 2])]
    assert len(batch) == 3
    assert batch.images[:, 0, 0, 0].tolist() == [7, 2, 2]
    assert batch.labels[:, 0, 0].tolist() == batch.rwmap.labels[:, 0, 0].tolist() == [1, 0, 0]
    first = batch.rwmap.values[:, 0] if dense else batch.rwmap.true
    second = batch.rwmap.values[:, 1] if dense else batch.rwmap.other
    assert first[:, 0, 0].tolist() == [7.5, 2.5, 2.5]
    assert second[:, 0, 0].tolist() == [7.25, 2.25, 2.25]


def test_batches_depend_on_the_seed_and_not_on_the_map():
    """Nor on torch's own random state."""
    settings = {"batch_size": 3, "steps": 9, "seed": 4}
    torch.manual_seed(0)
    first = order(numbered(10), **settings)
    torch.manual_seed(1)
    assert order(numbered(10, dense=True), **settings) == first
    without = Examples(numbered(10).images, numbered(10).labels)
    assert order(without, **settings) == first
    assert order(numbered(10), **{**settings, "seed": 5}) != first


@pytest.mark.parametrize("batch_size", [1, 3, 10, 25])
def test_every_example_comes_once_before_any_comes_again(batch_size):
    found = order(numbered(10), batch_size=batch_size, steps=20, seed=0)
    assert [len(batch) for batch in found] == [batch_size] * 20
    stream = [number for batch in found for number in batch]
    rounds = [stream[i : i + 10] for i in range(0, len(stream) - 9, 10)]
    assert all(sorted(each) == list(range(10)) for each in rounds)
    assert len(rounds) == 1 or rounds[0] != rounds[1] or batch_size == 1


@pytest.mark.parametrize(("count", "batch_size"), [(0, 2), (4, 0)])
def test_nothing_to_draw(count, batch_size):
    with pytest.raises(RWLossError, match="expected examples to draw from"):
        next(batches(numbered(count), batch_size, steps=1, seed=0))
