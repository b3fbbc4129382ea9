"""From a stored file to UTF-8 bytes: unpacked, checked, and cut into blocks of whole physical lines."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from etl.errors import ExportError
from etl.reading.blocks import Account, Layout, empty_file, too_compressed

_PIECE = 1 << 20
# Exports unpack to 5 to 20 times their size; a file of one row again and again to more, but it is small then.
_RATIO_CAP = 100
_RATIO_GRACE = 100 << 20
_UNPACKED_CAP = 50 << 30


def read_text(path: Path, layout: Layout, account: Account, *, gzipped: bool) -> Generator[bytes]:
    """The file as blocks of valid UTF-8 without BOM, each of which ends with a line feed.

    The file is read in pieces that no longer line fits into, and no line is collected beyond the record cap: of a longer
    one, enough is kept for a splitter to refuse it.
    Raises ExportError: `file_empty`, `gzip_cut`, `too_compressed`, `encoding_broken`.
    """
    name, size = layout.name, min(_PIECE, layout.block_size, layout.record_cap)
    with path.open("rb") as file:
        chunks = _unpacked(file, size, name) if gzipped else iter(lambda: file.read(size), b"")
        if codecs.lookup(layout.encoding).name in {"utf-8", "utf-8-sig"}:
            texts = _checked_utf8(chunks, name)
        else:
            texts = _transcoded(chunks, layout.encoding, name)
        yield from _gathered(_whole_lines(_without_bom(_not_empty(texts, name)), layout, account), layout.block_size)


def _whole_lines(texts: Iterator[bytes], layout: Layout, account: Account) -> Iterator[bytes]:
    tail = b""
    for text in texts:
        lines, end, rest = text.rpartition(b"\n")
        if end:
            yield b"".join((tail, lines, end))
            tail = rest
        else:
            tail += rest
        tail = tail[: layout.record_cap + 1]
    if tail:
        account.notice("no_final_newline", f"{layout.name} does not end with a line end: it may have been cut short")
        yield tail + b"\n"


def _gathered(texts: Iterator[bytes], size: int) -> Iterator[bytes]:
    held, length = [], 0
    for text in texts:
        held.append(text)
        length += len(text)
        if length >= size:
            yield b"".join(held)
            held, length = [], 0
    if held:
        yield b"".join(held)


def _unpacked(file: BinaryIO, size: int, name: str) -> Iterator[bytes]:
    unpacked = 0
    with gzip.GzipFile(fileobj=file) as members:
        while True:
            try:
                chunk = members.read(size)
            except (EOFError, gzip.BadGzipFile, zlib.error):
                message = f"{name} is not a whole gzip file: it was cut or damaged on the way; land it again"
                raise ExportError(message, code="gzip_cut") from None
            if not chunk:
                return
            unpacked += len(chunk)
            if unpacked > min(max(_RATIO_GRACE, _RATIO_CAP * file.tell()), _UNPACKED_CAP):
                what = f"unpacks to more than {_RATIO_CAP} times its size, or to more than {_UNPACKED_CAP >> 30} GiB"
                raise too_compressed(name, what)
            yield chunk


def _not_empty(texts: Iterator[bytes], name: str) -> Iterator[bytes]:
    empty = True
    for text in texts:
        empty = False
        yield text
    if empty:
        raise empty_file(name)


def _without_bom(texts: Iterator[bytes]) -> Iterator[bytes]:
    for text in texts:
        yield text.removeprefix(codecs.BOM_UTF8)
        break
    yield from texts


def _checked_utf8(chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    offset, tail = 0, b""
    for chunk in chunks:
        data = tail + chunk
        whole = len(data)
        if not data.isascii():
            try:
                whole = codecs.utf_8_decode(data, "strict", False)[1]
            except UnicodeDecodeError as error:
                raise _broken(name, "UTF-8", offset + error.start) from None
        if whole:
            yield data[:whole]
        offset, tail = offset + whole, data[whole:]
    if tail:
        raise _broken(name, "UTF-8", offset)


def _transcoded(chunks: Iterator[bytes], encoding: str, name: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    offset, final = 0, False
    while not final:
        chunk = next(chunks, b"")
        final = not chunk
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=final)
        except UnicodeDecodeError as error:
            raise _broken(name, encoding, offset - held + error.start) from None
        offset += len(chunk)
        if text:
            yield text.encode()


def _broken(name: str, encoding: str, offset: int) -> ExportError:
    return ExportError(
        f"{name} is not {encoding}: the bytes at offset {offset} cannot be read; "
        "export it in that encoding, or name the real one under `encoding` in the sync",
        code="encoding_broken",
    )
