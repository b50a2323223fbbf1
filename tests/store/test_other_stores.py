"""Maps that MIST, or a program around nnU-Net, stored, read as a store of ours."""

import nibabel
import numpy as np
import pytest
import torch
from anatomy import batch
from scipy.ndimage import distance_transform_edt

import rwloss
from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.store import AddMap, OtherStore, collate_maps

SHAPE = (9, 8, 7)
LABELS = dict(zip("abc", batch(31, SHAPE, 3, size=3), strict=True))
LABELS["b"] = np.where(LABELS["b"] == 2, 0, LABELS["b"])  # class 2 is absent
NAMES = {
    True: "boundary(convention='maurer', normalize='sides')",
    False: "boundary(convention='maurer')",
}


def of_mist(labels, normalized, num_classes=3):
    """As MIST at commit f727791: ITK's map per class in voxels, each side divided; (*s k)."""
    itk = pytest.importorskip("SimpleITK", reason="the extra `dev` brings SimpleITK")
    found = []
    for k in range(num_classes):
        mask = itk.GetImageFromArray((labels == k).astype(np.uint8))
        if not (labels == k).any():
            diagonal = float(np.sqrt(np.sum(np.square(labels.shape))))
            found.append(np.full(labels.shape, 1.0 if normalized else diagonal))
            continue
        settings = {"squaredDistance": False, "useImageSpacing": False}
        signed = itk.GetArrayFromImage(itk.SignedMaurerDistanceMap(mask, **settings))
        if normalized:
            signed = np.where(signed < 0, signed / -min(signed.min(), -1e-9), signed / signed.max())
        found.append(signed)
    return np.stack(found, axis=-1).astype(np.float32)


def save_mist(folder, normalized, kind=".npy"):
    for name in ("dtms", "labels"):
        (folder / name).mkdir(parents=True)
    for case, labels in LABELS.items():
        for name, array in (
            ("labels", labels[..., None].astype(np.uint8)),
            ("dtms", of_mist(labels, normalized)),
        ):
            file = folder / name / f"{case}{kind}"
            if kind == ".npy":
                np.save(file, array)
            else:
                nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), file)
    return folder


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("kind", [".npy", ".nii.gz"])
def test_maps_of_mist(tmp_path, normalized, kind):
    """Which of its two conventions they have is found out; values are those that we make."""
    store = rwloss.store.open(save_mist(tmp_path / "numpy", normalized, kind))
    assert isinstance(store, OtherStore)
    assert (store.expression, list(store), len(store)) == (NAMES[normalized], list("abc"), 3)
    assert "a" in store
    assert "d" not in store
    for case, labels in LABELS.items():
        rwmap = store[case]
        wanted = maps.parse(store.expression)(Regions.single(labels, 3)).dense()
        np.testing.assert_allclose(rwmap.dense(), wanted, rtol=1e-5, atol=1e-5)
        assert np.array_equal(rwmap.labels[0], labels)
        stored = np.moveaxis(of_mist(labels, normalized), -1, 0)
        present = np.unique(labels)
        assert np.array_equal(rwmap.dense()[0, present], stored[present])
    assert (stored[2] == 0).sum() < stored[2].size
    assert not store["b"].dense()[0, 2].any()  # absent
    cut = (slice(1, 6), slice(0, 8), slice(2, 7))
    assert np.array_equal(store.read("b", cut).dense(), store["b"].dense()[(..., *cut)])
    assert np.array_equal(store.read("b", cut).labels, store["b"].labels[(..., *cut)])


