"""Adobe Target: the exact bytes that are sent to both endpoints, and what the answers mean."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.client import Answer, Client
from etl.destinations.adobe_target import AdobeBulk, AdobeSingle
from etl.destinations.base import AwaitsCompletion, Destination
from etl.errors import ConfigError, OutcomeUnknown, Redirected, Refused, Rejected, Throttled
from etl.limits import documented
from etl.model import BatchStatus, JobState, Receipt
from etl.settings import Connection
from sample_profiles import FULL as COMPLETE
from sample_profiles import STRANGER, profiles_of

GOLDEN = Path(__file__).parent / "golden"
HOST = "https://acme.tt.omtrdc.net"
STATUS_URL = "http://mboxedge45.tt.omtrdc.net/m2/acme/profile/batchStatus?batchId=acme-1-2"
JOB = "https://mboxedge45.tt.omtrdc.net/m2/acme/profile/batchStatus?batchId=acme-1-2&showDetails=true"
NAMES = (
    "language", "country", "registeredAt", "subscribedAt", "emailOptIn", "smsOptIn", "tags", "loyaltyTier", "city",
    "orders30d", "spend30d", "lastPurchaseAt", "lastStore", "favouriteCategory",
)  # fmt: skip


@dataclass
class Scripted(Client):
    """A client that gives one answer, and keeps what it was asked."""

    status: int = 200
    body: str | bytes = ""
    retry_after: float | None = None
    calls: list[tuple[str, str, dict[str, str], bytes | None]] = field(default_factory=list)

    def post(self, url, *, body, headers):
        return self._answer("POST", url, dict(headers), body)

    def get(self, url, *, headers):
        return self._answer("GET", url, dict(headers), None)

    def _answer(self, *call):
        self.calls.append(call)
        body = self.body.encode() if isinstance(self.body, str) else self.body
        return Answer(status=self.status, body=body, retry_after=self.retry_after, request_id="r1", seconds=0.1)


def _connection(**parts: object) -> Connection:
    given = {"conn_type": "adobe_target", "host": HOST, "login": "acme"}
    extra = {name: parts.pop(name) for name in list(parts) if name not in {*given, "password"}}
    return Connection.from_parts("adobe_target_default", {**given, **parts, "extra": extra})


def _bulk(client: Client | None = None, **parts: object) -> AdobeBulk:
    return AdobeBulk.connect("adobe_target_bulk", _connection(**parts), client or Scripted())


def _single(client: Client | None = None, **parts: object) -> AdobeSingle:
    return AdobeSingle.connect("adobe_target_single", _connection(**parts), client or Scripted())


BOTH = pytest.mark.parametrize("connect", [_bulk, _single])


def _render(endpoint: Destination, *profiles: dict[str, object]) -> pl.DataFrame:
    return endpoint.render(profiles_of(*profiles).lazy()).collect()


def _sent(endpoint: Destination, *profiles: dict[str, object]) -> list[bytes]:
    """The finished texts, as pack hands them over; of what can be sent at all."""
    rendered = _render(endpoint, *profiles).with_columns(**STRANGER)
    return [text.encode() for text in endpoint.finish(rendered) if text is not None]


def _reasons(endpoint: Destination, *profiles: dict[str, object]) -> list[str | None]:
    return _render(endpoint, *profiles)["reason"].to_list()


FULL = COMPLETE | {
    "first_name": "Ána",
    "last_name": "O'Neil",
    "tags": ["vip", "a,b", "c&d=e"],
    "last_store": "S 01",
    "favourite_category": "books + 100% more",
}
SPARSE = {"customer_id": "00359881", "email_opt_in": False, "orders_30d": 0, "spend_30d": 0.0}
WIDE = {"customer_id": "É 李\u200d🙂~", "country": "GB", "city": "'\"#?;\\"}


# What is sent


def test_the_bytes_of_a_file_are_the_golden_ones():
    """A header that begins with `batch=`, a cell for every attribute of the spec's table, and nothing personal."""
    endpoint = _bulk()
    assert endpoint.envelope.frame(_sent(endpoint, FULL, SPARSE, WIDE)) == (GOLDEN / "adobe_bulk.txt").read_bytes()


