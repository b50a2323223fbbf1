"""Axes and spacing of TIFF files, as ImageJ, OME, tifffile and nnU-Net write them."""

import json

import numpy as np
import pytest
from PIL import Image

from rwloss import RWLossError
from rwloss.data import read_channels, read_labels

STACK = np.zeros((5, 6, 7), np.uint8)
STACK[1:4, 2:5, 3:6] = 1


def save(path, pages=STACK, text="", pixels_per_unit=None):
    """A TIFF of pages with a description, as it stands in the file, in UTF-8."""
    first, *others = map(Image.fromarray, pages)
    tags = {270: text.encode()} if text else {}
    if pixels_per_unit is not None:
        tags |= {282: pixels_per_unit[0], 283: pixels_per_unit[1]}
    more = {"save_all": True, "append_images": others} if others else {}
    first.save(path, tiffinfo=tags, **more)
    return path


def ome(z=5, c=1, t=1, images=1, **lengths):
    sizes = {"SizeX": 7, "SizeY": 6, "SizeZ": z, "SizeC": c, "SizeT": t} | lengths
    pixels = " ".join(f'{key}="{value}"' for key, value in sizes.items())
    image = f'<Image ID="Image:0"><Pixels ID="Pixels:0" {pixels}></Pixels></Image>'
    space = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{space}">{image * images}</OME>'


IMAGEJ = "ImageJ=1.53\nimages=5\nslices=5\n"
MICRONS = {"PhysicalSizeX": 0.4, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2}


def test_nnunets_json_gives_the_spacing_in_mm(tmp_path):
    (tmp_path / "cell.json").write_text(json.dumps({"spacing": [80.0, 7.6, 7.6]}))
    for name in ("cell.tif", "cell.TIFF", "cell_0000.tif"):
        assert read_labels(save(tmp_path / name)).spacing_mm == (80.0, 7.6, 7.6), name
    assert read_labels(save(tmp_path / "other.tif")).spacing_mm is None
    for part in ("images", "labels"):  # of the image, where the label file has none
        (tmp_path / f"{part}Tr").mkdir()
    (tmp_path / "imagesTr/cell.json").write_text('{"spacing": [9, 2, 2]}')
    assert read_labels(save(tmp_path / "labelsTr/cell.tif")).spacing_mm == (9, 2, 2)
    (tmp_path / "cell.json").write_text('{"of": "another program"}')
    assert read_labels(tmp_path / "cell.tif").spacing_mm is None
    refused = {"[": "cannot read the spacing in", '{"spacing": 3}': "cannot read the spacing in"}
    refused |= {'{"spacing": [1, 2]}': "expected 3 lengths", '{"spacing": [1, 1, 0]}': "above zero"}
    for text, words in refused.items():
        (tmp_path / "cell.json").write_text(text)
        with pytest.raises(RWLossError, match=words):
            read_labels(tmp_path / "cell.tif")


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("um", 1e-3), ("\\u00B5m", 1e-3), ("micron", 1e-3), ("mm", 1), ("nm", 1e-6)],
)
def test_imagej_spacing(tmp_path, unit, factor):
    text = f"{IMAGEJ}unit={unit}\nspacing=2.5\n"
    path = save(tmp_path / "case.tif", text=text, pixels_per_unit=(4.0, 2.0))
    assert read_labels(path).spacing_mm == pytest.approx(
        (2.5 * factor, 0.5 * factor, 0.25 * factor)
    )
    path = save(path, STACK[:1], text=f"ImageJ=1.53\nunit={unit}\n", pixels_per_unit=(4.0, 2.0))
    assert read_labels(path).spacing_mm == pytest.approx((0.5 * factor, 0.25 * factor))


def test_ome_spacing(tmp_path):
    path = tmp_path / "case.tif"
    assert read_labels(save(path, text=ome(**MICRONS))).spacing_mm == (0.002, 0.0005, 0.0004)
    units = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "mm", "PhysicalSizeZUnit": "nm"}
    assert read_labels(save(path, text=ome(**MICRONS, **units))).spacing_mm == pytest.approx(
        (2e-6, 0.5, 4e-4)
    )
    flat = ome(z=1, PhysicalSizeX=0.4, PhysicalSizeY=0.5)
    assert read_labels(save(path, STACK[:1], text=flat)).spacing_mm == pytest.approx((5e-4, 4e-4))


