"""Label files of every format, as their libraries write them, and as only a damaged file can be."""

import gzip
import struct
import zipfile
import zlib

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from PIL import Image

SPACING = (0.8, 1.0, 2.5)
NIFTI_DIM, NIFTI_PIXDIM, NIFTI_SLOPE, NIFTI_OFFSET, NIFTI_UNITS = 40, 76, 112, 108, 123
NIFTI_QFORM, NIFTI_QUATERNION, NIFTI_ROWS, NIFTI_MAGIC = 252, 256, 280, 344


def some_labels(shape, dtype=np.uint8):
    return np.random.default_rng(7).integers(0, 3, shape).astype(dtype)


def save_nifti(path, values, *, kind=Nifti1Image):
    image = kind(values, np.diag([*SPACING, 1.0]), dtype=values.dtype)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


def write(path, labels):
    """Labels in the format that the suffix names."""
    if path.name.endswith((".nii", ".nii.gz")):
        return save_nifti(path, labels)
    if path.suffix == ".npy":
        np.save(path, labels)
    elif path.suffix == ".npz":
        np.savez_compressed(path, labels)
    elif path.suffix in {".mha", ".nrrd"}:
        sitk = pytest.importorskip("SimpleITK")
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(path), True)
    else:
        first, *others = map(Image.fromarray, labels if labels.ndim == 3 else [labels])
        first.save(path, **({"save_all": True, "append_images": others} if others else {}))
    return path


def patch(path, at, code, *values):
    content = bytearray(path.read_bytes())
    struct.pack_into(code, content, at, *values)
    path.write_bytes(content)
    return path


def png_bytes(values, bits, *, colours=1):
    """A PNG of so many bits per pixel, for all its colours (1 or 3), that Pillow cannot write."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    rows = b""
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    height, width = values.shape
    head = struct.pack(">IIBBBBB", width, height, bits // colours, colours - 1, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff_bytes(values, *, photometric=1, bits=0, size=None):
    """A plain TIFF of any dtype and byte order."""
    order = ">" if values.dtype.byteorder == ">" else "<"
    height, width = size or values.shape
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.tobytes()
    short, long = 3, 4
    tags = [
        (256, long, width),
        (257, long, height),
        (258, short, bits or values.dtype.itemsize * 8),
        (259, short, 1),
        (262, short, photometric),
        (273, long, 8 + 2 + 10 * 12 + 4),
        (277, short, 1),
        (278, long, height),
        (279, long, width * height * values.dtype.itemsize if size else len(data)),
        (339, short, sample_format),
    ]
    out = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}IH", 8, len(tags))
    for tag, kind, value in tags:
        out += struct.pack(f"{order}HHI", tag, kind, 1)
        out += struct.pack(f"{order}{'HH' if kind == short else 'I'}", *([value, 0][: 5 - kind]))
    return out + struct.pack(f"{order}I", 0) + data


def huge(path, lengths):
    """A small file whose header announces `lengths` (the first two for pictures)."""
    labels = some_labels((4, 5, 6)) if path.suffix not in {".png", ".tif"} else some_labels((4, 5))
    if path.name.endswith(".nii.gz"):
        plain = patch(save_nifti(path.with_name("x.nii"), labels), NIFTI_DIM + 2, "<3h", *lengths)
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif path.suffix == ".nii":
        patch(save_nifti(path, labels), NIFTI_DIM + 2, "<3h", *lengths)
    elif path.suffix == ".tif":
        path.write_bytes(tiff_bytes(labels, size=lengths[:2]))
    elif path.suffix == ".png":
        content = bytearray(write(path, labels).read_bytes())
        content[16:24] = struct.pack(">II", *lengths[:2])
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        path.write_bytes(content)
    else:
        content = write(path.with_name("x.npy"), labels).read_bytes()
        wide = content.replace(b"(4, 5, 6), }" + b" " * 20, f"{lengths}, }}".encode().ljust(32))
        assert len(wide) == len(content)
        if path.suffix == ".npy":
            path.write_bytes(wide)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("arr_0.npy", wide)
    return path