def test_the_bytes_of_single_calls_are_the_golden_ones():
    """One form a line: the id, and the attributes that have a value."""
    endpoint = _single()
    calls = [endpoint.envelope.frame([text]) for text in _sent(endpoint, FULL, SPARSE, WIDE)]
    assert b"\n".join(calls) + b"\n" == (GOLDEN / "adobe_single.txt").read_bytes()


def test_both_endpoints_make_the_same_record():
    """What is unchanged does not depend on the endpoint that sent it last."""
    assert _render(_bulk(), FULL, SPARSE).equals(_render(_single(), FULL, SPARSE))
    assert _render(_bulk(), FULL)["memory"].dtype == pl.UInt64


@BOTH
def test_personal_data_is_not_sent(connect):
    """Adobe Target is no place for it: not the address, the name, the birthday, the consent or the place."""
    fields = ("email", "phone", "first_name", "last_name", "birthday", "consent", "latitude", "avatar_url")
    canaries = {name: FULL[name] if name == "latitude" else f"Canary{name}" for name in fields}
    [text] = _sent(connect(), SPARSE | canaries | {"subscriptions": ["Canary"], "longitude": 4.83})
    assert b"anary" not in text
    assert b"4.83" not in text


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
VALUES = st.fixed_dictionaries(
    {"customer_id": TEXT},
    optional={
        "language": TEXT,
        "registered_at": TEXT,
        "tags": st.lists(TEXT, min_size=1, max_size=3),
        "city": TEXT,
        "email_opt_in": st.booleans(),
        "orders_30d": st.integers(0, 2**53),
        "spend_30d": st.integers(-(10**12), 10**12).map(lambda cents: cents / 100),
        "favourite_category": TEXT,
    },
)


def _said(profile: dict[str, object]) -> dict[str, str]:
    """What a reader should find of a profile, in the order of the names."""
    words = {
        "language": profile.get("language"),
        "registeredAt": profile.get("registered_at"),
        "emailOptIn": {True: "true", False: "false"}.get(profile.get("email_opt_in")),
        "tags": "|".join(profile["tags"]) if "tags" in profile else None,
        "city": profile.get("city"),
        "orders30d": str(profile["orders_30d"]) if "orders_30d" in profile else None,
        "spend30d": f"{profile['spend_30d']:.2f}" if "spend_30d" in profile else None,
        "favouriteCategory": profile.get("favourite_category"),
    }
    return {name: word for name in NAMES if (word := words.get(name)) is not None}


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_any_value_survives_both_ways(profiles):
    """A reader of the file, and a reader of the form, find what the profile held."""
    header, *rows, end = _bulk().envelope.frame(_sent(_bulk(), *profiles)).decode("ascii").split("\n")
    assert header == f"batch=thirdPartyId,{','.join(NAMES)}"
    assert end == ""
    for profile, row in zip(profiles, rows, strict=True):
        key, *cells = map(unquote, row.split(","))
        assert key == profile["customer_id"]
        assert {name: cell for name, cell in zip(NAMES, cells, strict=True) if cell} == _said(profile)
    told = [profile for profile in profiles if _said(profile)]
    for profile, form in zip(told, _sent(_single(), *profiles), strict=True):
        expected = {f"profile.{name}": word for name, word in _said(profile).items()}
        pairs = parse_qsl(form.decode("ascii"), strict_parsing=True)
        assert pairs == [("mbox3rdPartyId", profile["customer_id"]), *expected.items()]


@BOTH
def test_no_profiles_make_no_texts(connect):
    """An empty part is rendered and finished like any other."""
    assert _sent(connect()) == []


