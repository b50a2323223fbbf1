"""PNG and TIFF files, read with Pillow: one channel, or a stack of TIFF pages."""

from __future__ import annotations

import warnings
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rwloss.data.readers import DEFLATE_RATIO, Decoded, check_bytes, check_shape
from rwloss.data.readers.tiff_metadata import axes_and_spacing
from rwloss.errors import RWLossError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

SAVE_GREY = "save it as gray values, one file per channel; labels may also be a palette"

_COLOURS = ("RGB", "RGBA")

# Pillow stretches 2- and 4-bit gray values to 0..255; these factors undo it.
_STRETCHED = {"L;2": 85, "L;4": 17}

_BITS, _COMPRESSION, _PHOTOMETRIC = 258, 259, 262
_STRIP_BYTES, _TILE_BYTES, _SAMPLE_FORMAT = 279, 325, 339

# The most that each TIFF compression can shrink: none, LZW, Deflate (two codes), PackBits.
_RATIOS = {1: 1, 5: 4096, 8: DEFLATE_RATIO, 32946: DEFLATE_RATIO, 32773: 64}
_OTHER_RATIO = 1 << 16
# Pillow takes quadratic time to look for circles among the pages.
_MAX_PAGES = 1 << 14


def read_picture(path: Path, max_voxels: int) -> Decoded:
    """Values (rows, columns), or (pages, rows, columns) of a TIFF stack.

    Values are the numbers stored in the file: indices of a palette, gray values unstretched. PNG
    carries no spacing; for TIFF see `axes_and_spacing`. (Resolution tags alone are about printing,
    not about the specimen.) A color picture with 8 bits per channel has its channels as the first
    axis. Raises RWLossError for other color modes, for white-is-zero TIFF and for pages that
    differ; and whatever Pillow raises.
    """
    is_png = path.suffix.lower() == ".png"
    with warnings.catch_warnings():
        # Pillow warns of large pictures, which max_voxels limits here, and of odd tags.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        # But for a file that ends too early, it gives only a warning.
        warnings.filterwarnings("error", message="Corrupt|Truncated")
        try:
            return _read_png(path, max_voxels) if is_png else _read_tiff(path, max_voxels)
        except SyntaxError as exc:
            if "unknown pixel mode" not in str(exc):
                raise
            raise RWLossError(
                "it holds numbers of an unsupported type (such as 64 bits): save it again as "
                "uint8, uint16 or float32"
            ) from exc


def _read_png(path: Path, max_voxels: int) -> Decoded:
    from PIL.PngImagePlugin import PngImageFile

    # The class itself, not Image.open: it takes no other format, and has no limit of its own.
    with PngImageFile(path) as image:
        width, height = image.size
        check_shape((height, width), max_voxels)
        bits = 1 if image.mode == "1" else 8
        check_bytes(width * height * bits // 8, path.stat().st_size, ratio=DEFLATE_RATIO)
        # Decoding compares no checksum (a flipped bit would give other labels, silently) and
        # believes the lengths of chunks.
        image.verify()
    with PngImageFile(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise RWLossError(f"expected one picture, got an animation of {image.n_frames}")
        colours = image.mode if image.mode in _COLOURS else ""
        return Decoded(values=_pixels(image), is_palette=image.mode == "P", colours=colours)


def _read_tiff(path: Path, max_voxels: int) -> Decoded:
    from PIL.TiffImagePlugin import TiffImageFile

    pages: list[NDArray[Any]] = []
    with TiffImageFile(path) as image:
        width, height = image.size
        tags = dict(image.tag_v2)
        for page in count(1):  # counting them first would read every header twice
            try:
                image.seek(page - 1)
            except EOFError:
                break
            if page > _MAX_PAGES:
                raise RWLossError(f"it has more than {_MAX_PAGES} pages: save it as NIfTI")
            check_shape((page, height, width), max_voxels)
            if image.size != (width, height):
                raise RWLossError(
                    f"expected pages of one size, got {width} x {height} and, on page {page}, "
                    f"{image.size[0]} x {image.size[1]}: save one resolution only"
                )
            pages.append(_tiff_page(image, path.stat().st_size))
        colours = image.mode if image.mode in _COLOURS else ""
        if colours and len(pages) > 1:
            raise RWLossError("expected one color picture, got several pages: save one channel")
        return Decoded(
            values=pages[0] if len(pages) == 1 else np.stack(pages),
            spacing_mm=axes_and_spacing(path, tags, len(pages), in_colour=bool(colours)),
            is_palette=image.mode == "P",
            colours=colours,
        )


def _tiff_page(image: Any, file_bytes: int) -> NDArray[Any]:
    """One page with the numbers stored in the file, even if Pillow gives others."""
    tags = image.tag_v2
    if tags.get(_PHOTOMETRIC) == 0:
        raise RWLossError("it is stored with white as zero: save it again with black as zero")
    bits, signed = tags.get(_BITS, (1,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    ratio = _RATIOS.get(tags.get(_COMPRESSION, 1), _OTHER_RATIO)
    check_bytes(image.width * image.height * bits // 8, file_bytes, ratio=ratio)
    if ratio == 1:
        check_bytes(sum(tags.get(_STRIP_BYTES) or tags.get(_TILE_BYTES) or ()), file_bytes)
    for i, tile in enumerate(image.tile):
        if tile.codec_name == "libtiff":
            # It has put the bytes in order, and Pillow would swap those of signed and float numbers
            # once more.
            raw_mode = tile.args[0].replace("16B", "16N").replace("32B", "32N")
            image.tile[i] = tile._replace(args=(raw_mode, *tile.args[1:]))
    values = _pixels(image)
    # Pillow always reads 8 bits as unsigned and 32 bits as signed.
    if bits == 8 and signed:
        return values.view(np.int8)
    if values.dtype == np.int32 and bits == 32 and not signed:
        return values.view(np.uint32)
    return values


def _pixels(image: ImageFile) -> NDArray[Any]:
    """The decoded pixels (rows, columns), or (c, rows, columns) for color."""
    args = image.tile[0].args if image.tile else ""
    raw_mode = str(args[0] if isinstance(args, tuple) else args)
    is_grey = image.mode in {"1", "L", "P", "I", "F"} or image.mode.startswith("I;16")
    if not is_grey and (image.mode not in _COLOURS or ";16" in raw_mode):
        depth = " with 16 bits per channel" if ";16" in raw_mode else ""
        raise RWLossError(
            f"expected one channel, got a picture of mode {image.mode}{depth} "
            f"({', '.join(image.getbands())}): {SAVE_GREY}"
        )
    values = np.asarray(image)
    if not is_grey:
        return np.moveaxis(values, -1, 0)
    return values // _STRETCHED[raw_mode] if raw_mode in _STRETCHED else values
