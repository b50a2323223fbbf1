from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from rwloss.data import find, names, read_image, read_labels, sample, sample_dir
from rwloss.errors import RWLossError

Name = Literal["hippocampus", "lung_patches"]
NAMES: tuple[Name, ...] = ("hippocampus", "lung_patches")


def test_names():
    assert names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_case_is_readable(name):
    parts = ("train", "test") if name == "hippocampus" else ("train",)
    for part in parts:
        dataset = find(sample_dir(name), part=part)
        for case in dataset.cases:
            volume = read_labels(case.labels)
            image = read_image(case.images[0])
            assert image.shape == volume.labels.shape
            assert volume.labels.min() >= 0
            assert dataset.num_classes is not None
            assert volume.labels.max() < dataset.num_classes
            if name == "hippocampus":
                assert volume.spacing_mm == (1.0, 1.0, 1.0)
                assert set(np.unique(volume.labels)) == {0, 1, 2}


def test_numbers_of_cases():
    hippocampus = sample_dir("hippocampus")
    train, test = find(hippocampus), find(hippocampus, part="test")
    assert (len(train.cases), len(test.cases)) == (24, 8)
    assert not {case.name for case in train.cases} & {case.name for case in test.cases}
    lung = find(sample_dir("lung_patches"))
    assert len(lung.cases) == 24
    absent = [case for case in lung.cases if not read_labels(case.labels).labels.any()]
    assert len(absent) == 3
    for dataset in (train, lung):
        content = json.loads((dataset.root / "dataset.json").read_text())
        assert content["numTraining"] == len(dataset.cases)
        assert (dataset.root / "LICENSE-CC-BY-SA-4.0.md").is_file()


def test_checksums():
    root = sample_dir("hippocampus").parent
    lines = (root / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    files = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and path.name not in {"README.md", "SHA256SUMS"}
    }
    assert set(listed) == files
    for name, digest in listed.items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == digest, name


def test_small_enough_to_ship():
    root = sample_dir("hippocampus").parent
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 3_000_000


def test_bytes_and_choice_are_those_of_the_readme(shared_data):
    source, root = shared_data("hippocampus"), sample_dir("hippocampus")
    cases = [path.name for path in sorted((source / "labelsTr").iterdir())]
    chosen = [cases[i * (len(cases) - 1) // 31] for i in range(32)]
    for i, label in enumerate(chosen):
        part = "Ts" if i % 4 == 3 else "Tr"
        image = label.replace(".nii.gz", "_0000.nii.gz")
        for kind, name in (("labels", label), ("images", image)):
            ours, theirs = root / f"{kind}{part}" / name, source / f"{kind}Tr" / name
            assert ours.read_bytes() == theirs.read_bytes()

    source, root = shared_data("lung_patches"), sample_dir("lung_patches")
    patches: dict[str, list[Path]] = {}
    for path in sorted((source / "labelsTr").iterdir()):
        patches.setdefault(path.name.split("_")[0], []).append(path)
    patients = sorted(patches)
    expected: list[str] = []
    for patient in (patients[i * (len(patients) - 1) // 7] for i in range(8)):
        empty = [path for path in patches[patient] if not read_labels(path).labels.any()]
        full = [path for path in patches[patient] if path not in empty]
        expected += [path.name for path in [*empty[:1], *full[: 3 - len(empty[:1])]]]
    assert sorted(expected) == sorted(path.name for path in (root / "labelsTr").iterdir())
    for name in expected:
        assert (root / "labelsTr" / name).read_bytes() == (source / "labelsTr" / name).read_bytes()
        image = name.replace(".png", "_0000.png")
        assert (root / "imagesTr" / image).read_bytes() == (
            source / "imagesTr" / image
        ).read_bytes()


def test_unknown_name():
    with pytest.raises(
        RWLossError, match="expected a sample of hippocampus, lung_patches, got 'x'"
    ):
        sample_dir("x")


def test_installed_samples_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "_PACKAGE", tmp_path / "site-packages/rwloss")
    with pytest.raises(RWLossError, match="install rwloss again"):
        sample_dir("hippocampus")
    beside = tmp_path / "site-packages/samples/hippocampus"
    inside = tmp_path / "site-packages/rwloss/samples/hippocampus"
    for place in (beside, inside):
        place.mkdir(parents=True)
        (place / "dataset.json").touch()
        assert sample_dir("hippocampus") == place