def test_money_has_two_decimals():
    """Also where the float has more, or none."""
    [*texts] = _sent(_single(), *({"spend_30d": amount} for amount in (0.0, 7.1, 0.30000000000000004, 1e9, -12.345e2)))
    assert [text.partition(b"spend30d=")[2] for text in texts] == [
        b"0.00",
        b"7.10",
        b"0.30",
        b"1000000000.00",
        b"-1234.50",
    ]


def test_a_pc_id_has_other_names():
    """The customer_id is then a pcId: in the file's header, and in the form."""
    assert _bulk(id="pcId", bulk_version="v1").envelope.prefix.startswith(b"batch=pcId,language,")
    assert _sent(_single(id="pcId"), {"city": "Lyon"}) == [b"mboxPC=C0&profile.city=Lyon"]


def test_a_single_update_by_get_is_an_address():
    """The payload is the whole of it, which is what is measured, and what is asked."""
    client = Scripted(body="<response><success>true</success></response>")
    endpoint = _single(client, single_method="GET", password="token")
    [text] = _sent(endpoint, FULL)
    payload = endpoint.envelope.frame([text])
    assert payload.startswith(
        b"https://acme.tt.omtrdc.net/m2/acme/profile/update?mbox3rdPartyId=C-1001&profile.language=fr&"
    )
    endpoint.submit(payload)
    assert client.calls == [("GET", payload.decode(), {"Authorization": "Bearer token"}, None)]
    endpoint.submit(b"https://evil.test/?x=1")
    assert client.calls[1][1].startswith(f"{HOST}/m2/acme/profile/update?")
    assert endpoint.limits.bytes_per_call == documented()["adobe_target_single"]["bytes_per_get"]["value"]
    limits = {"adobe_target_single": {"bytes_per_call": 500}}
    assert _single(single_method="GET", limits=limits).limits.bytes_per_call == 500


# What is not sent


@BOTH
@pytest.mark.parametrize("key", ["a+b", "a/b", "ana@example.org", "+33639980001"])
def test_an_id_that_the_vendor_does_not_take_is_unsendable(connect, key):
    """As a third-party id only; and it comes before every other reason."""
    assert _reasons(connect(), {"customer_id": key, "city": "Lyon"}) == ["id_not_allowed"]
    assert _reasons(connect(), {"customer_id": key, "city": "x" * 70_000}) == ["id_not_allowed"]
    assert _reasons(connect(id="pcId", bulk_version="v1"), {"customer_id": key, "city": "Lyon"}) == [None]


@pytest.mark.parametrize(("character", "size"), [("x", 1), ("é", 6), ("\u200d", 9), ("🙂", 12), (",", 3), ("~", 1)])
def test_a_row_is_measured_as_it_is_encoded(character, size):
    """64,000 bytes of a row, without its line end, are taken, and one more is not."""
    endpoint = _bulk()
    around = len(_sent(endpoint, {"loyalty_tier": "", "city": ""})[0])
    characters, rest = divmod(64_000 - around, size)
    fits = {"loyalty_tier": "x" * rest, "city": character * characters}
    assert len(_sent(endpoint, fits)[0]) == 64_000
    larger = fits | {"loyalty_tier": "x" * (rest + 1)}
    assert _reasons(endpoint, fits, larger, {"city": "Lyon"}) == [None, "profile_too_large", None]


@pytest.mark.parametrize(("method", "limit"), [("POST", 60_000), ("GET", 8_000)])
@pytest.mark.parametrize(("character", "size"), [("x", 1), ("é", 6), ("🙂", 12)])
def test_a_single_call_is_measured_whole(method, limit, character, size):
    """The body of a POST, and the whole address of a GET."""
    endpoint = _single(single_method=method)

    def measured(profile: dict[str, str]) -> int:
        [text] = _sent(endpoint, profile)
        return len(endpoint.envelope.frame([text]))

    around = measured({"loyalty_tier": "x", "city": character}) - 1 - size
    characters, rest = divmod(limit - around - 1, size)
    fits = {"loyalty_tier": "x" * (rest + 1), "city": character * characters}
    assert measured(fits) == limit
    larger = fits | {"loyalty_tier": "x" * (rest + 2)}
    assert _reasons(endpoint, fits, larger) == [None, "record_too_large"]


