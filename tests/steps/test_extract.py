"""Extract: the day's files, each whole and unchanged, or none at all; and a snapshot that nothing can change any more."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import random
import threading
import time
from datetime import timedelta
from itertools import pairwise
from types import SimpleNamespace

import pytest

from etl import extract as extract_module
from etl.errors import ExportError
from etl.extract import extract
from etl.snapshot import sources
from etl.storage import Place
from soak import SOAK

CRM = "crm/2026-03-31"
POS = "pos/2026-03-31"
ROWS = b"customer_id,email,updated_at\nC-1,ada@example.org,2026-03-31T08:00:00Z\n"


def _refusal(landing) -> ExportError:
    with pytest.raises(ExportError) as caught:
        extract(landing.context())
    return caught.value


def _manifest(**files: bytes) -> str:
    """A manifest of files by name (`__` for the point), each with one record."""
    named = {name.replace("__", "."): content for name, content in files.items()}
    entries = [{"name": n, "sha256": hashlib.sha256(c).hexdigest(), "rows": 1} for n, c in named.items()]
    return json.dumps({"files": entries})


def _taken(landing, export="crm"):
    ctx = landing.context()
    ctx.place.write_json("extract.json", extract(ctx))
    return [file.name.rpartition("/")[2] for file in sources(ctx, export)]


# --- which files -------------------------------------------------------------------------------------------------------


def test_several_files_of_a_day_are_one_export_in_name_order(landing):
    """Whatever their format, and whenever they were written."""
    for name in ("b.csv", "a.ndjson", "c.parquet", "a.csv.gz"):
        landing.write(f"{CRM}/{name}", ROWS)
    assert _taken(landing) == ["a.csv.gz", "a.ndjson", "b.csv", "c.parquet"]


def test_a_source_says_what_was_stored(landing):
    """Hash and size are of the bytes in the landing folder, packed as they are."""
    packed = gzip.compress(ROWS)
    landing.write(f"{CRM}/customers.csv.gz", packed)
    [file] = extract(landing.context())["files"]
    assert (file["sha256"], file["bytes"]) == (hashlib.sha256(packed).hexdigest(), len(packed))
    assert (file["name"], file["format"], file["rows"]) == (f"{CRM}/customers.csv.gz", "csv.gz", None)


def test_other_files_are_left_alone_and_named(landing):
    """A half-copied `.part` is no export, and nobody should have to guess why it was not read."""
    landing.write(f"{CRM}/customers.csv", ROWS)
    landing.write(f"{CRM}/.customers.csv.swp", ROWS)
    landing.write(f"{CRM}/more.csv.part", ROWS)
    landing.write(f"{POS}/README.txt", ROWS)
    assert extract(landing.context())["ignored"] == [f"{POS}/README.txt", f"{CRM}/more.csv.part"][::-1]
    assert _taken(landing) == ["customers.csv"]


@pytest.mark.parametrize("there", [None, "crm", CRM, f"{CRM}/notes.txt", "crm/2026-03-30/customers.csv"])
def test_no_crm_export_is_a_breach_that_names_the_folder(landing, there):
    """Yesterday's export, an empty folder or another file do not count."""
    if there is not None:
        path = landing.root / "landing" / there
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ROWS) if "." in path.name else path.mkdir()
    error = _refusal(landing)
    assert error.code == "crm_missing"
    assert CRM in str(error)


def test_pos_is_read_for_the_30_days_that_end_with_the_day(landing):
    """The folder's date counts; gaps are said, in order."""
    landing.write(f"{CRM}/customers.csv", ROWS)
    days = [landing.context().day - timedelta(days=back) for back in range(-1, 32)]
    for number, day in enumerate(days):
        if number not in (3, 10):
            landing.write(f"pos/{day}/receipts.csv", b"%d" % number)
    ctx = landing.context()
    result = extract(ctx)
    ctx.place.write_json("extract.json", result)
    assert [file.day for file in sources(ctx, "pos")] == [str(d) for n, d in enumerate(days) if 1 <= n <= 30 and n not in (3, 10)][::-1]  # fmt: skip
    assert result["pos_gaps"] == [str(days[10]), str(days[3])]
    assert not result["pos_incomplete"]


