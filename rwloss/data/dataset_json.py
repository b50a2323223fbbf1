"""The part of nnU-Net's dataset.json that rwloss needs."""

from __future__ import annotations

import json
import os
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
)

from rwloss.data.formats import SUFFIXES
from rwloss.errors import RWLossError

MAX_CLASSES = 2**16
"""More classes than this are gray values or object numbers by mistake."""


class CaseFiles(BaseModel):
    """Paths of the files of one case, relative to the folder of dataset.json."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    images: tuple[StrictStr, ...] = ()
    label: StrictStr


class DatasetJson(BaseModel):
    """dataset.json of nnU-Net version 2, or of the Decathlon ({"0": "background", ...}).

    Other keys are ignored.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    labels: dict[str, StrictInt | StrictStr | tuple[StrictInt, ...]] = Field(min_length=1)
    file_ending: Annotated[StrictStr, AfterValidator(str.lower)] | None = None
    channel_names: dict[str, object] | None = None
    dataset: dict[str, CaseFiles] | None = None

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of several labels together, such as the whole tumor."""
        return tuple(
            name
            for name, value in self.labels.items()
            if isinstance(value, tuple) and len(value) > 1
        )

    @property
    def used(self) -> set[int]:
        """Labels of classes and regions. Raises RWLossError."""
        values = self._labels_by_name()
        return {k for name, labels in values.items() if name != "ignore" for k in labels}

    def classes(self) -> tuple[tuple[str, ...], int | None]:
        """The name of each class, and the ignore label. Raises RWLossError."""
        values = self._labels_by_name()
        ignored = values.pop("ignore", None)
        if ignored is not None and len(ignored) != 1:
            raise RWLossError(f'expected one number for "ignore", got {list(ignored)}')
        used = self.used
        if not used:
            raise RWLossError('"labels" names no class')
        if max(used) >= MAX_CLASSES:
            raise RWLossError(f"expected labels below {MAX_CLASSES}, got {max(used)}")
        if ignored is not None and ignored[0] in used:
            raise RWLossError(f'"ignore" is {ignored[0]}, which is also the label of a class')
        named: dict[int, str] = {}
        for name, labels in values.items():
            # Regions such as "whole tumor": [1, 2, 3] do not name single labels.
            if len(labels) == 1 and named.setdefault(labels[0], name) != name:
                raise RWLossError(
                    f"label {labels[0]} has two names: {named[labels[0]]!r}, {name!r}"
                )
        names = tuple(named.get(label, f"label {label}") for label in range(max(used) + 1))
        if twice := _repeated(names):
            raise RWLossError(
                f"the labels {[k for k, name in enumerate(names) if name == twice]} are both named "
                f"{twice!r}, which is also the name of a label that has none: rename one"
            )
        return names, None if ignored is None else ignored[0]

    def _labels_by_name(self) -> dict[str, tuple[int, ...]]:
        """Labels in either direction of the mapping. May include "ignore"."""
        if all(isinstance(value, str) for value in self.labels.values()):
            swapped = {str(value): key for key, value in self.labels.items()}
            # int() refuses thousands of digits with its own error.
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


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, times in Counter(names).items() if times > 1), None)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Duplicate keys are refused, because it is unknown which value counts."""
    if (twice := _repeated(key for key, _ in pairs)) is not None:
        raise ValueError(f"the key {twice[:80]!r} occurs twice in one object")
    return dict(pairs)


def read_dataset_json(path: Path) -> DatasetJson:
    """The model of one file. Raises RWLossError, which names the file, if it is invalid."""
    # Open only regular files: a named pipe would block forever.
    if not path.is_file() and path.exists():
        raise RWLossError(f"{str(path)!r} is not a file")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
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
    if model.file_ending not in {None, *SUFFIXES}:
        raise RWLossError(
            f"{str(path)!r} has file_ending {model.file_ending!r}: expected one of "
            f"{' '.join(SUFFIXES)}"
        )
    return model


def listed_cases(
    root: Path, listed: Mapping[str, CaseFiles]
) -> dict[str, tuple[Path, tuple[Path, ...]]]:
    """Label file and image files by case, from dataset.json's own list. Raises RWLossError."""
    for name in listed:
        # Results are named after the case: a name must not become a path.
        if name in {"", ".", ".."} or set(name) & set("/\\") or not _is_possible(name):
            raise RWLossError(f"dataset.json names a case {name!r}: expected a plain file name")
    if not listed:
        raise RWLossError(f'"dataset" in {str(root / "dataset.json")!r} names no case')
    return {
        name: (_inside(root, files.label), tuple(_inside(root, image) for image in files.images))
        for name, files in listed.items()
    }


def _inside(root: Path, written: str) -> Path:
    """A path that dataset.json names, if it stays in the dataset's folder, links resolved.

    Links in labelsTr and imagesTr may lead anywhere, because the user made them on this machine.
    A dataset.json comes with the data, and its author must not choose which files of this machine
    are read.
    """
    path = root / written
    is_inside = _is_possible(written) and Path(os.path.realpath(path)).is_relative_to(
        os.path.realpath(root)
    )
    if not is_inside:
        raise RWLossError(
            f"dataset.json names {written!r}, outside its folder {str(root)!r}: move the file into "
            "the folder, or leave out its list and link it in labelsTr or imagesTr"
        )
    if not path.is_file():
        raise RWLossError(f"dataset.json names {written!r}, and {str(root)!r} has no such file")
    return path


def _is_possible(name: str) -> bool:
    """Whether a file can have the name: JSON can hold zero bytes and halves of characters."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False
