"""One of several processes that train together; what test_distributed starts."""

from __future__ import annotations

import torch

CASES = ["rectified", "boundary + dice", "rectified.with_link(0.5) + cross_entropy"]


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 1)
    )


def images_and_labels():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 1, 12, 10, generator=generator)
    return images, torch.randint(0, 3, (4, 12, 10), generator=generator)


def gradients(model, text, images, labels):
    from rwloss import RegionWiseLoss

    model.zero_grad()
    RegionWiseLoss(text)(model(images), labels).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def work(rank, processes, folder):
    """Half of the batch; the gradients that all agree on go to a file."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes
    )
    model = torch.nn.parallel.DistributedDataParallel(network())
    images, labels = images_and_labels()
    own = slice(rank * 2, rank * 2 + 2)
    found = {text: gradients(model, text, images[own], labels[own]) for text in CASES}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
