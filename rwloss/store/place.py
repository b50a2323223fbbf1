"""Where a store lies: a local folder, or the address of an object store."""

from __future__ import annotations

import errno
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from rwloss.errors import RWLossError
from rwloss.files.atomic import TEMPORARY_PREFIX, temporary, whole_file
from rwloss.files.lock import hold

# Written last, read first: a tree without it is not there.
TREE_MARK = "zarr.json"


def place(where: str | Path) -> Place:
    """The place of a store: a folder, or an fsspec address such as s3://bucket/maps."""
    if isinstance(where, str) and where.startswith(("file://", "local://")):
        return Folder(Path(where.partition("://")[2]))
    if isinstance(where, str) and "://" in where:
        return Bucket(where.rstrip("/"))
    return Folder(Path(where))


class Place(ABC):
    """Files by name, each there whole or not at all. Names of trees lead to files by "/"."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A file's bytes. Raises FileNotFoundError."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file, whole or not at all."""

    @abstractmethod
    def read_tree(self, name: str) -> dict[str, bytes]:
        """All files below a name, by path from there; a single file by "". Empty if not there."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of a file, or of all files below a name; none of them is read."""

    @abstractmethod
    def write_tree(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write or replace a tree of files, whole or not at all; one of them is TREE_MARK."""

    @abstractmethod
    def names(self) -> list[str]:
        """What lies here, sorted; temporary files of ours left out."""

    @abstractmethod
    def append(self, name: str, line: bytes) -> None:
        """Add a line to a file, whole or not at all; where that can't be done, do nothing."""

    @abstractmethod
    def start(self) -> None:
        """Make the place ready for writing. Raises OSError where it can't be written."""

    @abstractmethod
    def lock(self) -> Any:
        """A context in which no other process writes here. Raises RWLossError if one does."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def tree_store(self, name: str) -> Any:
        """The tree as a read-only store of zarr."""


@dataclass(frozen=True)
class Folder(Place):
    """A local folder."""

    path: Path

    def __str__(self) -> str:
        """The folder's path."""
        return str(self.path)

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file."""
        with whole_file(self.path / name) as part:
            part.write_bytes(content)

    def read_tree(self, name: str) -> dict[str, bytes]:
        """All files below a name."""
        return {inner: file.read_bytes() for inner, file in self._files_below(name)}

    def size(self, name: str) -> int:
        """Bytes of all files below a name."""
        return sum(file.stat().st_size for _, file in self._files_below(name))

    def _files_below(self, name: str) -> Iterator[tuple[str, Path]]:
        """Files below a name with their paths from there; a single file with ""."""
        top = self.path / name
        if top.is_file():
            yield "", top
            return
        for file in top.rglob("*"):
            if file.is_file():
                yield file.relative_to(top).as_posix(), file

    def write_tree(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write a tree beside the old one, then take its place."""
        part, old = temporary(self.path), self.path / name
        new, aside = part / "new", part / "old"
        try:
            new.mkdir(parents=True)
            for inner, content in files.items():
                file = new / inner
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("wb") as out:
                    out.write(content)
                    out.flush()
                    os.fsync(out.fileno())
            if old.exists():  # a folder can't take the place of a full one in one step
                old.replace(aside)
            new.replace(old)
        finally:
            if aside.exists() and not old.exists():
                aside.replace(old)
            shutil.rmtree(part, ignore_errors=True)

    def names(self) -> list[str]:
        """What lies in the folder."""
        try:
            found = os.listdir(self.path)
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith(TEMPORARY_PREFIX))

    def append(self, name: str, line: bytes) -> None:
        """Add a line in one write; a part of one is taken back."""
        with (self.path / name).open("a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a killed run left a part of a line
                    line = b"\n" + line
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path / name))
            except BaseException:
                file.truncate(size)
                raise

    def start(self) -> None:
        """Make the folder, and see that it can be written."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {self.path}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder's lock.

        What is half written goes: by a run that was killed before, or by this one in the end.
        """
        with hold(self.path):
            self._remove_parts()
            try:
                yield
            finally:
                self._remove_parts()

    def _remove_parts(self) -> None:
        for left in self.path.glob(f"{TEMPORARY_PREFIX}*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def tree_store(self, name: str) -> Any:
        """The tree as a read-only store of zarr."""
        from zarr.storage import LocalStore

        return LocalStore(self.path / name, read_only=True)

    def __getstate__(self) -> dict[str, Any]:
        """The whole path: another process may work in another folder."""
        return {"path": self.path.absolute()}


@dataclass(frozen=True)
class Bucket(Place):
    """An address that fsspec knows. Objects are put whole; there are no locks and no appending."""

    url: str

    def __str__(self) -> str:
        """The address."""
        return self.url

    def read(self, name: str) -> bytes:
        """An object's bytes."""
        content: bytes = self._files.cat_file(self._path(name))
        return content

    def write(self, name: str, content: bytes) -> None:
        """Put an object."""
        path = self._path(name)
        self._files.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        self._files.pipe_file(path, content)

    def read_tree(self, name: str) -> dict[str, bytes]:
        """All objects below a name."""
        top = self._path(name)
        if self._files.isfile(top):
            return {"": self._files.cat_file(top)}
        if not self._files.exists(top):
            return {}
        start = len(self._files._strip_protocol(top)) + 1
        return {path[start:]: self._files.cat_file(path) for path in self._files.find(top)}

    def size(self, name: str) -> int:
        """Bytes of all objects below a name."""
        size: int = self._files.du(self._path(name))
        return size

    def write_tree(self, name: str, files: Mapping[str, bytes]) -> None:
        """Put all objects, the mark last; that of an older tree goes first."""
        top = self._path(name)
        if self._files.exists(f"{top}/{TREE_MARK}"):
            self._files.rm_file(f"{top}/{TREE_MARK}")
        for old in self._files.find(top):  # by name: `rm` would take a case "*" for a pattern
            self._files.rm_file(old)
        for inner in sorted(files, key=lambda inner: inner == TREE_MARK):
            self.write(f"{name}/{inner}", files[inner])

    def names(self) -> list[str]:
        """What lies directly below the address."""
        self._files.invalidate_cache()
        try:
            found = self._files.ls(self._path(""), detail=False)
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(path).name for path in found)

    def append(self, name: str, line: bytes) -> None:
        """Nothing: objects don't grow."""

    def start(self) -> None:
        """See that the address can be used."""
        self._files.makedirs(self._path("").rstrip("/"), exist_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Nothing: two runs of the same command put the same bytes."""
        yield

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def tree_store(self, name: str) -> Any:
        """The tree as a read-only store of zarr."""
        from zarr.storage import FsspecStore

        # Not by address: fsspec takes "::" in a name for a chain of them.
        return FsspecStore.from_mapper(self._files.get_mapper(self._path(name)), read_only=True)

    def _path(self, name: str) -> str:
        path: str = self._files._strip_protocol(f"{self.url}/{name}")
        return path

    @cached_property
    def _files(self) -> Any:
        try:
            import fsspec

            files, _ = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise RWLossError(
                f"{self.url} can't be used ({error}): install the package that serves this kind of "
                "address, or name a local folder"
            ) from error
        return files

    def __getstate__(self) -> dict[str, Any]:
        """The address alone: a worker process makes a connection of its own."""
        return {"url": self.url}
