"""Adobe Target's answers: what counts as a status, and which address may be asked for one."""

import time
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from urllib3.util import parse_url

from etl.destinations.adobe_answers import batch_status, is_html, response, status_url, text_of
from etl.model import BatchStatus, JobState

ID = "acme-1795316400000-13029383"
JOB = f"https://mboxedge45.tt.omtrdc.net/m2/acme/profile/batchStatus?batchId={ID}&showDetails=true"
DETAILS = (
    "<consumedCount>2</consumedCount><successfulUpdates>1</successfulUpdates>"
    "<profilesNotFound>0</profilesNotFound><failedUpdates>1</failedUpdates>"
)


def _xml(status: str = "complete", more: str = "") -> str:
    return (
        f"<response>\n  <batchId>{ID}</batchId><status>{status}</status><batchSize>2</batchSize>{more}\n</response>\n"
    )


def _status(text: str | bytes) -> BatchStatus:
    return batch_status(text.encode() if isinstance(text, str) else text, JOB)


# Statuses


@pytest.mark.parametrize("word", ["complete", "incomplete", "stuck"])
def test_the_three_words_are_known(word):
    """Each is its own state, with or without details."""
    assert _status(_xml(word)) == BatchStatus(state=JobState(word), size=2)
    assert _status(_xml(word, DETAILS)) == BatchStatus(
        state=JobState(word), size=2, consumed=2, confirmed=1, not_found=0, failed=1
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1", "windows-1252", "us-ascii"])
def test_any_encoding_that_xml_knows_is_read(encoding):
    """A byte order mark, or the declaration, says which."""
    declared = encoding.removesuffix("-sig")
    text = f'<?xml version="1.0" encoding="{declared}"?><!-- a remark -->{_xml()}<!-- another -->'
    assert _status(text.encode(encoding)).state is JobState.COMPLETE


@pytest.mark.parametrize("word", ["Complete", "completed", " complete", "complete\n", "success", "in&#99;omplete."])
def test_an_unknown_word_settles_nothing(word):
    """Words are exact; a vendor that says something new has to be read by a person."""
    assert _status(_xml(word)) == BatchStatus(state=JobState.UNREADABLE, code="unknown_status_word")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "complete",
        "{}",
        '{"response":{"status":"complete"}}',
        "<html><body>complete</body></html>",
        "<status>complete</status>",
        "<Response><status>complete</status></Response>",
        '<r:response xmlns:r="x"><status>complete</status></r:response>',
        "<response/>",
        "<response>complete</response>",
        "<response><status/></response>",
        "<response><status>complete</status><status>complete</status></response>",
        "<response><status>complete<b/></status></response>",
        "<response><batch><status>complete</status></batch></response>",
        "<response><status>complete</status>",
        "<response><status>complete</status></response>x",
        "<response><status>complete</status></response><response/>",
        "<response><status>complete</status>&other;</response>",
        "<response><success>false</success><message>complete</message></response>",
        "<?php status ?><response><status>complete</status></response>",
        '<?xml version="1.0" encoding="utf-7"?><response><status>complete</status></response>',
        '<?xml version="1.0" encoding="rot13"?><response><status>complete</status></response>',
        '<?xml version="1.0" encoding="zlib"?><response><status>complete</status></response>',
        f"{'<a>' * 40}{'</a>' * 40}",
    ],
)
def test_what_is_no_status_settles_nothing(text):
    """Cut, empty, in another language, or saying two things."""
    assert _status(text) == BatchStatus(state=JobState.UNREADABLE, code="no_status")


@pytest.mark.parametrize("cut", range(len(_xml().rstrip())))
def test_a_status_that_is_cut_anywhere_is_none(cut):
    """An answer without a length ends where its connection ends."""
    assert _status(_xml()[:cut]).state is JobState.UNREADABLE


def _oracle(body: bytes) -> str | None:
    try:
        root = ET.fromstring(body)  # noqa: S314  only noise that this test has made
    except (ET.ParseError, ValueError, LookupError):
        return None
    return root.findtext("status") if root.tag == "response" else None


