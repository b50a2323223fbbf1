"""Real runs: transforms, CacheDataset, SupervisedTrainer; 2-D and 3-D, maps made before and not."""

import os

import pytest
import torch

from rwloss.data import find, sample_dir

pytestmark = pytest.mark.slow
pytest.importorskip("monai", reason="MONAI is not installed")
pytest.importorskip("ignite", reason="pytorch-ignite is not installed")

DATA = pytest.mark.parametrize(
    ("axes", "name", "num_classes"), [(2, "lung_patches", 2), (3, "hippocampus", 3)]
)
REDUCED = bool(os.environ.get("RWLOSS_REDUCED"))
KEYS = ["image", "label", "map"]


def files(name, count):
    cases = find(sample_dir(name)).cases[:count]
    return [{"image": str(case.images[0]), "label": str(case.labels)} for case in cases]


def pipeline(axes, *, first, last=()):
    """From files to patches of 16 voxels, flipped and turned; `first` makes or reads the map."""
    from monai import transforms as mt

    settings = {"reader": "PILReader", "reverse_indexing": False} if axes == 2 else {}
    keys = KEYS if first else KEYS[:2]
    return mt.Compose(
        [
            mt.LoadImaged(["image", "label"], **settings),
            mt.EnsureChannelFirstd(["image", "label"]),
            mt.NormalizeIntensityd("image"),
            *first,
            mt.RandCropByPosNegLabeld(keys, "label", spatial_size=[16] * axes, num_samples=2),
            mt.RandFlipd(keys, prob=0.5, spatial_axis=0),
            mt.RandRotate90d(keys, prob=0.5, spatial_axes=(0, 1)),
            *last,
        ]
    )


def unet(axes, num_classes):
    from monai.networks.nets import UNet

    return UNet(axes, in_channels=1, out_channels=num_classes, channels=(8, 16, 32), strides=(2, 2))


def losses_of_a_run(dataset, axes, num_classes, loss, *, epochs, mapped):
    """The loss of each iteration of a SupervisedTrainer."""
    from monai.data import DataLoader
    from monai.engines import SupervisedTrainer
    from monai.engines.utils import default_prepare_batch
    from monai.utils import set_determinism

    from rwloss.integrations.monai import PrepareBatchRWMap

    set_determinism(seed=3)
    network = unet(axes, num_classes)
    seen = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(dataset, batch_size=2, shuffle=True),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=5e-3),
        loss_function=loss,
        prepare_batch=PrepareBatchRWMap() if mapped else default_prepare_batch,
        decollate=False,
    )
    from ignite.engine import Events

    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.state.output["loss"].item())
    )
    trainer.run()
    set_determinism(None)
    return seen


@DATA
def test_training(axes, name, num_classes, tmp_path):
    from monai.data import CacheDataset

    import rwloss
    from rwloss.integrations.monai import LoadRWMapd, RWLoss, RWMapd
    from rwloss.precompute import precompute

    count, epochs = (6, 3) if REDUCED else (12, 12)
    data = files(name, count)
    precompute(sample_dir(name), tmp_path, "rectified", jobs=0)
    loss = RWLoss("rectified + dice", to_onehot_y=True, softmax=True)
    make = RWMapd("label", "rectified", num_classes)
    ways = {
        "made before": pipeline(axes, first=[make]),
        "stored": pipeline(axes, first=[LoadRWMapd("label", rwloss.store.open(tmp_path))]),
        "made of the patch": pipeline(axes, first=[], last=[make]),
    }
    runs = {}
    for way, transform in ways.items():
        dataset = CacheDataset(data, transform.set_random_state(1), progress=False)
        runs[way] = losses_of_a_run(dataset, axes, num_classes, loss, epochs=epochs, mapped=True)
    dataset = CacheDataset(data, pipeline(axes, first=[]).set_random_state(1), progress=False)
    runs["on the fly"] = losses_of_a_run(
        dataset, axes, num_classes, loss, epochs=epochs, mapped=False
    )
    torch.testing.assert_close(  # float16 in the store
        torch.tensor(runs["stored"]), torch.tensor(runs["made before"]), rtol=0, atol=2e-2
    )
    assert runs["stored"][0] == pytest.approx(runs["made before"][0], abs=1e-3)
    torch.testing.assert_close(
        torch.tensor(runs["on the fly"]), torch.tensor(runs["made of the patch"])
    )
    assert runs["on the fly"][0] != pytest.approx(runs["made before"][0], abs=1e-3)
    steps = len(runs["stored"]) // epochs
    for seen in runs.values():
        assert len(seen) == count // 2 * epochs
        assert sum(seen[-steps:]) < sum(seen[:steps])
