"""Damaged files by the thousand: each read gives labels that keep their promises, or RWLossError.

The reads run in a process of their own, with little memory to spare and a watch on each file, so
that a crash or a hang is a failure that names its file. By hand, 20,000 files of seed 5:

    python tests/data/test_fuzz.py FOLDER 5 20000
"""

import contextlib
import faulthandler
import gzip
import importlib
import io
import os
import random
import struct
import subprocess
import sys
import tempfile
import traceback
import zipfile
import zlib
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwloss.data import read_channels, read_labels
from rwloss.errors import RWLossError

SUFFIXES = {".nii", ".nii.gz", ".png", ".tif", ".npy", ".npz", ".mha", ".nrrd"}
FAST, MANY = 150, 300 if os.environ.get("RWLOSS_REDUCED") else 4000
MAX_VOXELS = 10**6
SPARE_BYTES = 256 << 20
SECONDS_A_FILE = 10


@pytest.mark.parametrize("count", [FAST, pytest.param(MANY, marks=pytest.mark.slow)])
def test_damaged_files(tmp_path, count):
    pytest.importorskip("resource")
    pytest.importorskip("SimpleITK")  # writes the undamaged files
    command = [sys.executable, "-W", "error", __file__, tmp_path, str(count % 7), str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False, env=environment
    )
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert (done.returncode, kept) == (0, []), (
        f"exit code {done.returncode}; the files at fault are in {tmp_path}: {kept}\n"
        f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    assert f"read {count} files" in done.stdout


def test_the_undamaged_files_are_read(tmp_path):
    """Else the others would test the first check of each reader, and nothing behind it."""
    pytest.importorskip("SimpleITK")
    assert {suffix for suffix, _ in seeds()} == SUFFIXES
    for number, (suffix, content) in enumerate(seeds()):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        if b"IHDR\0\0\0\t\0\0\0\7\10\2" in content:
            assert len(read_channels([path])) == 3
        else:
            np.testing.assert_array_equal(np.unique(read_labels(path).labels), [0, 1])


# Whole files


@cache
def seeds():
    """Small files of each kind, all of labels 0 and 1: suffix and content."""
    flat = np.random.default_rng(3).integers(0, 2, (7, 9)).astype(np.uint8)
    deep = np.random.default_rng(4).integers(0, 2, (4, 5, 6)).astype(np.uint8)
    writers = [*nifti_writers(flat, deep), *picture_writers(flat)]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix, save in [*writers, *array_writers(flat, deep), *itk_writers(flat, deep)]:
            save(path := Path(folder) / f"seed{suffix}")
            found.append((suffix, path.read_bytes()))
    return found


def nifti_writers(flat, deep):
    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Image

    def save(path, kind, values, dtype, order, slope):
        header = kind.header_class(endianness=order)
        header.set_data_dtype(dtype)
        image = kind(values.astype(dtype), np.diag([0.8, 1.0, 2.5, 1.0]), header)
        image.header.set_slope_inter(slope, None if slope is None else 0)
        image.to_filename(path)

    kinds: list[tuple[Any, ...]] = [
        (Nifti1Image, deep, "u1", "<", None),
        (Nifti1Image, flat, "i2", "<", None),
        (Nifti1Image, deep, "f4", ">", None),
        (Nifti1Image, deep * 2, "i2", "<", 0.5),
        (Nifti2Image, deep, "i2", ">", None),
        (Nifti2Image, flat, "f8", "<", None),
    ]
    return [
        (suffix, lambda path, kind=kind: save(path, *kind))
        for kind in kinds
        for suffix in (".nii", ".nii.gz")
    ]


def picture_writers(flat):
    from PIL import Image

    grey = Image.fromarray(flat)
    palette = Image.fromarray(flat).convert("P")
    palette.putdata(flat.ravel().tolist())
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    stack = {"save_all": True, "append_images": [grey] * 2}
    ome = '<OME><Image><Pixels SizeZ="1" PhysicalSizeX="2" PhysicalSizeY="1"/></Image></OME>'
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        (".png", Image.fromarray(flat.astype(bool)), {}),
        (".png", grey, {}),
        (".png", Image.fromarray(flat.astype(np.uint16)), {}),
        (".png", palette, {}),
        (".png", palette, {"bits": 2}),
        (".png", grey.convert("RGB"), {}),
        (".tif", grey, {}),
        (".tif", Image.fromarray(flat.astype(np.int32)), {}),
        (".tif", Image.fromarray(flat.astype(np.float32)), {"compression": "tiff_lzw"}),
        (".tif", Image.fromarray(flat.astype(bool)), {"compression": "group4"}),
        (".tif", grey, {"compression": "packbits", **stack}),
        (".tif", grey, {"compression": "tiff_deflate", "big_tiff": True}),
        (".tif", grey, {"tiffinfo": {270: "ImageJ=1.5\nunit=um\nslices=1", 282: 2.0, 283: 2.0}}),
        (".tif", grey, {"tiffinfo": {270: ome}}),
        (".tif", grey, {"tiffinfo": {270: '{"shape": [7, 9], "axes": "YX"}'}}),
    ]
    return [(suffix, partial(image.save, **options)) for suffix, image, options in kinds]


