"""Files of a store that are damaged, or announce more than the manifest."""

import gzip
import tracemalloc
from contextlib import contextmanager

import nibabel
import numpy as np
import pytest
from encoded import RNG, decoded, in_memory, random

from rwloss.errors import RWLossError
from rwloss.store import encoding
from rwloss.store.encoding import (
    decode_zarr,
    encode_nifti,
    encode_zarr,
)

SMALL = random((9, 8, 7)).astype(np.float16)


@pytest.mark.parametrize("library", ["isal", "zlib"])
def test_no_flipped_byte_of_nifti_gives_other_values(library, monkeypatch):
    if library == "zlib":
        monkeypatch.setattr(encoding, "_gzip", lambda: gzip)
    content, _ = encode_nifti(random((5, 4, 3)), None, (1.0,) * 3, "auto")
    whole = decoded(content, (5, 4, 3))
    refused = 0
    for at in range(len(content)):
        damaged = content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]
        try:
            found = decoded(damaged, (5, 4, 3))
        except RWLossError:
            refused += 1
        else:  # the header of gzip has bytes that mean nothing
            np.testing.assert_array_equal(found, whole)
    assert refused >= len(content) - 10


@pytest.mark.filterwarnings("ignore")  # of zarr, on metadata that it does not know
def test_no_flipped_byte_of_zarr_gives_other_values():
    files, _ = encode_zarr({"true": SMALL}, 3, "float16")
    for name in ("true/c/0/0/0", "true/zarr.json"):
        refused = 0
        for at in range(0, len(files[name]), 11):
            damaged = bytearray(files[name])
            damaged[at] ^= 1
            store = in_memory(files | {name: bytes(damaged)})
            try:
                found = decode_zarr(store, "here", "true", SMALL.shape, 3)
            except RWLossError:
                refused += 1
            else:
                np.testing.assert_array_equal(found, SMALL)
        assert refused > 0.15 * len(files[name]) / 11, name


def test_what_is_no_nifti_file_of_the_map_is_named():
    content, _ = encode_nifti(RNG.uniform(-1, 1, (9, 9, 9)), None, (1.0,) * 3, "auto")
    cut = [content[: int(share * len(content))] for share in (0.0, 0.1, 0.5, 0.99)]
    for wrong in (*cut, content[:-1], gzip.compress(b"a thesis"), b"a thesis"):
        with pytest.raises(RWLossError, match=r"f can't be read: .*precompute it again"):
            decoded(wrong, (9, 9, 9))
    with pytest.raises(RWLossError, match=r"it has shape \(9, 9, 9\), the manifest says \(9, 9, 8"):
        decoded(content, (9, 9, 8))


@pytest.mark.parametrize("values", [SMALL, np.zeros_like(SMALL)], ids=["random", "zeros"])
def test_a_lost_file_of_zarr_is_not_zeros(values):
    whole, _ = encode_zarr({"true": values}, 3, "float16")
    for name in ("true/c/0/0/0", "true/zarr.json"):
        for new in (None, b"", whole[name][: len(whole[name]) // 2]):
            files = {**whole, name: new} if new is not None else dict(whole)
            if new is None:
                del files[name]
            with pytest.raises(RWLossError, match=r"here can't be read: .*; precompute it again"):
                decode_zarr(in_memory(files), "here", "true", SMALL.shape, 3)
    with pytest.raises(RWLossError, match=r"it has shape \(9, 8, 7\), the manifest says \(9, 8, 8"):
        decode_zarr(in_memory(whole), "here", "true", (9, 8, 8), 3)


def test_values_that_are_no_numbers_are_named():
    values = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for wrong in (values, np.zeros((4, 5, 6), np.complex64)):
        content = gzip.compress(nibabel.Nifti1Image(wrong, np.eye(4)).to_bytes())
        with pytest.raises(RWLossError, match="f can't be read: it holds values of type"):
            decoded(content)
    files, _ = encode_zarr({"true": np.zeros((4, 5, 6), np.float16)}, 3, "float16")
    described = files["true/zarr.json"].replace(b"float16", b"bool").replace(b": 0.0", b": false")
    with pytest.raises(RWLossError, match="here can't be read"):
        decode_zarr(in_memory(files | {"true/zarr.json": described}), "here", "true", (4, 5, 6), 3)


# --- Files that announce more than the manifest


@contextmanager
def little_memory():
    """The block takes less than 4 MiB at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


LARGE = bytes(2**26)


@pytest.mark.parametrize("library", ["isal", "zlib"])
def test_a_nifti_file_is_not_inflated_beyond_its_map(library, monkeypatch):
    if library == "zlib":
        monkeypatch.setattr(encoding, "_gzip", lambda: gzip)
    content, _ = encode_nifti(SMALL, None, (1.0,) * 3, "auto")
    more = gzip.compress(gzip.decompress(content) + LARGE, 1)
    header = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None).header
    header.set_data_shape((30000, 30000, 30000))
    announced = gzip.compress(header.binaryblock + bytes(8))
    for wrong, message in ((more, "more than the 504 voxels"), (announced, "has shape (30000, 3")):
        with pytest.raises(RWLossError) as caught, little_memory():
            decoded(wrong, SMALL.shape)
        assert message in str(caught.value)


def crc32c(content):
    """zarr's own package for this differs from version to version."""
    found = 0xFFFFFFFF
    for byte in content:
        found ^= byte
        for _ in range(8):
            found = found >> 1 ^ (0x82F63B78 if found & 1 else 0)
    return found ^ 0xFFFFFFFF


def test_a_zarr_tree_is_not_inflated_beyond_its_map():
    from numcodecs.zstd import compress

    files, _ = encode_zarr({"true": SMALL}, 3, "float16")
    frames = {
        "a chunk holds more": compress(LARGE),
        "a chunk is not zstd": b"\x50\x2a\x4d\x18\x00\x00\x00\x00" + compress(LARGE),
        "a chunk does not give its size": b"\x28\xb5\x2f\xfd\x00\x58" + compress(LARGE)[6:],
    }
    for message, frame in frames.items():
        index = np.array([0, len(frame)], "<u8").tobytes()
        checksum = np.array([crc32c(index)], "<u4").tobytes()
        store = in_memory(files | {"true/c/0/0/0": frame + index + checksum})
        for cut in ((), np.s_[0:2, 0:2, 0:2]):
            with pytest.raises(RWLossError, match=message), little_memory():
                decode_zarr(store, "here", "true", SMALL.shape, 3, cut)
    for old, new in [(b"          9,", b"          3,"), (b"zstd", b"gzip")]:
        described = files["true/zarr.json"].replace(old, new)
        assert described != files["true/zarr.json"]
        store = in_memory(files | {"true/zarr.json": described})
        with pytest.raises(RWLossError, match="here can't be read"):
            decode_zarr(store, "here", "true", SMALL.shape, 3)
