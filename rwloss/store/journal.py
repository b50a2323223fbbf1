"""What happened to a store: log.jsonl (every run and case, with times), failures.jsonl."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from rwloss.store.manifest import json_line
from rwloss.store.place import Place

LOG_FILE = "log.jsonl"
FAILURES_FILE = "failures.jsonl"


def log(place: Place, event: str, **fields: Any) -> None:
    """Add an event to log.jsonl, with the time in UTC."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    place.append(LOG_FILE, json_line({"time": now, "event": event, **fields}))


def log_start(place: Place, **fields: Any) -> None:
    """Log the start of a run, and who runs it."""
    log(place, "start", pid=os.getpid(), host=socket.gethostname(), **fields)


def last_start(place: Place) -> dict[str, Any]:
    """The newest start in log.jsonl; empty where there is none that can be read."""
    try:
        lines = place.read(LOG_FILE).splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:
            continue  # half a line of a killed run
        if isinstance(found, dict) and found.get("event") == "start":
            return found
    return {}


def write_failures(place: Place, failures: Iterable[tuple[str, str]]) -> None:
    """Write failures.jsonl, a line a case that the last run could not do; none, no file."""
    lines = [json_line({"case": case, "reason": reason}) for case, reason in failures]
    if lines:
        place.write(FAILURES_FILE, b"".join(lines))
    else:
        place.remove(FAILURES_FILE)


def read_failures(place: Place) -> dict[str, str]:
    """Why the last run could not do a case, by case name; lines that can't be read are left out."""
    try:
        lines = place.read(FAILURES_FILE).splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            failure = json.loads(line)
            found[str(failure["case"])] = str(failure["reason"])
    return found