def array_writers(flat, deep):
    for array in (flat, deep.astype(">i2"), np.asfortranarray(deep.astype("f4")), flat == 1):
        yield ".npy", partial(np.save, arr=array)
        yield ".npz", partial(np.savez, labels=array)
        yield ".npz", partial(np.savez_compressed, labels=array)


def itk_writers(flat, deep):
    sitk: Any = importlib.import_module("SimpleITK")
    arrays = (flat, deep, deep.astype(np.int16), deep.astype(np.float32))
    for suffix, array, compressed in product((".mha", ".nrrd"), arrays, (False, True)):
        image = sitk.GetImageFromArray(array)
        image.SetMetaData("note", "of any kind")
        yield (
            suffix,
            lambda path, image=image, packed=compressed: sitk.WriteImage(image, str(path), packed),
        )


# Damage


def mutation(seed, number):
    """The suffix and the bytes of one damaged file, the same on every machine."""
    rng = random.Random(f"{seed} {number}")
    suffix, content = rng.choice(seeds())
    strangers = [whole for _, whole in seeds()]
    # Half of the damage is done inside, so that it gets past compression, checksums and the first
    # look at a text.
    inside = INSIDE.get(suffix)
    damaged = content
    for _ in range(rng.choice([1, 1, 2, 4])):
        if inside and rng.random() < 0.5:
            damaged = inside(damaged, lambda part: damage(part, rng, strangers), rng)
        else:
            damaged = damage(damaged, rng, strangers)
    return suffix, damaged


def damage(content, rng, strangers):
    """Bytes after one accident."""
    if not content:
        return rng.randbytes(8)
    start = rng.randrange(len(content))
    stop = min(len(content), start + rng.choice([1, 2, 8, 40, len(content)]))
    head, part, tail = content[:start], content[start:stop], content[stop:]
    stranger = rng.choice(strangers)
    accidents: list[Callable[[], bytes]] = [
        lambda: head + bytes([content[start] ^ 1 << rng.randrange(8)]) + content[start + 1 :],
        lambda: extreme_field(content, rng),
        lambda: extreme_field(content, rng),
        lambda: extreme_field(content, rng),
        lambda: head + rng.randbytes(len(part)) + tail,
        lambda: head,
        lambda: head + part + part + tail,
        lambda: head + rng.randbytes(9) + part + tail,
        lambda: head + tail,
        lambda: head + stranger[rng.randrange(len(stranger)) :],
    ]
    return rng.choice(accidents)()


# NIfTI-1's dim, datatype, pixdim, vox_offset, scaling, units, form codes, quaternion, rows, magic.
FIELDS = [40, 42, 44, 46, 48, 70, 76, 80, 84, 88, 108, 112, 116, 123, 252, 254, 256, 280, 300, 344]
WHOLE = [-(2**63), -(2**31), -(2**15), -1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 100, 127, 1000]
WHOLE += [2**15 - 1, 2**16 - 1, 2**20, 2**24, 2**31 - 1, 2**32, 2**40, 2**63 - 1]
REAL = [float("nan"), float("inf"), -float("inf"), 0, -1, 0.5, 1e-38, 3e38, 400, 600, 1e9, 1e18]


def extreme_field(content, rng):
    """A number of the header becomes one that nobody expects."""
    size = rng.choice([1, 2, 4, 8, 4, 8])
    field = (rng.choice(WHOLE) % 256**size).to_bytes(size, rng.choice(["little", "big"]))
    if size >= 4 and rng.random() < 0.5:
        field = struct.pack(rng.choice("<>") + {4: "f", 8: "d"}[size], rng.choice(REAL))
    at = rng.choice([rng.choice(FIELDS), rng.randrange(max(1, min(len(content), 600)))])
    return content[:at] + field + content[at + len(field) :]


def in_gzip(content, accident, rng):
    try:
        return gzip.compress(accident(gzip.decompress(content)), mtime=0)
    except (OSError, EOFError, zlib.error):
        return accident(content)


