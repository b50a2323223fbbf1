"""The part of nnU-Net's dataset.json that rwloss needs."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from rwloss.data.formats import SUFFIXES
from rwloss.errors import RWLossError

MAX_CLASSES = 2**16
"""More are grey values or numbers of objects by mistake; num_classes given by the caller may be."""


class CaseFiles(BaseModel):
    """Where the files of one case are, relative to the folder of dataset.json."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    images: tuple[StrictStr, ...] = ()
    label: StrictStr


class DatasetJson(BaseModel):
    """dataset.json of nnU-Net version 2, or of the Decathlon ({"0": "background", ...}).

    Other keys are left to other programs.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    labels: dict[str, StrictInt | StrictStr | tuple[StrictInt, ...]] = Field(min_length=1)
    file_ending: StrictStr | None = None
    channel_names: dict[str, object] | None = None
    dataset: dict[str, CaseFiles] | None = None

    @property
    def ending(self) -> str | None:
        """The suffix of all its files, in small letters, if it names one."""
        return None if self.file_ending is None else self.file_ending.lower()

    def classes(self) -> tuple[tuple[str, ...], int | None]:
        """The name of each class, and the label to ignore. Raises RWLossError."""
        values = self.values()
        ignored = values.pop("ignore", None)
        if ignored is not None and len(ignored) != 1:
            raise RWLossError(f'expected one number for "ignore", got {list(ignored)}')
        used = {label for labels in values.values() for label in labels}
        if not used:
            raise RWLossError('"labels" names no class')
        if max(used) >= MAX_CLASSES:
            raise RWLossError(f"expected labels below {MAX_CLASSES}, got {max(used)}")
        if ignored is not None and ignored[0] in used:
            raise RWLossError(f'"ignore" is {ignored[0]}, which is the label of a class too')
        named: dict[int, str] = {}
        for name, labels in values.items():
            # Regions such as "whole tumour": [1, 2, 3] name no label of their own.
            if len(labels) == 1 and named.setdefault(labels[0], name) != name:
                raise RWLossError(
                    f"label {labels[0]} has two names: {named[labels[0]]!r}, {name!r}"
                )
        names = tuple(named.get(label, f"label {label}") for label in range(max(used) + 1))
        return names, None if ignored is None else ignored[0]

    def values(self) -> dict[str, tuple[int, ...]]:
        """The labels of each name, whichever way round they are written. May include "ignore".

        Raises RWLossError where both ways could be meant, or a label is negative.
        """
        if all(isinstance(value, str) for value in self.labels.values()):
            swapped = {str(value): key for key, value in self.labels.items()}
            # int() refuses thousands of digits, with an error of its own.
            are_numbers = all(key.isdecimal() and len(key) < 10 for key in self.labels)
            if not are_numbers or len(swapped) < len(self.labels):
                raise RWLossError(
                    f"expected labels as {{name: number}}, got {reprlib.repr(self.labels)}"
                )
            if any(name.isdecimal() for name in swapped):
                raise RWLossError(
                    f"labels {reprlib.repr(self.labels)} may be number to name or name to number: "
                    'write numbers without quotes, {"background": 0, ...}'
                )
            return {name: (int(number),) for name, number in swapped.items()}
        values: dict[str, tuple[int, ...]] = {}
        for name, value in self.labels.items():
            if isinstance(value, str):
                raise RWLossError(f"expected a number as label of {name!r}, got {value!r}")
            values[name] = value if isinstance(value, tuple) else (value,)
            if not values[name] or min(values[name]) < 0:
                raise RWLossError(f"expected labels of 0 or more for {name!r}, got {value}")
        return values


def read_dataset_json(path: Path) -> DatasetJson:
    """The model of one file. Raises RWLossError, naming the file, if it is not such JSON."""
    try:
        # Never open what is not a file: a named pipe would block for ever.
        if not path.is_file() and path.exists():
            raise RWLossError(f"{str(path)!r} is not a file")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise RWLossError(f"cannot read {str(path)!r}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise RWLossError(f"{str(path)!r} is not valid JSON: {exc}") from exc
    if not isinstance(content, dict) or "labels" not in content:
        raise RWLossError(
            f'{str(path)!r} has no "labels": expected {{"labels": {{"background": 0, ...}}, ...}}'
        )
    try:
        model = DatasetJson.model_validate(content)
    except ValidationError as exc:
        problem = exc.errors()[0]
        where = ".".join(str(part) for part in problem["loc"][:2])
        raise RWLossError(
            f"{str(path)!r}: {where}: {problem['msg']}, got {str(problem['input'])[:80]!r}"
        ) from exc
    if model.ending not in {None, *SUFFIXES}:
        raise RWLossError(
            f"{str(path)!r} has file_ending {model.file_ending!r}: expected one of "
            f"{' '.join(SUFFIXES)}"
        )
    return model
