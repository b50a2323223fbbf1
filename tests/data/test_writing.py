import nibabel
import numpy as np
import pytest
from written_files import write

from rwloss import RWLossError
from rwloss.data import SUFFIXES, read_image, read_labels
from rwloss.data.writing import write_labels

AFFINE = np.array([[0, -0.8, 0, 10], [0.8, 0, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]], float)


def some_labels(shape, most=3):
    labels = np.random.default_rng(0).integers(0, most + 1, shape)
    labels.flat[0] = most
    return labels


def save_image(path, shape):
    """An image of any format, with numbers that are no labels, turned where it has a place."""
    values = np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        nibabel.Nifti1Image(values, AFFINE).to_filename(path)
        return path
    if path.suffix in {".mha", ".nrrd"}:
        sitk = pytest.importorskip("SimpleITK", reason="MHA and NRRD need SimpleITK")
        image = sitk.GetImageFromArray(values.T)
        image.SetSpacing((0.8, 1.5, 2.5)[: values.ndim])
        image.SetOrigin((-3.0, 4.0, 5.0)[: values.ndim])
        turn = np.eye(3)[[1, 0, 2]] if values.ndim == 3 else np.eye(2)[::-1]
        image.SetDirection(turn.ravel().tolist())
        sitk.WriteImage(image, str(path))
        return path
    return write(path, values)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_format_keeps_labels_and_place(tmp_path, suffix):
    for shape in [(7, 5), (4, 6, 3)][: 1 if suffix == ".png" else 2]:
        image = save_image(tmp_path / f"image{suffix}", shape)
        for most, dtype in ((3, "uint8"), (300, "uint16")):
            labels = some_labels(shape, most)
            write_labels(tmp_path / f"out{suffix}", labels, like=image)
            written, place = read_labels(tmp_path / f"out{suffix}"), read_labels(image)
            np.testing.assert_array_equal(written.labels, labels, f"{shape} {most}")
            assert written.labels.dtype == dtype
            assert written.spacing_mm == place.spacing_mm
            assert (written.affine is None) == (place.affine is None)
            if place.affine is not None:
                np.testing.assert_array_equal(np.asarray(written.affine), place.affine)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_keeps_its_header(tmp_path, kind, order):
    """Two affines that differ, odd codes and units, and what is the image's alone is dropped."""
    header = kind.header_class(endianness=order)
    image = kind(np.zeros((4, 5, 6), order + "i2"), None, header)
    image.set_qform(np.diag([2, 3, 4, 1.0]), code=1)
    image.set_sform(AFFINE, code=4)
    image.header.set_zooms((2, 3, 4))
    image.header.set_xyzt_units("micron", "sec")
    image.header.set_slope_inter(2.5, -1)
    image.header["cal_max"] = 1000
    image.header["descrip"] = b"a scanner"
    image.header.set_intent("z score")
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"made by someone"))
    image.to_filename(tmp_path / "image.nii.gz")

    labels = some_labels((4, 5, 6))
    write_labels(tmp_path / "out.nii.gz", labels, like=tmp_path / "image.nii.gz")
    written = nibabel.load(tmp_path / "out.nii.gz")
    before = nibabel.load(tmp_path / "image.nii.gz").header
    assert type(written) is kind
    assert written.header.endianness == order
    assert np.array_equal(np.asarray(written.dataobj), labels)
    for name in ("pixdim", "qform_code", "sform_code", "xyzt_units", "descrip"):
        assert np.array_equal(written.header[name], before[name]), name
    assert np.array_equal(written.get_qform(), np.diag([2, 3, 4, 1.0]))
    assert np.array_equal(written.get_sform(), before.get_sform())
    assert written.header.get_slope_inter() in {(None, None), (1.0, 0.0)}
    assert written.header["cal_max"] == 0
    assert written.header.get_intent()[0] == "none"
    assert not written.header.extensions
    assert written.header.get_data_dtype() == np.uint8


def test_a_fourth_axis_of_one_is_dropped_as_in_reading(tmp_path):
    image = tmp_path / "image.nii"
    nibabel.Nifti1Image(np.zeros((4, 5, 6, 1), np.int16), AFFINE).to_filename(image)
    labels = some_labels(read_image(image).shape)
    write_labels(tmp_path / "out.nii", labels, like=image)
    assert np.array_equal(read_labels(tmp_path / "out.nii").labels, labels)


def test_suffixes_in_capitals(tmp_path):
    for suffix in (".nii", ".nii.gz", ".npy", ".npz", ".png"):
        image = save_image(tmp_path / f"image{suffix}", (4, 5))
        image = image.rename(tmp_path / f"IMAGE{suffix.upper()}")
        labels = some_labels((4, 5))
        write_labels(tmp_path / f"OUT{suffix.upper()}", labels, like=image)
        assert np.array_equal(read_labels(tmp_path / f"OUT{suffix.upper()}").labels, labels)


def test_same_labels_same_bytes(tmp_path):
    image = save_image(tmp_path / "image.nii.gz", (4, 5, 6))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_labels(tmp_path / name, some_labels((4, 5, 6)), like=image)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("labels", "name", "message"),
    [
        (np.zeros((4, 5, 6)), "out.nii.gz", "expected whole numbers on 2 or 3 axes, got float64"),
        (np.zeros(4, int), "out.nii.gz", "2 or 3 axes"),
        (np.full((4, 5, 6), -1), "out.nii.gz", r"expected labels of 0..65535, got -1..-1"),
        (np.full((4, 5, 6), 70_000), "out.nii.gz", r"got 70000..70000"),
        (np.zeros((4, 5, 7), int), "out.nii.gz", r"shape \(4, 5, 7\).*\(4, 5, 6\)"),
        (np.zeros((4, 5, 6), int), "out.png", "expected an image that ends with .png"),
        (np.zeros((4, 5, 6), int), "out.txt", "cannot read|expected a file that ends"),
    ],
)
def test_what_cannot_be_written(tmp_path, labels, name, message):
    image = save_image(tmp_path / "image.nii.gz", (4, 5, 6))
    with pytest.raises(RWLossError, match=message):
        write_labels(tmp_path / name, labels, like=image)
    assert not (tmp_path / name).exists()


def test_axes_that_the_format_or_the_image_does_not_have(tmp_path):
    image = save_image(tmp_path / "image.png", (4, 5))
    with pytest.raises(RWLossError, match="a PNG holds two axes"):
        write_labels(tmp_path / "out.png", np.zeros((2, 4, 5), int), like=image)
    image = save_image(tmp_path / "image.mha", (4, 5, 6))
    with pytest.raises(RWLossError, match="shape"):
        write_labels(tmp_path / "out.mha", np.zeros((4, 5), int), like=image)