def test_without_pos_of_the_day_the_window_is_incomplete(landing):
    """However many days before it there are."""
    landing.write(f"{CRM}/customers.csv", ROWS)
    landing.write("pos/2026-03-30/receipts.csv", ROWS)
    landing.write(f"{POS}/receipts.csv.part", ROWS)
    assert extract(landing.context())["pos_incomplete"]


def test_an_empty_file_is_a_breach(landing):
    """0 bytes are a failed export; nobody's purchases become 0 because of it."""
    landing.write(f"{CRM}/customers.csv", ROWS)
    landing.write(f"{POS}/receipts.csv", b"")
    error = _refusal(landing)
    assert (error.code, f"{POS}/receipts.csv" in str(error)) == ("file_empty", True)


@pytest.mark.parametrize("name", ["a\x1b[31m.csv", "a\n.csv", os.fsdecode(b"\xe9.csv")])
def test_a_name_that_cannot_be_shown_is_refused(landing, name):
    """Names go into reports, logs and terminals."""
    landing.write(f"{CRM}/{name}", ROWS)
    error = _refusal(landing)
    assert error.code == "file_name"
    assert str(error).isprintable()


# --- manifests ---------------------------------------------------------------------------------------------------------


def test_a_manifest_that_matches_settles_it(landing):
    """Its promise of records goes on to whoever counts them."""
    landing.write(f"{CRM}/a.csv", ROWS)
    landing.write(f"{CRM}/b.csv", ROWS + b"x")
    landing.write(f"{CRM}/manifest.json", _manifest(b__csv=ROWS + b"x", a__csv=ROWS))
    assert [file["rows"] for file in extract(landing.context())["files"]] == [1, 1]
    assert extract(landing.context())["ignored"] == []


@pytest.mark.parametrize(
    "text",
    [
        _manifest(a__csv=ROWS + b"cut"),
        _manifest(a__csv=ROWS, b__csv=ROWS),
        _manifest(b__csv=ROWS),
        '{"files": []}',
        '{"files": [{"name": "a.csv", "rows": 1}]}',
        '{"files": [{"name": "a.csv", "sha256": "' + hashlib.sha256(ROWS).hexdigest() + '", "rows": true}]}',
        '{"files": {"a.csv": 1}}',
        '{"files": [["a.csv"]]}',
        _manifest(a__csv=ROWS).replace("a.csv", "../2026-03-31/a.csv"),
        _manifest(a__csv=ROWS).replace("a.csv", "/etc/hostname"),
        "[" * 100_000,
        " " * (1 << 24) + _manifest(a__csv=ROWS),
        "[]",
        "null",
        "",
        "\\xff",
        '{"files": [',
    ],
)
def test_a_manifest_that_does_not_match_is_a_breach(landing, text):
    """Another hash, other files than the folder holds, or no manifest at all."""
    landing.write(f"{CRM}/a.csv", ROWS)
    landing.write(f"{CRM}/manifest.json", text)
    error = _refusal(landing)
    assert (error.code, CRM in str(error)) == ("manifest_mismatch", True)


def test_a_manifest_shows_a_cut_at_any_byte(landing):
    """Also one between two records, which nothing else can show."""
    landing.write(f"{CRM}/manifest.json", _manifest(a__csv=ROWS))
    for cut in range(len(ROWS)):
        landing.write(f"{CRM}/a.csv", ROWS[:cut])
        assert _refusal(landing).code == "manifest_mismatch", cut


def test_a_manifest_without_files_is_a_breach(landing):
    """It has arrived before the files that it promises."""
    landing.write(f"{CRM}/manifest.json", _manifest(a__csv=ROWS))
    assert _refusal(landing).code == "manifest_mismatch"