def test_texts_that_give_no_spacing(tmp_path):
    for text in (
        IMAGEJ + "unit=pixel\n",
        IMAGEJ + "unit=inch\n",  # the resolution of a printer
        IMAGEJ,
        ome(),
        ome(PhysicalSizeX=1, PhysicalSizeY=1),  # how far the slices are apart is unknown
        ome(**MICRONS, PhysicalSizeZUnit="reference frame"),
        '{"shape": [5, 6, 7]}',
        '{"shape": [5, 6, 7], "axes": "ZYX"}',
        '{"any": "text"}',
        "{no JSON",
    ):
        path = save(tmp_path / "case.tif", text=text, pixels_per_unit=(72.0, 72.0))
        volume = read_labels(path)
        assert volume.spacing_mm is None, text
        np.testing.assert_array_equal(volume.labels, STACK)


def test_two_spacings_of_one_file(tmp_path):
    path = save(tmp_path / "case.tif", text=ome(**MICRONS))
    (tmp_path / "case.json").write_text('{"spacing": [0.002, 0.0005, 0.0004]}')
    assert read_labels(path).spacing_mm == (0.002, 0.0005, 0.0004)
    (tmp_path / "case.json").write_text('{"spacing": [2.0, 0.5, 0.4]}')
    with pytest.raises(RWLossError, match=r"and the JSON file next to it \(2.0, 0.5, 0.4\)"):
        read_labels(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ome(z=1, c=5), "expected a stack of slices, got 5 channels"),
        (ome(z=1, t=5), "got 5 frames"),
        (ome(z=9), "OME says 9 images, and 5 can be read"),
        (ome(images=2), "expected one image, got 2"),
        (ome().replace("<OME", '<!DOCTYPE x [<!ENTITY a "aa">]><OME'), "declares entities"),
        (ome()[:-9], "OME-XML is damaged"),
        (ome(**MICRONS, PhysicalSizeXUnit="lightyear"), "unknown unit of length 'lightyear'"),
        ("ImageJ=1.53\nimages=5\nframes=5\n", "got 5 frames"),
        ("ImageJ=1.53\nimages=9\n", "ImageJ says 9 images"),
        (IMAGEJ + "unit=sec\n", "unknown unit of length 'sec'"),
        ('{"shape": [5, 1, 6, 7], "axes": "CZYX"}', "got 5 channels"),
        ('{"shape": [5, 6, 7], "axes": "TYX"}', "got 5 frames"),
        ('{"shape": [9, 6, 7], "truncated": true}', "tifffile says 9 images"),
    ],
)
def test_what_is_no_stack_is_refused(tmp_path, text, words):
    path = save(tmp_path / "case.tif", text=text, pixels_per_unit=(1.0, 1.0))
    for read in (read_labels, lambda path: read_channels([path])):
        with pytest.raises(RWLossError, match=words):
            read(path)


def test_four_axes_and_what_the_message_advises(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "case.tif"
    tifffile.imwrite(path, np.stack([STACK, STACK]))
    with pytest.raises(RWLossError, match=r"got the axes \[2, 5, 6, 7\]: save one of them"):
        read_labels(path)
    tifffile.imwrite(path, STACK, metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(read_labels(path).labels, STACK)
    tifffile.imwrite(path, np.zeros((16, 16, 16), np.uint8), tile=(16, 16, 16))
    with pytest.raises(RWLossError, match="its tiles are volumes"):
        read_labels(path)
    for dtype in ("i8", ">u4", "f8"):
        tifffile.imwrite(path, STACK.astype(dtype), byteorder=">" if ">" in dtype else None)
        with pytest.raises(RWLossError, match=r"an unsupported type .* save it again as uint8"):
            read_labels(path)
    tifffile.imwrite(path, STACK.astype("f4"))
    np.testing.assert_array_equal(read_labels(path).labels, STACK)
    for dtype in ("u2", "i2", "i4", "f4"):  # compressed numbers of either byte order
        for order in "<>":
            tifffile.imwrite(path, STACK.astype(dtype), byteorder=order, compression="zlib")
            np.testing.assert_array_equal(read_labels(path).labels, STACK, err_msg=dtype + order)
    colours = np.zeros((6, 7, 3), np.uint8)
    tifffile.imwrite(path, colours, photometric="rgb")
    assert len(read_channels([path])) == 3
