"""Makes the phantom of this study: python make_data.py OUT [--smallest FRACTION].

OUT becomes an nnU-Net raw folder of 2-D pictures with four classes: background, and three ellipses
of known share of the picture that never touch the border or each other. Each class has its own grey
value, under smooth and white noise. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter

CASES = 150
SIZE = 64
NAMES = ("background", "large", "middle", "small")
FRACTIONS = (0.18, 0.035)  # of the picture; that of the smallest class is an argument
GREYS = (90.0, 125.0, 160.0, 195.0)
WHITE_NOISE, SMOOTH_NOISE = 18.0, 10.0


def main() -> None:
    """Write the dataset, and print what share each class really has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--smallest", type=float, default=0.012, help="share of the small class")
    given = parser.parse_args()
    write(given.out, given.smallest)
    labels = [np.asarray(Image.open(path)) for path in sorted((given.out / "labelsTr").iterdir())]
    shares = np.bincount(np.ravel(labels), minlength=len(NAMES)) / np.size(labels)
    print(", ".join(f"{name} {share:.2%}" for name, share in zip(NAMES, shares, strict=True)))


def write(folder: Path, smallest: float, cases: int = CASES) -> None:
    """The dataset in a new folder. smallest: share of the picture of the small class."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in range(cases):
        rng = np.random.default_rng([case, round(smallest * 1e6)])
        labels = draw(rng, (*FRACTIONS, smallest))
        grey = np.take(GREYS, labels) + WHITE_NOISE * rng.standard_normal(labels.shape)
        smooth = gaussian_filter(rng.standard_normal(labels.shape), SIZE / 8)
        grey += SMOOTH_NOISE * smooth / smooth.std()
        image = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "imagesTr" / f"phantom_{case:03}_0000.png")
        Image.fromarray(labels).save(folder / "labelsTr" / f"phantom_{case:03}.png")
    content = {
        "channel_names": {"0": "grey"},
        "labels": {name: label for label, name in enumerate(NAMES)},
        "numTraining": cases,
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def draw(rng: np.random.Generator, fractions: tuple[float, ...]) -> NDArray[np.uint8]:
    """Ellipses of these shares at random places, the largest first. (SIZE SIZE)."""
    while True:
        labels = np.zeros((SIZE, SIZE), dtype=np.uint8)
        for label, fraction in enumerate(fractions, 1):
            for _ in range(200):
                found = ellipse(rng, fraction)
                if (
                    found is not None
                    and not (binary_dilation(found, iterations=2) & (labels > 0)).any()
                ):
                    labels[found] = label
                    break
            else:
                break  # no room was found: another picture
        else:
            return labels


def ellipse(rng: np.random.Generator, fraction: float) -> NDArray[np.bool_] | None:
    """A turned ellipse of about this share of the picture; None where it would meet the border."""
    stretch = rng.uniform(1.0, 1.8)
    radius = np.sqrt(fraction * SIZE**2 / np.pi) * rng.uniform(0.9, 1.1)
    long, short = radius * np.sqrt(stretch), radius / np.sqrt(stretch)
    if 2 * long + 4 > SIZE:
        return None
    centre = rng.uniform(long + 2, SIZE - long - 2, size=2)
    angle = rng.uniform(0, np.pi)
    rows, columns = np.mgrid[:SIZE, :SIZE] - centre[:, None, None]
    along = rows * np.cos(angle) + columns * np.sin(angle)
    across = columns * np.cos(angle) - rows * np.sin(angle)
    found: NDArray[np.bool_] = (along / long) ** 2 + (across / short) ** 2 <= 1
    return found if found.any() else None


if __name__ == "__main__":
    main()
