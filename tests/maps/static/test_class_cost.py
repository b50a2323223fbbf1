"""Costs of classes: what a table may be, and the loss that it is part of."""

import pytest
import torch
from torch.nn.functional import softmax

from rwloss import Regions, RegionWiseLoss, RWLossError, maps

SOME = ((0.0, 1.0, 1.0), (1.0, 0.0, 0.5), (1.0, 0.5, 0.0))


@pytest.mark.parametrize("term", [maps.ClassCost, maps.GeneralizedWassersteinDice])
@pytest.mark.parametrize(
    ("costs", "message"),
    [
        (SOME[:2], r"costs has rows of 3 and 3 numbers, expected 3 rows of 3"),
        (((0.0, 1.0), (1.0, 0.0)), r"costs .*one row per true class, one number per class"),
        (((0.0, 1.0, 1.0), (1.0, 0.2, 0.5), (1.0, 0.5, 0.0)), "each class must cost 0 at itself"),
    ],
)
def test_tables_that_do_not_fit(term, costs, message):
    regions, probs = Regions(torch.zeros(1, 4, 5).long(), 3), torch.full((1, 3, 4, 5), 1 / 3)
    with pytest.raises(RWLossError, match=f"{term.name}: {message}"):
        term(costs=costs)(regions, probs)


def test_the_loss_is_the_wasserstein_distance_of_monai():
    """By the number of classes, over which the mean of a map runs."""
    monai = pytest.importorskip("monai.losses", reason="the extra `train` brings MONAI")
    logits = torch.randn(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(2 * 8 * 9).reshape(2, 8, 9) % 3
    far = monai.GeneralizedWassersteinDiceLoss(torch.tensor(SOME)).wasserstein_distance_map(
        softmax(logits, dim=1).flatten(2), labels.flatten(1)
    )
    found = RegionWiseLoss(maps.ClassCost(SOME))(logits, labels)
    torch.testing.assert_close(3 * found, far.mean())


def test_without_a_table_costs_grow_with_the_difference():
    regions = Regions(torch.tensor([[[0, 1, 2, 3]]]), 4)
    rows = maps.ClassCost()(regions).dense()[0, :, 0].T
    torch.testing.assert_close(rows[0], torch.tensor([0, 1 / 3, 2 / 3, 1]))
    torch.testing.assert_close(rows[2], torch.tensor([2 / 3, 1 / 3, 0, 1 / 3]))


def test_text_has_the_table():
    text = str(maps.ClassCost(SOME))
    assert maps.parse(text) == maps.ClassCost(SOME)