ENCODINGS = ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp037", "latin-1"]


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 20), st.sampled_from(ENCODINGS))
@example(b"<!DOCTYPE response>", 0, 0, "utf-8")
def test_any_bytes_complete_a_batch_only_if_they_say_so(noise, at, length, encoding):
    """Noise alone, or put somewhere into a status: it is complete only where another reader finds it so, too."""
    whole = _xml().encode(encoding)
    for body in (noise, whole[:at] + noise + whole[at + length :]):
        if _status(body).state is JobState.COMPLETE:
            assert _oracle(body) == "complete"


@given(st.integers(-5, 10**20).map(str) | st.text("0123456789+-., _eE٣²", max_size=6))
def test_counters_are_plain_whole_numbers_or_unknown(text):
    """Negative, empty, signed, grouped, in the digits of another script, or beyond 64 bits: not a counter."""
    plain = text.isascii() and text.isdigit() and len(text) <= 18
    assert _status(_xml(more=f"<failedUpdates>{text}</failedUpdates>")).failed == (int(text) if plain else None)


def test_a_status_of_another_batch_is_refused():
    """Counters of somebody else's rows confirm nothing; an answer or a job without an id is taken as it is."""
    other = _xml().replace(ID, f"{ID}0")
    assert _status(other) == BatchStatus(state=JobState.UNREADABLE, code="other_batch")
    assert batch_status(other.encode(), JOB.partition("?")[0]).state is JobState.COMPLETE
    assert _status(_xml().replace(f"<batchId>{ID}</batchId>", "")).state is JobState.COMPLETE


def test_rows_that_are_named_as_failed():
    """Their ids, as they stand there; rows with another status, and tags that nobody knows, are passed over."""
    rows = "".join(
        f"<profile><id>{key}</id><status>{status}</status><new/></profile>"
        for key, status in [("C1", "failed"), ("é&amp;%2C", "error"), ("C3", "success"), ("", "failed"), ("C4", "")]
    )
    said = _status(_xml("complete", f"{rows}<profile/><other><profile><id>C9</id></profile></other>"))
    assert said.failed_ids == ("C1", "é&%2C")
    assert said.size == 2
    assert "C1" not in repr(said)


