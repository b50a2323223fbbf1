import gzip
import itertools
import struct
import sys
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from nibabel.nifti2 import Nifti2Image
from PIL import Image
from written_files import (
    SPACING,
    huge,
    patch,
    png_bytes,
    save_nifti,
    some_labels,
    tiff_bytes,
    write,
)

from rwloss.data import case_name, read_image, read_labels
from rwloss.errors import RWLossError

NAN, INF = float("nan"), float("inf")


@pytest.fixture(params=["isal", "gzip"])
def inflater(request, monkeypatch):
    """Reads .nii.gz with either library."""
    if request.param == "gzip":
        monkeypatch.setitem(sys.modules, "isal", None)
        monkeypatch.setitem(sys.modules, "isal.igzip", None)
    else:
        pytest.importorskip("isal")
    return str(request.param)


@contextmanager
def at_most(memory):
    """The block takes no more memory at any time, in bytes."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < memory


# Formats x dtypes x dimensions


@pytest.mark.parametrize("kind", [Nifti1Image, Nifti2Image])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6)])
def test_nifti(tmp_path, kind, shape):
    suffixes = itertools.cycle([".nii", ".nii.gz", ".NII.GZ"])
    for dtype in ("u1", "i1", "u2", "i2", "i4", "u4", "i8", "f4", "f8") * 2:
        labels, path = some_labels(shape, dtype), tmp_path / f"{dtype}{next(suffixes)}"
        volume = read_labels(save_nifti(path, labels, kind=kind))
        np.testing.assert_array_equal(volume.labels, labels, path.name)
        assert volume.labels.dtype == ("u1" if dtype[0] == "f" else dtype)
        assert volume.labels.flags.writeable
        assert volume.spacing_mm == SPACING[: len(shape)]
        assert volume.affine is not None
        np.testing.assert_allclose(volume.affine, np.diag([*SPACING, 1.0]), rtol=1e-6)
        image = read_image(path)
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, labels)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6)])
def test_numpy(tmp_path, suffix, shape):
    path, spacing = tmp_path / f"case{suffix}", SPACING[: len(shape)]
    dtypes = ("?", "u1", "i1", "<u2", ">u2", ">i4", "i8", "u8", "f2", ">f8")
    for dtype, order in itertools.product(dtypes, "CF"):
        labels = np.asarray(some_labels(shape, dtype), order=order)
        np.save(path, labels) if suffix == ".npy" else np.savez_compressed(path, labels)
        volume = read_labels(path, spacing_mm=spacing)
        np.testing.assert_array_equal(volume.labels, labels, f"{dtype} {order}")
        assert volume.labels.dtype.isnative
        assert volume.labels.dtype.kind in "iu"
        assert (volume.spacing_mm, volume.affine) == (spacing, None)
    assert read_labels(path).spacing_mm is None


def test_pictures(tmp_path):
    for suffix, dtype in itertools.product([".png", ".tif", ".tiff"], ["?", "u1", "u2"]):
        labels = some_labels((7, 5), dtype)
        if dtype == "u2":
            labels[0, 0] = 40_000
        path = tmp_path / f"{dtype == '?'}{suffix}"
        Image.fromarray(labels).save(path)
        volume = read_labels(path)
        np.testing.assert_array_equal(volume.labels, labels, f"{suffix} {dtype}")
        assert volume.spacing_mm is None
        np.testing.assert_array_equal(read_image(path), labels)


def test_tiff_gives_the_stored_numbers(tmp_path):
    numbers = {"<u1": 250, "<i1": -1, "<u2": 60_000, ">u2": 60_000, "<i2": -7, ">i2": -7}
    numbers |= {"<i4": -7, "<u4": 3_000_000_000, "<f4": 9.0, ">f4": 9.0}
    for dtype, value in numbers.items():
        labels = np.array([[0, 1, 2], [3, 4, value]]).astype(dtype)
        (tmp_path / "case.tif").write_bytes(tiff_bytes(labels))
        found = read_labels(tmp_path / "case.tif").labels
        np.testing.assert_array_equal(found, labels, dtype)
        assert found.dtype.isnative


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
def test_tiff_pages_are_a_stack(tmp_path, compression):
    labels = some_labels((4, 6, 5))
    pages = [Image.fromarray(page) for page in labels]
    path = tmp_path / "case.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:], compression=compression)
    np.testing.assert_array_equal(read_labels(path).labels, labels)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_palette_gives_indices(tmp_path, suffix):
    labels = some_labels((6, 5))
    picture = Image.fromarray(labels, mode="L").convert("P")
    picture.putdata(labels.ravel().tolist())
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / f"case{suffix}")
    np.testing.assert_array_equal(read_labels(tmp_path / f"case{suffix}").labels, labels)
    with pytest.raises(RWLossError, match="indices of a palette"):
        read_image(tmp_path / f"case{suffix}")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits_is_not_stretched(tmp_path, bits):
    labels = np.arange(15).reshape(3, 5) % 2**bits
    (tmp_path / "case.png").write_bytes(png_bytes(labels, bits))
    np.testing.assert_array_equal(read_labels(tmp_path / "case.png").labels, labels)


# Values


def test_whole_floats_take_the_smallest_type(tmp_path):
    types = {(2, 0): "u1", (255, 0): "u1", (256, 0): "u2", (2, -1): "i1", (200, -1): "i2"}
    for pair, dtype in (types | {(2**40, 0): "u8"}).items():
        np.save(tmp_path / "case.npy", np.array([pair], np.float64))
        labels = read_labels(tmp_path / "case.npy").labels
        assert labels.dtype == dtype
        assert labels.tolist() == [[*pair]]


INTERESTING = [
    *(-(2.0**63), -(2.0**31) - 1, -129.0, -128.0, -1.0, -0.25, -1e-9, -0.0, 0.0, 1e-9, 0.5, 1.0),
    *(127.0, 128.0, 254.75, 255.0, 256.0, 65535.0, 65536.0, 2.0**31, 2.0**53, 2.0**63, np.nan),
    *(np.inf, -np.inf),
]


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8", "longdouble"])
def test_floats_against_a_plain_loop(tmp_path, dtype):
    with np.errstate(over="ignore"):
        pairs = np.array(list(itertools.product(INTERESTING, [0.0, -1.0, 255.0]))).astype(dtype)
    for first, second in pairs:
        np.save(tmp_path / "case.npy", np.asfortranarray([[first], [second]], dtype))
        values = [float(first), float(second)]
        if all((abs(v) < 2**63 and v == int(v)) or v == -(2**63) for v in values):
            labels = read_labels(tmp_path / "case.npy").labels
            assert labels.ravel().tolist() == values
            limits = {t: np.iinfo(t) for t in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")}
            assert labels.dtype == next(
                t for t, i in limits.items() if i.min <= min(values) and max(values) <= i.max
            )
        else:
            with pytest.raises(RWLossError, match=r"expected (numbers|whole numbers|labels), got"):
                read_labels(tmp_path / "case.npy")


def test_tiff_of_very_many_pages(tmp_path, monkeypatch):
    monkeypatch.setattr("rwloss.data.readers.picture._MAX_PAGES", 2)
    page = Image.new("L", (4, 4))
    for count in (2, 3):
        page.save(tmp_path / f"{count}.tif", save_all=True, append_images=[page] * (count - 1))
    assert read_labels(tmp_path / "2.tif").labels.shape == (2, 4, 4)
    with pytest.raises(RWLossError, match="more than 2 pages"):
        read_labels(tmp_path / "3.tif")


def test_tiff_pages_in_a_circle(tmp_path):
    content = bytearray(tiff_bytes(some_labels((4, 5))))
    struct.pack_into("<I", content, 8 + 2 + 10 * 12, 8)
    (tmp_path / "case.tif").write_bytes(content)
    np.testing.assert_array_equal(read_labels(tmp_path / "case.tif").labels, some_labels((4, 5)))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "group4"])
def test_small_compressed_tiff_of_a_huge_picture(tmp_path, compression):
    path = tmp_path / "case.tif"
    Image.new("1" if compression == "group4" else "L", (500, 400)).save(
        path, compression=compression
    )
    assert read_labels(path).labels.shape == (400, 500)
    (directory,) = struct.unpack_from("<I", path.read_bytes(), 4)
    for entry in (0, 1):  # width and height
        patch(path, directory + 2 + 12 * entry + 8, "<I", 40_000)
    with at_most(50_000_000), pytest.raises(RWLossError, match=r"cut short.*compressed bytes"):
        read_labels(path)


def test_png_chunk_of_gigabytes(tmp_path):
    path = write(tmp_path / "case.png", some_labels((4, 5)))
    patch(path, path.read_bytes().index(b"IDAT") - 4, ">I", 2**31 - 1)
    with at_most(50_000_000), pytest.raises(RWLossError, match=r"case\.png': it is damaged"):
        read_labels(path)


# Damaged, missing and hostile files


@pytest.mark.parametrize("suffix", [".nii.gz", ".npz", ".png"])
def test_one_flipped_bit_never_gives_other_labels(tmp_path, suffix, inflater):
    labels = some_labels((20, 30))
    path = write(tmp_path / f"case{suffix}", labels)
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        try:
            found = read_labels(path).labels
        except RWLossError:
            continue
        np.testing.assert_array_equal(found, labels, err_msg=f"byte {at}")


def test_every_truncation_of_a_compressed_file(tmp_path, inflater):
    content = write(path := tmp_path / "case.nii.gz", some_labels((5, 4, 3))).read_bytes()
    for end in range(1, len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(RWLossError, match=r"case\.nii\.gz': it is"):
            read_labels(path)


def test_what_may_follow_a_compressed_file(tmp_path, inflater):
    labels = some_labels((9, 8, 7))
    content = write(path := tmp_path / "case.nii.gz", labels).read_bytes()
    plain = gzip.decompress(content)
    halves = gzip.compress(plain[:400]) + gzip.compress(plain[400:])
    for whole in (content, content + bytes(512), halves):  # tapes pad, and gzip may go on
        path.write_bytes(whole)
        np.testing.assert_array_equal(read_labels(path).labels, labels)
    path.write_bytes(content + b"anything else")
    with pytest.raises(RWLossError, match="BadGzipFile"):
        read_labels(path)


def test_a_bomb_behind_the_voxels(tmp_path, inflater):
    content = write(path := tmp_path / "case.nii.gz", some_labels((9, 8, 7))).read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(content) + bytes(30_000_000)))
    with at_most(5_000_000), pytest.raises(RWLossError, match="holds more than twice as many"):
        read_labels(path)


def test_isal_is_used_where_it_is_installed(tmp_path, monkeypatch):
    igzip = pytest.importorskip("isal.igzip")
    write(path := tmp_path / "case.nii.gz", some_labels((9, 8, 7))).read_bytes()

    def refuse(path):
        raise EOFError("asked isal")

    monkeypatch.setattr(igzip, "open", refuse)
    with pytest.raises(RWLossError, match="asked isal"):
        read_labels(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".png", ".tif", ".npy", ".npz"])
@pytest.mark.parametrize(
    ("lengths", "words"),
    [((30_000, 29_000, 28_000), "more than the limit"), ((30_000, 20_000, 3), "cut short")],
)
def test_huge_header_in_a_tiny_file(tmp_path, suffix, lengths, words):
    path = huge(tmp_path / f"case{suffix}", lengths)
    limit = 1000 if words.startswith("more") else 2**31
    with at_most(50_000_000), pytest.raises(RWLossError, match=words):
        read_labels(path, max_voxels=limit)


def test_large_pictures_are_no_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    labels = some_labels((12, 12))
    for name in ("case.png", "case.tif"):
        found = read_labels(write(tmp_path / name, labels)).labels
        np.testing.assert_array_equal(found, labels)


NAMES = ["two words", "it's", 'say "a"', "line\nbreak", "海馬", "a.b.nii.c", "[1]*?", "-rf"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".png", ".tif", ".npy", ".npz", ".mha"])
def test_odd_names(tmp_path, suffix):
    labels = some_labels((4, 5))
    for name in (*NAMES, "x" * 200):
        path = write(tmp_path / f"{name}{suffix}", labels)
        assert case_name(path) == name
        found = read_labels(path).labels
        np.testing.assert_array_equal(np.sort(found, None), np.sort(labels, None))
        path.write_bytes(b"")
        with pytest.raises(RWLossError) as caught:
            read_labels(path)
        assert "\n" not in str(caught.value)


def test_shared_sets_are_readable(shared_data):
    for name, top in (("hippocampus", 2), ("lung_patches", 1), ("hrf_vessels", 1)):
        for path in sorted((shared_data(name) / "labelsTr").iterdir())[:40]:
            assert read_labels(path).labels.max() <= top
    for path in sorted(shared_data("ms_lesions").glob("*/*.nii.gz"))[:4]:
        assert read_image(path).ndim == 3