def test_training_with_maps_of_mist(tmp_path):
    """The loss takes them for its own map, also times a number, and refuses those of another."""
    folder = save_mist(tmp_path / "numpy", True)
    text = f"0.1 * {NAMES[True]}"
    batch_of = collate_maps(
        [AddMap(rwloss.store.open(folder, text))({"case": case}) for case in LABELS]
    )
    labels = torch.as_tensor(np.stack(list(LABELS.values()))).long()
    logits = torch.randn(3, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    loss = RegionWiseLoss(f"dice + {text}")
    torch.testing.assert_close(loss(logits, labels, batch_of["map"]), loss(logits, labels))
    with pytest.raises(RWLossError, match="maurer"):
        RegionWiseLoss("dice + boundary")(logits, labels, batch_of["map"])


def kervadec(labels, spacing=None, num_classes=3):
    """+d outside and -(d - 1) inside, of every class. (k *s)."""
    signed = []
    for k in range(num_classes):
        outside, inside = (distance_transform_edt(m, spacing) for m in (labels != k, labels == k))
        signed.append(np.where(labels == k, -(inside - min(spacing or [1.0])), outside))
    return np.stack(signed)


@pytest.mark.parametrize("kind", ["npz", "npy", "b2nd"])
def test_maps_beside_data_of_nnunet(tmp_path, kind):
    """Labels are `seg`; -1, which is outside of its crop, is background."""
    if kind == "b2nd":
        blosc2 = pytest.importorskip("blosc2", reason="nnU-Net brings blosc2")
    for case, labels in LABELS.items():
        seg, dist = labels[None].astype(np.int16), kervadec(labels).astype(np.float32)
        seg[0][(labels == 0) & (np.arange(SHAPE[0]) < 2).reshape(-1, 1, 1)] = -1
        if kind == "npz":
            np.savez(tmp_path / f"{case}.npz", data=seg.astype(np.float32), seg=seg)
            np.savez(tmp_path / f"{case}_dist.npz", dist=dist)
        elif kind == "npy":
            np.save(tmp_path / f"{case}_seg.npy", seg)
            np.save(tmp_path / f"{case}_dist.npy", dist.astype(np.float16))
        else:
            blosc2.asarray(seg, urlpath=str(tmp_path / f"{case}_seg.b2nd"))
            blosc2.asarray(dist, urlpath=str(tmp_path / f"{case}_dist.b2nd"))
    store = rwloss.store.open(tmp_path)
    assert (store.expression, list(store)) == ("boundary", list("abc"))
    for case, labels in LABELS.items():
        wanted = maps.Boundary()(Regions.single(labels, 3)).dense()
        np.testing.assert_allclose(store[case].dense(), wanted, rtol=1e-3, atol=1e-5)


def save_nnunet(folder, cases, **settings):
    for case, labels in cases.items():
        np.save(folder / f"{case}_seg.npy", labels[None])
        np.save(folder / f"{case}_dist.npy", kervadec(labels, **settings).astype(np.float32))


def test_distances_in_mm_need_their_spacing(tmp_path):
    spacing = [0.8, 2.5, 1.0]
    save_nnunet(tmp_path, LABELS, spacing=spacing)
    with pytest.raises(RWLossError, match=r"_dist\.npy is not the map of its labels.*train --spac"):
        rwloss.store.open(tmp_path)
    store = rwloss.store.open(tmp_path, spacing_mm=spacing)
    assert store.expression == "boundary"
    assert store.spacing_mm("a") == (0.8, 2.5, 1.0)


def test_maps_that_may_be_several(tmp_path):
    """Of a class one voxel deep no case tells conventions apart; the user does."""
    labels = np.zeros((6, 7), np.uint8)
    labels[:, 3:] = 1
    save_nnunet(tmp_path, {"a": labels}, num_classes=2)
    with pytest.raises(
        RWLossError, match=r"maurer'\) or boundary, which are the same .*train --map"
    ):
        rwloss.store.open(tmp_path)
    assert rwloss.store.open(tmp_path, "boundary").expression == "boundary"
    with pytest.raises(RWLossError, match=r"not the map of its labels: boundary\(convention='edge"):
        rwloss.store.open(tmp_path, "boundary(convention='edge')")
    with pytest.raises(RWLossError, match="are distances, not rectified: expected one of boundary"):
        rwloss.store.open(tmp_path, "rectified")


def test_files_that_do_not_fit(tmp_path):
    """Other labels, other shapes, whole numbers, no labels, damaged files, other folders."""
    save_nnunet(tmp_path, LABELS)
    store = rwloss.store.open(tmp_path)
    np.save(tmp_path / "b_seg.npy", np.roll(LABELS["b"], 1)[None])
    with pytest.raises(RWLossError, match=r"b_dist\.npy was made from other labels than .*b_seg"):
        store["b"]
    with pytest.raises(KeyError, match="no case 'd'"):
        store["d"]
    for wrong, message in (
        (kervadec(LABELS["a"])[:, 1:], "does not fit the labels"),
        (kervadec(LABELS["a"]).astype(np.int16), "truncated to integers"),
        (kervadec(LABELS["a"])[:2], "label 2"),
    ):
        np.save(tmp_path / "a_dist.npy", wrong)
        with pytest.raises(RWLossError, match=message):
            store["a"]
    (tmp_path / "a_dist.npy").write_bytes(b"no array")
    with pytest.raises(RWLossError, match="can't be read"):
        store["a"]
    (tmp_path / "a_seg.npy").unlink()
    with pytest.raises(RWLossError, match=r"a_dist\.npy has no labels: expected .*_seg\.npy or "):
        rwloss.store.open(tmp_path)
    with pytest.raises(RWLossError, match="holds no maps of another program"):
        OtherStore(tmp_path / "nothing")


def test_a_map_that_is_unlike_the_others(tmp_path):
    """The values of one case are compared when the store is opened; of the others, when read."""
    folder = save_mist(tmp_path / "numpy", normalized=False)
    good = np.load(folder / "dtms" / "c.npy")
    for change, message in (
        (lambda _: np.concatenate([good, good[..., :1]], axis=-1), "has 4 classes, and the first"),
        (lambda positive: np.where(positive, np.inf, good), "has values that are not finite"),
        (lambda positive: np.where(positive, np.nan, good), "has values that are not finite"),
    ):
        store = OtherStore(folder, NAMES[False])
        np.save(folder / "dtms" / "c.npy", change(good > 3))
        with pytest.raises(RWLossError, match=rf"c.npy {message}"):
            store.read("c")
        np.save(folder / "dtms" / "c.npy", good)
    assert store.read("c").num_classes == 3
