import pytest
import torch

from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.training import Examples, batches, train, unet


@pytest.fixture
def squares():
    """Noisy images of a bright and a dark square, the classes 1 and 2, with rectified maps."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(12, 16, 16, dtype=torch.int64)
    for image, (row, column) in zip(
        labels, torch.randint(0, 6, (12, 2), generator=generator).tolist(), strict=True
    ):
        image[row : row + 5, column : column + 5] = 1
        image[row + 5 : row + 10, column + 4 : column + 10] = 2
    level = torch.tensor([0.0, 2.0, -2.0])[labels]
    images = level + 0.2 * torch.randn(labels.shape, generator=generator)
    return Examples(images[:, None], labels, maps.get("rectified")(Regions(labels, 3)))


def trained(examples, steps, seed=0):
    network = unet(2, 1, 3, seed=seed)
    losses = train(
        network, RegionWiseLoss("rectified"), batches(examples, 4, steps=steps, seed=seed)
    )
    return network, losses


def test_learns_a_trivial_problem(squares):
    network, losses = trained(squares, 40)
    assert sum(losses[-4:]) < sum(losses[:4])
    network.eval()
    right = network(squares.images).argmax(dim=1) == squares.labels
    for k in range(3):
        assert right[squares.labels == k].float().mean() > 0.9


def test_same_seed_ends_in_the_same_weights_bit_for_bit(squares):
    (first, losses), (second, again) = trained(squares, 5), trained(squares, 5)
    assert losses == again
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert trained(squares, 5, seed=1)[1] != losses


def test_given_maps_are_what_maps_on_the_fly_are(squares):
    on_the_fly = Examples(squares.images, squares.labels)
    assert trained(on_the_fly, 3)[1] == trained(squares, 3)[1]


def test_reports_every_step(squares):
    seen = []
    losses = train(
        unet(2, 1, 3),
        RegionWiseLoss("rectified"),
        batches(squares, 4, steps=3, seed=0),
        on_step=lambda step, loss: seen.append((step, loss)),
    )
    assert seen == list(enumerate(losses, start=1))


def test_stops_at_a_loss_that_is_not_a_number(squares):
    """At the very step, and before the weights are spoilt."""
    spoilt = Examples(squares.images * float("nan"), squares.labels, squares.rwmap)
    network, seen = unet(2, 1, 3), []
    feed = [*batches(squares, 4, steps=2, seed=0), *batches(spoilt, 4, steps=2, seed=0)]
    with pytest.raises(RWLossError, match=r"loss is nan at step 3: .* below 0\.004"):
        train(
            network,
            RegionWiseLoss("rectified"),
            feed,
            on_step=lambda step, _: seen.append(step),
        )
    assert seen == [1, 2]
    assert all(weight.isfinite().all() for weight in network.parameters())
