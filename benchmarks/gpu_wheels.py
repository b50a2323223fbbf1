"""Wheels for a GPU machine without network: `python benchmarks/gpu_wheels.py --help`.

Run it where there is a network, from the root of the checkout. It writes OUT/requirements.txt: what
`rwloss[fast,train,report]` and its tests need there and the machine does not have, in versions that
fit together; with --download the wheels too. On the GPU machine, in the same checkout:

    pip install --no-index --no-deps --find-links OUT -r OUT/requirements.txt
    pip install --no-index --no-deps --no-build-isolation -e .
    python -m benchmarks gpu
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

# torch with what it brings; and what an image for PyTorch often has besides.
THERE = ("torch", "triton", "setuptools", "typer", "rich", "einops")
EXTRAS = ("fast", "train", "report")
MORE = ("pytest>=8.3", "pytest-timeout>=2.3", "hypothesis>=6.100", "hatchling>=1.27", "editables")
"""For the tests, and to install the checkout itself."""
OF_CUDA = re.compile(r"nvidia-|cuda-|pytorch-triton")  # torch's own wheels bring these
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main(argv: list[str] | None = None) -> None:
    """Write the list, and download its wheels if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("wheels"), help="folder of the wheels")
    parser.add_argument("--python", default="3.12", help="version of Python on the GPU machine")
    parser.add_argument("--torch", default="2.11.0", help="version of torch there")
    parser.add_argument("--there", default=",".join(THERE), help="packages that it has, by comma")
    parser.add_argument("--download", action="store_true", help="download the wheels")
    given = parser.parse_args(argv)
    found = needed(resolved(given.python, given.torch), given.there.split(","))
    given.out.mkdir(parents=True, exist_ok=True)
    listed = given.out / "requirements.txt"
    listed.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
    print(f"{listed}: {len(found)} packages")
    if given.download:
        subprocess.run(download(given.out, given.python), check=True)


def resolved(python: str, torch: str) -> list[str]:
    """All requirements as `name==version`, for that Python on Linux, with that torch."""
    extras = [f"--extra={extra}" for extra in EXTRAS]
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "-", *extras]
    command += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
    command += ["--no-header", "--no-annotate", "--quiet"]
    given = "\n".join([*MORE, f"torch=={torch}"])
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"uv pip compile: {done.stderr}")
    return done.stdout.splitlines()


def needed(lines: Iterable[str], there: Iterable[str]) -> list[str]:
    """The lines of packages that are not there already, and are not CUDA's."""
    known = {normal(name) for name in there}
    return [
        line.strip()
        for line in lines
        if (name := normal(line.partition("==")[0])) and name not in known
        if not OF_CUDA.match(name)
    ]


def normal(name: str) -> str:
    """A package's name as indices compare it: lower case, with single dashes."""
    return re.sub(r"[-_.]+", "-", name.partition("#")[0].partition(";")[0].strip()).lower()


def download(out: Path, python: str) -> list[str]:
    """The command that downloads the wheels of the list."""
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += [f"--python-version={python}", "--implementation=cp", *platforms]
    return [*command, "--requirement", str(out / "requirements.txt"), "--dest", str(out)]


if __name__ == "__main__":
    main()
