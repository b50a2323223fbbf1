"""What tests of MONAI and nnU-Net share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded_torch():
    torch.manual_seed(0)


@pytest.fixture
def monai_losses():
    return pytest.importorskip("monai.losses", reason="the peer is not installed")
