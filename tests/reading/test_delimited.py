"""CSV: legal text is read as Python's csv module reads it; bad records stand aside alone, with their line numbers."""

import csv
import gc
import io
import random
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from etl.errors import ExportError
from etl.reading import read_export_file

CAP = 1 << 20
FIELD = st.text(st.sampled_from('ab,;\t"\r\n \x00é€😀\ufeff\x1f|#'), max_size=6)
NOISE = st.text(st.sampled_from('aé,,""\n\n\r \t'), max_size=60)


@dataclass(frozen=True)
class Expected:
    rows: list
    unparsable: list
    blank_lines: int


def reference(text: str, fields: int, *, first_line: int, cap: int = CAP) -> Expected:
    """The record rules once more, a character at a time and without regard for speed: the oracle."""
    if text and not text.endswith("\n"):
        text += "\n"
    rows, unparsable, blank = [], [], 0
    at, line = 0, first_line
    while at < len(text):
        first_end = text.index("\n", at) + 1
        if not text[at : first_end - 1].removesuffix("\r").strip(" \t"):
            blank, at, line = blank + 1, first_end, line + 1
            continue
        values, end = _parse_record(text, at)
        if end is None or len(text[at:end].encode()) > cap:
            values, end = None, first_end
        number = len(rows) + len(unparsable)
        original = text[at : end - 1].removesuffix("\r")
        if values is not None and len(values) == fields:
            rows.append((number, line, tuple(values)))
        else:
            unparsable.append((number, line, original if len(text[at:end].encode()) <= cap else None))
        line += text.count("\n", at, end)
        at = end
    return Expected(rows, unparsable, blank)


def _parse_record(text, at):
    """(values or None, end or None): no values with a stray quote, no end when a quote is never legally closed."""
    values = []
    while True:
        if text[at] == '"':
            value, at = "", at + 1
            while text[at : at + 1] and (text[at] != '"' or text[at : at + 2] == '""'):
                value += text[at]
                at += 2 if text[at] == '"' else 1
            at += 1
            if text[at : at + 2] == "\r\n":
                at += 1
            if text[at : at + 1] not in {",", "\n"}:
                return None, None
        else:
            end = min(text.find(mark, at) for mark in ',\n"' if text.find(mark, at) >= 0)
            if text[end] == '"':
                return None, text.index("\n", end) + 1
            value, at = text[at:end], end
            if text[at] == "\n":
                value = value.removesuffix("\r")
        values.append(value)
        if text[at] == "\n":
            return values, at + 1
        at += 1


@given(
    rows=st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=8),
    delimiter=st.sampled_from(",;\t|"),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    bom=st.booleans(),
    block_size=st.integers(1, 40),
)
def test_legal_text_is_read_as_by_the_csv_module(read, rows, delimiter, line_end, quoting, bom, block_size):
    """Whatever csv.writer writes comes back exactly, wherever the borders of blocks fall."""
    if line_end == "\n" and quoting == csv.QUOTE_MINIMAL:  # before Python 3.13 the writer left a lone CR bare
        rows = [tuple(field.replace("\r", "") for field in row) for row in rows]
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerows([("a", "b", "c"), *rows])
    content = file.getvalue()
    result = read(
        ("\ufeff" * bom + content).encode(),
        wanted=("a", "b", "c"),
        delimiter=delimiter,
        block_size=block_size,
    )
    oracle = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
    assert result.values == rows == [tuple(row) for row in oracle][1:]
    assert not result.unparsable
    assert result.reader.records == len(rows)


@given(text=NOISE, block_size=st.integers(1, 30), cap=st.sampled_from([8, 20, CAP]))
@example(text='1,"a\nb",x"y\n3,4\n', block_size=3, cap=CAP)
@example(text='"a\r\n,"\r,b\n\r,a\r\r\n', block_size=1, cap=CAP)
@example(text='"\ufeffa",\ufeff\n\ufeffa,\ufeff\n', block_size=4, cap=CAP)
@settings(max_examples=600)
def test_noise_is_split_by_the_rules(read, text, block_size, cap):
    """On any text, records, verdicts, values, lines and original texts are those of the character-wise oracle."""
    result = read(b"a,b\n" + text.encode(), block_size=block_size, record_cap=cap)
    expected = reference(text, 2, first_line=2, cap=cap)
    assert result.rows == expected.rows
    assert result.unparsable == expected.unparsable
    assert result.reader.blank_lines == expected.blank_lines


