"""What goes into a store comes out of it: every format, type of values, form and number of axes."""

import itertools
import sys

import nibabel
import numpy as np
import pytest
import stored
from anatomy import anatomy
from stored import LABELS, assert_same, content, info, made, random_map

import rwloss
from rwloss import maps
from rwloss.store import Writer
from rwloss.store.encoding import DTYPES, allowed_error
from rwloss.store.place import place

zarr = pytest.importorskip("zarr")

SHAPES = [(6, 7), (6, 7, 5)]
STATIC = [name for name in maps.names() if maps.get(name).is_static]


# --- Values


@pytest.mark.parametrize("form", ["compact", "dense"])
def test_values_come_back_within_the_stated_error(tmp_path, kind, form):
    for dtype, shape in itertools.product(DTYPES[kind], SHAPES):
        scales = {"small": (1e-6, 2), "one": (1.0, 3), "large": (300.0, 4)}
        exact = {
            case: random_map(1, shape, form, scale=scale, num_classes=k, ignored=0.3)
            for case, (scale, k) in scales.items()
        }
        out = tmp_path / f"{dtype} {len(shape)}"
        with Writer.open(place(out), info(format=kind, dtype=dtype)) as writer:
            for case, rwmap in exact.items():
                stored.add(writer, case, rwmap)
        store = rwloss.store.open(out)
        for case, wanted in exact.items():
            found, described = store[case], store.entries[case].parts
            assert (found.num_classes, found.is_compact) == (wanted.num_classes, form == "compact")
            for name, values in stored.parts(wanted).items():
                back, error = stored.parts(found)[name].astype(float), described[name].max_error
                assert back.shape == values.shape
                difference = np.abs(back - values.astype(float)).max()
                assert difference == pytest.approx(error, rel=1e-3, abs=1e-12), (dtype, case)
                assert dtype != "auto" or error <= allowed_error(float(np.abs(values).max()))
            assert not np.moveaxis(found.dense(), 1, -1)[wanted.labels == -1].any()


@pytest.mark.parametrize(("shape", "ignore_label"), [((6, 7), 2), ((6, 7, 5), None)])
def test_every_static_map_comes_back(tmp_path, kind, ignore_label, shape):
    labels = LABELS[..., 0] if len(shape) == 2 else LABELS
    for text in (*STATIC, "(boundary - 2 * rectified).stabilized()", "1e-6 * boundary"):
        exact = made(text, labels, ignore_label=ignore_label)
        store = stored.store_of(tmp_path / text, {"a case": exact}, format=kind, expression=text)
        assert store.expression == text
        found = store["a case"]
        assert found.is_compact == exact.is_compact
        np.testing.assert_array_equal(found.labels, exact.labels)
        size = float(np.abs(exact.dense()).max())
        assert size > 0
        assert np.abs(found.dense() - exact.dense()).max() <= allowed_error(size), text


def test_labels_come_back_exactly(tmp_path, kind):
    for i, labels in enumerate([
        np.array([[0, 1], [-1, 2]], np.int64),
        np.array([[0, 254], [255, 1]], np.uint16),
        np.array([[0, 299], [-1, 256]], np.int16),
        np.array([[0, 39999], [-1, 1]], np.int32),
        np.full((4, 5), -1, np.int8),
    ]):  # fmt: skip
        values = np.where(labels == -1, 0, np.linspace(-1, 1, labels.size).reshape(labels.shape))
        k, values = max(2, int(labels.max()) + 1), values[None].astype(np.float32)
        rwmap = rwloss.RWMap.compact(labels[None], k, values, -values)
        found = stored.store_of(tmp_path / f"{i}", {"case": rwmap}, format=kind)["case"]
        np.testing.assert_array_equal(found.labels, labels[None])
        np.testing.assert_allclose(found.true, values, rtol=0, atol=3e-4)
        assert found.num_classes == k


