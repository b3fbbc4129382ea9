"""Trouble: why a ledger cannot be used, in a sentence that says what to do. Without a ledger nothing is sent."""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy as sa

from etl.errors import LedgerError

_UNSOUND = (
    "is damaged, or no ledger at all: put back the newest sound copy. An empty one in its place would not know what was "
    "sent, and how much of the quota is used"
)
# By the beginnings of SQLite's names for its errors.
_SQLITE = {
    "SQLITE_CORRUPT": _UNSOUND,
    "SQLITE_NOTADB": _UNSOUND,
    "SQLITE_READONLY": "cannot be written: see whose file it is, and its folder",
    "SQLITE_PERM": "cannot be written: see whose file it is, and its folder",
    "SQLITE_CANTOPEN": "cannot be opened: see whether its folder is there, and whose it is",
    "SQLITE_FULL": "finds no room on its disk: make some, and run it again",
    "SQLITE_BUSY": "is held by another process all the time: see which one, and run it again",
    "SQLITE_IOERR": "cannot be read or written: its disk reports an error, or is full",
}
# Where several machines may have the same file, SQLite's locks and its shared memory fail without a word. Not so 9p and
# virtiofs: they join a machine to its own host, and sandboxes show their local disk as 9p.
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|afs|ceph|lustre|beegfs\w*|gpfs|gfs2|ocfs2|ncpfs|davfs"
    r"|fuse\.(sshfs|glusterfs|ceph\S*|s3fs|goofys|mount-s3|gcsfuse|blobfuse\d?|rclone|davfs\d?|juicefs|smbnetfs)"
)
_OCTAL = re.compile(r"\\([0-7]{3})")


def trouble(url: sa.URL, error: BaseException | None) -> LedgerError:
    """What a driver's error means for people, or, without one, that the file is damaged; never the error's own text."""
    name = str(getattr(error, "sqlite_errorname", "")) if error else "SQLITE_CORRUPT"
    said = next((said for code, said in _SQLITE.items() if name.startswith(code)), None)
    where = f"{url.database}" if url.get_backend_name() == "sqlite" else f"{url.host}:{url.port}/{url.database}"
    why = said or f"cannot be reached or used ({name or type(error).__name__})"
    return LedgerError(f"the ledger {where} {why}. Nothing more is sent without it.")


def network_file_system(path: Path, mounts: str) -> str | None:
    """The kind of the file system that holds a path, if it is one of a network; `mounts` is like /proc/self/mounts."""
    kind, depth = "", -1
    for line in mounts.splitlines():
        _, folder, found, *_ = (*line.split(" "), "", "", "")
        place = Path(_OCTAL.sub(lambda code: chr(int(code[1], 8)), folder))
        if len(place.parts) >= depth and path.is_relative_to(place):  # what was mounted last hides what it covers
            kind, depth = found, len(place.parts)
    return kind if _NETWORK.fullmatch(kind) else None


def mount_table() -> str:
    """What is mounted where on this machine; nothing where no such table is kept."""
    try:
        return Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
