"""Arrays as files in memory, for tests of the store's encodings."""

import gzip

import nibabel
import numpy as np

from rwloss.store.encoding import (
    decode_nifti,
    encode_nifti,
    encode_zarr,
)

RNG = np.random.default_rng(7)

# A turn about the third axis, a shear-free tilt and an offset: exact in the file's float32.
AFFINE = np.array([[0, 2, 0, 5], [-1, 0, 0, 6.5], [0, 0, 3, -7], [0, 0, 0, 1]], dtype=float)


def random(shape, scale=1.0, dtype=np.float32):
    """Values from -scale to scale, with 0 and both ends."""
    values = (RNG.uniform(-1, 1, shape) * scale).astype(dtype)
    values.flat[[0, 1, 2]] = 0.0, -scale, scale
    return values


def nifti(array, ndim, dtype="auto", affine=None, spacing_mm=None):
    """The file as plain nibabel reads it, what we read, and the error that we state."""
    content, error = encode_nifti(array, affine, spacing_mm or (1.0,) * ndim, dtype)
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    back = decode_nifti("f", content, array.shape, has_classes=array.ndim > ndim)
    if array.dtype.kind == "f":
        back = back.astype(np.float32, copy=False)  # zeros have no factor
    return image, back, error


def decoded(content, shape=(4, 5, 6)):
    return decode_nifti("f", content, shape, has_classes=False)


def in_memory(files):
    """The files as a store of zarr."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    buffer = default_buffer_prototype().buffer
    content = {name: buffer.from_bytes(content) for name, content in files.items()}
    return MemoryStore(content, read_only=True)


def tree(array, ndim, dtype="auto"):
    """The array as plain zarr reads it, and the error that we state."""
    import zarr

    files, errors = encode_zarr({"values": array}, ndim, dtype)
    return zarr.open_array(in_memory(files), path="values", mode="r"), errors["values"]