def test_a_row_that_no_file_of_this_account_can_hold_is_unsendable():
    """With the header and the line ends that stand around it."""
    profile = {"city": "Lyon"}
    whole = len(_bulk().envelope.frame(_sent(_bulk(), profile)))
    for limit, reason in ((whole, None), (whole - 1, "record_too_large")):
        assert _reasons(_bulk(limits={"adobe_target_bulk": {"bytes_per_call": limit}}), profile) == [reason]


def test_a_single_update_says_something():
    """The vendor refuses one without any attribute; in a file, such a row creates the profile."""
    assert _reasons(_single(), {}, {"city": "Lyon"}) == ["no_attributes", None]
    assert _reasons(_bulk(), {}) == [None]


# Answers


def _xml(success: str, status_url: str = "", message: str = "Batch submitted for processing") -> str:
    url = f"<batchStatus>{status_url.replace('&', '&amp;')}</batchStatus>"
    return f"<response>\n  <success>{success}</success>\n  {url}\n  <message>{message}</message>\n</response>"


def test_an_upload_is_posted_once_as_a_form():
    """To version 2 unless asked otherwise, and with a token only where there is one."""
    client = Scripted(body=_xml("true", STATUS_URL))
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for parts, path, headers in (
        ({}, "v2/profile/batchUpdate", form),
        ({"bulk_version": "v1", "password": "token"}, "profile/batchUpdate", {"Authorization": "Bearer token"} | form),
    ):
        _bulk(client, **parts).submit(b"batch=x\n")
        assert client.calls.pop() == ("POST", f"{HOST}/m2/acme/{path}", headers, b"batch=x\n")
    _single(client).submit(b"mbox3rdPartyId=C1&profile.city=Lyon")
    assert client.calls == [("POST", f"{HOST}/m2/acme/profile/update", form, b"mbox3rdPartyId=C1&profile.city=Lyon")]


@pytest.mark.parametrize(
    ("given", "job", "code"),
    [
        (STATUS_URL, JOB, None),
        ("", None, "status_url_missing"),
        ("https://evil.test/m2", None, "status_url_refused"),
        (f"{STATUS_URL}\n", None, "status_url_refused"),
    ],
)
def test_the_job_of_an_upload_is_where_it_may_be_asked_for(given, job, code):
    """The upload was taken all the same."""
    assert _bulk(Scripted(body=_xml("true", given))).submit(b"") == Receipt(request_id="r1", job=job, code=code)


def test_a_single_update_is_accepted_and_nothing_more():
    """There is no job: nobody ever says whether a profile was there."""
    endpoint = _single(Scripted(body=_xml("true", STATUS_URL, "Request successfully submitted")))
    assert endpoint.submit(b"") == Receipt(request_id="r1")
    assert not isinstance(endpoint, AwaitsCompletion)
    assert isinstance(_bulk(), AwaitsCompletion)


@BOTH
@pytest.mark.parametrize("status", [200, 202, 400, 413, 414, 422])
def test_a_refusal_is_what_the_tag_says(connect, status):
    """Under whatever status; the vendor's message is not passed on, as it may quote the rows."""
    with pytest.raises(Rejected) as refused:
        connect(Scripted(status, _xml("false", "", "C1 of ana@example.org is bad"))).submit(b"")
    assert (refused.value.code, refused.value.status, refused.value.request_id) == ("refused_by_vendor", status, "r1")
    assert "ana" not in str(refused.value)


