import numpy as np
import pytest
import torch

from rwloss import RWLossError
from rwloss.arrays import from_numpy, is_torch, namespace, on_device, to_numpy


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
