import pytest
from stored import FORMATS


@pytest.fixture(params=FORMATS)
def kind(request):
    """The format of a store."""
    return request.param
