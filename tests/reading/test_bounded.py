"""No file makes memory or time grow with it: endless lines, bombs, and headers of very many columns."""

import gzip
import os
import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from etl.errors import ExportError
from etl.reading import bytestream

MB = 1_000_000
# A process of its own reads an ordinary file, then the one in question: what the second one costs in memory is printed.
MEASURE = """
import resource, sys
from pathlib import Path
from etl.errors import ExportError
from etl.reading import read_export_file

def read(path):
    asked = {"columns": {}, "wanted": ["a", "b"], "required": ["a", "b"]}
    reader = read_export_file(Path(path), format=sys.argv[3], name="crm", **asked)
    try:
        blocks = list(reader)
    except ExportError as error:
        return error.code
    return [row for b in blocks for row in b.rows["a"]], [row for b in blocks for row in b.unparsable.rows()]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

read(sys.argv[1])
before = peak()
found = read(sys.argv[2])
print([peak() - before, found])
"""
GOOD = {"csv": b"a,b\n1,2\n3\n", "ndjson": b'{"a":"1","b":"2"}\n[]\n'}


def _measured(folder: Path, kind: str) -> tuple[int, object]:
    """Megabytes by which the peak grew, and what was found in the file `large`, or the code of its breach."""
    plain = kind.removesuffix(".gz")
    small = folder / "small"
    small.write_bytes(gzip.compress(GOOD[plain]) if plain != kind else GOOD[plain])
    command = (sys.executable, "-c", MEASURE, str(small), str(folder / "large"), kind)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    growth, found = eval(done.stdout)  # noqa: S307  (our own process's words)
    return growth, found


@pytest.mark.parametrize("kind", ["csv", "ndjson"])
@pytest.mark.parametrize("piece", ["x", ",", '"', "\x00", "\r", "é", "🙂"])
def test_a_line_of_100_mb_costs_itself_alone(tmp_path, kind, piece):
    """It is set aside by its place, without its text; the rows around it are read, and memory stays where it was."""
    before, after = GOOD[kind].splitlines(keepends=True)[: 2 if kind == "csv" else 1], GOOD[kind].splitlines()[1 if kind == "csv" else 0]  # fmt: skip
    with (tmp_path / "large").open("wb") as file:
        file.writelines(before)
        for _ in range(100):
            file.write((piece * MB).encode()[:MB])
        file.write(b"\n" + after + b"\n")
    growth, found = _measured(tmp_path, kind)
    line = len(before) + 1
    assert found == (["1", "1"], [(None, line, 1)])
    assert growth < 50


def test_a_gzip_bomb_is_stopped_just_after_the_cap(tmp_path):
    """What is behind the cap is never looked at, so that the bomb costs neither memory nor time."""
    bomb = gzip.compress(b"a,b\n" + bytes(120 << 20), 1)
    (tmp_path / "large").write_bytes(bomb[: len(bomb) * 9 // 10])  # read to its end, it would be a cut file
    growth, found = _measured(tmp_path, "csv.gz")
    assert found == "too_compressed"
    assert growth < 10


def test_the_message_about_a_bomb_names_the_file_and_the_way_out(read, monkeypatch):
    """A person who has such rows can still land them."""
    monkeypatch.setattr(bytestream, "_RATIO_GRACE", 1 << 20)
    with pytest.raises(ExportError, match=r"crm\.csv unpacks .*land them unpacked, or in several files") as caught:
        read(b"a,b\n" + b"1,2\n" * MB, format="csv.gz")
    assert caught.value.code == "too_compressed"


def test_there_is_an_end_to_what_any_file_may_unpack_to(read, monkeypatch):
    """However little it is compressed."""
    monkeypatch.setattr(bytestream, "_UNPACKED_CAP", 2 << 20)
    rows = random.Random(1).randbytes(1 << 20).hex("\n", 1 << 10)  # noqa: S311
    with pytest.raises(ExportError) as caught:
        read(f"a\n{rows}\n".encode(), format="csv.gz", wanted=["a"], required=["a"])
    assert caught.value.code == "too_compressed"


def test_a_real_export_is_far_from_being_a_bomb(read, monkeypatch):
    """Invented customers compress better than real ones, and still pass without any grace."""
    monkeypatch.setattr(bytestream, "_RATIO_GRACE", 0)
    content = (Path(__file__).parents[2] / "data/landing/crm/2026-11-21/customers.csv").read_bytes()
    assert read(content, format="csv.gz", wanted=["customer_id"], required=["customer_id"]).reader.records > 1000


def test_a_parquet_bomb_is_stopped(read_path, tmp_path):
    """Its row groups are unpacked whole, so that their rows are counted first."""
    path = tmp_path / "export.parquet"
    pl.DataFrame({"a": ["1"] * 2 * MB}).write_parquet(path)
    assert path.stat().st_size < MB
    with pytest.raises(ExportError, match=r"crm\.csv has more rows than bytes") as caught:
        read_path(path, format="parquet", wanted=["a"], required=["a"])
    assert caught.value.code == "too_compressed"


def test_a_header_of_very_many_columns_takes_linear_time(read):
    """A line of commas above the rows is a strange header, and nothing more."""
    names = ",".join(("a", "b", *(f"x{n}" for n in range(20_000))))
    row = "1,2" + "," * 20_000
    began = os.times()
    assert read(f"{names}\n{row}\n".encode()).values == [("1", "2")]
    assert os.times().user - began.user < 10
