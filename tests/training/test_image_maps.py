"""Maps that use the image, from files to the loss: stores, checks, pictures and training."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from raw_folders import make_raw
from typer.testing import CliRunner

import rwloss
from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.cli.app import app
from rwloss.precompute import precompute
from rwloss.precompute.repair import repair
from rwloss.store.verify import verify
from rwloss.training import RunFolder, train
from rwloss.training.together import train_together

MAP = '''
import rwloss
from rwloss import maps


@maps.register("bright", tags=maps.MapTags(stable=True, uses_image=True, uses_spacing=False))
def bright(regions: rwloss.Regions) -> rwloss.RWMap:
    """-1 - tanh of the normalized first channel at the true class, 1 at every other."""
    xp, grey = regions.xp, regions.image[:, 0]
    axes = tuple(range(1, grey.ndim))
    grey = (grey - xp.mean(grey, axis=axes, keepdims=True)) / (
        xp.std(grey, axis=axes, keepdims=True) + 1e-6
    )
    true = -1 - xp.tanh(grey)
    return rwloss.RWMap.compact(regions.labels, regions.num_classes, true, regions.full(1.0))
'''


@pytest.fixture
def text(tmp_path):
    (tmp_path / "bright.py").write_text(MAP)
    return f"{tmp_path / 'bright.py'}:bright"


@pytest.fixture
def cases(tmp_path):
    return make_raw(tmp_path / "raw", ["a", "b", "c"], (8, 6, 4), channels=2, spacing=(1, 1, 3))


def problems(out):
    return [(each.kind, each.name, each.reason) for each in verify(out, jobs=0).problems]


def brighten(cases, name, by=3.0):
    """Change a corner of the second channel."""
    path = cases / "imagesTr" / f"{name}_0001.nii.gz"
    image = nibabel.load(path)
    values = np.asarray(image.dataobj).copy()
    values[0, 0, 0] += by
    nibabel.save(nibabel.Nifti1Image(values, image.affine), path)


def test_a_store_holds_the_map_of_the_raw_image(cases, text, tmp_path):
    out = tmp_path / "maps"
    assert precompute(cases, out, f"{text} + dice", jobs=0).made == 3
    stored = rwloss.store.open(out)
    for case in rwloss.data.find(cases).cases:
        volume = rwloss.data.read_labels(case.labels)
        raw = np.stack([rwloss.data.read_image(path) for path in case.images])
        wanted = maps.parse(text)(Regions.single(volume.labels, 3, volume.spacing_mm, image=raw))
        np.testing.assert_allclose(stored[case.name].true, wanted.true, atol=3e-4)
    assert json.loads((out / "map.json").read_text())["uses_image"] is True


def test_another_image_makes_the_map_stale(cases, text, tmp_path):
    out = tmp_path / "maps"
    precompute(cases, out, text, jobs=0)
    assert problems(out) == []
    brighten(cases, "b")
    changed = "its image, its labels, or their spacing, changed after it was made"
    assert problems(out) == [("stale", "b", changed)]
    (cases / "imagesTr/c_0000.nii.gz").unlink()
    assert problems(out)[1][:2] == ("stale", "c")
    assert "expected the channels 0 to 1" in problems(out)[1][2]
    summary = precompute(cases, out, text, jobs=0)
    assert [(each.case, each.state) for each in summary.outcomes] == [
        ("a", "kept"), ("b", "made"), ("c", "failed"),
    ]  # fmt: skip
    # A map of labels alone does not mind.
    other = tmp_path / "rectified"
    precompute(cases, other, "rectified", jobs=0)
    brighten(cases, "a")
    assert problems(other) == []
    assert "uses_image" not in Path(other / "manifest.jsonl").read_text()


def test_what_is_repaired_has_its_image(cases, text, tmp_path):
    out = tmp_path / "maps"
    precompute(cases, out, text, jobs=0)
    brighten(cases, "b")
    assert repair(out, verify(out, jobs=0), expression=text, jobs=0).made == 1
    assert problems(out) == []


def test_labels_without_images(cases, text, tmp_path):
    [failed] = precompute(cases / "labelsTr/a.nii.gz", tmp_path / "maps", text, jobs=0).failed
    assert failed.reason.startswith("the map uses the image, and case 'a' has none: expected ")


def test_check_and_show_hand_it_over(cases, text, tmp_path):
    run = CliRunner()
    for args in (
        ["check", str(cases), "--map", f"{text} + mumford_shah", "--limit", "1"],
        ["show", str(cases / "labelsTr/a.nii.gz"), "--map", text, "-o", str(tmp_path / "a.png")],
    ):
        found = run.invoke(app, args)
        assert found.exit_code == 0, found.output
    args = ["show", str(tmp_path / "a.npy"), "--num-classes", "3", "--map", text]
    np.save(tmp_path / "a.npy", np.zeros((4, 5), np.uint8))
    found = run.invoke(app, [*args, "-o", str(tmp_path / "b.png")])
    assert "the map uses the image" in str(found.exception or found.output)


# --- Training


def test_training_hands_over_what_the_network_sees(cases, text, settings_of, monkeypatch):
    seen = []
    forward = RegionWiseLoss.forward

    def noted(self, logits, target, *args, **given):
        seen.append(given["image"])
        return forward(self, logits, target, *args, **given)

    monkeypatch.setattr(RegionWiseLoss, "forward", noted)
    settings = settings_of(cases, map=f"{text} + mumford_shah", dims=2, steps=2, test_part="split")
    assert len(train(settings).losses) == 2
    assert {len(image.shape) for image in seen} == {4}
    assert {image.shape[1] for image in seen} == {2}  # its channels


def test_training_with_maps_of_whole_images(cases, text, settings_of, tmp_path):
    """Made at the start, or stored; a store is of the images too."""
    out = tmp_path / "maps"
    precompute(cases, out, text, jobs=0)

    def losses(name, **how):
        settings = settings_of(cases, map=text, dims=2, steps=2, out=tmp_path / name, **how)
        return train(settings).losses

    precomputed = losses("stored", maps=str(out))
    np.testing.assert_allclose(losses("volume", map_of="volume"), precomputed, atol=1e-3)
    assert len(losses("slice", map_of="slice")) == 2
    for name in "abc":
        brighten(cases, name)
    with pytest.raises(RWLossError, match="was made from other labels or another image, or at"):
        losses("late", maps=str(out))


def test_runs_together_are_those_alone(cases, text, settings_of, tmp_path):
    both = [
        settings_of(cases, map=f"{text} + blob", dims=2, steps=2, seed=s, out=tmp_path / str(s))
        for s in (1, 2)
    ]
    alone = [train(run.model_copy(update={"out": f"{run.out}-alone"})).losses for run in both]
    assert train_together(both) == [None, None]
    for run, wanted in zip(both, alone, strict=True):
        found = [loss for line in RunFolder(run.out).lines() for loss in line.get("losses", [])]
        np.testing.assert_allclose(found, wanted, rtol=1e-4)


# --- Where there is no image


def test_a_loss_without_its_image():
    logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    loss = RegionWiseLoss("mumford_shah")
    for call in (
        lambda: loss(logits, labels),
        lambda: loss([logits], labels),
        lambda: maps.MumfordShah()(Regions(labels, 2), logits.softmax(1)),
    ):
        with pytest.raises(RWLossError, match="mumford_shah needs the image: pass image= "):
            call()
    for image, why in (
        (torch.zeros(1, 4, 4), "does not fit labels"),
        (torch.zeros(1, 1, 4, 5), "does not fit labels"),
        (np.zeros((1, 1, 4, 4)), "expected image as a tensor"),
    ):
        with pytest.raises(RWLossError, match=why):
            loss(logits, labels, image=image)


def test_deep_supervision_and_masks_have_their_image():
    generator = torch.Generator().manual_seed(5)
    logits, image = (torch.randn(2, 3, 8, 6, generator=generator) for _ in range(2))
    labels = torch.randint(0, 3, (2, 8, 6), generator=generator)
    loss = RegionWiseLoss("mumford_shah + dice", deep_supervision_weights=[0.0, 1.0])
    half = (slice(None), slice(None), slice(None, None, 2), slice(None, None, 2))
    small = labels[:, ::2, ::2]
    wanted = RegionWiseLoss("mumford_shah + dice")(logits[half], small, image=image[half])
    torch.testing.assert_close(loss([logits, logits[half]], labels, image=image), wanted)
    masks = torch.stack([labels > 0, labels > 1, labels > 2], dim=1).long()
    of_masks = RegionWiseLoss("mumford_shah", activation="sigmoid")
    one_by_one = [
        of_masks(logits[:, k : k + 1], masks[:, k : k + 1], image=image) for k in range(3)
    ]
    torch.testing.assert_close(of_masks(logits, masks, image=image), sum(one_by_one) / 3)
    regions = Regions.from_masks(masks, image=image)
    torch.testing.assert_close(of_masks(logits, regions), sum(one_by_one) / 3)


def test_monai_and_nnunet_say_what_they_lack():
    pytest.importorskip("monai")
    from rwloss.integrations.monai import RWLoss, RWMapd
    from rwloss.integrations.nnunet import PlanLoss

    logits, labels = torch.randn(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    image = torch.randn(1, 2, 4, 4)
    loss = RWLoss("mumford_shah", to_onehot_y=True, softmax=True)
    wanted = RegionWiseLoss("mumford_shah")(logits, labels[:, 0].long(), image=image)
    torch.testing.assert_close(loss(logits, labels, image=image), wanted)
    with pytest.raises(RWLossError, match="uses the image, which nnU-Net does not pass to its"):
        PlanLoss("mumford_shah + dice", spacing_mm=(1, 1))
    maps.register("grey_", tags=maps.MapTags(uses_image=True))(grey)
    with pytest.raises(RWLossError, match="uses the image, and RWMapd makes maps of labels alone"):
        RWMapd("label", "grey_", 3)


def grey(regions: Regions) -> rwloss.RWMap:
    true = regions.full(0.0) - regions.image[:, 0]
    return rwloss.RWMap.compact(regions.labels, regions.num_classes, true, regions.full(1.0))
