"""map.json and manifest.jsonl: what they say, and every way in which they can be wrong."""

import json

import pytest
import stored
from stored import FORMATS, damages, info, made

import rwloss
from rwloss import RWLossError
from rwloss.store import ManifestEntry, MapInfo, StoredPart, Term, Writer
from rwloss.store.manifest import (
    find_unlisted,
    read_entries,
    read_info,
    readable_entries,
    write_entries,
    write_info,
)
from rwloss.store.place import place


def entry(case="case", **changes):
    fields = {
        "case": case,
        "labels_sha256": "a" * 64,
        "shape": (6, 7, 5),
        "spacing_mm": (1.0, 1.0, 2.5),
        "num_classes": 3,
        "parts": {
            "labels": StoredPart(file=f"{case}_labels.nii.gz", sha256="b" * 64),
            "true": StoredPart(file=f"{case}_true.nii.gz", sha256="c" * 64, max_error=2e-4),
            "other": StoredPart(constant=1.0),
        },
    }
    return ManifestEntry(**fields | changes)


# --- map.json


def test_a_description_comes_back(tmp_path):
    full = MapInfo(
        format="zarr",
        dtype="float16",
        expression="rectified + 0.01 * boundary",
        terms=(Term(name="rectified", parameters={"weights": [1.0, 2.0]}), Term(name="boundary")),
        num_classes=3,
        class_names=("background", "海馬", "c"),
        ignore_label=255,
        spacing_mm=(0.1, 1 / 3, 2.5),
        engine="edt",
        versions={"rwloss": "1", "numpy": "2"},
    )
    write_info(place(tmp_path), full)
    assert read_info(place(tmp_path)) == full
    assert full.difference(full) == []
    text = json.loads((tmp_path / "map.json").read_text(encoding="utf-8"))
    assert text["layout"] == 1
    assert text["expression"] == "rectified + 0.01 * boundary"
    assert text["terms"][0]["name"] == "rectified"
    assert text["terms"][0]["parameters"] == {"weights": [1.0, 2.0]}


@pytest.mark.parametrize("what", ["flipped", "cut", "emptied"])
def test_a_damaged_description_is_named(tmp_path, what):
    stored.store_of(tmp_path, {"case": made()})
    file = tmp_path / "map.json"
    file.write_bytes(b"{" + damages(file.read_bytes())[what])
    for reader in (rwloss.store.open, lambda path: Writer.look(place(path), info())):
        with pytest.raises(RWLossError, match=r"map\.json of .* is damaged or of another version"):
            reader(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layout": 2}, "layout: "),
        ({"layout": None}, "layout: "),
        ({"surprise": 1}, "surprise: "),
        ({"format": "hdf5"}, "format: "),
        ({"dtype": "int8"}, "dtype: "),
        ({"num_classes": "many"}, "num_classes: "),
        ({"expression": None}, "expression: "),
        ({"terms": [{"name": "a", "b": 1}]}, "terms.0.b: "),
    ],
    ids=str,
)
def test_a_description_of_another_version_says_what_it_stumbles_over(tmp_path, changes, words):
    (tmp_path / "map.json").write_text(json.dumps(info().model_dump() | changes))
    with pytest.raises(RWLossError) as caught:
        rwloss.store.open(tmp_path)
    message = str(caught.value)
    assert f"map.json of {tmp_path} is damaged or of another version of rwloss ({words}" in message
    assert "precompute into another folder" in message
    assert "\n" not in message
    assert "pydantic" not in message


@pytest.mark.parametrize("text", ["", "[]", "null", "nonsense"])
def test_what_is_no_description(tmp_path, text):
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(RWLossError, match=r"map\.json of .* is damaged"):
        rwloss.store.open(tmp_path)


def test_a_missing_description(tmp_path):
    stored.store_of(tmp_path, {"case": made()})
    (tmp_path / "map.json").unlink()
    with pytest.raises(RWLossError, match=r"is not a store of maps: it has no map\.json"):
        rwloss.store.open(tmp_path)
    with pytest.raises(RWLossError, match="holds other files"):
        Writer.look(place(tmp_path), info())


# --- manifest.jsonl


@pytest.mark.parametrize(
    "one",
    [
        entry(),
        entry("two words\n\"'海馬"),
        entry("caf\udce9"),
        entry(shape=(4, 5), spacing_mm=(0.1, 1 / 3)),
        entry(
            parts={
                "labels": StoredPart(file="case.zarr/labels", sha256="0"),
                "values": StoredPart(file="case.zarr/values", sha256="1", max_error=1e-30),
            }
        ),
    ],
    ids=lambda one: ascii(one.case),
)
def test_a_line_comes_back(tmp_path, one):
    assert one.line.count(b"\n") == 1
    assert one.line.endswith(b"}\n")
    one.line.decode("utf-8")
    write_entries(place(tmp_path), [one])
    assert read_entries(place(tmp_path)) == {one.case: one}


def test_lines_are_sorted_and_the_last_of_a_case_counts(tmp_path):
    old, new = entry("b"), entry("b", num_classes=4)
    place(tmp_path).write("manifest.jsonl", old.line + entry("a").line + new.line)
    found = read_entries(place(tmp_path))
    assert found == {"b": new, "a": entry("a")}
    write_entries(place(tmp_path), found.values())
    assert (tmp_path / "manifest.jsonl").read_bytes() == entry("a").line + new.line


def test_no_manifest_yet(tmp_path):
    assert read_entries(place(tmp_path)) == {}
    assert read_entries(place(tmp_path / "nowhere")) == {}