def test_anatomy_in_fortran_order(tmp_path, kind):
    """The order of what nibabel reads."""
    exact = made("rectified + 0.1 * boundary", np.asfortranarray(anatomy(0, (20, 15, 70))), 4)
    store = stored.store_of(tmp_path, {"case": exact}, format=kind)
    error = store.entries["case"].parts["values"].max_error
    assert np.abs(store["case"].values - exact.values).max() == pytest.approx(error, rel=1e-5)
    assert error <= 3e-4


@pytest.mark.parametrize(("kind", "smaller"), [("nifti", 12), ("zarr", 15)])
def test_a_compact_map_is_small(tmp_path, kind, smaller):
    """Than dense float32. The benchmarks have the numbers of larger volumes."""
    exact = made("rectified", anatomy(1, (64, 64, 64)), 4)
    store = stored.store_of(tmp_path, {"case": exact}, format=kind)
    size = sum(map(len, content(tmp_path).values()))
    assert smaller * size < 4 * 4 * 64**3
    assert store.entries["case"].parts["true"].max_error <= 2.5e-4


# --- One value at every voxel


def test_a_constant_is_not_stored(tmp_path, kind):
    for value in (0.0, 1.0, -0.37):
        out = tmp_path / str(value)
        rwmap = random_map(5, (6, 7), "compact", ignored=0.3)
        other = np.where(rwmap.labels != -1, np.float32(value), np.float32(0))
        constant = rwloss.RWMap.compact(rwmap.labels, 3, rwmap.true, other)
        store = stored.store_of(out, {"case": constant}, format=kind)
        part = store.entries["case"].parts["other"]
        assert (part.file, part.constant) == (None, np.float32(value))
        assert not [name for name in content(out) if "other" in name]
        np.testing.assert_array_equal(store["case"].other, other)
        np.testing.assert_array_equal(store.read("case", np.s_[1:3, 2:7]).other, other[:, 1:3, 2:7])


# --- Parts


@pytest.mark.parametrize("form", ["compact", "dense"])
@pytest.mark.parametrize("shape", [(30, 41), (20, 70, 9)])
def test_a_part_is_the_same_part_of_the_whole(tmp_path, kind, form, shape):
    rwmap = random_map(6, shape, form, ignored=0.1)
    store = stored.store_of(tmp_path, {"case": rwmap}, format=kind)
    whole = stored.parts(store["case"])
    rng = np.random.default_rng(8)
    for _ in range(12):
        ends = [sorted(rng.choice(length + 1, 2, replace=False).tolist()) for length in shape]
        region = tuple(slice(*pair) for pair in ends)
        found = stored.parts(store.read("case", region))
        assert found.keys() == whole.keys()
        for name, part in found.items():
            wanted = whole[name][(..., *region)]
            assert (part.dtype, part.flags.c_contiguous) == (wanted.dtype, True)
            np.testing.assert_array_equal(part, wanted)


def test_ends_of_slices_may_be_left_out_or_count_from_the_end(tmp_path, kind):
    read = stored.store_of(tmp_path, {"case": made()}, format=kind).read
    for short, full in [
        (np.s_[:, :, :], None),
        (np.s_[-2:, :-1, 1:99], np.s_[4:6, 0:6, 1:5]),
        (list(np.s_[0:1, 0:1, 0:1]), np.s_[:1, :1, :1]),
        (np.s_[np.int64(1) : np.int32(4), 1:4, 1:4], np.s_[1:4, 1:4, 1:4]),
    ]:
        assert_same(read("case", short), read("case", full))


# --- What other programs see


AFFINE = np.array([[0, 2, 0, 5], [-1, 0, 0, 6.5], [0, 0, 3, -7], [0, 0, 0, 1]], dtype=float)
TURNED_MM = (1.0, 2.0, 3.0)


