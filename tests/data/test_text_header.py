"""MHA and NRRD files: what ITK and others write, and headers that are damaged or lead elsewhere."""

from itertools import product

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rwloss.data import read_labels
from rwloss.data.writing import write_labels
from rwloss.errors import RWLossError

sitk = pytest.importorskip("SimpleITK")

LABELS = np.random.default_rng(5).integers(0, 3, (4, 5, 6)).astype(np.uint8)
both_formats = pytest.mark.parametrize("suffix", [".mha", ".nrrd"])


def written(folder, suffix, *, dtype="u1", compressed=False):
    image = sitk.GetImageFromArray(LABELS.astype(dtype).T)
    image.SetSpacing((0.5, 1.0, 2.5))
    path = folder / f"case{suffix}"
    sitk.WriteImage(image, str(path), compressed)
    return path


def edited(path, old, new):
    content = path.read_bytes()
    assert content.count(old.encode()) >= 1
    path.write_bytes(content.replace(old.encode(), new.encode(), 1))
    return path


@both_formats
@pytest.mark.parametrize("compressed", [False, True])
def test_what_itk_writes(tmp_path, suffix, compressed):
    for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        volume = read_labels(written(tmp_path, suffix, dtype=dtype, compressed=compressed))
        np.testing.assert_array_equal(volume.labels, LABELS, dtype)
        assert volume.spacing_mm == (0.5, 1.0, 2.5)


@both_formats
def test_reads_and_writes_the_place_that_itk_reads(tmp_path, suffix):
    """Turned axes, 2-D and 3-D, notes of any kind, and the other spaces of NRRD."""
    path, out = tmp_path / f"case{suffix}", tmp_path / f"out{suffix}"
    spaces = ["left-posterior-superior", "right-anterior-superior", "left-anterior-superior", "RAS"]
    for number, space in enumerate(spaces * 2):
        labels = LABELS if number < 6 else LABELS[0]
        image = sitk.GetImageFromArray(labels.T)
        image.SetSpacing((0.5, 1.1, 2.5)[: labels.ndim])
        image.SetOrigin((-7.0, 2.0, 30.5)[: labels.ndim])
        turn = Rotation.random(random_state=number).as_matrix()
        turn = turn if labels.ndim == 3 else Rotation.from_euler("z", 1).as_matrix()[:2, :2]
        image.SetDirection(turn.ravel().tolist())
        for key, value in {"0008|0020": "2020", "a key": "a = b: c", "long": "x" * 150}.items():
            image.SetMetaData(key, value)
        sitk.WriteImage(image, str(path), bool(number % 2))
        if suffix == ".nrrd":
            path.write_bytes(path.read_bytes().replace(spaces[0].encode(), space.encode()))
        volume = read_labels(path)
        np.testing.assert_array_equal(volume.labels, labels)
        np.testing.assert_allclose(np.asarray(volume.affine), affine_of(path), atol=1e-12)
        write_labels(out, labels, like=path)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(out))).T, labels)
        np.testing.assert_allclose(affine_of(out), affine_of(path), atol=1e-12)