@BOTH
@pytest.mark.parametrize("body", [_xml("true", STATUS_URL), _xml("false"), "", "<html>"])
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Refused),
        (403, Refused),
        (404, Refused),
        (429, Throttled),
        (500, OutcomeUnknown),
        (503, OutcomeUnknown),
        (302, Redirected),
    ],
)
def test_some_statuses_speak_for_themselves(connect, body, status, error):
    """Whatever stands in the answer."""
    with pytest.raises(error) as raised:
        connect(Scripted(status, body, retry_after=7)).submit(b"")
    assert raised.value.retry_after == 7


@BOTH
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", "no_acknowledgement"),
        ("true", "no_acknowledgement"),
        ('{"success":true}', "no_acknowledgement"),
        (_xml("TRUE", STATUS_URL), "no_acknowledgement"),
        (_xml("maybe"), "no_acknowledgement"),
        (_xml("true")[:-1], "no_acknowledgement"),
        ("<response><success>true</success><success>false</success></response>", "no_acknowledgement"),
        ("<response><message>Batch submitted</message></response>", "no_acknowledgement"),
        ("<!DOCTYPE response><response><success>true</success></response>", "no_acknowledgement"),
        ("\r\n<!doctype html><title>Sign in</title>", "html_answer"),
        ("<html><success>true</success></html>", "html_answer"),
    ],
)
def test_anything_else_is_an_unknown_outcome(connect, body, code):
    """A success status without the documented acknowledgement proves nothing."""
    with pytest.raises(OutcomeUnknown) as unknown:
        connect(Scripted(200, body)).submit(b"")
    assert unknown.value.code == code


@BOTH
@pytest.mark.parametrize("cut", range(0, len(_xml("true", STATUS_URL)), 7))
def test_a_cut_acknowledgement_is_none(connect, cut):
    """An answer without a length ends where its connection ends."""
    with pytest.raises(OutcomeUnknown):
        connect(Scripted(200, _xml("true", STATUS_URL)[:cut])).submit(b"")


# Polls


def _poll(status: int, body: str | bytes = "") -> BatchStatus:
    return _bulk(Scripted(status, body)).poll(JOB)


def test_a_poll_is_one_question_with_the_token():
    """And its answer is read as a status."""
    client = Scripted(body="<response><batchId>acme-1-2</batchId><status>complete</status></response>")
    assert _bulk(client, password="token").poll(JOB).state is JobState.COMPLETE
    assert client.calls == [("GET", JOB, {"Authorization": "Bearer token"}, None)]


@pytest.mark.parametrize("status", [404, 410])
def test_a_batch_that_nobody_knows_is_gone(status):
    """Perhaps not there yet, perhaps forgotten: the caller decides how often to ask again."""
    assert _poll(status, "<response><status>complete</status></response>") == BatchStatus(state=JobState.GONE)


def test_a_redirect_is_not_a_status():
    """Nor is it followed; and a page for people is none either."""
    assert _poll(302) == BatchStatus(state=JobState.UNREADABLE, code="redirected")
    assert _poll(200, "<html>complete</html>") == BatchStatus(state=JobState.UNREADABLE, code="no_status")


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, Refused), (403, Refused), (429, Throttled), (500, OutcomeUnknown), (503, OutcomeUnknown)],
)
def test_a_poll_that_fails_says_how(status, error):
    """It is about the question, not about the batch."""
    with pytest.raises(error):
        _poll(status, "<response><status>complete</status></response>")


@pytest.mark.parametrize("job", ["https://evil.test/x?showDetails=true", STATUS_URL, "file:///etc/hostname", ""])
def test_only_an_address_of_the_allowed_form_is_asked(job):
    """Also where the ledger says otherwise."""
    client = Scripted()
    assert _bulk(client).poll(job) == BatchStatus(state=JobState.UNREADABLE, code="status_url_refused")
    assert client.calls == []


# Connections


