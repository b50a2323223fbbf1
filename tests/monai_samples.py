"""Samples of MONAI's pipelines, with an image, a label and its map."""

from dataclasses import replace

import pytest
import torch
from anatomy import batch

from rwloss import Regions, maps

pytest.importorskip("monai", reason="MONAI is not installed")

from monai import transforms as mt
from monai.data import MetaTensor

from rwloss.integrations.monai import RWMapd
from rwloss.integrations.monai.map_tensor import unpack

KEYS = ["image", "label", "map", "reference"]
FLAGS, SIGMOID = {"softmax": True, "to_onehot_y": True}, {"sigmoid": True}
SPACING_MM = {2: (0.8, 2.5), 3: (1.0, 0.7, 2.5)}


def sample(axes=3, text="rectified", num_classes=4):
    """Image, label and map, and the dense map as a tensor that moves beside them."""
    shape = (14, 12, 10)[:axes]
    labels = torch.as_tensor(batch(51, shape, num_classes, 1)).float()
    spacing_mm = SPACING_MM[axes]
    label = MetaTensor(labels, affine=torch.diag(torch.tensor([*spacing_mm, 1.0])))
    made = RWMapd("label", text, num_classes)({"label": label, "image": label + 0.5})
    dense = maps.parse(text)(Regions(labels, num_classes, spacing_mm)).dense()[0]
    return {**made, "reference": MetaTensor(dense, affine=label.affine)}


def dense_of(packed):
    """Values (k *s) of a map that was moved."""
    rwmap = unpack(packed[None])
    return replace(rwmap, labels=rwmap.labels.long()).dense()[0]


def seeded(transform, seed):
    """A pipeline of it; one that is lazy as it is: within another it would not be."""
    pipeline = transform if isinstance(transform, mt.Compose) else mt.Compose([transform])
    return pipeline.set_random_state(seed)
