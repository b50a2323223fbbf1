"""Stored maps in an input pipeline."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import rwloss
from rwloss import data, moves
from rwloss.errors import RWLossError
from rwloss.precompute import precompute
from rwloss.store import WithMaps

SAMPLE = data.sample_dir("lung_patches")


@pytest.fixture(scope="module", params=["nifti", "zarr"])
def store(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("maps") / request.param
    precompute(SAMPLE, out, "rectified", format=request.param, jobs=0)
    return rwloss.store.open(out)


class Named(Dataset):
    """Labels of the sample, with the names of their cases or without."""

    def __init__(self, *, named=True, region=None):
        self.cases = data.find(SAMPLE).cases
        self.named = named
        self.region = region

    def __len__(self):
        return len(self.cases)

    def __getitem__(self, index):
        case = self.cases[index]
        labels = torch.as_tensor(data.read_labels(case.labels).labels.astype(np.int64))
        if not self.named:
            return labels, index
        sample = {"case": case.name, "labels": labels}
        if self.region is not None:
            sample |= {"region": self.region, "labels": labels[self.region]}
        return sample


def names():
    return [case.name for case in data.find(SAMPLE).cases]


def test_add_map_adds_the_map_of_the_case(store):
    sample = rwloss.store.AddMap(store)(Named()[3])
    expected = store[names()[3]]
    assert set(sample) == {"case", "labels", "map"}
    assert torch.equal(sample["map"].labels[0].long(), sample["labels"])
    np.testing.assert_array_equal(sample["map"].true, expected.true)
    np.testing.assert_array_equal(sample["map"].dense(), expected.dense())


def test_a_region_cuts_image_and_map_alike(store):
    region = (slice(5, 37), slice(0, 16))
    sample = rwloss.store.AddMap(store, region="region")(Named(region=region)[2])
    whole = moves.crop(store[names()[2]], region)
    assert torch.equal(sample["map"].labels[0].long(), sample["labels"])
    np.testing.assert_array_equal(sample["map"].true, whole.true)
    np.testing.assert_array_equal(sample["map"].other, whole.other)


def test_patches_come_in_batches(store):
    dataset = Named(region=(slice(0, 16), slice(8, 24)))
    add_map = rwloss.store.AddMap(store, region="region")
    batch = rwloss.store.collate_maps([add_map(dataset[i]) for i in range(3)])
    assert batch["map"].labels.shape == (3, 16, 16)
    assert batch["map"].expression == "rectified"
    assert batch["map"].spacing_mm == sum((store[name].spacing_mm for name in names()[:3]), ())
    assert batch["region"] == [[slice(0, 16)] * 3, [slice(8, 24)] * 3]


def test_dense_maps_are_tensors_that_anything_collates(store):
    dataset = rwloss.store.WithMaps(Named(), store, dense=True)
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    assert batch["map"].shape == (4, 2, 48, 48)
    for row, name in zip(batch["map"], names(), strict=False):
        np.testing.assert_array_equal(row, store[name].dense()[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_feeds_the_loss(store, workers):
    dataset = rwloss.store.WithMaps(Named(), store)
    loader = DataLoader(
        dataset, batch_size=3, num_workers=workers, collate_fn=rwloss.store.collate_maps
    )
    batch = next(iter(loader))
    assert batch["case"] == names()[:3]
    logits = torch.randn(3, 2, 48, 48, generator=torch.Generator().manual_seed(1))
    loss = rwloss.RegionWiseLoss("rectified")
    stored = loss(logits, batch["labels"], batch["map"])
    assert torch.allclose(stored, loss(logits, batch["labels"]), atol=3e-4)


def test_samples_without_names_take_them_from_cases(store):
    dataset = rwloss.store.WithMaps(Named(named=False), store, names())
    labels, index, rwmap = dataset[5]
    assert index == 5
    assert torch.equal(rwmap.labels[0].long(), labels)
    labels, index, rwmap = rwloss.store.collate_maps([dataset[0], dataset[5]])
    assert labels.shape == rwmap.labels.shape == (2, 48, 48)
    np.testing.assert_array_equal(rwmap.true[1], store[names()[5]].true[0])


def test_what_does_not_fit_is_said(store):
    with pytest.raises(RWLossError, match="no 'case', only 'labels'"):
        rwloss.store.AddMap(store)({"labels": 1})
    with pytest.raises(RWLossError, match="no 'region', only"):
        rwloss.store.AddMap(store, region="region")({"case": names()[0]})
    with pytest.raises(RWLossError, match="2 cases given for 24 samples"):
        rwloss.store.WithMaps(Named(), store, names()[:2])
    with pytest.raises(RWLossError, match=r"no map of 'elsewhere' \(1 such"):
        rwloss.store.WithMaps(Named(), store, ["elsewhere", *names()[1:]])
    with pytest.raises(RWLossError, match="got tuple"):
        rwloss.store.WithMaps(Named(named=False), store)[0]
    first, second = store[names()[0]], moves.crop(store[names()[1]], (slice(9), slice(9)))
    with pytest.raises(RWLossError, match=r"shapes \[\(9, 9\), \(48, 48\)\]"):
        rwloss.store.collate_maps([first, second])
    dense = rwloss.RWMap.from_dense(first.labels, first.dense())
    with pytest.raises(RWLossError, match="different kinds"):
        rwloss.store.collate_maps([first, dense])


def test_a_batch_of_different_maps_is_refused(store):
    first, second = (store[name] for name in names()[:2])
    other = replace(second, expression="boundary", spacing_mm=((1.0, 2.0),))
    with pytest.raises(RWLossError, match="maps of rectified and of boundary can't be one batch"):
        rwloss.store.collate_maps([first, other])
    texts = ["rectified + boundary", "boundary + rectified"]
    one, same = (replace(other, expression=text) for text in texts)
    batch = rwloss.store.collate_maps([one, same])
    assert (batch.expression, batch.spacing_mm) == (texts[0], ((1.0, 2.0),) * 2)
    by_hand = replace(second, expression=None, spacing_mm=None)
    batch = rwloss.store.collate_maps([first, by_hand])
    assert (batch.expression, batch.spacing_mm) == (None, None)


def test_a_store_of_another_map_is_refused(store):
    """By the loss, which knows an RWMap; a dense tensor is nobody's, so AddMap is told."""
    named = WithMaps(Named(), store, expression="2.0 * dice + rectified")
    assert (named[0]["map"].expression, named[0]["map"].spacing_mm) == ("rectified", ((1.0, 1.0),))
    for text in ("boundary + dice", "0.5 * rectified"):
        with pytest.raises(RWLossError, match="holds maps of rectified, not of "):
            WithMaps(Named(), store, dense=True, expression=text)
        loss = rwloss.RegionWiseLoss(text)
        with pytest.raises(RWLossError, match="the map belongs to rectified, but a map of "):
            loss(torch.zeros(1, 2, 48, 48), named[0]["labels"][None], named[0]["map"])
