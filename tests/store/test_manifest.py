"""What a store says of itself, and every way in which that can be wrong."""

import hashlib
import itertools
import json
from datetime import UTC, datetime

import numpy as np
import pytest
import stored
from stored import damages, info, made

import rwloss
from rwloss import RWLossError
from rwloss.store import ManifestEntry, MapInfo, StoredPart, Term, Writer, labels_digest
from rwloss.store.manifest import (
    files_digest,
    find_unlisted,
    last_start,
    log,
    read_entries,
    read_failures,
    read_info,
    readable_entries,
    write_entries,
    write_failures,
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


# --- Digests

LABELS = np.arange(24).reshape(2, 3, 4) % 5


def test_same_content_same_digest():
    for dtype in ("uint8", "int8", "int16", ">i4", "uint32", "int64"):
        for other in (
            LABELS.astype(dtype),
            np.asfortranarray(LABELS.astype(dtype)),
            np.repeat(LABELS, 2, axis=1).astype(dtype)[:, ::2],
        ):
            assert labels_digest(other, (1, 2, 3)) == labels_digest(LABELS, (1.0, 2.0, 3.0)), dtype
    for shift in (-3, 250, 2**15 - 3, 2**31):
        labels = LABELS + shift
        digest = labels_digest(labels, (1, 1, 1))
        assert digest != labels_digest(LABELS, (1, 1, 1)), shift
        assert digest == labels_digest(np.asfortranarray(labels), (1, 1, 1)), shift


def test_other_labels_shape_or_spacing_give_another_digest():
    one_voxel = []
    for at in itertools.product(range(2), range(3), range(4)):
        labels = LABELS.copy()
        labels[at] += 1
        one_voxel.append((labels, (1, 1, 1)))
    cases = [
        *one_voxel,
        (LABELS, (1, 1, 1)),
        (LABELS.reshape(2, 4, 3), (1, 1, 1)),
        (LABELS.reshape(4, 3, 2), (1, 1, 1)),
        (LABELS.transpose(2, 1, 0), (1, 1, 1)),
        (LABELS.reshape(6, 4), (1, 1)),
        (LABELS, (1, 1, 2)),
        (LABELS, (2, 1, 1)),
        (LABELS, (1, 1, np.nextafter(1, 2))),
        (LABELS + 2**15, (1, 1, 1)),
        # The low byte of each is that of the first.
        (LABELS + 2**8, (1, 1, 1)),
        # Stores keep the affine of the file.
        (LABELS, (1, 1, 1), np.eye(4)),
        (LABELS, (1, 1, 1), np.diag([-1.0, 1.0, 1.0, 1.0])),
    ]
    assert len({labels_digest(*case) for case in cases}) == len(cases)


def test_files_are_known_by_names_and_bytes():
    assert files_digest({"": b"abc"}) == hashlib.sha256(b"abc").hexdigest()
    files = {"a": b"xy", "b/c": b"z"}
    assert files_digest(files) == files_digest(dict(reversed(files.items())))
    others = [
        files,
        {"a": b"xy"},
        {"a": b"xy", "b/c": b"Z"},
        {"a": b"xy", "b/d": b"z"},
        {"a": b"xyb/c", "": b"z"},
        {"a": b"x", "b/c": b"yz"},
        {"a": b"xy", "b/c": b"z", "d": b""},
    ]
    assert len(set(map(files_digest, others))) == len(others)


# --- map.json


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ("rwloss-exponential-depth 0.1.0", "rwloss-exponential-depth 0.2.0", None),
        ("sha256:" + "a" * 64, "sha256:" + "b" * 64, f"sha256:{'a' * 12}, now sha256:{'b' * 12}"),
        ("", "2", "built in, now 2"),
    ],
)
def test_other_code_is_named(before, now, words):
    held = info(terms=(Term(name="mine", revision=before),))
    told = held.changed_code([Term(name="mine", revision=now)])
    assert told == [f"other code of mine ({words or f'{before}, now {now}'})"]
    assert held.changed_code(held.terms) == []


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
    with Writer.open(place(tmp_path), full):
        pass
    assert read_info(place(tmp_path)) == full
    assert full.difference(full) == []
    text = json.loads((tmp_path / "map.json").read_text(encoding="utf-8"))
    assert (text["layout"], text["expression"]) == (1, "rectified + 0.01 * boundary")
    assert text["terms"][0]["name"] == "rectified"
    assert text["terms"][0]["parameters"] == {"weights": [1.0, 2.0]}


def test_a_damaged_description_is_named(tmp_path):
    stored.store_of(tmp_path, {"case": made()})
    file = tmp_path / "map.json"
    whole = file.read_bytes()
    wrong = [b"{" + damages(whole)[what] for what in ("flipped", "cut", "emptied")]
    for content in (*wrong, b"", b"[]", b"null", b"nonsense"):
        file.write_bytes(content)
        for reader in (rwloss.store.open, lambda path: Writer.look(place(path), info())):
            with pytest.raises(
                RWLossError, match=r"map\.json of .* is damaged or from another vers"
            ):
                reader(tmp_path)
    file.unlink()
    with pytest.raises(RWLossError, match=r"is not a store of maps: it has no map\.json"):
        rwloss.store.open(tmp_path)
    with pytest.raises(RWLossError, match="holds other files"):
        Writer.look(place(tmp_path), info())