@given(text=st.text(max_size=80), block_size=st.integers(1, 30))
def test_no_record_is_ever_lost(read, text, block_size):
    """Rows and unparsable records together are numbered without a gap, and are as many as the splitter counted."""
    result = read(b"a,b\n" + text.encode(), block_size=block_size)
    numbers = sorted(number for number, _, _ in [*result.rows, *result.unparsable])
    assert numbers == list(range(result.reader.records))


@given(seed=st.integers(0, 2**32), faults=st.integers(1, 4), block_size=st.integers(1, 200))
def test_good_rows_around_faults_survive(read, seed, faults, block_size):
    """A line with a fault of its own costs exactly that line."""
    rng = random.Random(seed)  # noqa: S311
    good = ['1,"x, y"\n', "2,é\n", '3,"a\nb"\n', '4,"say ""hi"""\r\n']
    bad = ["5\n", "6,7,8\n", '9,a"b\n', '10,"a"b\n', '"11","12" \n']
    records = [(text, True) for text in rng.choices(good, k=12)] + [
        (text, False) for text in rng.choices(bad, k=faults)
    ]
    rng.shuffle(records)
    result = read(b"a,b\n" + "".join(text for text, _ in records).encode(), block_size=block_size)
    line, rows, broken = 2, [], []
    for text, is_good in records:
        (rows if is_good else broken).append(line)
        line += text.count("\n")
    assert [line for _, line, _ in result.rows] == rows
    assert [line for _, line, _ in result.unparsable] == broken


@pytest.mark.parametrize(
    ("text", "rows", "unparsable"),
    [
        ("1,2\n3\n4,5\n", [2, 4], [(3, "3")]),
        ("1,2\n3,4,5\r\n6,7\n", [2, 4], [(3, "3,4,5")]),
        ('1,2\n3,x"y\n6,7\n', [2, 4], [(3, '3,x"y')]),
        ('1,"never\n2,b\n3,c\n', [3, 4], [(2, '1,"never')]),
        ('1,"a\nb"x,\n3,c\n', [4], [(2, '1,"a'), (3, 'b"x,')]),
        ('1,"a\n\nb",c\n3,c\n', [5], [(2, '1,"a\n\nb",c')]),
        ('1,"a\nb",x"y\n3,c\n', [4], [(2, '1,"a\nb",x"y')]),
        (' "1",2\n3,c\n', [3], [(2, ' "1",2')]),
    ],
)
def test_an_unparsable_record_stands_aside_alone(read, text, rows, unparsable):
    """Field counts and stray quotes cost the record, an unclosed quote its first line, and reading goes on."""
    result = read(b"a,b\n" + text.encode())
    assert [line for _, line, _ in result.rows] == rows
    assert [(line, record) for _, line, record in result.unparsable] == unparsable


def test_values_stay_as_they_are(read):
    """Blanks, outer spaces, NUL, lone carriage returns and leading zeros are the contract's business, not the reader's."""
    result = read(b'a,b\n 007 ,\n\x00,"  "\n\r,x\r\r\ny\rz\r,"\r"\n')
    assert result.values == [(" 007 ", ""), ("\x00", "  "), ("\r", "x\r"), ("y\rz\r", "\r")]


def test_original_text_of_a_row_is_kept(read):
    """The quarantine gets the record as it stood in the file, without its line end."""
    result = read(b'a,b,c\r\n1,"x\r\ny",z\r\n2,b,"c"\n')
    assert result.originals == ['1,"x\r\ny",z', '2,b,"c"']


def test_blank_lines_are_skipped_and_counted(read):
    """Empty lines and lines of spaces or tabs are no records, also before the header; lines of delimiters are."""
    result = read(b"\n \na,b\n\n1,2\n \t\r\n,\n\r\n")
    assert [(line, values) for _, line, values in result.rows] == [(5, ("1", "2")), (7, ("", ""))]
    assert result.reader.blank_lines == 5
    tabbed = read(b"a\tb\n\t\n1\t2\n  \n", delimiter="\t")
    assert tabbed.values == [("", ""), ("1", "2")]
    assert tabbed.reader.blank_lines == 1


def test_a_last_line_without_line_end_is_an_ordinary_record(read):
    """It is read, with a notice, as it may have been cut short."""
    result = read(b"a,b\n1,2\n3,4")
    assert result.values == [("1", "2"), ("3", "4")]
    assert result.notices == ["no_final_newline"]


def test_a_header_alone_is_an_empty_export(read):
    """Zero rows, and a notice."""
    result = read(b"a,b\n")
    assert (result.rows, result.reader.records, result.notices) == ([], 0, ["no_records"])