def seen_by_others(tmp_path, expression, **changes):
    """A store of one case of a turned image, as we read it."""
    with Writer.open(place(tmp_path), info(expression, **changes)) as writer:
        stored.add(writer, "case", made(expression), spacing_mm=TURNED_MM, affine=AFFINE)
    return rwloss.store.open(tmp_path)


@pytest.mark.parametrize("expression", ["rectified", "boundary"])
def test_nibabel_alone_reads_a_case(tmp_path, expression):
    store = seen_by_others(tmp_path, expression)
    files = {name: part.file for name, part in store.entries["case"].parts.items() if part.file}
    for name, file in files.items():
        image = nibabel.load(tmp_path / file)
        np.testing.assert_array_equal(image.affine, AFFINE)
        assert image.header.get_zooms()[:3] == TURNED_MM
        seen = np.moveaxis(image.get_fdata(), -1, 0) if name == "values" else image.get_fdata()
        np.testing.assert_allclose(seen, getattr(store["case"], name)[0], rtol=1e-6, atol=0)
    assert set(content(tmp_path)) == {"map.json", "manifest.jsonl", *files.values()}


@pytest.mark.parametrize("expression", ["rectified", "boundary"])
def test_zarr_alone_reads_a_case(tmp_path, expression):
    store = seen_by_others(tmp_path, expression, format="zarr")
    group = zarr.open_group(tmp_path / "case.zarr", mode="r")
    assert group.attrs["affine"] == AFFINE.tolist()
    assert group.attrs["rwloss"]["case"] == "case"
    assert group.attrs["rwloss"]["spacing_mm"] == list(TURNED_MM)
    parts = store.entries["case"].parts
    assert set(group.array_keys()) == {name for name, part in parts.items() if part.file}
    for name, array in group.arrays():
        assert array.dtype == (np.uint8 if name == "labels" else np.float16)
        np.testing.assert_array_equal(array[...], getattr(store["case"], name)[0])


def test_the_store_says_what_it_holds(tmp_path, kind):
    store = stored.store_of(tmp_path, {"b": made(), "a": made()}, format=kind)
    assert store.info == info(format=kind)
    assert repr(store) == f"Store({str(tmp_path)!r}: rectified, 2 cases)"
    for rwmap in (store["a"], store.read("a", np.s_[1:3, 2:4, 0:5])):
        assert (rwmap.expression, rwmap.spacing_mm) == ("rectified", (stored.SPACING_MM,))
    assert list(store) == ["a", "b"]
    assert len(store) == 2
    entry = store.entries["a"]
    assert entry.shape == LABELS.shape
    assert entry.spacing_mm == stored.SPACING_MM
    assert entry.num_classes == 3
    lines = (tmp_path / "manifest.jsonl").read_text().splitlines()
    assert [line[:12] for line in lines] == ['{"case": "a"', '{"case": "b"']


# --- Names


NAMES = [
    *("two words", "it's", '"quoted"', "new\nline", " ", "海馬", "é", "e\u0301", "-rf", "100%"),
    *("..x", "#1", "a::b", "[1]", "*", "?", "x.zarr", "map.json", "a", "a_true", "x" * 200),
]  # fmt: skip


def test_names_are_only_names(tmp_path, kind):
    exact = {name: random_map((1, i), (3, 4), "compact") for i, name in enumerate(NAMES)}
    store = stored.store_of(tmp_path / "out", exact, format=kind)
    assert list(store) == sorted(NAMES)
    for name, wanted in exact.items():
        np.testing.assert_array_equal(store[name].labels, wanted.labels)
        np.testing.assert_allclose(store[name].true, wanted.true, rtol=0, atol=3e-4)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    with Writer.open(place(tmp_path / "out"), info(format=kind)) as writer:
        assert writer.entries() == store.entries
        digests = {name: entry.labels_sha256 for name, entry in store.entries.items()}
        assert all(writer.is_done(store.entries[name], digests[name]) for name in NAMES)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_a_name_that_is_no_unicode(tmp_path, kind):
    name = b"caf\xe9".decode(errors="surrogateescape")
    store = stored.store_of(tmp_path, {name: made(), "b": made()}, format=kind)
    assert list(store) == ["b", name]
    assert_same(store[name], store["b"])
    (tmp_path / "manifest.jsonl").read_bytes().decode("utf-8")


