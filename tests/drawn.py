"""Making pictures for tests, and reading what is on them."""

import re
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

import rwloss
from rwloss import maps, pictures

ORANGE, GREY = (0xE6, 0x9F, 0x00), (0xA8, 0xA8, 0xA8)


def made(labels, num_classes, *texts, spacing_mm=None, ignore_label=None):
    """Labels with ignored voxels -1, and the maps of these texts."""
    regions = rwloss.Regions.single(labels, num_classes, spacing_mm, ignore_label)
    return regions.labels[0], {text: maps.parse(text)(regions) for text in texts}


def drawn(path, labels, num_classes, *texts, **options):
    """The bytes of a picture."""
    spacing, ignored = options.get("spacing_mm"), options.pop("ignore_label", None)
    labels, rwmaps = made(labels, num_classes, *texts, spacing_mm=spacing, ignore_label=ignored)
    pictures.draw(labels, rwmaps, path, **options)
    return path.read_bytes()


def words(svg: bytes) -> list[str]:
    """The texts of an SVG picture: matplotlib notes each above its outlines."""
    return re.findall(r"<!-- (.*?) -->", svg.decode())


def note(svg: bytes) -> str:
    """The texts as one, so that a line break divides no sentence."""
    return " ".join(words(svg))


def pixels(path: Path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def largest_patch(path: Path, colour):
    """Height and width of the largest connected patch of one colour, in pixels; no lines."""
    same = (pixels(path) == colour).all(axis=-1)
    parts, _ = ndimage.label(ndimage.binary_opening(same, iterations=2))
    boxes = ndimage.find_objects(parts)
    return max(
        ((box[0].stop - box[0].start, box[1].stop - box[1].start) for box in boxes),
        key=lambda size: size[0] * size[1],
    )
