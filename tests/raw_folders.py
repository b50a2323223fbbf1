"""Small nnU-Net raw folders to train on."""

import json

import nibabel
import numpy as np


def make_raw(folder, names, shape=(16, 16), *, channels=1, num_classes=3, tests=(), spacing=None):
    """An nnU-Net raw folder of bright and dark boxes in noise, as NumPy or (with spacing) NIfTI."""
    rng = np.random.default_rng(0)
    ending = ".npy" if spacing is None else ".nii.gz"

    def write(path, values):
        if spacing is None:
            np.save(f"{path}{ending}", values)
        else:
            image = nibabel.Nifti1Image(values, np.diag([*spacing, 1.0]))
            nibabel.save(image, f"{path}{ending}")

    for end, cases in (("Tr", names), ("Ts", tests)):
        for name in cases:
            labels = np.zeros(shape, np.uint8)
            for k in range(1, num_classes):
                start = [int(rng.integers(0, length - length // 3)) for length in shape]
                box = tuple(slice(s, s + -(-n // 3)) for s, n in zip(start, shape, strict=True))
                labels[box] = k
            level = np.linspace(0, 4, num_classes)[labels]
            (folder / f"labels{end}").mkdir(parents=True, exist_ok=True)
            (folder / f"images{end}").mkdir(exist_ok=True)
            write(folder / f"labels{end}" / name, labels)
            for channel in range(channels):
                image = (level + rng.normal(size=shape) * 0.3).astype(np.float32)
                write(folder / f"images{end}" / f"{name}_{channel:04d}", image)
    content = {
        "labels": {"background": 0, **{f"class {k}": k for k in range(1, num_classes)}},
        "channel_names": {str(channel): f"channel {channel}" for channel in range(channels)},
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
