"""Bytes to text: encodings, byte order marks and gzip, wherever the borders of blocks fall."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import ExportError

TEXT = "a,b\n1,é€😀\r\n😀,ß\n"
VALUES = [("1", "é€😀"), ("😀", "ß")]


@given(block_size=st.integers(1, 40), bom=st.booleans())
def test_characters_across_block_borders_stay_whole(read, block_size, bom):
    """A block may end inside a character or a byte order mark."""
    assert read(("\ufeff" * bom + TEXT).encode(), block_size=block_size).values == VALUES


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gb18030"])
@pytest.mark.parametrize("block_size", [1, 3, 1000])
def test_the_named_encoding_is_read(read, encoding, block_size):
    """Of whatever width, with or without a byte order mark."""
    assert read(TEXT.encode(encoding), encoding=encoding, block_size=block_size).values == VALUES


def test_single_byte_encodings_are_read_when_named(read):
    """As old exports need them."""
    for encoding in ("cp1252", "latin-1"):
        assert read("a,b\né,ß\n".encode(encoding), encoding=encoding).values == [("é", "ß")]


@given(start=st.integers(0, 20), block_size=st.integers(1, 40))
def test_the_offset_of_a_broken_byte_is_told(read, start, block_size):
    """Counted from the file's first byte, whatever the block."""
    with pytest.raises(ExportError, match=rf"crm\.csv .*offset {9 + start} ") as caught:
        read("a,b\né,1\n".encode() + b"x" * start + b"\xe9x,1\n", block_size=block_size)
    assert caught.value.code == "encoding_broken"


@pytest.mark.parametrize(
    ("content", "encoding", "offset"),
    [
        (b"a,b\n1,\xc3", "utf-8", 6),
        (b"a,b\n1,\x81\n", "cp1252", 6),
        ("a,b\n".encode("utf-16-le") + b"x", "utf-16-le", 8),
    ],
)
@pytest.mark.parametrize("block_size", [1, 4, 100])
def test_a_cut_or_foreign_byte_is_a_breach(read, content, encoding, offset, block_size):
    """Also at the very end, and in encodings other than UTF-8."""
    with pytest.raises(ExportError, match=f"offset {offset} ") as caught:
        read(content, encoding=encoding, block_size=block_size)
    assert caught.value.code == "encoding_broken"


def test_gzip_members_follow_each_other(read, read_path, tmp_path):
    """Several members are one file, as command line tools make them."""
    path = tmp_path / "export.csv.gz"
    path.write_bytes(b"".join(gzip.compress(part) for part in (b"a,b\n1", b",2\n", b"3,4\n")))
    assert read_path(path, format="csv.gz").values == [("1", "2"), ("3", "4")]
    assert read(TEXT.encode(), format="csv.gz").values == VALUES


def test_gzip_cut_at_any_byte_is_a_breach(read_path, tmp_path):
    """Never a short file taken for a whole one; the same for a file that is no gzip at all."""
    whole = gzip.compress(b"a,b\n" + b"1,2\n" * 50)
    path = tmp_path / "export.csv.gz"
    for cut in range(1, len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ExportError) as caught:
            read_path(path, format="csv.gz")
        assert caught.value.code == "gzip_cut"
    for damaged in (b"a,b\n1,2\n", whole[:-8] + bytes(8), whole + b"rubbish"):
        path.write_bytes(damaged)
        with pytest.raises(ExportError) as caught:
            read_path(path, format="csv.gz")
        assert caught.value.code == "gzip_cut"


def test_an_empty_gzip_file_is_a_breach(read):
    """It holds 0 bytes once unpacked."""
    with pytest.raises(ExportError) as caught:
        read(b"", format="csv.gz")
    assert caught.value.code == "file_empty"
