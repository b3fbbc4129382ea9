"""Places: the same behaviour for a local folder and for URLs, whole files or none, and private means private."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from etl.errors import ConfigError
from etl.storage import Place, make_folder

HERE_AND_NOW = """
import os, sys
from pathlib import Path
from etl.storage import Place

place, kind = Place(sys.argv[1]), sys.argv[2]
with place.staged("private/thing") as path:
    if kind == "file":
        path.write_bytes(b"new")
    else:
        path.mkdir()
        (path / "part").write_bytes(b"new")
    moved = [0]
    def stopping(call):
        def stop_before(*arguments, **options):
            moved[0] += 1
            if moved[0] == int(sys.argv[3]):
                os.kill(os.getpid(), 9)
            return call(*arguments, **options)
        return stop_before
    for name in ("rename", "replace"):
        setattr(Path, name, stopping(getattr(Path, name)))
"""


@pytest.fixture(params=["local", "memory", "s3"])
def place(request, tmp_path):
    """An empty place of each kind."""
    if request.param == "local":
        return Place(str(tmp_path / "work"))
    if request.param == "memory":
        return Place(f"memory://{uuid.uuid4().hex}/work")
    return Place(f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}/work")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _folder(place, name, **files):
    with place.staged(name) as path:
        for file, text in files.items():
            target = path / file.replace("__", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)


def _content(place, name):
    root = place.fetch(name)
    return {str(file.relative_to(root)): file.read_text() for file in root.rglob("*") if file.is_file()}


def test_a_file_is_read_as_it_was_written(place):
    """Bytes and JSON come back as they went in, and a later write replaces them."""
    for content in (b"", b"one", b"\x00\xff" * 70_000):
        place.write_bytes("a/b/file", content)
        assert place.read_bytes("a/b/file") == content == place.fetch("a/b/file").read_bytes()
    place.write_json("a/value.json", {"name": "Éloïse", "count": 1})
    assert place.read_json("a/value.json") == {"name": "Éloïse", "count": 1}


def test_a_file_can_be_read_by_position(place):
    """A payload is a slice of a large file."""
    place.write_bytes("payloads", bytes(range(256)) * 4)
    with place.open("payloads") as file:
        file.seek(300)
        assert file.read(3) == bytes([44, 45, 46])


def test_what_is_not_there_is_absent_and_no_error_of_another_kind(place):
    """Missing files and folders: None, empty, False, and removing them does nothing."""
    assert place.read_json("missing.json") is None
    assert place.names("missing") == []
    assert not place.exists("missing")
    place.remove("missing")
    with pytest.raises(FileNotFoundError):
        place.read_bytes("missing")


def test_a_listing_shows_what_is_there_now(place):
    """Names are sorted, of one level, and never those of an earlier look."""
    assert place.names("day") == []
    place.write_bytes("day/b.csv", b"b")
    place.write_bytes("day/a.csv", b"a")
    place.write_bytes("day/deeper/c.csv", b"c")
    assert place.names("day") == ["a.csv", "b.csv", "deeper"]
    assert (place / "day").names() == ["a.csv", "b.csv", "deeper"]
    place.remove("day/a.csv")
    assert place.names("day") == ["b.csv", "deeper"]
    assert not place.exists("day/a.csv")
    place.remove("day")
    assert not place.exists("day")


def test_names_are_not_patterns(place):
    """A file may be named as its exporter likes."""
    place.write_bytes("day/clients[1]*.csv", b"mine")
    place.write_bytes("day/clients1x.csv", b"other")
    assert place.fetch("day/clients[1]*.csv").read_bytes() == b"mine"


def test_a_folder_is_published_whole_and_replaced_whole(place):
    """Nothing of the folder that had the name stays, not even in what was fetched before."""
    _folder(place, "private/thing", a="old", deeper__b="old")
    assert _content(place, "private/thing") == {"a": "old", "deeper/b": "old"}
    assert place.fetch("private/thing/a").read_text() == "old"
    _folder(place, "private/thing", c="new")
    assert _content(place, "private/thing") == {"c": "new"}
    assert place.names("private") == ["thing"]
    assert not place.exists("private/thing/a")


def test_a_folder_is_fetched_whole_even_after_one_of_its_files(place):
    """A payload is read before the references beside it."""
    _folder(place, "plan", payloads="bytes", references__part="rows")
    assert place.fetch("plan/payloads").read_text() == "bytes"
    assert _content(place, "plan") == {"payloads": "bytes", "references/part": "rows"}


def test_an_exception_leaves_nothing(place):
    """What a step had begun when it failed is gone, and what was there stays."""
    place.write_bytes("private/thing", b"old")

    class Failed(Exception):
        pass

    def fail():
        with place.staged("private/thing") as path:
            path.write_bytes(b"new")
            raise Failed

    with pytest.raises(Failed):
        fail()
    assert place.read_bytes("private/thing") == b"old"
    assert place.names("private") == ["thing"]


def test_a_fingerprint_changes_with_the_content(s3):
    """Also where the size stays the same."""
    for place in (Place(f"{s3}/{uuid.uuid4().hex}"), Place(f"memory://{uuid.uuid4().hex}")):
        place.write_bytes("file", b"one")
        before = place.fingerprint("file")
        assert place.fingerprint("file") == before
        place.write_bytes("file", b"two")
        assert place.fingerprint("file") != before


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_private_means_the_owner_only_whatever_the_umask(tmp_path, umask):
    """Folders named `private` and those below are 0700, files there 0600."""
    before = os.umask(umask)
    try:
        place = Place(str(tmp_path / "work"))
        place.write_bytes("run/private/records/part", b"x")
        _folder(place, "run/private/plan", payloads="x", deeper__part="x")
        place.write_bytes("private/key", b"x")
        make_folder(tmp_path / "work" / "run" / "private" / "new")
    finally:
        os.umask(before)
    below = [path for top in ("private", "run/private") for path in [place.path(top), *place.path(top).rglob("*")]]
    assert len(below) == 10
    assert {_mode(path) for path in below if path.is_dir()} == {0o700}
    assert {_mode(path) for path in below if path.is_file()} == {0o600}


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_killed_process_leaves_the_old_content_or_nothing(tmp_path, kind, at):
    """A process that dies before it gives a file or folder its name has published no part of it."""
    place = Place(str(tmp_path))
    if kind == "file":
        place.write_bytes("private/thing", b"old")
    else:
        _folder(place, "private/thing", part="old")
    done = subprocess.run([sys.executable, "-c", HERE_AND_NOW, str(tmp_path), kind, str(at)], check=False)
    target = tmp_path / "private" / "thing"
    content = (target if kind == "file" else target / "part").read_bytes() if target.exists() else None
    if kind == "file" and at == 2:  # a file takes a single move
        assert (done.returncode, content) == (0, b"new")
    else:
        assert done.returncode == -signal.SIGKILL
        assert content == (None if at == 2 else b"old")
    place.write_bytes("private/again", b"the place still works")
    assert {_mode(path) for path in tmp_path.rglob("private/*") if path.is_dir()} <= {0o700}


def test_an_unknown_kind_of_url_is_a_setting_to_mend():
    """The message says what to install."""
    with pytest.raises(ConfigError, match="nowhere://"):
        Place("nowhere://bucket/work").exists("file")


def test_of_two_makers_of_a_file_both_get_the_same(place):
    """Whoever is first; the other takes what is there."""
    first = place.agree("private/key", b"one")
    assert (first, place.agree("private/key", b"two"), place.read_bytes("private/key")) == (b"one", b"one", b"one")
    if place.is_local:
        assert (_mode(place.path("private/key")), place.names("private")) == (0o600, ["key"])


def test_a_size_is_that_of_all_files(place):
    """Of a folder, of a file, of nothing."""
    _folder(place, "a/b", one="12345", inside__two="123")
    assert [place.size(name) for name in ("a", "a/b", "a/b/one", "c")] == [8, 8, 5, 0]


def test_a_file_says_when_it_was_written(place):
    """In seconds since the epoch, whatever the place."""
    place.write_bytes("a/file", b"")
    assert abs(place.modified("a/file") - time.time()) < 60


def test_a_file_that_is_replaced_in_a_folder_is_read_anew(place):
    """Also where the whole folder was fetched before."""
    _folder(place, "a/b", part="old")
    assert _content(place, "a/b") == {"part": "old"}
    place.write_bytes("a/b/part", b"new")
    assert _content(place, "a/b") == {"part": "new"}
