"""Folders of label and image files, most of them empty, for tests that look for cases."""

import json

import numpy as np
from PIL import Image

LABELS = {"background": 0, "liver": 1, "tumour": 2}


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def nnunet(root, names=("b", "a"), channels=1, **json_):
    """An nnU-Net raw folder with empty files."""
    content = {
        "labels": LABELS,
        "channel_names": {str(i): "MRI" for i in range(channels)},
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }
    content.update(json_)
    (root / "labelsTr").mkdir(parents=True)
    (root / "dataset.json").write_text(
        json.dumps({key: value for key, value in content.items() if value is not None})
    )
    for name in names:
        touch(root / f"labelsTr/{name}.nii.gz")
        touch(*(root / f"imagesTr/{name}_{i:04}.nii.gz" for i in range(channels)))
    return root


def save(path, values, dtype=np.uint8):
    array = np.asarray(values, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array) if path.suffix == ".npy" else Image.fromarray(array).save(path)
    return path


def explicit(root, label, *images, name="a"):
    return nnunet(root, (), dataset={name: {"label": label, "images": images}})
