"""NDJSON: flat objects are rows of text as written, anything else stands aside alone."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import ExportError

SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())


def _as_text(value):
    return value if value is None or isinstance(value, str) else json.dumps(value)


@given(
    records=st.lists(st.fixed_dictionaries({}, optional={"a": SCALAR, "b": SCALAR, "z": SCALAR}), max_size=6),
    ascii_only=st.booleans(),
    block_size=st.integers(1, 60),
)
def test_flat_objects_are_rows(read, records, ascii_only, block_size):
    """A missing key and null are no value; numbers and booleans keep the characters that were written."""
    content = "".join(json.dumps(record, ensure_ascii=ascii_only) + "\r\n" for record in records)
    if not records:
        return
    result = read(content.encode(), format="ndjson", block_size=block_size)
    assert result.values == [(_as_text(record.get("a")), _as_text(record.get("b"))) for record in records]
    assert result.originals == content.split("\r\n")[:-1]
    assert not result.unparsable


def test_numbers_keep_their_digits(read):
    """A price of 1.50 and an id of thirty digits are not rounded."""
    result = read(b'{"a":1.50,"b":123456789012345678901234567890}\n{"a":1E5,"b":-0.0}\n', format="ndjson")
    assert result.values == [("1.50", "123456789012345678901234567890"), ("1E5", "-0.0")]


@pytest.mark.parametrize(
    "line",
    [
        '{"a":{"x":1}}', '{"z":[]}', '{"a":1,"a":1}', '{"a":1,"ALIAS":2}', "[]", "[[1,2]]", '"text"', "1", "null", "{", '{"a":1}x',
        '{"a":NaN}', '{"a":-Infinity}', r'{"a":"\ud800"}', '{"a":"tab\there"}', "[" * 100_000, "{'a':1}",
    ],
)  # fmt: skip
def test_an_unparsable_record_stands_aside_alone(read, line):
    """Nested values, repeated keys, other values than objects, broken JSON, what JSON or UTF-8 cannot say."""
    content = '\ufeff{"a":"1"}\n\n' + line + '\n \t\r\n{"b":true}'
    result = read(content.encode(), format="ndjson", columns={"ALIAS": "a"})
    assert result.rows == [(0, 1, ("1", None)), (2, 5, (None, "true"))]
    assert result.unparsable == [(1, 3, line)]
    assert (result.reader.records, result.reader.blank_lines) == (3, 2)
    assert result.notices == ["no_final_newline"]


def test_keys_are_mapped_and_extra_ones_noticed(read):
    """Through the sync's `columns`; the notice does not repeat the keys, which could be data."""
    result = read(b'{"CLIENT_NO":"7","ann@example.org":1}\n', format="ndjson", columns={"CLIENT_NO": "a"})
    assert result.values == [("7", None)]
    assert result.notices == ["extra_columns"]
    assert "example.org" not in repr(result.reader.notices)


def test_a_line_beyond_the_cap_is_unparsable_without_text(read):
    """Wherever the blocks fall."""
    content = b'{"a":"1"}\n{"a":"' + b"x" * 100 + b'"}\n{"a":"3"}\n'
    for block_size in (1, 7, 1000):
        result = read(content, format="ndjson", record_cap=40, block_size=block_size)
        assert result.values == [("1", None), ("3", None)]
        assert result.unparsable == [(1, 2, None)]


def test_an_empty_file_is_a_breach_and_blank_lines_are_not(read):
    """0 bytes mean that the export failed."""
    with pytest.raises(ExportError) as caught:
        read(b"", format="ndjson")
    assert caught.value.code == "file_empty"
    assert read(b"\n\n", format="ndjson").notices == ["no_records"]
