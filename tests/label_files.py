"""Folders of label files, for tests that make maps of them."""

import json
import shutil

import numpy as np
from anatomy import anatomy

import rwloss
from rwloss import data, maps

SAMPLE = data.sample_dir("hippocampus")


def some_labels(folder, count, ending=".nii.gz"):
    """The first label files of the sample, copied."""
    folder.mkdir(parents=True)
    for file in sorted((SAMPLE / "labelsTr").glob(f"*{ending}"))[:count]:
        shutil.copy(file, folder)
    return folder


def saved(folder, **cases):
    """Label files of NumPy arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, labels in cases.items():
        np.save(folder / f"{name}.npy", np.asarray(labels))
    return folder


def small(folder, count=4, num_classes=3):
    """Small images that look like anatomy, each of another size."""
    shapes = [(12 + i, 15) for i in range(count)]
    cases = {f"c{i}": anatomy(i, shape, num_classes) for i, shape in enumerate(shapes)}
    return saved(folder, **cases)


def described(folder, labels, **more):
    """A dataset.json for the label files in a folder."""
    (folder / "dataset.json").write_text(
        json.dumps({"labels": labels, "file_ending": ".npy"} | more)
    )
    return folder


def made_directly(expression, case, num_classes, spacing_mm=None):
    volume = data.read_labels(case.labels, spacing_mm=spacing_mm)
    return maps.parse(expression)(
        rwloss.Regions.single(volume.labels, num_classes, volume.spacing_mm)
    )
