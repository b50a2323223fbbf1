"""Makes datasets of the study of record: python make_data.py KIND SOURCE OUT [--labels NAME].

KIND union: an nnU-Net raw folder with all foreground classes of SOURCE as one. KIND small: a folder
of pictures at half their size, 256 of 512: of images the mean of 2 x 2 pixels, of labels the upper
left one. --labels NAME takes the training labels of another folder, such as labelsTr_noisy. The
same input gives the same arrays.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image


def main() -> None:
    """Write the dataset that the command names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=("union", "small"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--labels", default="labelsTr", help="folder of the training labels")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    if given.kind == "union":
        union(given.source, given.out)
    else:
        small(given.source, given.out, given.labels)


def union(source: Path, out: Path) -> None:
    """All foreground classes as one; images are copied."""
    shutil.copytree(source / "imagesTr", out / "imagesTr")
    (out / "labelsTr").mkdir()
    for path in sorted((source / "labelsTr").glob("*.nii.gz")):
        image = nib.Nifti1Image.from_filename(path)
        labels = (np.asarray(image.dataobj) > 0).astype(np.uint8)
        nib.Nifti1Image(labels, image.affine).to_filename(out / "labelsTr" / path.name)
    content = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    content["labels"] = {"background": 0, "union": 1}
    (out / "dataset.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def small(source: Path, out: Path, labels: str) -> None:
    """Pictures at half their size."""
    for name, read in {
        "imagesTr": source / "imagesTr",
        "imagesTs": source / "imagesTs",
        "labelsTr": source / labels,
        "labelsTs": source / "labelsTs",
    }.items():
        (out / name).mkdir()
        for path in sorted(read.glob("*.png")):
            picture = np.asarray(Image.open(path))
            rows, columns = (size // 2 for size in picture.shape[:2])
            blocks = picture[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, -1)
            half = blocks[:, 0, :, 0] if name.startswith("labels") else blocks.mean(axis=(1, 3))
            Image.fromarray(np.rint(half).astype(np.uint8).squeeze()).save(out / name / path.name)
    for name in ("dataset.json", "split.json"):
        shutil.copy(source / name, out / name)


if __name__ == "__main__":
    main()