def test_a_description_of_another_version_says_what_it_stumbles_over(tmp_path):
    for changes, words in [
        ({"layout": 2}, "layout: "),
        ({"layout": None}, "layout: "),
        ({"surprise": 1}, "surprise: "),
        ({"format": "hdf5"}, "format: "),
        ({"dtype": "int8"}, "dtype: "),
        ({"num_classes": "many"}, "num_classes: "),
        ({"expression": None}, "expression: "),
        ({"terms": [{"name": "a", "b": 1}]}, "terms.0.b: "),
    ]:
        (tmp_path / "map.json").write_text(json.dumps(info().model_dump() | changes))
        with pytest.raises(RWLossError) as caught:
            rwloss.store.open(tmp_path)
        message = str(caught.value)
        assert f"map.json of {tmp_path} is damaged or from another version of rwloss ({words}" in (
            message
        )
        assert "precompute into another folder" in message
        assert "\n" not in message
        assert "pydantic" not in message


# --- manifest.jsonl


def test_a_line_comes_back(tmp_path):
    values = {
        "labels": StoredPart(file="case.zarr/labels", sha256="0"),
        "values": StoredPart(file="case.zarr/values", sha256="1", max_error=1e-30),
    }
    for one in (
        entry(),
        entry("two words\n\"'海馬"),
        entry("caf\udce9"),
        entry(shape=(4, 5), spacing_mm=(0.1, 1 / 3)),
        entry(parts=values),
    ):
        assert one.line.count(b"\n") == 1
        assert one.line.endswith(b"}\n")
        one.line.decode("utf-8")
        write_entries(place(tmp_path), [one])
        assert read_entries(place(tmp_path)) == {one.case: one}


def test_lines_are_sorted_and_the_last_of_a_case_counts(tmp_path):
    assert read_entries(place(tmp_path)) == {}
    assert read_entries(place(tmp_path / "nowhere")) == {}
    old, new = entry("b"), entry("b", num_classes=4)
    place(tmp_path).write("manifest.jsonl", old.line + entry("a").line + new.line)
    found = read_entries(place(tmp_path))
    assert found == {"b": new, "a": entry("a")}
    write_entries(place(tmp_path), found.values())
    assert (tmp_path / "manifest.jsonl").read_bytes() == entry("a").line + new.line


def test_a_manifest_that_can_not_be_read(tmp_path):
    (tmp_path / "manifest.jsonl").mkdir()
    with pytest.raises(RWLossError, match=r"manifest\.jsonl of .* can't be read"):
        read_entries(place(tmp_path))


def test_a_torn_last_line_counts_as_missing(tmp_path):
    """Of a run that was killed while it wrote; without its end it may miss a digit."""
    for kept in range(-1, -60, -7):
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


def test_damage_in_the_middle_is_an_error(tmp_path):
    for line, words in [
        (b"", ""),
        (b"nonsense", "Expecting value"),
        (b"{}", "case: Field required"),
        (b"[]", ""),
        (b"[" * 100_000, "recursion"),
        (b"\xff", "decode"),
        (entry("b").line[:50], ""),
        (entry("b").line[:-1].replace(b"num_c", b"num_k"), "num_classes: Field required"),
        (entry("b").line[:-2] + b', "surprise": 1}', "surprise: "),
    ]:
        place(tmp_path).write("manifest.jsonl", entry("a").line + line + b"\n" + entry("c").line)
        with pytest.raises(RWLossError, match=rf"manifest\.jsonl of .* in line 2:.*{words}"):
            read_entries(place(tmp_path))
        entries, wrong = readable_entries(place(tmp_path))
        assert list(entries) == ["a", "c"]
        assert list(wrong) == [2]
        assert words in wrong[2]
        assert "\n" not in wrong[2]


def test_no_file_of_a_part_is_outside_the_store(tmp_path):
    place(tmp_path).write("map.json", info().model_dump_json().encode())
    for file in (
        *("../x", "/x", "..", ".", "", "x/", "a/../b", "a//b", "a/./b", "a/b/c", "x/..", "./x"),
        *("a\\b", "..\\x", "\\\\host\\x", "a\0b"),
    ):
        with pytest.raises(ValueError, match="is not the name of a file in a store"):
            StoredPart(file=file, sha256="0")
        fields = entry().model_dump()
        fields["parts"]["true"]["file"] = file
        place(tmp_path).write("manifest.jsonl", json.dumps(fields).encode() + b"\n")
        with pytest.raises(RWLossError, match=r"line 1.*is not the name of a file in a store"):
            list(rwloss.store.open(tmp_path))


