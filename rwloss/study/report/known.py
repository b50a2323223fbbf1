"""The indicators of a study that was carried out: as it kept them, else made again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rwloss.errors import RWLossError
from rwloss.study.indicators import Indicators, indicators
from rwloss.study.plan import Study

_FIELDS = tuple(field.name for field in dataclasses.fields(Indicators))
_DECIDING = ("data", "training")


def indicators_of(study: Study, folder: Path) -> tuple[dict[str, Indicators], str]:
    """Indicators of every map, and why not of all, or an empty text.

    Those of results.json where it is of the same maps on the same data; else made from the data,
    and where these are gone, those that results.json has of maps that are unchanged.
    """
    kept = _kept(study, folder)
    if kept.keys() == study.maps.keys():
        return kept, ""
    try:
        return indicators(study, folder), ""
    except RWLossError as error:
        return kept, str(error)


def _pull(fields: Mapping[str, Any]) -> dict[str, float | None]:
    """Of each class; JSON has an infinite one as text."""
    return {name: None if value is None else float(value) for name, value in fields["pull"].items()}


def _kept(study: Study, folder: Path) -> dict[str, Indicators]:
    """Of maps as they are now; none where results.json is not whole, or of other data."""
    now = study.model_dump(mode="json")
    try:
        content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        if any(content["study"][name] != now[name] for name in _DECIDING):
            return {}
        before = content["study"]["maps"]
        return {
            name: Indicators(**{field: each[field] for field in _FIELDS} | {"pull": _pull(each)})
            for name, each in content["indicators"].items()
            if name in study.maps and before[name] == study.maps[name]
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
