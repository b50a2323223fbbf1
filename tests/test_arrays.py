import numpy as np
import pytest
import torch

from rwloss import RWLossError
from rwloss.arrays import from_numpy, is_torch, namespace, on_device, read_all, to_numpy


def test_kinds():
    array, tensor = np.zeros(3), torch.zeros(3)
    assert (is_torch(array), is_torch(tensor)) == (False, True)
    assert namespace(array).__name__ == "numpy"
    assert namespace(tensor).__name__ == "array_api_compat.torch"
    assert on_device(array) == {}
    assert on_device(tensor) == {"device": torch.device("cpu")}
    for thing in ([1, 2], (1,), 1.0, None, "labels"):
        with pytest.raises(RWLossError, match=f"got {type(thing).__name__}: convert it with numpy"):
            namespace(thing)


def test_there_and_back_shares_memory():
    tensor = torch.arange(3.0)
    array = to_numpy(tensor)
    assert array.tolist() == [0, 1, 2]
    back = from_numpy(array, tensor)
    back[0] = 7
    assert tensor[0] == 7
    assert to_numpy(array) is array
    assert from_numpy(array, np.zeros(1)) is array
    assert to_numpy(torch.ones(2, requires_grad=True)).tolist() == [1, 1]


def test_read_together():
    given = {
        "a": np.arange(6).reshape(2, 3),
        "b": np.array(True),
        "c": np.zeros((0, 2), np.float32),
    }
    tensors = {name: torch.as_tensor(array) for name, array in given.items()}
    for arrays in (given, tensors):
        found = read_all(arrays)
        assert list(found) == list(given)
        for name, array in given.items():
            assert found[name].dtype == np.float64
            np.testing.assert_array_equal(found[name], array)