def test_a_name_that_is_too_long_for_a_file(tmp_path, kind):
    with Writer.open(place(tmp_path), info(format=kind)) as writer:
        encoded = writer.encode(
            "x" * 252, made(), labels_sha256="", spacing_mm=stored.SPACING_MM, affine=None
        )
        with pytest.raises(OSError, match="too long"):
            writer.put(encoded)
    assert content(tmp_path).keys() <= {"map.json", "manifest.jsonl", ".rwloss-lock"}


# --- Other places


@pytest.fixture
def addresses(tmp_path):
    """A store's address in each kind of place: a folder, a file:// address and memory."""
    import fsspec

    name = f"/{tmp_path.name}"
    yield {
        "folder": tmp_path / "folder",
        "file": f"file://{tmp_path}/file",
        "memory": f"memory:/{name}",
    }
    memory = fsspec.filesystem("memory")
    if memory.exists(name):
        memory.rm(name, recursive=True)


def test_a_store_is_the_same_in_every_place(addresses):
    exact = {"b": made(), "a": made("boundary"), "100% [x]": random_map(1, (70, 9, 8), "dense")}
    stores = {
        kind: stored.store_of(where, exact, format="zarr") for kind, where in addresses.items()
    }
    files = {
        kind: [
            (name, store.place.read_tree(name))
            for name in ("map.json", "manifest.jsonl", *store.place.names())
            if name != ".rwloss-lock"
        ]
        for kind, store in stores.items()
    }
    trees = {"a.zarr", "b.zarr", "100% [x].zarr"}
    assert {name for name, _ in files["memory"]} == {"map.json", "manifest.jsonl"} | trees
    assert files["folder"] == files["file"] == files["memory"]
    for store in stores.values():
        assert list(store) == sorted(exact)
        for case in exact:
            assert_same(store[case], stores["folder"][case])
        cut = np.s_[60:68, 0:3, 2:8]
        assert_same(store.read("100% [x]", cut), stores["folder"].read("100% [x]", cut))


def test_a_bucket_needs_no_manifest(addresses):
    """Objects don't grow: until a run ends, the trees' own lines are the manifest."""
    exact = {"b": made(), "a": made("boundary")}
    store = stored.store_of(addresses["memory"], exact, format="zarr")
    store.place.remove("manifest.jsonl")
    again = rwloss.store.open(addresses["memory"])
    assert again.entries == store.entries
    assert_same(again["a"], store["a"])
    with Writer.open(again.place, store.info) as writer:
        known = writer.entries()
        assert known == store.entries
        assert all(writer.is_done(entry, entry.labels_sha256) for entry in known.values())
        again.place.remove("b.zarr/zarr.json")  # of a run that was stopped while it wrote
        assert set(rwloss.store.open(addresses["memory"])) == {"a", "b"}  # the manifest is back
        again.place.remove("manifest.jsonl")
        assert set(writer.entries()) == {"a"}


def test_a_name_in_a_bucket_is_no_pattern_and_no_chain(addresses):
    """To make one case again must remove no other."""
    odd = ("*", "[ab]", "?", "a::b")
    maps_of = dict.fromkeys(("a", "b", *odd), made())
    store = stored.store_of(addresses["memory"], maps_of, format="zarr")
    with Writer.open(store.place, store.info) as writer:
        for name in odd:
            stored.add(writer, name, made(labels=LABELS[::-1]))
    assert_same(store["a"], store["b"])
    for name in odd:
        np.testing.assert_array_equal(store[name].labels[0], LABELS[::-1])