@BOTH
def test_a_check_asks_for_a_profile_that_nobody_has(connect):
    """That it is not there, said as the vendor says it, is what an account that is let in is told."""
    nobody = json.dumps({"status": 404, "message": "No profile found for client acme with third party id=x"})
    client = Scripted(404, nobody)
    connect(client, password="token").check()
    url = f"{HOST}/rest/v1/profiles/thirdPartyId/profile-etl-connection-check?client=acme"
    assert client.calls == [("GET", url, {"Authorization": "Bearer token"}, None)]
    connect(Scripted(200, "{}")).check()
    for status, body in ((404, "<html>not found</html>"), (404, '{"message":"no such client"}'), (403, nobody)):
        with pytest.raises(Refused):
            connect(Scripted(status, body)).check()


@BOTH
@pytest.mark.parametrize(
    "parts",
    [
        {"conn_type": "batch"},
        *({"login": login} for login in ("", "a/b", "..", "a b", "a\r\nb", "ac?me", "acmé", "acme\n")),
        {"id": "ecid"},
        {"id": ["pcId"]},
        {"limits": {"adobe_target_bulk": {"rows": 1}, "adobe_target_single": {"rows": 1}}},
    ],
)
def test_a_connection_that_cannot_work_is_refused(connect, parts):
    """Before anything is sent, as a matter of configuration."""
    with pytest.raises(ConfigError):
        connect(**parts)


def test_options_that_do_not_fit_are_refused():
    """A pcId belongs to version 1 or to single updates; methods and versions are the documented ones."""
    for connect, extra in (
        (_bulk, {"id": "pcId"}),
        (_bulk, {"bulk_version": "v3"}),
        (_single, {"single_method": "PUT"}),
    ):
        with pytest.raises(ConfigError):
            connect(**extra)
    assert _single(id="pcId").identity == _bulk().identity == ("customer_id",)


@BOTH
def test_no_secret_in_a_repr(connect):
    """The token is in a header, and headers are not shown."""
    assert "token" not in repr(connect(password="token"))


# Over a real connection


@dataclass
class Server:
    """A loopback server: its address, and the request lines, headers and bodies that arrived."""

    url: str
    seen: list[tuple[str, dict[str, str], bytes]]


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts a server that gives one answer to everybody."""
    servers: list[HTTPServer] = []

    def start(body: str, *, status: int = 200, headers: dict[str, str] | None = None) -> Server:
        seen: list[tuple[str, dict[str, str], bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                received = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                seen.append((f"{self.command} {self.path}", dict(self.headers), received))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body.encode())), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            do_GET = do_POST = answer  # noqa: N815  the names that http.server looks for

            def log_message(self, *_: object) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        return Server(f"http://127.0.0.1:{server.server_port}", seen)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_what_was_measured_is_what_arrives(serve, method):
    """No library on the way writes an address or a body anew."""
    server = serve(_xml("true"))
    with Client(timeout_s=5) as client:
        endpoint = _single(client, host=server.url, single_method=method)
        payloads = [endpoint.envelope.frame([text]) for text in _sent(endpoint, FULL, SPARSE, WIDE)]
        for payload in payloads:
            endpoint.submit(payload)
    arrived = [
        body if method == "POST" else f"{server.url}{line.removeprefix('GET ')}".encode()
        for line, _, body in server.seen
    ]
    assert arrived == payloads


def test_an_upload_and_its_poll_stay_with_their_host(serve):
    """The status address is asked where it was given, and a redirect from there leads nowhere."""
    elsewhere = serve("<response><status>complete</status></response>")
    portal = serve("", status=302, headers={"Location": f"{elsewhere.url}/x"})
    with Client(timeout_s=5) as client:
        moved = _bulk(client, host=portal.url, password="token").poll(f"{portal.url}/s?showDetails=true")
        assert moved.code == "redirected"
        server = serve(_xml("true", f"{elsewhere.url}/s"))
        assert _bulk(client, host=server.url, password="token").submit(b"batch=x\n").code == "status_url_refused"
    assert len(portal.seen) == 1
    assert server.seen[0][2] == b"batch=x\n"
    assert elsewhere.seen == []
