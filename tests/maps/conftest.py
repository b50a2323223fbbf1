import pytest

from rwloss import distance


@pytest.fixture(autouse=True)
def one_thread():
    """Starting more threads takes longer than the transform of a small image."""
    distance.set_num_threads(1)
    yield
    distance.set_num_threads(None)