def test_columns_are_mapped_by_name(read):
    """Whatever the order, through the sync's `columns`; extra columns are named once, absent optional ones are null."""
    result = read(
        b'note,"CLIENT\n_NO",b\nx,1,2\n',
        columns={"CLIENT\n_NO": "a"},
        wanted=("a", "b", "c"),
        required=("a",),
    )
    assert result.rows == [(0, 3, ("1", "2", None))]
    assert result.notices == ["extra_columns", "columns_absent"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "file_empty"),
        (b"\xef\xbb\xbf", "file_empty"),
        (b"\n \n\r\n", "file_empty"),
        (b"a;b\n1;2\n", "header_one_column"),
        (b"a,c\n1,2\n", "header_missing_column"),
        (b"A,b\n1,2\n", "header_missing_column"),
        (b"a, b\n1,2\n", "header_missing_column"),
        (b"a,b,c,a\n1,2,3,4\n", "header_duplicate"),
        (b"a,b,ALIAS\n1,2,3\n", "header_duplicate"),
        (b'a,b"c\n1,2\n', "header_unreadable"),
        (b'a,"b\n1,2\n', "header_unreadable"),
        (b"a,b,c\r1,2,3\r", "header_unreadable"),
        (b"a,b\n1,\xe9\n", "encoding_broken"),
        ("a,b\n1,2\n".encode("utf-16"), "encoding_broken"),
        ("a,b\n1,2\n".encode("utf-16-le"), "header_missing_column"),
    ],
)
def test_a_breach_of_the_file_stops_the_reading(read, content, code):
    """The code is stable, and the message names the file and no value of a row."""
    with pytest.raises(ExportError) as caught:
        read(content, columns={"ALIAS": "a"})
    assert caught.value.code == code
    assert "crm.csv" in str(caught.value)


def test_all_missing_columns_are_named_at_once(read):
    """With the export's own name where the sync maps one; what the first line holds instead is not repeated."""
    with pytest.raises(ExportError) as caught:
        read(b"C1,ann@example.org,C1\n", columns={"CLIENT_NO": "a"})
    assert "a (in the export: CLIENT_NO), b" in str(caught.value)
    assert "example.org" not in str(caught.value)


def test_a_repeated_column_is_named_with_its_places(read):
    """Also where the sync maps another name to the same column."""
    with pytest.raises(ExportError, match="'a' in columns 1, 4; 'b' in columns 2, 3"):
        read(b"a,b,b,ALIAS\n1,2,3,4\n", columns={"ALIAS": "a"})


def test_a_record_beyond_the_cap_is_unparsable_without_text(read):
    """One long line costs itself alone; a quote that is not closed within the cap costs its first line."""
    long = b"x" * 50
    result = read(b"a,b\n1,2\n3," + long + b'\n5,"' + b"y\n" * 30 + b'"\n7,8\n', record_cap=40, block_size=7)
    assert result.unparsable[:2] == [(1, 3, None), (2, 4, '5,"y')]
    assert result.values == [("1", "2"), ("7", "8")]
    assert result.reader.records == 2 + 1 + 1 + 29 + 1


def test_many_broken_quotes_take_linear_time(read):
    """Lines that each open a quote which the next one closes and opens again must not be scanned again and again."""
    for line in (b'x","y\n', b'"\n', b'","\n', b'1,"a""\n', b'"""",\n', b',"\n'):
        result = read(b"a,b\n" + line * 40_000)
        assert result.reader.records == len(result.rows) + len(result.unparsable)


def test_a_refused_file_is_closed_at_once(tmp_path):
    """While somebody still holds the error, whose traceback holds the reader."""
    path = tmp_path / "export.csv"
    path.write_bytes(b"b,c\n1,2\n")
    reader = read_export_file(path, format="csv", columns={}, wanted=["a"], required=["a"], name="crm.csv")
    with pytest.raises(ExportError) as held:
        list(reader)
    assert held.value.code == "header_missing_column"
    opened = [file for file in gc.get_objects() if type(file) is io.BufferedReader and file.name == str(path)]
    assert [file for file in opened if not file.closed] == []


def test_public_function_reads_lazily(tmp_path):
    """Nothing is opened before the first block is asked for; counts and notices are there after the last."""
    path = tmp_path / "export.csv"
    reader = read_export_file(path, format="csv", columns={}, wanted=["a"], required=["a"], name="crm.csv")
    path.write_bytes(b"a,x\n1,\n")
    (block,) = reader
    assert block.rows.to_dict(as_series=False) == {"a": ["1"], "_line": [2], "_record": [0]}
    assert (reader.records, reader.blank_lines) == (1, 0)
    assert "1" not in repr(block)