# --- what is no file of this folder ------------------------------------------------------------------------------------


@pytest.mark.parametrize("linked", ["crm", CRM, f"{CRM}/customers.csv", f"{CRM}/manifest.json"])
def test_nothing_outside_the_landing_folder_is_read(landing, linked):
    """Neither a file nor a folder of it may lead elsewhere."""
    secret = landing.root / "elsewhere"
    target = landing.root / "landing" / linked
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix:
        secret.write_bytes(ROWS)
        if target.name == "manifest.json":
            landing.write(f"{CRM}/customers.csv", ROWS)
    else:
        folder = secret / "/".join(CRM.split("/")[len(linked.split("/")) :])
        folder.mkdir(parents=True)
        (folder / "customers.csv").write_bytes(ROWS)
    target.symlink_to(secret)
    assert _refusal(landing).code == "file_outside"


def test_a_link_within_the_landing_folder_is_read(landing):
    """An exporter may keep its files elsewhere under the same root."""
    target = landing.write("store/customers.csv", ROWS)
    (landing.root / "landing" / CRM).mkdir(parents=True)
    (landing.root / "landing" / CRM / "customers.csv").symlink_to(target)
    assert _taken(landing) == ["customers.csv"]


@pytest.mark.parametrize("name", ["customers.csv", "manifest.json"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "broken link"])
def test_only_regular_files_are_opened(landing, kind, name):
    """A pipe would never end."""
    path = landing.root / "landing" / CRM / name
    path.parent.mkdir(parents=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.with_name("nothing"))
    error = _refusal(landing)
    assert (error.code in {"file_outside", "file_changed", "crm_missing"}, CRM in str(error)) == (True, True)


# --- files that change -------------------------------------------------------------------------------------------------


def _meanwhile(monkeypatch, change):
    """Makes a change after the first block of a copy."""
    done = []

    class Digest:
        def __init__(self):
            self.digest = hashlib.sha256()

        def update(self, block):
            self.digest.update(block)
            if not done:
                done.append(change())

        def hexdigest(self):
            return self.digest.hexdigest()

    monkeypatch.setattr(extract_module, "_COPY_BYTES", 16)
    monkeypatch.setattr(extract_module, "hashlib", SimpleNamespace(sha256=Digest))


@pytest.mark.parametrize("change", ["appended", "cut", "rewritten", "replaced", "deleted"])
def test_a_file_that_changes_during_the_copy_is_refused(landing, monkeypatch, change):
    """However it changes, and even if it keeps its size; nothing of it stays in the work folder."""
    path = landing.write(f"{CRM}/customers.csv", ROWS)

    def act():
        if change == "appended":
            with path.open("ab") as file:
                file.write(b"C-2")
        elif change == "cut":
            os.truncate(path, 20)
        elif change == "rewritten":
            path.write_bytes(ROWS.swapcase())
        elif change == "replaced":
            path.with_suffix(".tmp").write_bytes(ROWS.swapcase())
            path.with_suffix(".tmp").replace(path)
        else:
            path.unlink()

    with monkeypatch.context() as patch:
        _meanwhile(patch, act)
        error = _refusal(landing)
    assert (error.code, f"{CRM}/customers.csv" in str(error)) == ("file_changed", True)
    work = Place(str(landing.root / "work"))
    assert work.names("private/snapshots") == []


def test_a_file_that_is_gone_before_it_is_opened_is_refused(landing, monkeypatch):
    """It stood in the listing."""
    path = landing.write(f"{CRM}/customers.csv", ROWS)
    monkeypatch.setattr(Place, "names", lambda _place, folder: [path.name] if folder == CRM else [])
    path.unlink()
    assert _refusal(landing).code == "file_changed"


