"""One place for files, local or by URL: atomic writes, listings, private folders.

A local root is used as it is. A URL root (`s3://bucket/prefix`, with the `s3` extra) is reached through fsspec; what has
to be read by position is fetched into a scratch folder first, and folders are uploaded when they are complete. There a
file appears whole or not at all, a folder file by file: what tells that it is complete has to be written after it.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from etl.errors import ConfigError, StorageError

PRIVATE = "private"
_DIRECTORY_MODE = 0o700
# What a full or failing disk says; everything else is told by whoever knows more about the file.
_TROUBLES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO})
_POLARS_WORDS = re.compile(r"\(os error ([0-9]+)\)")


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
        if self.is_local:
            return self.path(name).exists()
        system, where = self._remote(name)
        return bool(system.exists(where))

    def names(self, name: str = "") -> list[str]:
        """The names directly in a folder, sorted; none when it is not there."""
        if self.is_local:
            folder = self.path(name)
            return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        system, where = self._remote(name)
        return sorted(Path(entry).name for entry in system.ls(where, detail=False)) if system.isdir(where) else []

    def read_bytes(self, name: str) -> bytes:
        """The whole content of a small file; raises FileNotFoundError."""
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        """A file for reading from its start."""
        if self.is_local:
            return self.path(name).open("rb")
        system, where = self._remote(name)
        stream: BinaryIO = system.open(where)
        return stream

    def fetch(self, name: str) -> Path:
        """A local path with the content of a file or folder; for a URL a copy, made once until this process changes it."""
        if self.is_local:
            return self.path(name)
        url = f"{self.root}/{name}"
        if url not in _copies:
            copy = Path(tempfile.mkdtemp(dir=_scratch())) / Path(name).name
            system, where = self._remote(name)
            files = system.find(where)
            system.get(files, [f"{copy}{file.removeprefix(where)}" for file in files])  # one name would be a pattern
            _copies[url] = copy
        return _copies[url]

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

    def agree(self, name: str, content: bytes) -> bytes:
        """The content of a small file, which is this one if nobody has made the file before, or at the same moment."""
        with suppress(FileExistsError):
            if self.is_local:
                with self.bench(str(Path(name).parent)) as folder:
                    temporary = folder / Path(name).name
                    temporary.write_bytes(content)
                    _harden(temporary, private=PRIVATE in self.path(name).parts)
                    os.link(temporary, self.path(name))
                    _sync(self.path(name).parent)
            else:
                system, where = self._remote(name)
                system.pipe_file(where, content, mode="create")
        return self.read_bytes(name)

    def size(self, name: str) -> int:
        """The bytes of a file, or of all files in a folder; 0 when it is not there."""
        if not self.is_local:
            system, where = self._remote(name)
            return int(system.du(where)) if system.exists(where) else 0
        path = self.path(name)
        return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())

    def modified(self, name: str) -> float:
        """When a file was written, in seconds since the epoch."""
        if self.is_local:
            return self.path(name).stat().st_mtime
        system, where = self._remote(name)
        return float(system.modified(where).timestamp())

    def remove(self, name: str) -> None:
        """Removes a file or folder if it is there."""
        if not self.is_local:
            self._forget(name)
            system, where = self._remote(name)
            if system.exists(where):
                system.rm(where, recursive=True)
        elif self.path(name).is_dir():
            shutil.rmtree(self.path(name))
        else:
            self.path(name).unlink(missing_ok=True)

    @contextmanager
    def staged(self, name: str, *, first_wins: bool = False) -> Iterator[Path]:
        """A temporary path; what stands there when the block ends takes the name at once, synced to disk.

        The block may write a file or make a folder. A file or folder that had the name is replaced; if `first_wins`, a
        local folder stays as it is, because somebody else may have begun to use it. On an exception nothing changes.
        """
        with self.bench(str(Path(name).parent)) as folder:
            temporary = folder / Path(name).name
            yield temporary
            self.publish(temporary, name, first_wins=first_wins)

    @contextmanager
    def bench(self, name: str) -> Iterator[Path]:
        """A temporary local folder from which files can be published into the folder `name`; removed at the end.

        Raises StorageError when the disk fails, in the block too.
        """
        with _told(f"{self.root}/{name}"):
            if self.is_local:
                make_folder(self.path(name))
            folder = Path(tempfile.mkdtemp(prefix=".staging-", dir=self.path(name) if self.is_local else _scratch()))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def publish(self, temporary: Path, name: str, *, first_wins: bool = False) -> None:
        """Moves a file or folder from a bench to its name: synced first, then visible at once and whole."""
        if not self.is_local:
            self._upload(temporary, name)
            return
        target = self.path(name)
        _harden(temporary, private=PRIVATE in target.parts)
        if target.is_dir() and not first_wins:
            target.rename(temporary.with_name(f"{temporary.name}.replaced"))
        try:
            temporary.replace(target)
        except OSError as error:
            if not first_wins or error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        _sync(target.parent)

    @contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """Locks a local file; gives False when another process has it. A URL cannot be locked, and is always ours."""
        if not self.is_local:
            yield True
            return
        make_folder(self.path(name).parent)
        with _told(f"{self.root}/{name}"):
            file = self.path(name).open("ab")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def fingerprint(self, name: str) -> str:
        """Changes whenever the content of a file does; of a local one, not within a tick of the kernel's clock."""
        if self.is_local:
            found = self.path(name).stat()
            return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"
        system, where = self._remote(name)
        return str(system.ukey(where))

    def _upload(self, temporary: Path, name: str) -> None:
        is_folder = temporary.is_dir()
        if is_folder:
            self.remove(name)
        self._forget(name)
        system, where = self._remote(name)
        files = [file for file in temporary.rglob("*") if file.is_file()] if is_folder else [temporary]
        names = [f"{where}/{file.relative_to(temporary).as_posix()}".removesuffix("/.") for file in files]
        system.put([str(file) for file in files], names)

    def _forget(self, name: str) -> None:
        """Removes the copies of what has changed: of the name, of what is in it, of the folders that it is in."""
        url = f"{self.root}/{name}/"
        for copied in [copied for copied in _copies if f"{copied}/".startswith(url) or url.startswith(f"{copied}/")]:
            shutil.rmtree(_copies.pop(copied).parent)

    def _remote(self, name: str) -> tuple[Any, str]:
        """The file system of a URL root, and the path there; nothing is remembered of what others may change."""
        import fsspec

        try:
            found: tuple[Any, str] = fsspec.url_to_fs(f"{self.root}/{name}".rstrip("/"), use_listings_cache=False)
        except (ImportError, ValueError):
            protocol = self.root.split("://", 1)[0]
            raise ConfigError(f"no file system for {protocol}:// here; for s3:// install profile-etl[s3]") from None
        return found


@contextmanager
def _told(where: str) -> Iterator[None]:
    """A disk that fails, as a sentence for people."""
    try:
        yield
    except Exception as error:
        if (number := _system_number(error)) not in _TROUBLES:
            raise
        reason = os.strerror(number)
    else:
        return
    raise StorageError(
        f"{where} cannot be written: {reason}. Nothing is lost; make room or mend the disk, then run it again"
    )


def _system_number(error: Exception) -> int | None:
    """What the operating system said; polars has it in words only."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = _POLARS_WORDS.search(str(error))
    return int(found[1]) if found else None


def make_folder(path: Path) -> None:
    """Makes a folder and its parents; folders named `private`, and those below them, are the owner's only."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with _told(str(path)):
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


_copies: dict[str, Path] = {}
_scratch_folder: list[Path] = []


def _scratch() -> Path:
    """A folder of this process for copies of remote files, removed at its end."""
    if not _scratch_folder:
        folder = Path(tempfile.mkdtemp(prefix="profile-etl-"))
        _scratch_folder.append(folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return _scratch_folder[0]