def in_png_chunk(content, accident, rng):
    """Damage to one chunk, or to the pixels that it compresses, with a fitting checksum."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        chunks.append([content[at + 4 : at + 8], content[at + 8 : at + 8 + size]])
        at += 12 + size
    if not chunks:
        return accident(content)
    chunk = rng.choice(chunks)
    deep = rng.random() < 0.5
    if deep and chunk[0] == b"IHDR":
        chunk[1] = extreme_field(chunk[1], rng)[:13]
    else:
        with contextlib.suppress(zlib.error):
            packed = deep and chunk[0] == b"IDAT"
            chunk[1] = (
                zlib.compress(accident(zlib.decompress(chunk[1]))) if packed else accident(chunk[1])
            )
    rebuilt = content[:8]
    for kind, data in chunks:
        rebuilt += struct.pack(">I", len(data)) + kind + data
        rebuilt += struct.pack(">I", zlib.crc32(kind + data))
    return rebuilt


def in_archive(content, accident, rng):
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            parts = [archive.read(name) for name in names]
    except Exception:  # a zip that was damaged before
        return accident(content)
    stream = io.BytesIO()
    with zipfile.ZipFile(
        stream, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    ) as out:
        for name, part in zip(names, parts, strict=True):
            out.writestr(name, accident(part))
    return stream.getvalue()


WORDS = ["-1", "0", "1", "4", "99", "2147483648", "9999999999999", "nan", "inf", "1e308", "1e-308"]
WORDS += ["", "LOCAL", "none", "gzip", "MET_UCHAR", "(1,0,0)", "A" * 150, "A" * 300, "A" * 5000]


def in_text(content, accident, rng):
    """Damage to a word or a line of a header in plain text."""
    end = max(content.find(b"LOCAL"), content.find(b"\n\n"), 1)
    lines = content[:end].split(b"\n")
    number = rng.randrange(len(lines))
    words = lines[number].split(b" ")
    words[rng.randrange(len(words))] = rng.choice(WORDS).encode()
    line = lines.pop(number)
    match rng.choice(["word", "word", "twice", "gone", "swap"]):
        case "word":
            lines.insert(number, b" ".join(words))
        case "twice":
            lines[number:number] = [line, line]
        case "swap":
            lines.append(line)
    return b"\n".join(lines) + content[end:]


INSIDE = {".nii.gz": in_gzip, ".png": in_png_chunk, ".npz": in_archive}
INSIDE |= {".mha": in_text, ".nrrd": in_text}

# The process that reads them


def main(folder, seed, files):
    """Read every file; those at fault stay in the folder. Its exit code is 1 if there are any."""
    faults = 0
    load_everything()
    limit_memory()
    for number in range(files):
        suffix, content = mutation(seed, number)
        path = folder / f"{number}{suffix}"
        path.write_bytes(content)
        faulthandler.dump_traceback_later(SECONDS_A_FILE, exit=True)
        try:
            check_reads(path)
        except Exception:
            faults += 1
            print(f"file {number} of seed {seed}:", traceback.format_exc(), flush=True)
        else:
            path.unlink()
        faulthandler.cancel_dump_traceback_later()
    print(f"read {files} files, {faults} at fault")
    return int(faults > 0)


def load_everything():
    """What the first reads would load, so that it counts as memory before the first file."""
    with contextlib.suppress(ImportError):
        importlib.import_module("isal.igzip")
    with tempfile.TemporaryDirectory() as folder:
        for suffix, content in seeds():
            (path := Path(folder) / f"seed{suffix}").write_bytes(content)
            with contextlib.suppress(RWLossError):
                read_labels(path)


def limit_memory():
    import resource

    statm = Path("/proc/self/statm")
    if not statm.exists():  # no Linux: there the limit does not hold anyway
        return
    pages = int(statm.read_text().split()[0])
    most = pages * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def check_reads(path):
    for read, check in ((read_labels, check_labels), (read_first_channel, check_image)):
        found = outcome(read, path)
        if not isinstance(found, str):
            check(found)
        if path.name.endswith(".gz") and "isal" in sys.modules:
            modules = {name: sys.modules[name] for name in ("isal", "isal.igzip")}
            sys.modules.update(dict.fromkeys(modules))
            plain = outcome(read, path)
            sys.modules.update(modules)
            assert isinstance(plain, str) == isinstance(found, str), (found, plain)


def read_first_channel(path, max_voxels):
    return read_channels([path], max_voxels=max_voxels)[0].values


def outcome(read, path):
    """What a reader gives, or what its error says."""
    try:
        return read(path, max_voxels=MAX_VOXELS)
    except RWLossError as exc:
        said = str(exc)
    assert path.name in said
    assert "more memory" not in said, said
    return said


def check_labels(volume):
    labels = volume.labels
    assert labels.ndim in {2, 3}
    assert 0 < labels.size <= MAX_VOXELS
    assert labels.dtype.kind in "iu"
    assert labels.dtype.isnative
    assert labels.flags.writeable
    if volume.spacing_mm is not None:
        assert len(volume.spacing_mm) == labels.ndim
        assert all(type(length) is float and 0 < length < np.inf for length in volume.spacing_mm)
    if volume.affine is not None:
        assert volume.affine.shape == (4, 4)
        assert volume.affine.dtype == np.float64
        assert np.isfinite(np.linalg.inv(volume.affine)).all()


def check_image(image):
    assert image.ndim in {2, 3}
    assert 0 < image.size <= MAX_VOXELS
    assert image.dtype == np.float32
    assert np.isfinite(image).all()


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
