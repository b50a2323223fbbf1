"""Location of a store: a local folder, or a URL in an object store."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from rwloss.errors import RWLossError
from rwloss.files.atomic import TEMPORARY_PREFIX, temporary, whole_file
from rwloss.files.journal import append_line, read_regular
from rwloss.files.lock import hold

# Written last and read first: a tree without it does not count.
TREE_MARK = "zarr.json"


def place(where: str | Path) -> StorePlace:
    """The location of a store: a folder, or an fsspec URL such as s3://bucket/maps."""
    if isinstance(where, str) and where.startswith(("file://", "local://")):
        return Folder(Path(where.partition("://")[2]))
    if isinstance(where, str) and "://" in where:
        return Bucket(where.rstrip("/"))
    return Folder(Path(where))


@dataclass(frozen=True)
class Folder:
    """A local folder: files by name, and trees of files, all written atomically.

    Names in a tree are separated by "/".
    """

    path: Path

    def __str__(self) -> str:
        """The folder's path."""
        return str(self.path)

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError."""
        return read_regular(self.path / name)

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file."""
        with whole_file(self.path / name) as part:
            part.write_bytes(content)

    def read_tree(self, name: str) -> dict[str, bytes]:
        """All files below a name, by path from there; a single file is "". Empty if none."""
        return {inner: file.read_bytes() for inner, file in self._files_below(name)}

    def size(self, name: str) -> int:
        """Bytes of a file, or of all files below a name, without reading them."""
        return sum(file.stat().st_size for _, file in self._files_below(name))

    def _files_below(self, name: str) -> Iterator[tuple[str, Path]]:
        top = self.path / name
        if top.is_file():
            yield "", top
            return
        for file in top.rglob("*"):
            if file.is_file():
                yield file.relative_to(top).as_posix(), file

    def write_tree(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write or replace a tree of files. One of them is TREE_MARK."""
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
            if old.exists():  # a folder can't replace one that has files in one step
                old.replace(aside)
            new.replace(old)
        finally:
            if aside.exists() and not old.exists():
                aside.replace(old)
            shutil.rmtree(part, ignore_errors=True)

    def names(self) -> list[str]:
        """Files and trees in the folder, sorted, without temporary ones."""
        try:
            found = os.listdir(self.path)
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith(TEMPORARY_PREFIX))

    def leftovers(self) -> list[str]:
        """Temporary files of a run that was killed or is still running, sorted."""
        return sorted(file.name for file in self.path.glob(f"{TEMPORARY_PREFIX}*"))

    def append(self, name: str, line: bytes) -> None:
        """Add a line to a file."""
        append_line(self.path / name, line)

    def start(self) -> None:
        """Make the folder. Raises OSError where it can't be written."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {self.path}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let no other process write here. Raises RWLossError if one does.

        Temporary files are removed: those of a run that was killed, and at the end those of this.
        """
        with hold(self.path):
            self._remove_leftovers()
            try:
                yield
            finally:
                self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        for left in self.path.glob(f"{TEMPORARY_PREFIX}*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        (self.path / name).unlink(missing_ok=True)

    def tree_store(self, name: str) -> Any:
        """A tree as a read-only store of zarr."""
        from zarr.storage import LocalStore

        for file in (self.path / name).rglob("*"):
            if not (file.is_file() or file.is_dir()):  # reading a pipe would never end
                raise OSError(errno.EINVAL, "not a regular file", str(file))
        return LocalStore(self.path / name, read_only=True)

    def __getstate__(self) -> dict[str, Any]:
        """The absolute path, because another process may work in another folder."""
        return {"path": self.path.absolute()}


@dataclass(frozen=True)
class Bucket:
    """An address that fsspec knows, with the methods of Folder.

    Objects appear complete. There are no locks, and nothing can be appended.
    """

    url: str

    def __str__(self) -> str:
        """The address."""
        return self.url

    def read(self, name: str) -> bytes:
        """The bytes of an object. Raises FileNotFoundError."""
        return bytes(self._files.cat_file(self._path(name)))

    def write(self, name: str, content: bytes) -> None:
        """Write or replace an object."""
        path = self._path(name)
        self._files.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        self._files.pipe_file(path, content)

    def read_tree(self, name: str) -> dict[str, bytes]:
        """All objects below a name, by path from there; a single object is ""."""
        top = self._path(name)
        if self._files.isfile(top):
            return {"": self._files.cat_file(top)}
        if not self._files.exists(top):
            return {}
        start = len(self._files._strip_protocol(top)) + 1
        return {path[start:]: self._files.cat_file(path) for path in self._files.find(top)}

    def size(self, name: str) -> int:
        """Bytes of all objects below a name."""
        return int(self._files.du(self._path(name)))

    def write_tree(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write all objects of a tree, the mark last; that of an older tree goes first."""
        top = self._path(name)
        if self._files.exists(f"{top}/{TREE_MARK}"):
            self._files.rm_file(f"{top}/{TREE_MARK}")
        for old in self._files.find(top):  # by name: `rm` would take a case "*" for a pattern
            self._files.rm_file(old)
        for inner in sorted(files, key=lambda inner: inner == TREE_MARK):
            self.write(f"{name}/{inner}", files[inner])

    def names(self) -> list[str]:
        """Objects and trees directly below the address, sorted."""
        self._files.invalidate_cache()
        try:
            found = self._files.ls(self._path(""), detail=False)
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(path).name for path in found)

    def leftovers(self) -> list[str]:
        """None: nothing is temporary here."""
        return []

    def append(self, name: str, line: bytes) -> None:
        """Do nothing: objects don't grow."""

    def start(self) -> None:
        """Check that the address can be used."""
        self._files.makedirs(self._path("").rstrip("/"), exist_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Do nothing: two runs of the same command write the same bytes."""
        yield

    def remove(self, name: str) -> None:
        """Remove an object if it exists."""
        with suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def tree_store(self, name: str) -> Any:
        """A tree as a read-only store of zarr."""
        from zarr.storage import FsspecStore

        # Not by address: fsspec takes "::" in a name for a chain of addresses.
        return FsspecStore.from_mapper(self._files.get_mapper(self._path(name)), read_only=True)

    def _path(self, name: str) -> str:
        return str(self._files._strip_protocol(f"{self.url}/{name}"))

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
        """The address alone: a worker process opens its own connection."""
        return {"url": self.url}


StorePlace: TypeAlias = Folder | Bucket
