"""Axes and spacing of a TIFF, as written by ImageJ, OME, tifffile and nnU-Net."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rwloss.data.spacing import mm_per_unit
from rwloss.errors import RWLossError

_DESCRIPTION, _X_RESOLUTION, _Y_RESOLUTION, _IMAGE_DEPTH = 270, 282, 283, 32997
# ImageJ's and OME's words for: not calibrated. Inches come with the resolution of a printer.
_NO_LENGTH = {"", "pixel", "pixels", "inch", "inches", "reference frame"}
_SAVE_ONE = (
    "save one of them, or, if they are slices, mark them as such: tifffile.imwrite(PATH, VOLUME, "
    "metadata={'axes': 'ZYX'})"
)


def axes_and_spacing(
    path: Path, tags: Mapping[int, Any], pages: int, *, in_colour: bool
) -> tuple[float, ...] | None:
    """Check that the pages are the slices of one stack; spacing in mm, (z, y, x) or (y, x), if any.

    tags: of the first page. The spacing is that of nnU-Net's CASE.json next to the file, or that of
    the file. Raises RWLossError for axes other than slices, and for two different spacings.
    """
    if int(tags.get(_IMAGE_DEPTH, 1)) > 1:
        raise RWLossError("its tiles are volumes, which are not supported: save it as plain pages")
    # Pillow decodes as Latin-1, and OME is UTF-8.
    text = str(tags.get(_DESCRIPTION, "")).encode("latin-1", "replace").decode("utf-8", "replace")
    text = text.lstrip("\ufeff \t\r\n")
    carried: tuple[float, ...] | None = None
    if text.startswith("ImageJ="):
        fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        sizes = {axis: fields.get(axis, 1) for axis in ("channels", "frames")}
        _check_axes("ImageJ", sizes, int(fields.get("images", pages)), pages)
        carried = _imagej_spacing(fields, tags)
    elif text.startswith(("<?xml", "<OME")):
        carried = _ome_spacing(text, pages, in_colour=in_colour)
    elif text.startswith("{"):
        _check_tifffile(text, pages)
    if carried is not None and pages == 1:
        carried = carried[1:]
    beside = _spacing_beside(path)
    if beside is None or carried is None:
        return carried if beside is None else beside
    if len(beside) != len(carried) or not all(
        math.isclose(one, other, rel_tol=1e-3) for one, other in zip(beside, carried, strict=True)
    ):
        raise RWLossError(
            f"it carries the spacing {carried} mm, and the JSON file next to it {beside}: correct "
            "one of them"
        )
    return beside


def _check_axes(whose: str, sizes: Mapping[str, Any], said: int, pages: int) -> None:
    """Refuse anything but a plain stack. sizes: of the non-spatial axes."""
    for axis, size in sizes.items():
        if int(size) > 1:
            raise RWLossError(f"expected a stack of slices, got {size} {axis}: {_SAVE_ONE}")
    if said != pages:
        raise RWLossError(
            f"{whose} says {said} images, and {pages} can be read: save it again as a TIFF of "
            "several pages, or as NIfTI"
        )


def _imagej_spacing(fields: Mapping[str, str], tags: Mapping[int, Any]) -> tuple[float, ...] | None:
    unit = fields.get("unit", "").replace("\\u00B5", "u")
    per_unit = [float(tags.get(tag, 0) or 0) for tag in (_Y_RESOLUTION, _X_RESOLUTION)]
    if unit.strip().lower() in _NO_LENGTH or not all(per_unit):
        return None
    factor = mm_per_unit(unit)
    z = float(fields.get("spacing", 1))  # ImageJ leaves 1 out
    return (z * factor, *(factor / number for number in per_unit))


def _ome_spacing(text: str, pages: int, *, in_colour: bool) -> tuple[float, ...] | None:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities can expand to gigabytes
        raise RWLossError("its OME-XML declares entities: save it again")
    try:
        found = ElementTree.fromstring(text.encode()).findall(".//{*}Pixels")
    except ElementTree.ParseError as error:
        raise RWLossError(f"its OME-XML is damaged ({error}): save it again") from error
    if len(found) != 1:
        raise RWLossError(f"expected one image, got {len(found)} in its OME-XML: save one of them")
    pixels = found[0].attrib
    sizes = {"frames": pixels.get("SizeT", 1)}
    if not in_colour:
        sizes["channels"] = pixels.get("SizeC", 1)
    _check_axes("OME", sizes, int(pixels.get("SizeZ", 1)), pages)
    lengths = []
    for axis in "ZYX" if pages > 1 else "YX":
        length = pixels.get(f"PhysicalSize{axis}")
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        if length is None or unit.strip().lower() in _NO_LENGTH:
            return None
        lengths.append(float(length) * mm_per_unit(unit))
    return tuple(lengths) if pages > 1 else (1.0, *lengths)


def _check_tifffile(text: str, pages: int) -> None:
    """tifffile describes what it writes without more information as {"shape": [...]}."""
    try:
        written = json.loads(text)
        shape = [int(length) for length in written["shape"]]
    except (ValueError, TypeError, KeyError):
        return  # another program's text
    axes = str(written.get("axes", ""))
    named = dict(zip(axes, shape, strict=True)) if len(axes) == len(shape) else {}
    sizes = {"channels": named.get("C", 1), "frames": named.get("T", 1)}
    stacked = shape[: -3 if len(shape) > 2 and shape[-1] in {3, 4} and pages != shape[0] else -2]
    _check_axes("tifffile", sizes, math.prod(stacked), pages)
    if len([length for length in stacked if length > 1]) > 1:
        raise RWLossError(f"expected a stack of slices, got the axes {shape}: {_SAVE_ONE}")


def _spacing_beside(path: Path) -> tuple[float, ...] | None:
    """The spacing in nnU-Net's CASE.json next to CASE.tif or CASE_0000.tif, always in mm.

    For a label file without a CASE.json, that of its image.
    """
    name = path.name[: path.name.lower().rindex(".tif")]
    folders = [path.parent]
    if path.parent.name in {"labelsTr", "labelsTs"}:
        folders.append(path.parent.with_name(path.parent.name.replace("labels", "images")))
    for folder, stem in product(folders, (name, re.sub(r"_\d{4}$", "", name))):
        beside = folder / f"{stem}.json"
        if not beside.is_file():
            continue
        try:
            content = json.loads(beside.read_text(encoding="utf-8-sig"))
            if isinstance(content, dict) and "spacing" in content:
                return tuple(float(length) for length in content["spacing"])
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise RWLossError(f"cannot read the spacing in {str(beside)!r}: {error}") from error
    return None
