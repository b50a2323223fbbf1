"""Arrays of a map as a tree of zarr version 3: chunks to read patches from, one shard per array."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.store.manifest import DType
from rwloss.store.precision import allowed_error, as_float32, largest_error, largest_of

DTYPES: tuple[DType, ...] = ("auto", "float16", "float32")
# Voxels of a chunk along each spatial axis, by number of axes: about a patch of training.
_CHUNK = {2: 256, 3: 64}
_BLOCK = 16


def packed(array: NDArray[Any], dtype: DType) -> tuple[NDArray[Any], float]:
    """Values as they are stored, and the largest error.

    Whole numbers are kept as they are. Floating values become float16 where that is within 3e-4 of
    each value (in proportion for a map below 1), or dtype asks for it; else float32.
    """
    if array.dtype.kind in "iu":
        return array, 0.0
    if dtype != "float32":
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        error = largest_error(half.astype(np.float32), array)
        allowed = allowed_error(largest_of(array))
        if error <= allowed or (dtype == "float16" and math.isfinite(error)):
            return half, error
    return as_float32(array)


def encode(arrays: Mapping[str, NDArray[Any]], ndim: int) -> dict[str, bytes]:
    """Files of a group with these arrays, each (*s) or (k *s) with ndim axes *s, by path."""
    import zarr
    from zarr.codecs import ZstdCodec
    from zarr.storage import MemoryStore

    content: dict[str, Any] = {}
    store = MemoryStore(store_dict=content)
    zarr.create_group(store, zarr_format=3)
    for name, array in arrays.items():
        size = array.shape[-ndim:]
        chunk = tuple(min(_CHUNK[ndim], max(length, 1)) for length in size)
        # A shard is one file. Classes are chunks of their own in it.
        shard = tuple(-(-length // step) * step for length, step in zip(size, chunk, strict=True))
        outer = array.shape[:-ndim]
        out = zarr.create_array(
            store,
            name=name,
            shape=array.shape,
            dtype=array.dtype,
            chunks=(*[1] * len(outer), *chunk),
            shards=(*outer, *shard),
            compressors=ZstdCodec(level=1, checksum=True),
            fill_value=0,
            dimension_names=[*["class"] * len(outer), *(f"axis_{i}" for i in range(ndim))],
            zarr_format=3,
            # Every shard is written, so that a lost one is not read as zeros.
            config={"write_empty_chunks": True},
        )
        out[...] = _in_rows(array)
    return {path: buffer.to_bytes() for path, buffer in content.items()}


def _in_rows(array: NDArray[Any]) -> NDArray[Any]:
    """The array with its last axis fastest, as zarr's chunks are.

    Volumes come with the first axis fastest, and turning one as a whole misses the caches: in
    blocks it takes a third of the time.
    """
    if array.flags.c_contiguous or array.ndim < 2:
        return array
    rows = np.empty(array.shape, array.dtype)
    for first in range(0, array.shape[0], _BLOCK):
        for last in range(0, array.shape[-1], _BLOCK):
            block = (slice(first, first + _BLOCK), ..., slice(last, last + _BLOCK))
            rows[block] = array[block]
    return rows


def decode(
    store: Any, where: str, name: str, shape: tuple[int, ...], cut: tuple[slice, ...] = ()
) -> NDArray[Any]:
    """One array of a tree, (*s) or (k *s), or the part that `cut` leaves: one slice per axis of *s.

    where: for messages. shape: of the whole array, as the manifest says. Raises RWLossError.
    """
    import zarr

    try:
        array = zarr.open_array(_complete()(store), path=name, mode="r", zarr_format=3)
        if array.shape != shape:
            raise ValueError(f"its shape is {array.shape}, the manifest says {shape}")
        inside: Any = (..., *cut)
        return np.asarray(array[inside])
    except Exception as error:  # zarr and its codecs raise many kinds for a damaged tree
        raise RWLossError(f"{where} can't be read: {error}; precompute it again") from error


@cache
def _complete() -> Any:
    """A zarr store in which a missing or empty file is an error, and not the fill value."""
    from zarr.storage import WrapperStore

    class Complete(WrapperStore[Any]):
        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            found = await super().get(key, prototype, byte_range)
            if found is None or not len(found):
                raise FileNotFoundError(f"{key} is {'missing' if found is None else 'empty'}")
            return found

    return Complete