def affine_of(path):
    """As ITK reads it, to RAS. (4 4)."""
    image = sitk.ReadImage(str(path))
    n, affine = image.GetDimension(), np.eye(4)
    affine[:n, :n] = np.reshape(image.GetDirection(), (n, n)) * image.GetSpacing()
    affine[:n, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize(
    ("suffix", "old", "new", "factor"),
    [
        (".nrrd", "encoding", 'space units: "um" "um" "um"\nencoding', 1e-3),
        (".nrrd", "encoding", 'space units: "" "" ""\nencoding', 1),
        (".mha", "ElementType", "DistanceUnits = um\nElementType", 1e-3),
        (".mha", "ElementType", "DistanceUnits = ?\nElementType", 1),
    ],
)
def test_units_become_millimetres(tmp_path, suffix, old, new, factor):
    volume = read_labels(edited(written(tmp_path, suffix), old, new))
    assert volume.spacing_mm == pytest.approx([0.5 * factor, factor, 2.5 * factor])
    lengths = np.abs(np.diag(np.asarray(volume.affine))[:3])
    np.testing.assert_allclose(lengths, np.multiply([0.5, 1, 2.5], factor))


def test_units_of_an_nrrd_without_a_space(tmp_path):
    header = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 5 6\nspacings: 0.5 1 2.5\n"
    header += 'units: "cm" "cm" "cm"\nencoding: raw\n\n'
    (tmp_path / "case.nrrd").write_bytes(header.encode() + LABELS.tobytes("F"))
    volume = read_labels(tmp_path / "case.nrrd")
    assert volume.spacing_mm == (5.0, 10.0, 25.0)
    np.testing.assert_array_equal(volume.labels, LABELS)


@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        (".mha", "LOCAL", "Local"),
        (".mha", "\n", "\r\n"),
        (".mha", "Offset", "Comment = \nOffset"),
        (".mha", "Offset", f"Name = {'x' * 300}\nOffset"),
        (".mha", "Offset", f"0010|0010 = {'x' * 5000}\nOffset"),
        (".mha", "Offset", "\n" * 20_000 + "Offset"),
        (".mha", "ElementType", "HeaderSize = -1\nElementType"),
        (".nrrd", "encoding", "byte skip: 0\nencoding"),
        (".nrrd", "encoding", "byte skip: -1\nencoding"),
        (".nrrd", "encoding", f"key:={'x' * 5000}\n# {'y' * 5000}\nencoding"),
        (".nrrd", "unsigned char", "uint8_t"),
        (".nrrd", "NRRD0004", "NRRD0005"),
    ],
)
def test_what_others_write(tmp_path, suffix, old, new):
    path = edited(written(tmp_path, suffix), old, new)
    np.testing.assert_array_equal(read_labels(path).labels, LABELS)


def test_big_endian_mha(tmp_path):
    for dtype in (">i2", ">f4"):
        path = written(tmp_path, ".mha", dtype=dtype[1:])
        content = path.read_bytes().replace(b"OrderMSB = False", b"OrderMSB = True")
        header = content[: -LABELS.size * int(dtype[2])]
        path.write_bytes(header + LABELS.astype(dtype).tobytes("F"))
        np.testing.assert_array_equal(read_labels(path).labels, LABELS)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("LOCAL", "/etc/passwd", "in another file"),
        ("LOCAL", "LIST", "in another file"),
        ("LOCAL", "slice%03d.raw 1 4 1", "in another file"),
        ("ElementDataFile", " ElementDataFile = x.raw\nElementDataFile", "in another file"),
        ("ElementDataFile", "ElementDataFile : x.raw\nElementDataFile", "in another file"),
        ("ElementDataFile", "Note\nElementDataFile", "damaged"),
        ("ElementDataFile = LOCAL", "", "cut short in its header"),
        ("NDims = 3", "NDims = 4", "damaged"),
        ("NDims = 3", "NDims = -1", "damaged"),
        ("NDims = 3", "NDims = 1e308", "damaged"),
        ("NDims = 3\n", "", "damaged"),
        ("NDims = 3\n", "NDims = 3\nNDims = 2\n", "damaged"),
        ("NDims = 3", "NDims = 2", "damaged"),
        ("DimSize = 4 5 6", "DimSize = 4 5", "damaged"),
        ("DimSize = 4 5 6", "DimSize = 4 5 -6", "holds no voxel"),
        ("DimSize = 4 5 6", "DimSize = 4 5 0", "holds no voxel"),
        ("DimSize = 4 5 6", "DimSize = 4 5 6e8", "damaged"),
        ("DimSize = 4 5 6", "DimSize = 4 5 7", "cut short"),
        ("DimSize = 4 5 6", "DimSize = 4 5 5", "damaged: 20 bytes follow"),
        ("MET_UCHAR", "MET_LONG", "cut short"),
        ("DimSize = 4 5 6", "DimSize = 400 500 6", "cut short"),
        ("DimSize = 4 5 6", "DimSize = 400000 500000 6", "more than the limit"),
        ("DimSize = 4 5 6\n", "", "damaged"),
        ("MET_UCHAR", "MET_DOUBLE", "cut short"),
        ("MET_UCHAR", "A" * 100_000, "damaged"),
        ("ElementType", "ElementNumberOfChannels = 3\nElementType", "one number per voxel, got 3"),
        ("ElementSpacing = 0.5", "ElementSpacing = nan", "above zero"),
        ("TransformMatrix = 1", "TransformMatrix = 1e308", "affine of finite numbers"),
        ("TransformMatrix = 1 ", "TransformMatrix = ", "damaged"),
        ("BinaryData = True", "BinaryData = False", "damaged"),
        ("CompressedData = False", "CompressedData = True", "damaged"),
        ("CompressedData = False", "CompressedData = To", "damaged"),
    ],
)
def test_damaged_and_hostile_mha(tmp_path, old, new, words):
    with pytest.raises(RWLossError, match=rf"case\.mha'.* {words}"):
        read_labels(edited(written(tmp_path, ".mha"), old, new))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("encoding", "data file: /etc/passwd\nencoding", "in another file"),
        ("encoding", "DataFile: x%03d.raw 1 4 1\nencoding", "in another file"),
        ("encoding", "datafile: LIST\nencoding", "in another file"),
        ("encoding", "line skip: 3\nencoding", "damaged"),
        ("encoding", 'space units: "um" "um" "mm"\nencoding', "different units"),
        ("encoding", 'space units: "s" "s" "s"\nencoding', "unknown unit of length 's'"),
        ("encoding: raw", "encoding: ascii", "damaged"),
        ("encoding: raw", "encoding: bzip2", "damaged, .* encoding bzip2"),
        ("type: unsigned char", "type: block", "damaged, .* the type 'block'"),
        ("type: unsigned char\n", "", "damaged, .* it has no type"),
        ("type: unsigned char", "type: double", "damaged, .* no byte order"),
        ("type: unsigned char", "type: " + "A" * 5000, "damaged"),
        ("sizes: 4 5 6", "sizes: 4 5", "damaged"),
        ("sizes: 4 5 6", "sizes: 4 5 -6", "holds no voxel"),
        ("sizes: 4 5 6", "sizes: 4 5 0", "holds no voxel"),
        ("sizes: 4 5 6", "sizes: 4 5 5", "damaged: 20 bytes follow"),
        ("sizes: 4 5 6", "sizes: 400 500 6", "cut short"),
        ("sizes: 4 5 6", "sizes: 400000 500000 6", "more than the limit"),
        ("dimension: 3", "dimension: 99", "damaged, .* 99 axes"),
        ("dimension: 3", "dimension: 3\ndimension: 3", "damaged"),
        ("encoding", "A" * 300 + "\nencoding", "damaged"),
        ("NRRD0004", "NRRD9999", "damaged"),
        ("NRRD0004", "", "damaged"),
    ],
)
def test_damaged_and_hostile_nrrd(tmp_path, old, new, words):
    with pytest.raises(RWLossError, match=rf"(?s)case\.nrrd'.* \W?{words}"):
        read_labels(edited(written(tmp_path, ".nrrd"), old, new))


