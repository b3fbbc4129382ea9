"""One place for files, local or by URL: atomic writes, listings, private folders.

A local root is used as it is. A URL root (`s3://bucket/prefix`, with the `s3` extra) is reached through fsspec; what has
to be read by position is fetched into a scratch folder first, and folders are uploaded when they are complete.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from etl.errors import ConfigError

PRIVATE = "private"
_DIRECTORY_MODE = 0o700


@dataclass(frozen=True, slots=True)
class Place:
    """A folder. Names are relative, with `/`; anything under a folder named `private` is readable by its owner only."""

    root: str

    @property
    def is_local(self) -> bool:
        """True when the root is a path of this machine."""
        return "://" not in self.root

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self.root}/{name}")

    def path(self, name: str) -> Path:
        """The local path of a name; only for a local root."""
        return Path(self.root) / name

    def exists(self, name: str) -> bool:
        """True when a file or folder of that name is there."""
        return self.path(name).exists() if self.is_local else bool(_remote(self.root).exists(f"{self.root}/{name}"))

    def names(self, name: str = "") -> list[str]:
        """The names directly in a folder, sorted; none when it is not there."""
        if self.is_local:
            folder = self.path(name)
            return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        where = f"{self.root}/{name}".rstrip("/")
        system = _remote(self.root)
        system.invalidate_cache()
        return sorted(Path(entry).name for entry in system.ls(where, detail=False)) if system.isdir(where) else []

    def read_bytes(self, name: str) -> bytes:
        """The whole content of a small file; raises FileNotFoundError."""
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        """A file for reading from its start."""
        stream: Any = self.path(name).open("rb") if self.is_local else _remote(self.root).open(f"{self.root}/{name}")
        return stream  # type: ignore[no-any-return]

    def fetch(self, name: str) -> Path:
        """A local path with the content of a file or folder; for a URL a copy that lives as long as this process."""
        if self.is_local:
            return self.path(name)
        target = _scratch() / (f"{self.root}/{name}").replace("://", "/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _remote(self.root).get(f"{self.root}/{name}", str(target), recursive=True)
        return target

    def write_bytes(self, name: str, content: bytes) -> None:
        """Writes a file whole or not at all, and durably."""
        with self.staged(name) as path:
            path.write_bytes(content)

    def read_json(self, name: str) -> Any | None:
        """The value of a JSON file, or None when it is not there."""
        try:
            return json.loads(self.read_bytes(name))
        except FileNotFoundError:
            return None

    def write_json(self, name: str, value: Any) -> None:
        """Writes a small value as a file, atomically."""
        self.write_bytes(name, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())

    def remove(self, name: str) -> None:
        """Removes a file or folder if it is there."""
        if not self.is_local:
            if self.exists(name):
                _remote(self.root).rm(f"{self.root}/{name}", recursive=True)
        elif self.path(name).is_dir():
            shutil.rmtree(self.path(name))
        else:
            self.path(name).unlink(missing_ok=True)

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """A temporary path; what stands there when the block ends takes the name at once, synced to disk.

        The block may write a file or make a folder. A file or folder that had the name is replaced. On an exception
        nothing changes.
        """
        with self.bench(str(Path(name).parent)) as folder:
            temporary = folder / Path(name).name
            yield temporary
            self.publish(temporary, name)

    @contextmanager
    def bench(self, name: str) -> Iterator[Path]:
        """A temporary local folder from which files can be published into the folder `name`; removed at the end."""
        if self.is_local:
            make_folder(self.path(name))
        folder = Path(tempfile.mkdtemp(prefix=".staging-", dir=self.path(name) if self.is_local else _scratch()))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, temporary: Path, name: str) -> None:
        """Moves a file or folder from a bench to its name: synced first, then visible at once and whole."""
        if not self.is_local:
            _remote(self.root).put(str(temporary), f"{self.root}/{name}", recursive=temporary.is_dir())
            return
        target = self.path(name)
        _harden(temporary, private=PRIVATE in target.parts)
        if target.is_dir():
            target.rename(temporary.with_name(f"{temporary.name}.replaced"))
        temporary.replace(target)
        _sync(target.parent)

    def fingerprint(self, name: str) -> str:
        """Changes whenever the content of a remote file does."""
        return str(_remote(self.root).ukey(f"{self.root}/{name}"))


def make_folder(path: Path) -> None:
    """Makes a folder and its parents; folders named `private`, and those below them, are the owner's only."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        if PRIVATE in folder.parts:
            folder.chmod(_DIRECTORY_MODE)


def _harden(path: Path, *, private: bool) -> None:
    """Syncs a file or every file of a folder to disk, and takes away others' access where it is private."""
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if private:
            file.chmod(_DIRECTORY_MODE if file.is_dir() else 0o600)
        _sync(file)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remote(root: str) -> Any:
    import fsspec

    protocol = root.split("://", 1)[0]
    try:
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError):
        raise ConfigError(f"no file system for {protocol}:// here; for s3:// install profile-etl[s3]") from None


_scratch_folder: list[Path] = []


def _scratch() -> Path:
    """A folder of this process for copies of remote files, removed at its end."""
    if not _scratch_folder:
        folder = Path(tempfile.mkdtemp(prefix="profile-etl-"))
        _scratch_folder.append(folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return _scratch_folder[0]
