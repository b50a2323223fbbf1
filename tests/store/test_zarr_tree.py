"""Arrays as a tree of zarr: what zarr alone makes of it, patches, and damage."""

from collections import Counter

import numpy as np
import pytest

zarr = pytest.importorskip("zarr")

from zarr.storage import LocalStore, MemoryStore, WrapperStore  # noqa: E402

from rwloss.errors import RWLossError  # noqa: E402
from rwloss.store import zarr_tree  # noqa: E402
from rwloss.store.precision import allowed_error  # noqa: E402

RNG = np.random.default_rng(11)


def random(shape, scale=1.0, dtype=np.float32):
    values = (RNG.uniform(-1, 1, shape) * scale).astype(dtype)
    values.flat[[0, 1, 2]] = 0.0, -scale, scale
    return values


def in_memory(files):
    """The files as a store of zarr."""
    from zarr.core.buffer import default_buffer_prototype

    buffer = default_buffer_prototype().buffer
    content = {name: buffer.from_bytes(content) for name, content in files.items()}
    return MemoryStore(content, read_only=True)


class Counting(WrapperStore):
    """Counts the bytes that are read of each file."""

    def __init__(self, store):
        super().__init__(store)
        self.read = Counter()

    async def get(self, key, prototype, byte_range=None):
        found = await super().get(key, prototype, byte_range)
        self.read[key] += 0 if found is None else len(found)
        return found


# --- Precision


@pytest.mark.parametrize("scale", [0.1, 0.5, 0.99, 1.0])
def test_values_up_to_one_as_float16(scale):
    values = random((5, 6, 7), scale)
    packed, error = zarr_tree.packed(values, "auto")
    assert packed.dtype == np.float16
    assert np.abs(packed.astype(float) - values).max() == pytest.approx(error, rel=1e-6)
    assert error <= allowed_error(scale)
    assert packed.flat[0] == 0
    assert np.all(packed.astype(float) * values >= 0)


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e-6, 1.7, 300.0, 1e6])
def test_what_float16_can_not_hold_goes_to_float32(scale):
    """Below 6e-8 float16 is 0, and near it a step is a large part of the value."""
    values = random((5, 6, 7), scale)
    packed, error = zarr_tree.packed(values, "auto")
    assert packed.dtype == np.float32
    assert error == 0.0
    np.testing.assert_array_equal(packed, values)


@pytest.mark.parametrize("dtype", zarr_tree.DTYPES)
def test_values_that_float16_holds_exactly(dtype):
    values = np.array([[0.0, -1024.0, 0.25]], np.float32)
    packed, error = zarr_tree.packed(values, dtype)
    assert packed.dtype == (np.float32 if dtype == "float32" else np.float16)
    assert error == 0.0
    np.testing.assert_array_equal(packed, values)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
def test_float16_where_it_is_asked_for(scale):
    values = random((5, 6, 7), scale)
    packed, error = zarr_tree.packed(values, "float16")
    assert packed.dtype == np.float16
    assert np.abs(packed.astype(float) - values).max() == pytest.approx(error, rel=1e-6)


def test_float16_that_would_overflow_is_float32():
    assert zarr_tree.packed(random((3, 4), 1e5), "float16")[0].dtype == np.float32


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_float64_values_state_the_whole_error(dtype):
    values = random((5, 6, 7), 300.0, np.float64)
    packed, error = zarr_tree.packed(values, dtype)
    assert packed.dtype == np.float32
    assert np.abs(packed - values).max() == error > 0


def test_zeros_and_whole_numbers():
    zeros, error = zarr_tree.packed(np.zeros((2, 3), np.float32), "auto")
    assert zeros.dtype == np.float16
    assert error == 0.0
    labels = np.array([[-1, 300]], np.int16)
    assert zarr_tree.packed(labels, "auto") == (labels, 0.0)


# --- What zarr alone sees


@pytest.mark.parametrize("shape", [(5, 6), (300, 270), (4, 5, 6), (70, 64, 129)])
@pytest.mark.parametrize("classes", [(), (3,)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8, np.int16])
def test_zarr_reads_what_was_given(shape, classes, dtype):
    values = (random((*classes, *shape)) * 100).astype(dtype)
    files = zarr_tree.encode({"values": values}, len(shape))
    array = zarr.open_array(in_memory(files), path="values", mode="r")
    assert array.metadata.zarr_format == 3
    assert array.dtype == dtype
    np.testing.assert_array_equal(array[...], values)
    step = {2: 256, 3: 64}[len(shape)]
    assert array.chunks == (*[1] * len(classes), *(min(step, length) for length in shape))
    assert array.shards[: len(classes)] == classes
    axes = [f"axis_{i}" for i in range(len(shape))]
    assert list(array.metadata.dimension_names) == ["class"] * len(classes) + axes
    # One file of values, whatever the size: object stores charge by the file.
    assert sum("/c/" in name for name in files) == 1


