"""The loss and the maps need torch, the array libraries and einops alone."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("torch", "numpy", "scipy", "einops", "array-api-compat")

# What the command line names can't be imported.
TRAINING = """
import json, sys
sys.modules |= dict.fromkeys(json.loads(sys.argv[1]))
import rwloss, torch
from rwloss import maps, moves, stability

labels = torch.zeros(2, 12, 12, dtype=torch.long)
labels[:, 3:9, 3:8], labels[1, 5:7, 5:7] = 1, 2
for name in maps.names():
    if name in {"skeleton_recall", "geodesic_smoothing"}:  # rwloss[skeleton]
        continue
    logits = torch.zeros(2, 3, 12, 12, requires_grad=True)
    image = torch.rand(2, 1, 12, 12) if maps.parse(name).uses_image else None
    rwloss.RegionWiseLoss(name, spacing_mm=(1.0, 2.0))(logits, labels, image=image).backward()
    assert logits.grad.isfinite().all(), name
regions = rwloss.Regions(labels.numpy(), 3, (1.0, 2.0))
stability.check(moves.flip(maps.parse("0.01 * boundary + rectified")(regions), -1))
"""


def with_what_they_need(names: tuple[str, ...]) -> Iterator[str]:
    """Distributions with everything that they bring along in this environment."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        yield name
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        for each in map(Requirement, lines):
            if each.marker is None or each.marker.evaluate({"extra": ""}):
                waiting.append(each.name)


def test_the_loss_and_the_maps_need_five_packages() -> None:
    allowed = set(with_what_they_need(NEEDED)) | {"rwloss"}
    hidden = {
        module
        for module, of in packages_distributions().items()
        if not allowed & {canonicalize_name(each) for each in of}
    }
    assert {"typer", "pydantic", "nibabel", "PIL", "tomli_w", "monai", "rich"} <= hidden
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, json.dumps(sorted(hidden))],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
