"""A file that was cut at any byte never passes a short value for a whole one without a word."""

import pytest

from etl.errors import ExportError

CSV = 'a,b\r\n1,é€😀\r\n"2","x, ""y""\r\nz"\r\n+447700900123,-12.50\r\n'.encode()
NDJSON = '{"a":"1","b":"é€😀"}\n{"a":"2","b":-12.50}\r\n{"a":"3","b":null}\n'.encode()


@pytest.mark.parametrize(("format_", "whole"), [("csv", CSV), ("ndjson", NDJSON)])
def test_a_cut_is_a_breach_or_costs_a_notice_or_the_last_record(read, format_, whole):
    """At every byte; what was whole before the cut stays as it is. A cut just behind a line only a manifest can show."""
    rows = read(whole, format=format_).values
    for cut in range(len(whole)):
        try:
            found = read(whole[:cut], format=format_)
        except ExportError as error:
            assert error.code in {"file_empty", "encoding_broken", "header_one_column", "header_missing_column"}, cut  # noqa: PT017
            continue
        is_between_lines = whole[:cut].endswith(b"\n")
        assert is_between_lines != ("no_final_newline" in found.notices), cut
        intact = found.values if is_between_lines else found.values[:-1]
        assert intact == rows[: len(intact)], cut
        assert len(found.values) + len(found.unparsable) <= len(rows) + 1, cut
