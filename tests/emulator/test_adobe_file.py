"""Adobe's grammar of a batch file and of a single update, without a server."""

from __future__ import annotations

import contextlib
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.emulator.adobe import LIMITS, PC_ID, Row, file_rows, single_row

texts = st.text(st.characters(codec="utf-8"))
ids = st.text(st.characters(codec="utf-8", exclude_characters="+/"), min_size=1, max_size=128).filter(str.strip)
names = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda name: name.strip() and name[:8] != "profile.")


def written(kind: str, header: list[str], rows: list[list[str]]) -> bytes:
    lines = [[kind, *header], *rows]
    return ("batch=" + "\n".join(",".join(quote(cell, safe="") for cell in line) for line in lines) + "\n").encode()


@given(st.lists(names, max_size=5, unique=True).filter(lambda n: "thirdPartyId" not in n), st.data())
def test_what_is_url_encoded_comes_back_as_it_was(header, data):
    """Any text survives in a name, an id and a value; a row may be shorter than the header; empty says nothing."""
    rows = data.draw(st.lists(st.tuples(ids, st.lists(texts, max_size=len(header))), min_size=1, max_size=5))
    read = file_rows(written("thirdPartyId", header, [[identity, *values] for identity, values in rows]))
    assert read == [
        Row(identity, {name: value for name, value in zip(header, values, strict=False) if value}, broken=False)
        for identity, values in rows
    ]


@pytest.mark.parametrize(
    "file",
    [
        b"batch=thirdPartyId,a\nx,1",
        b"batch=pcId,a\n1368007744041-575948.01_00,1\n",
        b"batch=thirdPartyId,a,b\nx,1\ny,,2\nz\n",
        b"batch=thirdPartyId\nx\n",
        b"batch=thirdPartyId,a%2Cb\nx,%26%2B%3D%0A\n",
        b"batch=thirdPartyId,pcId\nx,1\n",
        b"batch=thirdPartyId,a\nx,http://example.org/~a?b(c)*!\n",
    ],
)
def test_a_file_as_documented_is_read(file):
    """Both kinds of id, sparse rows, any encoded value; the last line end may lack."""
    assert file_rows(file)


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"batch=",
        b"thirdPartyId,a\nx,1\n",
        b"\xef\xbb\xbfbatch=thirdPartyId,a\nx,1\n",
        b"batch=thirdpartyid,a\nx,1\n",
        b"batch=mbox3rdPartyId,a\nx,1\n",
        b"batch=a,thirdPartyId\nx,1\n",
        b"batch= thirdPartyId,a\nx,1\n",
        b"batch=thirdPartyId,a\n",
        b"batch=thirdPartyId,a,a\nx,1\n",
        b"batch=thirdPartyId,thirdPartyId\nx,1\n",
        b"batch=thirdPartyId,,a\nx,1\n",
        b"batch=thirdPartyId,profile.a\nx,1\n",
        b"batch=thirdPartyId,a\r\nx,1\r\n",
        b"batch=thirdPartyId, a\nx,1\n",
        b"batch=thirdPartyId,a\nx,1 2\n",
        b"batch=thirdPartyId,a\nx,1+2\n",
        b"batch=thirdPartyId,a\nx,1&2\n",
        b"batch=thirdPartyId,a\nx,1=2\n",
        b"batch=thirdPartyId,a\nx,a#b\n",
        b'batch=thirdPartyId,a\nx,"1"\n',
        b"batch=thirdPartyId,a\nx,1|2\n",
        b"batch=thirdPartyId,a\nx,\xc3\xa9\n",
        b"batch=thirdPartyId,a\nx,%C3\n",
        b"batch=thirdPartyId,a\nx,%zz\n",
        b"batch=thirdPartyId,a\nx,100%\n",
        b"batch=thirdPartyId,a\nx,1,2\n",
        b"batch=thirdPartyId,a\n,1\n",
        b"batch=thirdPartyId,a\n%20,1\n",
        b"batch=thirdPartyId,a\nx,1\n\ny,1\n",
    ],
)
def test_a_file_of_another_shape_is_refused(file):
    """What a form parser would damage, what is not encoded, and whatever the grammar does not know."""
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        file_rows(file)


@given(st.binary())
def test_any_bytes_are_read_or_refused(body):
    """Nothing else can happen."""
    for file in (body, b"batch=thirdPartyId,a\n" + body):
        with contextlib.suppress(ValueError):
            assert file_rows(file)


def test_a_file_has_a_most_of_rows():
    """The limit itself is inside; the header does not count."""
    row = b"x,1\n"
    assert len(file_rows(b"batch=thirdPartyId,a\n" + row * LIMITS.file_rows)) == LIMITS.file_rows
    with pytest.raises(ValueError, match="500000 rows"):
        file_rows(b"batch=thirdPartyId,a\n" + row * (LIMITS.file_rows + 1))


@pytest.mark.parametrize("identity", ["a+b", "a/b", "a" * 129])
def test_some_ids_can_be_nobodys(identity):
    """A plus, a slash, over 128 characters: the row is there, but broken."""
    assert file_rows(written("thirdPartyId", [], [[identity]]))[0].broken


@given(st.dictionaries(names, texts, min_size=1), ids)
def test_a_single_update_is_a_form(values, identity):
    """Names and values come back; a pcId has a key of its own."""
    fields = {f"profile.{name}": value for name, value in values.items()}
    said = {name: value for name, value in values.items() if value}
    assert single_row(urlencode({"mbox3rdPartyId": identity, **fields})) == Row(identity, said, broken=False)
    assert single_row(urlencode({**fields, "mboxPC": identity})).key == PC_ID + identity


@pytest.mark.parametrize(
    "form",
    [
        "",
        "mbox3rdPartyId=x",
        "profile.a=1",
        "mbox3rdPartyId=x&mboxPC=y&profile.a=1",
        "mbox3rdPartyId=&profile.a=1",
        "mbox3rdPartyId=x&a=1",
        "mbox3rdPartyId=x&profile.=1",
        "mbox3rdPartyId=x&profile.a=1&profile.a=2",
        "mbox3rdPartyId=x&profile.a=%zz",
        "mbox3rdPartyId=x&profile.a=%C3",
        "mbox3rdPartyId=a%2Bb&profile.a=1",
    ],
)
def test_another_form_is_refused(form):
    """One id, parameters of a profile, each once, all encoded."""
    with pytest.raises(ValueError, match=r"."):
        single_row(form)