BOMBS = {
    "amplification": "<!DOCTYPE response [<!ENTITY a0 'complete'>"
    + "".join(f"<!ENTITY a{n + 1} '{f'&a{n};' * 20}'>" for n in range(12))
    + "]><response><status>&a12;</status></response>",
    "internal entity": "<!DOCTYPE response [<!ENTITY c 'complete'>]><response><status>&c;</status></response>",
    "quadratic": f"<!DOCTYPE response [<!ENTITY a '{'x' * 50_000}'>]><response>{'&a;' * 10_000}</response>",
    "external file": "<!DOCTYPE r [<!ENTITY f SYSTEM 'file:///etc/hostname'>]><response><status>&f;</status></response>",
    "external dtd": "<!DOCTYPE response SYSTEM 'http://127.0.0.1:9/x.dtd'><response><status>complete</status></response>",
    "parameter entity": "<!DOCTYPE response [<!ENTITY % p SYSTEM 'http://127.0.0.1:9/x'> %p;]><response/>",
    "bare": "<!DOCTYPE response><response><status>complete</status></response>",
    "deep": f"<response>{'<a>' * 150_000}",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_hostile_document_is_no_answer(bomb, encoding):
    """Refused at its DTD or its depth, before anything is expanded or fetched, in every encoding and in no time."""
    body = BOMBS[bomb].encode(encoding)
    seconds = []
    for _ in range(3):
        started = time.process_time()
        assert response(body) is None
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.05


def test_a_page_for_people_is_known_as_one():
    """By its first tag; XML and text are none."""
    assert is_html(b"<html><body>sign in</body></html>")
    assert is_html(b"\xef\xbb\xbf\r\n <!DOCTYPE  html>\n<title>x</title>")
    assert not is_html(b"<response/>")
    assert not is_html(b"html")
    assert not is_html(b"<" * 100_000)


def test_a_text_is_taken_from_one_plain_child_only():
    """None is "not said", and an empty element says an empty text."""
    root = response(b"<response><a>1&amp;2</a><b/><c>1</c><c>1</c><d>1<e/></d></response>")
    assert [text_of(root, name) for name in "abcde"] == ["1&2", "", None, None, None]


# Addresses

HOST = "https://acme.tt.omtrdc.net"
ASKED = "/m2/acme/profile/batchStatus?batchId=acme-1-2"


@pytest.mark.parametrize(
    ("host", "given", "asked"),
    [
        (HOST, f"https://acme.tt.omtrdc.net{ASKED}", f"https://acme.tt.omtrdc.net{ASKED}&showDetails=true"),
        (HOST, f"http://mboxedge45.tt.omtrdc.net{ASKED}", f"https://mboxedge45.tt.omtrdc.net{ASKED}&showDetails=true"),
        (HOST, f"http://mboxedge45.tt.omtrdc.net:80{ASKED}", f"https://mboxedge45.tt.omtrdc.net{ASKED}&showDetails=true"),
        (HOST, f"https://mboxedge45.tt.omtrdc.net:443{ASKED}", f"https://mboxedge45.tt.omtrdc.net{ASKED}&showDetails=true"),
        (HOST, f"https://a.b.TT.omtrdc.net{ASKED}&mboxPC=1.01_00", f"https://a.b.TT.omtrdc.net{ASKED}&mboxPC=1.01_00&showDetails=true"),
        (HOST, f"https://a.tt.omtrdc.net{ASKED}&showDetails=true", f"https://a.tt.omtrdc.net{ASKED}&showDetails=true"),
        (HOST, "https://a.tt.omtrdc.net/status/1", "https://a.tt.omtrdc.net/status/1?showDetails=true"),
        (HOST, "https://a.tt.omtrdc.net", "https://a.tt.omtrdc.net/?showDetails=true"),
        (HOST, "https://a.tt.omtrdc.net/s?", "https://a.tt.omtrdc.net/s?showDetails=true"),
        (f"{HOST}:8443/", f"http://acme.tt.omtrdc.net:8443{ASKED}", f"https://acme.tt.omtrdc.net:8443{ASKED}&showDetails=true"),
        ("https://adobe.example.org/x", "http://adobe.example.org/s", "https://adobe.example.org/s?showDetails=true"),
        ("http://127.0.0.1:8080", f"http://127.0.0.1:8080{ASKED}", f"http://127.0.0.1:8080{ASKED}&showDetails=true"),
        ("http://localhost", "http://localhost:80/s", "http://localhost/s?showDetails=true"),
        ("http://[::1]:8080", "http://[::1]:8080/s", "http://[::1]:8080/s?showDetails=true"),
    ],
)  # fmt: skip
def test_a_status_address_is_followed_as_given(host, given, asked):
    """With details, on the connection's own host and port, or among the vendor's; https is restored but on loopback."""
    assert status_url(given, host) == asked
    assert status_url(asked, host) == asked


HOSTILE_HOSTS = [
    "evil.test", "tt.omtrdc.net", "tt.omtrdc.net.evil.test", "acme.tt.omtrdc.net.evil.test", "eviltt.omtrdc.net",
    "evil-tt.omtrdc.net", "evil.test#.tt.omtrdc.net", "evil.test?.tt.omtrdc.net", "evil.test/.tt.omtrdc.net",
    "evil.test\\.tt.omtrdc.net", "evil.test\\@acme.tt.omtrdc.net", "acme.tt.omtrdc.net@evil.test",
    "user@acme.tt.omtrdc.net", "user:word@acme.tt.omtrdc.net", ":@acme.tt.omtrdc.net", "evil.test:80@acme.tt.omtrdc.net",
    "acme.tt.omtrdc.net.", "acme..tt.omtrdc.net", ".tt.omtrdc.net", "acme.tt.omtrdc.net:8443", "acme.tt.omtrdc.net:0443",
    "acme.tt.omtrdc.net:", "acme.tt.omtrdc.net:0", "acme.tt.omtrdc.net:99999", "acme.tt.omtrdc.net:443:443",
    "acme.tt.omtrdc.net%00.evil.test", "acme.tt.omtrdc.net%2f.evil.test", "evil.test%23.tt.omtrdc.net",
    "acme.tt.omtrdc.net\t.evil.test", "acme.tt.omtrdc.net\r\nHost:evil.test", "acme.tt.omtrdc.net\x00", " acme.tt.omtrdc.net",
    "acme.tt.omtrdc.net ", "acme。tt.omtrdc.net", "acme.tt。omtrdc.net", "acme.tt.omtrdc.ne\u0442",
    "acme.tt.omtrdc.net\u2024evil.test", "évil.tt.omtrdc.net", "evil.test\uff0f.tt.omtrdc.net", "acme.tt.omtrdc.\u212aet",
    "acme.tt.omtrdc.net\uff03.evil.test", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "localhost",
    "[::1]", "[::ffff:127.0.0.1]", "[fe80::1%25eth0]", "169.254.169.254", "10.0.0.1", "[acme.tt.omtrdc.net]",
]  # fmt: skip
SCHEMES = [
    "http://",
    "https://",
    "HTTPS://",
    "//",
    "http:",
    "https:/",
    "http:///",
    "ftp://",
    "file://",
    "gopher://",
    "",
]
OWN_HOSTS = [HOST, "https://acme.tt.omtrdc.net:444", "https://adobe.example.org", "http://127.0.0.1:8080"]


@pytest.mark.parametrize("own", OWN_HOSTS)
def test_no_other_address_is_ever_asked(own):
    """Whatever a name looks like, and however it is written."""
    tails = ["", "/", ASKED, "#x", "?x", "\\x", "/%0d%0a", "/ ", "/\n", "/é", "/x@acme.tt.omtrdc.net", "/#"]
    followed = {
        f"{scheme}{host}{tail}"
        for scheme in SCHEMES
        for host in HOSTILE_HOSTS
        for tail in tails
        if status_url(f"{scheme}{host}{tail}", own) is not None
    }
    assert followed == set()


@pytest.mark.parametrize(
    "address",
    [
        "", "https://", "/m2/acme", "acme.tt.omtrdc.net/x", "HTTPS://acme.tt.omtrdc.net/x", "https:acme.tt.omtrdc.net/x",
        "file:///etc/hostname", "data:text/xml,<response/>", "https://acme.tt.omtrdc.net/x#y", "https://acme.tt.omtrdc.net/x\n",
        "https://acme.tt.omtrdc.net/\\evil.test", "https://acme.tt.omtrdc.net/x y", "https://acme.tt.omtrdc.net?x=1",
        f"https://{'a' * 64}.tt.omtrdc.net/x", "https://acme.tt.omtrdc.net/a@b", "https://acme.tt.omtrdc.net/<x>",
    ],
)  # fmt: skip
def test_an_address_outside_the_narrow_grammar_is_refused(address):
    """No user, no fragment, no backslash, nothing blank or beyond ASCII, and a host and a scheme in plain sight."""
    assert status_url(address, HOST) is None


PIECES = st.sampled_from(
    [*HOSTILE_HOSTS, *SCHEMES, "acme", ".", "tt.omtrdc.net", ".tt.omtrdc.net", ":443", ":80", "/", "?", "&", "#", "@",
     "\\", "%", "a=b", "showDetails=true", "[", "]", "::1", ":8080", "127.0.0.1", "\u200b", "adobe.example.org"]
)  # fmt: skip


@hypothesis_settings(max_examples=1500)
@given(st.lists(PIECES | st.text(max_size=3), max_size=8), st.sampled_from(OWN_HOSTS), st.booleans())
def test_all_readers_of_addresses_agree_on_what_is_asked(pieces, own, start):
    """The one that the client connects with, and the standard library's: the same host, on the list, and no user."""
    asked = status_url(("https://acme.tt.omtrdc.net" if start else "") + "".join(pieces), own)
    if asked is None:
        return
    standard, connecting = urlsplit(asked), parse_url(asked)
    assert standard.hostname == (connecting.host or "").strip("[]")
    assert standard.port == connecting.port
    assert connecting.auth is standard.username is standard.password is None
    home = urlsplit(own)
    vendors = own.startswith(HOST) and standard.hostname.endswith(".tt.omtrdc.net") and standard.port is None
    assert vendors or (standard.hostname, standard.port) == (home.hostname, home.port)
    assert standard.scheme == "https" or standard.hostname == "127.0.0.1"
    assert standard.query.split("&").count("showDetails=true") >= 1
    assert status_url(asked, own) == asked
