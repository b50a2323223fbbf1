"""Triton's compiler accepts every kernel, for GPUs that are not there: nothing is launched."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton"),
]

CODE = """
import json, torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

class NoDevice:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)
    def get_current_device(self):
        return 0
    def get_current_stream(self, device):
        return 0

run, compiled = JITFunction.run, []

def compile(kernel, *args, **keywords):
    made = run(kernel, *args, **{**keywords, "warmup": True})
    compiled.append([kernel.__name__, len(made.asm["ptx"]), made.metadata.shared])

JITFunction.run = compile
driver.set_active(NoDevice())

from rwloss.distance import triton_engine
from rwloss.losses import triton_kernel
from rwloss.distance import triton_classes
from rwloss.training import triton_columns

size, spacings, table = (9, 20, 33), [(1.0, 2.0, 3.0)] * 2, torch.zeros(2, 5)
part, labels = torch.zeros(2, *size), torch.zeros(2, *size, dtype=torch.uint8)
triton_engine.squared_to_other_label_mm2(labels, spacings)
triton_engine.distance_mm(labels[:, :1, :1], spacings, [1.0, 2.0])
triton_engine.signed_distances_mm(labels, 5, spacings)
triton_engine.signed_distances_mm(labels[:, 0], 5, [(1.0, 2.0)] * 2)
triton_engine.signed_distances_mm(labels, 5, spacings, [1.0, 2.0])
triton_classes.in_range(labels, 0, 5)
triton_classes.counts(labels, 5)
triton_classes.maxima(part, labels, 5)
triton_classes.look_up(table, labels)
triton_classes.divided(part, table, labels, False)
triton_classes.divided(part, table, labels, True)
logits, one = torch.zeros(2, 5, *size, dtype=torch.bfloat16), part[:1, :1, :1, :1].expand_as(part)
for parts, counts in (([part, one], part), ([torch.zeros(2, 5, *size)], None)):
    for others, overlap, tables in ((labels.long(), True, [table, table]), (None, False, [])):
        triton_kernel.sums(logits, labels, counts, parts, others, overlap, overlap, 2, 7.0)
        triton_kernel.gradients(logits, labels, counts, parts, table[:, 0], 7.0, tables)
triton_kernel.sums(logits, labels, None, [], None, False, True, 2, 1.0)
triton_kernel.gradients(logits, labels, None, [], None, 1.0, [table, table])
columns = triton_columns.gathered(torch.zeros(2, 2, 3, 9, 7), (3, 3), (2, 2), (1, 1), (5, 4))
triton_columns.scattered(columns, 2, (3, 3), (2, 2), (1, 1), (5, 4), (9, 7))
print(json.dumps(compiled))
"""


def kernels() -> set[str]:
    """Names of the kernels that are launched: those that no other calls."""
    text = "".join(path.read_text() for path in (ROOT / "rwloss").rglob("*triton*.py"))
    names = re.findall(r"^@triton\.jit(?:\(.*\))?\ndef ([a-z]\w*)", text, re.M)
    return {name for name in names if len(re.findall(rf"\b{name}\(", text)) == 1}


def test_every_kernel_compiles(tmp_path: Path) -> None:
    """For an H100, through its own launch, without a warning, and with little shared memory."""
    places = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", CODE],
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    compiled = json.loads(done.stdout.splitlines()[-1])
    assert {name for name, _, _ in compiled} == kernels()
    assert all(size > 1000 and shared <= 48 * 1024 for _, size, shared in compiled)