def test_a_writer_at_work_never_leaves_a_mixed_snapshot(landing):
    """While a writer rewrites the file at random speeds in place, what is taken is one version of it, or nothing.

    A writer that rests halfway for longer than a tick of the clock leaves a file that looks whole: only a manifest tells.
    On a busy machine this writer may be made to rest, and such a moment proves nothing.
    """
    versions = [bytes([letter]) * 200_000 for letter in b"abcd"]
    path = landing.write(f"{CRM}/customers.csv", versions[0])
    ctx, stop = landing.context(), threading.Event()
    dice = random.Random(3)  # noqa: S311  (repeatable; no secret)
    written: list[tuple[int, float]] = []  # the number of the rewriting, and when a piece of it was there

    def write() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            version = dice.choice(versions)
            with path.open("r+b") as file:
                for start in range(0, len(version), 50_000):
                    file.write(version[start : start + 50_000])
                    file.flush()
                    written.append((number, time.monotonic()))
                    time.sleep(dice.choice((0, 0, 0.0005, 0.002)))
            time.sleep(dice.choice((0, 0, 0.001, 0.03)))

    def rested(since: float) -> bool:
        known = len(written)
        while len(written) < known + 2:
            time.sleep(0.001)
        around = [entry for entry in written if entry[1] > since - 1]
        return any(b - a > extract_module._CLOCK_TICK_S / 2 for (m, a), (n, b) in pairwise(around) if m == n)

    writer = threading.Thread(target=write)
    writer.start()
    taken = set()
    try:
        for _ in range(1000 if SOAK else 150):
            began = time.monotonic()
            try:
                [file] = extract(ctx)["files"]
            except ExportError as error:
                assert error.code == "file_changed"  # noqa: PT017  (either end is right; this one has a code)
            else:
                taken.add(file["sha256"])
                assert ctx.work.read_bytes(f"private/snapshots/{file['sha256']}") in versions or rested(began)
    finally:
        stop.set()
        writer.join()
    assert taken


# --- the snapshot ------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_named_by_its_bytes_and_never_changes(landing):
    """A file that lands again with other bytes is another snapshot."""
    landing.write(f"{CRM}/customers.csv", ROWS)
    ctx = landing.context()
    [first] = extract(ctx)["files"]
    landing.write(f"{CRM}/customers.csv", ROWS.swapcase())
    [second] = extract(ctx)["files"]
    assert first["sha256"] != second["sha256"]
    for file, content in ((first, ROWS), (second, ROWS.swapcase())):
        assert ctx.work.read_bytes(f"private/snapshots/{file['sha256']}") == content
        assert hashlib.sha256(content).hexdigest() == file["sha256"]


@pytest.mark.parametrize("scheme", ["s3", "memory"])
def test_exports_are_taken_from_a_url_too(landing, request, scheme):
    """The same answer as from a local folder, links and pipes aside."""
    root = f"{request.getfixturevalue('s3')}/landing" if scheme == "s3" else "memory://landing"
    place = Place(root)
    for name, content in ((f"{CRM}/b.csv", ROWS), (f"{CRM}/a.csv.gz", gzip.compress(ROWS)), (f"{POS}/r.txt", b"x")):
        landing.write(name, content)
        place.write_bytes(name, content)
    assert extract(landing.context(landing=root)) == extract(landing.context())


@pytest.mark.parametrize("change", ["rewritten", "deleted"])
@pytest.mark.parametrize("scheme", ["s3", "memory"])
def test_a_remote_file_that_changes_during_the_copy_is_refused(landing, monkeypatch, request, scheme, change):
    """Also where it keeps its size."""
    root = f"{request.getfixturevalue('s3')}/changing" if scheme == "s3" else "memory://changing"
    place = Place(root)
    place.write_bytes(f"{CRM}/customers.csv", ROWS)
    ctx = landing.context(landing=root)
    act = {
        "rewritten": lambda: place.write_bytes(f"{CRM}/customers.csv", ROWS.swapcase()),
        "deleted": lambda: place.remove(f"{CRM}/customers.csv"),
    }[change]
    with monkeypatch.context() as patch:
        _meanwhile(patch, act)
        with pytest.raises(ExportError) as caught:
            extract(ctx)
    assert caught.value.code == "file_changed"