@both_formats
def test_impossible_geometry(tmp_path, suffix):
    for old, new in product(["0.5", "2.5"], ["0", "-1", "1e-300", "nan", "inf", "1e300"]):
        path = edited(written(tmp_path, suffix), old, new)
        if (suffix, new) == (".nrrd", "-1"):  # the axis is turned round
            assert sorted(read_labels(path).spacing_mm or ()) in ([1, 1, 2.5], [0.5, 1, 1])
            continue
        with pytest.raises(RWLossError, match=rf"case\{suffix}"):
            read_labels(path)


@both_formats
def test_damaged_streams(tmp_path, suffix):
    content = written(tmp_path, suffix, compressed=True).read_bytes()
    path = tmp_path / f"case{suffix}"
    flipped = content[:-20] + bytes([content[-20] ^ 16]) + content[-19:]
    for damaged in (flipped, content[:-1], content[:-9]):
        path.write_bytes(damaged)
        with pytest.raises(RWLossError, match=rf"case\{suffix}': it is"):
            read_labels(path)
    for sizes in (b"4 5 5", b"4 5 7"):
        path.write_bytes(content.replace(b"4 5 6", sizes, 1))
        with pytest.raises(RWLossError, match=rf"case\{suffix}': it is .*damaged"):
            read_labels(path)


def test_mha_that_says_its_stream_is_shorter(tmp_path):
    path = written(tmp_path, ".mha", compressed=True)
    size = path.read_text("latin-1").split("CompressedDataSize = ")[1].split("\n")[0]
    with pytest.raises(RWLossError, match="damaged"):
        read_labels(edited(path, f"Size = {size}", f"Size = {int(size) - 9}"))
