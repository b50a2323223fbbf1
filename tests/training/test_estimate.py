"""What runs are estimated to take, against what they take."""

from pathlib import Path

import pytest
import torch

from rwloss import RWLossError
from rwloss.training import prepare
from rwloss.training.estimate import bytes_per_run, seconds_per_step
from rwloss.training.network import build_network, num_parameters


def kept_by(prepared):
    """Bytes that the real network keeps of a real batch for its gradient, weights aside."""
    settings, task = prepared.settings, prepared.task
    network = build_network(settings, task)
    images = torch.randn(settings.batch_size, task.in_channels, *settings.patch_size)
    weights = {weight.data_ptr() for weight in network.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(images)
    assert output.requires_grad
    return sum(map(len, kept.values()))


@pytest.mark.parametrize("dims", [2, 3])
def test_memory_is_what_a_step_keeps_and_the_states_of_the_weights(dims, boxes, settings_of):
    prepared = prepare(settings_of(boxes, dims=dims, batch_size=3))
    found = bytes_per_run(prepared)
    weights = num_parameters(build_network(prepared.settings, prepared.task))
    voxels = 3 * prepared.task.num_classes * torch.Size(prepared.settings.patch_size).numel()
    assert found == kept_by(prepared) + 4 * 5 * weights + 4 * 10 * voxels


def test_steps_are_timed_without_a_trace(squares, settings_of):
    one = settings_of(squares)
    other = one.model_copy(update={"map": "dice", "seed": 1, "out": f"{one.out} other"})
    assert 0 < seconds_per_step([one, other]) < 60
    assert not Path(one.out).exists()
    assert not Path(other.out).exists()
    with pytest.raises(RWLossError, match="unknown map 'nothing'"):
        seconds_per_step([one, one.model_copy(update={"map": "nothing"})])
