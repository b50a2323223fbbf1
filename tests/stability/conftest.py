"""What tests of stability share."""

import pytest
from strategies import KINDS


@pytest.fixture(params=KINDS)
def kind(request):
    """Makes NumPy arrays or torch tensors of arrays."""
    return KINDS[request.param]
