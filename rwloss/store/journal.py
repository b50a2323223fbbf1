"""What happened to a store: log.jsonl (every run and case, with times), failures.jsonl."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rwloss.files.journal import json_line, parsed_lines
from rwloss.store.place import StorePlace

LOG_FILE = "log.jsonl"
FAILURES_FILE = "failures.jsonl"


def log(place: StorePlace, event: str, **fields: Any) -> None:
    """Add an event to log.jsonl, with the time in UTC."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    place.append(LOG_FILE, json_line({"time": now, "event": event, **fields}))


def log_start(place: StorePlace, **fields: Any) -> None:
    """Log the start of a run, with its process and machine."""
    log(place, "start", pid=os.getpid(), host=socket.gethostname(), **fields)


def last_start(place: StorePlace) -> dict[str, Any]:
    """The newest start in log.jsonl; empty where none can be read."""
    starts = [fields for fields in _lines(place, LOG_FILE) if fields.get("event") == "start"]
    return starts[-1] if starts else {}


def write_failures(place: StorePlace, failures: Iterable[tuple[str, str]]) -> None:
    """Write failures.jsonl: a case and a reason per line. Without failures, remove it."""
    lines = [json_line({"case": case, "reason": reason}) for case, reason in failures]
    if lines:
        place.write(FAILURES_FILE, b"".join(lines))
    else:
        place.remove(FAILURES_FILE)


def read_failures(place: StorePlace) -> dict[str, str]:
    """Why the last run failed on a case, by case name."""
    failures = _lines(place, FAILURES_FILE)
    return {
        str(each["case"]): str(each["reason"]) for each in failures if {"case", "reason"} <= {*each}
    }


def _lines(place: StorePlace, name: str) -> list[dict[str, Any]]:
    try:
        return list(parsed_lines(place.read(name)))
    except OSError:
        return []