def test_what_is_no_whole_map_or_part():
    labels, constant = StoredPart(file="l", sha256="0"), StoredPart(constant=1.0)
    for changes in (
        {"shape": ()},
        {"shape": (4,), "spacing_mm": (1.0,)},
        {"shape": (4, 5, 6, 7), "spacing_mm": (1.0,) * 4},
        {"shape": (4, 0, 6)},
        {"shape": (4, -5, 6)},
        {"spacing_mm": (1.0, 1.0)},
        {"spacing_mm": (1.0, 1.0, float("nan"))},
        {"num_classes": 1},
        {"parts": {}},
        {"parts": {"labels": labels}},
        {"parts": {"labels": labels, "true": constant}},
        {"parts": {"true": constant, "other": constant}},
        {"parts": {"labels": constant, "true": constant, "other": constant}},
        {"parts": {"labels": labels, "values": labels, "true": constant}},
        {"parts": {"labels": labels, "valeus": labels}},
    ):
        with pytest.raises(ValueError, match="validation error"):
            pytest.fail(f"{changes}: {entry(**changes)}")
    for fields in (
        {},
        {"file": "a"},
        {"sha256": "a"},
        {"file": "a", "sha256": "b", "constant": 1.0},
        {"constant": 1.0, "sha256": "b"},
        {"constant": float("nan")},
        {"constant": 1.0, "max_error": float("inf")},
    ):
        with pytest.raises(ValueError, match="validation error"):
            pytest.fail(f"{fields}: {StoredPart(**fields)}")


# --- Cases that no manifest lists


def test_a_tree_says_itself_what_it_is(tmp_path):
    store = stored.store_of(tmp_path, {"a": made(), "b": made("boundary")}, format="zarr")
    everything = dict(store.entries)
    assert find_unlisted(store.place, everything) == {}
    assert find_unlisted(store.place, {}) == everything
    assert find_unlisted(store.place, {"a": everything["a"]}) == {"b": everything["b"]}
    # A copy by hand: its line names the files of the original.
    (tmp_path / "a.zarr").rename(tmp_path / "c.zarr")
    assert find_unlisted(store.place, {}) == {"b": everything["b"]}


CODE = b"""{"attributes": {"rwloss": {"case": "x", "expression": "file('mine.py:Mine')"}}}"""


def test_other_trees_are_no_cases(tmp_path, kind):
    store = stored.store_of(tmp_path, {"a": made()}, format=kind)
    (tmp_path / "x.zarr").mkdir()
    (tmp_path / "y.zarr").write_text("a file")
    for mark in (None, b"", b"{}", b"[]", b'{"attributes": {"rwloss": {}}}', CODE):
        if mark is not None:
            (tmp_path / "x.zarr" / "zarr.json").write_bytes(mark)
        assert find_unlisted(store.place, store.entries) == {}


# --- log.jsonl and failures.jsonl


def test_events_in_their_order_with_the_time(tmp_path):
    before = datetime.now(UTC)
    log(place(tmp_path), "made", case="海馬\n", seconds=0.25)
    log(place(tmp_path), "failed", case="caf\udce9", reason="it is empty")
    first, second = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert {**first, "time": 0} == {"time": 0, "event": "made", "case": "海馬\n", "seconds": 0.25}
    assert (second["case"], second["reason"]) == ("caf\udce9", "it is empty")
    times = [datetime.fromisoformat(event["time"]) for event in (first, second)]
    assert before.replace(microsecond=before.microsecond // 1000 * 1000) <= times[0] <= times[1]
    assert times[1] <= datetime.now(UTC)


def test_the_last_start_counts(tmp_path):
    assert last_start(place(tmp_path)) == {}
    log(place(tmp_path), "start", source="/first")
    log(place(tmp_path), "made", case="a")
    log(place(tmp_path), "start", source="/second", jobs=2)
    log(place(tmp_path), "end")
    found = last_start(place(tmp_path))
    assert (found["source"], found["jobs"], found["event"]) == ("/second", 2, "start")
    # A killed run may leave half a line.
    for torn in (b'{"event": "start", "sou', b"\xff\n", b"[1]\n", b"\n", b"null\n"):
        with (tmp_path / "log.jsonl").open("ab") as file:
            file.write(torn)
        assert last_start(place(tmp_path))["source"] == "/second"


def test_failures_are_those_of_the_last_run(tmp_path):
    assert read_failures(place(tmp_path)) == {}
    write_failures(place(tmp_path), [("a", "it is empty"), ("caf\udce9 海馬", "two\nlines")])
    assert read_failures(place(tmp_path)) == {"a": "it is empty", "caf\udce9 海馬": "two\nlines"}
    assert len((tmp_path / "failures.jsonl").read_text().splitlines()) == 2
    write_failures(place(tmp_path), [("b", "gone")])
    assert read_failures(place(tmp_path)) == {"b": "gone"}
    for _ in range(2):
        write_failures(place(tmp_path), [])
        assert not (tmp_path / "failures.jsonl").exists()