def test_a_tree_is_a_group_of_its_arrays():
    arrays = {"labels": np.ones((4, 5), np.uint8), "true": random((4, 5))}
    group = zarr.open_group(in_memory(zarr_tree.encode(arrays, 2)), mode="r")
    assert set(group.array_keys()) == {"labels", "true"}


def test_same_values_same_bytes():
    arrays = {"labels": np.ones((70, 66, 5), np.uint8), "true": random((70, 66, 5))}
    assert zarr_tree.encode(arrays, 3) == zarr_tree.encode(dict(reversed(arrays.items())), 3)


# --- Patches


@pytest.fixture(scope="module")
def volume():
    """Noise, so that every chunk has its full size, with its files."""
    values = RNG.uniform(-1, 1, (130, 129, 140)).astype(np.float16)
    return values, zarr_tree.encode({"true": values}, 3)


@pytest.mark.parametrize(
    "cut",
    [
        np.s_[0:8, 0:8, 0:8],
        np.s_[60:70, 60:70, 60:70],
        np.s_[128:130, 128:129, 128:140],
        np.s_[0:130, 64:65, 0:1],
        np.s_[0:130, 0:129, 0:140],
    ],
    ids=str,
)
def test_a_patch_is_what_slicing_the_whole_gives(volume, cut):
    values, files = volume
    found = zarr_tree.decode(in_memory(files), "here", "true", values.shape, cut)
    np.testing.assert_array_equal(found, values[cut])


def test_a_patch_reads_its_chunks_alone(volume):
    values, files = volume
    store = Counting(in_memory(files))
    zarr_tree.decode(store, "here", "true", values.shape, np.s_[3:30, 5:60, 0:64])
    one_chunk = 64**3 * 2
    read = store.read["true/c/0/0/0"]
    assert 0.5 * one_chunk < read < 1.05 * one_chunk < 0.14 * len(files["true/c/0/0/0"])


def test_a_patch_of_a_damaged_tree_needs_its_own_chunks_alone(volume, tmp_path):
    values, files = volume
    shard = files["true/c/0/0/0"]
    broken = files | {"true/c/0/0/0": b"\xff" * 100 + shard[100:]}  # of the first chunk
    for name, content in broken.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    store = LocalStore(tmp_path, read_only=True)
    there = np.s_[100:110, 100:110, 100:110]
    found = zarr_tree.decode(store, "here", "true", values.shape, there)
    np.testing.assert_array_equal(found, values[there])
    for cut in (np.s_[0:2, 0:2, 0:2], ()):
        with pytest.raises(RWLossError, match="here can't be read"):
            zarr_tree.decode(store, "here", "true", values.shape, cut)


# --- Damage


SMALL = random((9, 8, 7)).astype(np.float16)


def attempt(files):
    """The values, or None where they are refused."""
    try:
        return zarr_tree.decode(in_memory(files), "here", "true", SMALL.shape)
    except RWLossError:
        return None


@pytest.mark.parametrize("name", ["true/c/0/0/0", "true/zarr.json"])
@pytest.mark.filterwarnings("ignore")  # of zarr, on metadata that it does not know
def test_no_flipped_byte_gives_other_values(name):
    files = zarr_tree.encode({"true": SMALL}, 3)
    refused = 0
    for at in range(0, len(files[name]), 5):
        damaged = bytearray(files[name])
        damaged[at] ^= 1
        found = attempt(files | {name: bytes(damaged)})
        if found is None:
            refused += 1
        else:
            np.testing.assert_array_equal(found, SMALL)
    assert refused > 0.15 * len(files[name])


@pytest.mark.parametrize("values", [SMALL, np.zeros_like(SMALL)], ids=["random", "zeros"])
@pytest.mark.parametrize("name", ["true/c/0/0/0", "true/zarr.json"])
@pytest.mark.parametrize("what", ["missing", "empty", "cut"])
def test_a_lost_file_is_not_zeros(values, name, what):
    files = zarr_tree.encode({"true": values}, 3)
    whole = files.pop(name)
    if what != "missing":
        files[name] = whole[: len(whole) // 2] if what == "cut" else b""
    with pytest.raises(RWLossError, match=r"here can't be read: .*; precompute it again"):
        zarr_tree.decode(in_memory(files), "here", "true", SMALL.shape)


def test_another_shape_is_an_error():
    files = zarr_tree.encode({"true": SMALL}, 3)
    with pytest.raises(RWLossError, match=r"its shape is \(9, 8, 7\), the manifest says \(9, 8, 8"):
        zarr_tree.decode(in_memory(files), "here", "true", (9, 8, 8))
