"""Stores for tests: any map of any labels, without the run that makes them."""

import contextlib

import nibabel
import numpy as np

import rwloss
from rwloss import RWMap
from rwloss.store import MapInfo, Writer, labels_digest
from rwloss.store.manifest import write_entries
from rwloss.store.place import place
from rwloss.store.verify import verify

LABELS = np.random.default_rng(3).integers(0, 3, (6, 7, 5)).astype(np.uint8)
SPACING_MM = (1.0, 1.0, 2.0)
FORMATS = ("nifti", "zarr")


def info(expression="rectified", **changes):
    """map.json of three classes."""
    fields = {"num_classes": 3, "engine": "scipy", "versions": {"rwloss": "0"}}
    return MapInfo(expression=expression, **fields | changes)


def add(writer, case="case", rwmap=None, *, spacing_mm=None, affine=None):
    """Write a map (1 *s), that of LABELS by default, and its line. Gives the line."""
    rwmap = made() if rwmap is None else rwmap
    labels = rwmap.labels[0]
    spacing_mm = spacing_mm or SPACING_MM[-labels.ndim :]
    encoded = writer.encode(
        case,
        rwmap,
        labels_sha256=labels_digest(labels, spacing_mm),
        spacing_mm=spacing_mm,
        affine=affine,
    )
    writer.put(encoded)
    writer.record(encoded.entry)
    return encoded.entry


def made(expression="rectified", labels=LABELS, num_classes=3, ignore_label=None):
    """The map of an expression, exactly."""
    spacing_mm = SPACING_MM[-labels.ndim :]
    regions = rwloss.Regions.single(labels, num_classes, spacing_mm, ignore_label)
    return rwloss.maps.parse(expression)(regions)


def store_of(where, rwmaps, **changes):
    """A store of maps by case name, opened for reading."""
    k = {rwmap.num_classes for rwmap in rwmaps.values()}
    with Writer.open(place(where), info(num_classes=k.pop(), **changes)) as writer:
        entries = [add(writer, case, rwmap) for case, rwmap in rwmaps.items()]
        write_entries(writer.place, entries)
    return rwloss.store.open(where)


def random_map(seed, shape, form, *, scale=1.0, num_classes=3, ignored=0.0, dtype=np.float32):
    """Values from -scale to scale, with zeros and both ends; a share of the voxels ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, shape).astype(np.int16)
    labels[rng.uniform(size=shape) < ignored] = -1
    lead = (num_classes,) if form == "dense" else (2,)
    values = (rng.uniform(-1, 1, (*lead, *shape)) * scale).astype(dtype)
    values[rng.uniform(size=values.shape) < 0.2] = 0.0
    values[0].flat[[-1, -2]] = -scale, scale
    values[:, labels == -1] = 0.0
    if form == "dense":
        return RWMap.from_dense(labels[None], values[None])
    true, other = values[:, None]
    return RWMap.compact(labels[None], num_classes, true=true, other=other)


def parts(rwmap):
    """The arrays of a map by name."""
    return {"labels": rwmap.labels, **dict(zip(rwmap.part_names, rwmap.parts, strict=True))}


def assert_same(found, wanted):
    """The same values in every part, bit for bit."""
    assert found.num_classes == wanted.num_classes
    assert parts(found).keys() == parts(wanted).keys()
    for name, part in parts(found).items():
        other = parts(wanted)[name]
        assert part.dtype == other.dtype
        np.testing.assert_array_equal(part, other)


def content(folder, *, without=("log.jsonl",)):
    """Bytes of every file below a folder by its path; times are in the log alone."""
    files = (file for file in folder.rglob("*") if file.is_file())
    found = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
    return {name: found[name] for name in found if name not in without}


@contextlib.contextmanager
def changed(file, new):
    """A file with other bytes (None: none at all) while the block runs."""
    whole = file.read_bytes()
    file.unlink() if new is None else file.write_bytes(new)
    try:
        yield
    finally:
        file.write_bytes(whole)


def damages(whole):
    """What may happen to the bytes of a file, by name."""
    middle = len(whole) // 2
    return {
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "cut": whole[:middle],
        "emptied": b"",
        "missing": None,
    }


ATTACKS = (
    "file('mine.py:Mine')",
    "mine.py:Mine",
    "rectified + file('mine\\x2epy:Mine')",
    r"""blend("\x66ile('mine\x2epy\x3aMine')", "boundary")""",
    r"""blend("rectified", "rectified + \x66ile('mine\x2epy\x3aMine')")""",
    "\ufb01le('mine.py:Mine')",
)
"""Expressions that would run mine.py, some of them in disguise."""


# --- Stores of four cases, to tamper with


FOUR_CASES = ("a", "b", "c", "d")


def write_nifti(path, seed=0, spacing_mm=SPACING_MM):
    """Labels (5 6 4) of three classes, drawn by seed."""
    labels = np.random.default_rng(seed).integers(0, 3, (5, 6, 4)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([*spacing_mm, 1.0])), path)


def problems_of(out, source=None):
    """Kind and name of each problem that `verify` finds."""
    report = verify(out, source, jobs=0)
    assert sum(report.counts.values()) == len(report.problems)
    return [(problem.kind, problem.name) for problem in report.problems]


def a_file_of(out, kind, case="b", part="true"):
    """The file with the values of a part."""
    if kind == "nifti":
        return out / f"{case}_{part}.nii.gz"
    [file] = [file for file in (out / f"{case}.zarr" / part / "c").rglob("*") if file.is_file()]
    return file


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def snapshot(folder):
    """Every file below with all that a write would change."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(folder.rglob("*"))
    }
