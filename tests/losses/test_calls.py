"""How many files a loss enters, and how often it moves between them: few enough to follow."""

import runpy
from pathlib import Path

import pytest
import torch

import rwloss
from rwloss import RegionWiseLoss

device = pytest.fixture(lambda: "cpu")
FILE = Path(__file__).parents[2] / "benchmarks" / "calls.py"


@pytest.fixture(scope="module")
def calls_between_files():
    if not FILE.is_file():
        pytest.skip("the benchmarks are in the repository only")
    return runpy.run_path(str(FILE))["calls_between_files"]


def test_forward(calls_between_files):
    loss = RegionWiseLoss("rectified + dice")
    logits, labels = torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long)
    path = calls_between_files(lambda: loss(logits, labels), rwloss)
    assert path.files <= 12
    assert path.moves <= 50


def test_construction(calls_between_files):
    path = calls_between_files(lambda: RegionWiseLoss("rectified + dice"), rwloss)
    assert path.moves <= 20