def test_a_manifest_that_can_not_be_read(tmp_path):
    (tmp_path / "manifest.jsonl").mkdir()
    with pytest.raises(RWLossError, match=r"manifest\.jsonl of .* can't be read"):
        read_entries(place(tmp_path))


@pytest.mark.parametrize("kept", range(-1, -60, -7))
def test_a_torn_last_line_counts_as_missing(tmp_path, kept):
    """Of a run that was killed while it wrote; without its end it may miss a digit."""
    place(tmp_path).write("manifest.jsonl", (entry("a").line + entry("b").line)[:kept])
    assert list(read_entries(place(tmp_path))) == ["a"]


def test_a_torn_line_is_gone_before_the_next_is_added(tmp_path):
    stored.store_of(tmp_path, {"a": made(), "b": made()})
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    with Writer.open(place(tmp_path), info()) as writer:
        assert set(writer.entries()) == {"a"}
        stored.add(writer, "c")
    assert list(rwloss.store.open(tmp_path)) == ["a", "c"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", ""),
        (b"nonsense", "Expecting value"),
        (b"{}", "case: Field required"),
        (b"[]", ""),
        (b"\xff", "decode"),
        (entry("b").line[:50], ""),
        (entry("b").line[:-1].replace(b"num_c", b"num_k"), "num_classes: Field required"),
        (entry("b").line[:-2] + b', "surprise": 1}', "surprise: "),
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_damage_in_the_middle_is_an_error(tmp_path, line, words):
    place(tmp_path).write("manifest.jsonl", entry("a").line + line + b"\n" + entry("c").line)
    with pytest.raises(RWLossError, match=rf"manifest\.jsonl of .* damaged in line 2:.*{words}"):
        read_entries(place(tmp_path))
    entries, wrong = readable_entries(place(tmp_path))
    assert list(entries) == ["a", "c"]
    assert list(wrong) == [2]
    assert words in wrong[2]
    assert "\n" not in wrong[2]


@pytest.mark.parametrize(
    "file",
    [
        *("../x", "/x", "..", ".", "", "x/", "a/../b", "a//b", "a/./b", "a/b/c", "x/..", "./x"),
        *("a\\b", "..\\x", "\\\\host\\x", "a\0b"),
    ],
    ids=ascii,
)
def test_no_file_of_a_part_is_outside_the_store(tmp_path, file):
    with pytest.raises(ValueError, match="is not the name of a file in a store"):
        StoredPart(file=file, sha256="0")
    fields = entry().model_dump()
    fields["parts"]["true"]["file"] = file
    place(tmp_path).write("map.json", info().model_dump_json().encode())
    place(tmp_path).write("manifest.jsonl", json.dumps(fields).encode() + b"\n")
    with pytest.raises(RWLossError, match=r"line 1.*is not the name of a file in a store"):
        list(rwloss.store.open(tmp_path))


LABELS_PART = StoredPart(file="l", sha256="0")
CONSTANT = StoredPart(constant=1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": ()},
        {"shape": (4,), "spacing_mm": (1.0,)},
        {"shape": (4, 5, 6, 7), "spacing_mm": (1.0,) * 4},
        {"shape": (4, 0, 6)},
        {"shape": (4, -5, 6)},
        {"spacing_mm": (1.0, 1.0)},
        {"spacing_mm": (1.0, 1.0, float("nan"))},
        {"num_classes": 1},
        {"parts": {}},
        {"parts": {"labels": LABELS_PART}},
        {"parts": {"labels": LABELS_PART, "true": CONSTANT}},
        {"parts": {"true": CONSTANT, "other": CONSTANT}},
        {"parts": {"labels": CONSTANT, "true": CONSTANT, "other": CONSTANT}},
        {"parts": {"labels": LABELS_PART, "values": LABELS_PART, "true": CONSTANT}},
        {"parts": {"labels": LABELS_PART, "valeus": LABELS_PART}},
    ],
    ids=str,
)
def test_a_line_that_is_no_whole_map(changes):
    with pytest.raises(ValueError, match="validation error"):
        entry(**changes)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"file": "a"},
        {"sha256": "a"},
        {"file": "a", "sha256": "b", "constant": 1.0},
        {"constant": 1.0, "sha256": "b"},
        {"constant": float("nan")},
        {"constant": 1.0, "max_error": float("inf")},
    ],
    ids=str,
)
def test_a_part_is_a_file_or_a_constant(fields):
    with pytest.raises(ValueError, match="validation error"):
        StoredPart(**fields)


# --- Cases that no manifest lists


def test_a_tree_says_itself_what_it_is(tmp_path):
    store = stored.store_of(tmp_path, {"a": made(), "b": made("boundary")}, format="zarr")
    everything = dict(store.entries)
    assert find_unlisted(store.place, everything) == {}
    assert find_unlisted(store.place, {}) == everything
    assert find_unlisted(store.place, {"a": everything["a"]}) == {"b": everything["b"]}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("mark", [None, b"", b"{}", b"[]", b'{"attributes": {"rwloss": {}}}'])
def test_other_trees_are_no_cases(tmp_path, kind, mark):
    store = stored.store_of(tmp_path, {"a": made()}, format=kind)
    (tmp_path / "x.zarr").mkdir()
    (tmp_path / "y.zarr").write_text("a file")
    if mark is not None:
        (tmp_path / "x.zarr" / "zarr.json").write_bytes(mark)
    assert find_unlisted(store.place, store.entries) == {}


def test_a_tree_of_another_name_is_no_case(tmp_path):
    """A copy by hand: its line names the files of the original."""
    store = stored.store_of(tmp_path, {"a": made()}, format="zarr")
    (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    assert find_unlisted(store.place, {}) == {}
