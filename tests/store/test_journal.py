"""log.jsonl and failures.jsonl."""

import json
from datetime import UTC, datetime

import pytest

from rwloss.store.journal import last_start, log, log_start, read_failures, write_failures
from rwloss.store.place import place


def events(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_events_in_their_order_with_the_time(tmp_path):
    before = datetime.now(UTC)
    log(place(tmp_path), "made", case="海馬\n", seconds=0.25)
    log(place(tmp_path), "failed", case="caf\udce9", reason="it is empty")
    first, second = events(tmp_path)
    assert {**first, "time": 0} == {"time": 0, "event": "made", "case": "海馬\n", "seconds": 0.25}
    assert second["case"] == "caf\udce9"
    assert second["reason"] == "it is empty"
    times = [datetime.fromisoformat(event["time"]) for event in (first, second)]
    assert before.replace(microsecond=before.microsecond // 1000 * 1000) <= times[0] <= times[1]
    assert times[1] <= datetime.now(UTC)


def test_the_last_start_counts(tmp_path):
    assert last_start(place(tmp_path)) == {}
    log_start(place(tmp_path), source="/first")
    log(place(tmp_path), "made", case="a")
    log_start(place(tmp_path), source="/second", jobs=2)
    log(place(tmp_path), "end")
    found = last_start(place(tmp_path))
    assert (found["source"], found["jobs"], found["event"]) == ("/second", 2, "start")
    assert found["pid"] > 0
    assert found["host"]


@pytest.mark.parametrize(
    "torn", [b'{"event": "start", "sou', b"\xff\n", b"[1]\n", b"\n", b"null\n"]
)
def test_half_a_line_of_a_killed_run_is_passed_over(tmp_path, torn):
    log_start(place(tmp_path), source="/first")
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(torn)
    assert last_start(place(tmp_path))["source"] == "/first"


def test_failures_are_those_of_the_last_run(tmp_path):
    assert read_failures(place(tmp_path)) == {}
    write_failures(place(tmp_path), [("a", "it is empty"), ("caf\udce9 海馬", "two\nlines")])
    assert read_failures(place(tmp_path)) == {"a": "it is empty", "caf\udce9 海馬": "two\nlines"}
    assert len((tmp_path / "failures.jsonl").read_text().splitlines()) == 2
    write_failures(place(tmp_path), [("b", "gone")])
    assert read_failures(place(tmp_path)) == {"b": "gone"}
    write_failures(place(tmp_path), [])
    assert not (tmp_path / "failures.jsonl").exists()
    write_failures(place(tmp_path), [])
