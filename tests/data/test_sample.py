import hashlib
import json
from typing import Literal

import numpy as np
import pytest

from rwloss.data import find, names, read_image, read_labels, sample, sample_dir
from rwloss.errors import RWLossError

Name = Literal["hippocampus", "lung_patches"]
NAMES: tuple[Name, ...] = ("hippocampus", "lung_patches")


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
    assert names() == NAMES
    with pytest.raises(RWLossError, match=r"expected a sample of hippocampus, lung.*, got 'x'"):
        sample_dir("x")
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
        assert (dataset.root.parent / "LICENSE-CC-BY-SA-4.0.md").is_file()


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
    assert sum((root / name).stat().st_size for name in files) < 3_000_000
    for name, digest in listed.items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == digest, name


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
