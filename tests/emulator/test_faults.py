"""Faults: what they do to a call, to the socket, and when they strike."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from etl.emulator.faults import ACTIONS, SCHEDULE, Faults, compile_fault, parse_fault

ROW = [{"identifiers": {"custom_id": "crm-1"}, "attributes": {"city": "Paris", "n": 1}}]
DOCS = Path(__file__).parents[2] / "docs" / "emulator.md"


def kept(emulator) -> int:
    return emulator.get("/_control/profiles")["count"]


def statuses(emulator, calls: int) -> list[int]:
    return [emulator.post(ROW).status_code for _ in range(calls)]


# --- the answer ---


@pytest.mark.parametrize(("status", "code"), [(500, "SERVER_ERROR"), (503, "MAINTENANCE"), (429, "TOO_MANY_REQUESTS")])
def test_a_status_comes_in_the_vendors_words_and_nothing_is_kept(emulator, status, code):
    """The vendor never saw the call."""
    emulator.faults({"status": status})
    response = emulator.post(ROW)
    assert (response.status_code, response.json()["error_code"]) == (status, code)
    assert "retry-after" not in response.headers
    assert kept(emulator) == 0


def test_with_apply_the_vendor_took_the_call_and_the_answer_lies(emulator):
    """Applied, then 500."""
    emulator.faults({"status": 500, "apply": True})
    assert emulator.post(ROW).status_code == 500
    assert kept(emulator) == 1


def test_retry_after_goes_with_429_and_503_only(emulator):
    """Also with the real 429 of the rate limit."""
    emulator.faults({"retry_after": 7})
    assert "retry-after" not in emulator.post(ROW).headers
    emulator.faults({"status": 429, "times": 1}, {"status": 503, "retry_after": "soon", "times": 1})
    assert emulator.post(ROW).headers["retry-after"] == "7"
    assert emulator.post(ROW).headers["retry-after"] == "7"  # the standing fault is the outer one
    for _ in range(5):
        response = emulator.post(ROW * 200)
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")


def test_a_body_can_be_replaced(emulator):
    """By text, nothing, JSON, a web page; without a status the call is applied and its status stands."""
    emulator.faults({"body": "", "times": 1}, {"status": 202, "body": {"code": "ODD"}, "times": 1})
    empty, odd = emulator.post(ROW), emulator.post(ROW)
    assert (empty.status_code, empty.content, kept(emulator)) == (202, b"", 1)
    assert odd.json() == {"code": "ODD"}
    emulator.faults({"status": 200, "html": True})
    page = emulator.post(ROW)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "<title>" in page.text


def test_a_redirect_names_its_target(emulator):
    """307 unless another status is given."""
    emulator.faults({"redirect": "http://127.0.0.1:9/x", "times": 1}, {"redirect": "/y", "status": 302, "times": 1})
    first, second = emulator.post(ROW), emulator.post(ROW)
    assert (first.status_code, first.headers["location"]) == (307, "http://127.0.0.1:9/x")
    assert (second.status_code, second.headers["location"]) == (302, "/y")
    assert kept(emulator) == 0


def test_a_gzip_bomb_is_small_on_the_wire(emulator):
    """Megabytes of nothing in kilobytes."""
    emulator.faults({"gzip_bomb": 5})
    response = emulator.session.post(
        f"{emulator.url}/2.11/profiles/update", json=ROW, headers=emulator.headers(), timeout=10, stream=True
    )
    assert response.headers["content-encoding"] == "gzip"
    assert len(response.raw.read(decode_content=False)) < 10_000


def test_a_delay_comes_before_the_call_or_after_it(emulator):
    """A caller that gives up has sent the call all the same; with apply it counts at once."""
    emulator.faults({"delay": 0.3, "apply": True, "times": 1}, {"delay": 0.2, "times": 1})
    with pytest.raises(requests.Timeout):
        requests.post(f"{emulator.url}/2.11/profiles/update", json=ROW, headers=emulator.headers(), timeout=0.1)
    assert kept(emulator) == 1
    began = time.perf_counter()
    assert emulator.post(ROW).status_code == 202
    assert time.perf_counter() - began >= 0.2


def test_single_attributes_can_be_refused(emulator):
    """The named attribute of the named profile is dropped and listed."""
    emulator.faults({"refuse_attribute": ["crm-1/city", "crm-2/n"]})
    assert emulator.post(ROW).json()["errors"] == [
        {"category": "attribute", "bulk_index": 0, "reason": "refused by a fault", "attribute": "city"},
    ]
    assert emulator.attributes("crm-1") == {"n": 1}


def test_calls_with_a_poisoned_row_can_be_refused_whole(emulator):
    """400 whenever the id is among the rows: what a caller must find by splitting."""
    emulator.faults({"refuse_call_with": "crm-13"}, {"refuse_call_with": ["crm-17"]})
    rows = [{"identifiers": {"custom_id": f"crm-{n}"}} for n in range(20)]
    answers = [emulator.post(part).status_code for part in (rows, rows[:13], rows[13:14], rows[14:17], rows[17:])]
    assert answers == [400, 202, 400, 202, 400]
    assert kept(emulator) == 16


# --- the socket ---


@pytest.mark.parametrize("apply", [False, True])
def test_a_connection_can_be_reset(emulator, apply):
    """The peer sees a reset instead of an answer, whether the call was applied or not."""
    emulator.faults({"drop": "reset", "apply": apply})
    with pytest.raises(ConnectionResetError):
        emulator.raw(ROW)
    assert kept(emulator) == apply
    assert emulator.get("/_control/requests")["requests"][0]["outcome"] == "dropped"


def test_a_connection_can_be_closed_without_an_answer(emulator):
    """The peer sees the end of the stream and not one byte."""
    emulator.faults({"drop": "close"})
    assert emulator.raw(ROW) == b""
    assert kept(emulator) == 0


@pytest.mark.parametrize("keep", [0, 5, -1])
def test_an_answer_can_be_cut_short_of_its_announced_length(emulator, keep):
    """The head announces the whole body, of which only so much comes; a negative number counts from its end."""
    emulator.faults({"truncate": keep})
    head, _, body = emulator.raw(ROW).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 202 Accepted\r\n")
    whole = b'{"code": "SUCCESS"}'
    assert b"content-length: %d" % len(whole) in head
    assert body == whole[:keep]
    assert kept(emulator) == 1


def test_an_answer_can_be_cut_within_a_chunk(emulator):
    """The chunk is announced whole and never ends."""
    emulator.faults({"truncate": 3, "framing": "chunked"})
    head, _, body = emulator.raw(ROW).partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert body == b'13\r\n{"c'


def test_an_answer_can_be_cut_where_only_its_sense_tells(emulator):
    """Without a length the end of the connection is the end of the body: only the JSON is broken."""
    emulator.faults({"truncate": 8, "framing": "close"})
    response = emulator.post(ROW)
    assert (response.status_code, response.content) == (202, b'{"code":')


# --- the schedule ---


def test_a_standing_fault_strikes_every_nth_call(emulator):
    """every=3 hits the third, the sixth, ..."""
    emulator.faults({"status": 503, "every": 3})
    assert statuses(emulator, 7) == [202, 202, 503, 202, 202, 503, 202]


def test_faults_with_times_queue(emulator):
    """One is used up before the next begins; then all is well."""
    emulator.faults({"status": 503, "times": 2}, {"status": 429, "times": 1}, {"status": 500, "every": 2, "times": 1})
    assert statuses(emulator, 6) == [503, 503, 429, 202, 500, 202]
    assert emulator.get("/_control/state")["faults"] == []


def test_a_fault_can_keep_to_one_endpoint(emulator):
    """`path` is the end of the path."""
    emulator.faults({"status": 503, "path": "/profiles/update"})
    assert emulator.post(ROW).status_code == 503
    assert emulator.post(ROW, "/2.11/profiles/mass-update").status_code == 202


def test_standing_faults_compose(emulator):
    """All that strike one call act together."""
    emulator.faults({"refuse_attribute": "crm-1/city"}, {"truncate": 4})
    assert emulator.raw(ROW).endswith(b'\r\n\r\n{"co')
    assert emulator.attributes("crm-1") == {"n": 1}


def test_faults_can_be_lifted(emulator):
    """DELETE ends them all."""
    emulator.faults({"status": 503})
    emulator.session.delete(f"{emulator.url}/_control/faults", timeout=10)
    assert emulator.post(ROW).status_code == 202


BROKEN = [
    {},
    {"every": 2},
    {"status": 503, "evry": 2},
    {"status": 99},
    {"status": "no"},
    {"status": None},
    {"status": 500, "every": 0},
    {"status": 500, "times": 0},
    {"status": 500, "apply": "maybe"},
    {"drop": "softly"},
    {"framing": "none", "truncate": 1},
    {"rate_limit": "faster"},
    {"delay": "long"},
]


@pytest.mark.parametrize("spec", BROKEN)
def test_a_fault_that_cannot_be_meant_is_refused_with_all_that_came_with_it(emulator, spec):
    """400 with a sentence; none of the list is taken."""
    response = emulator.session.post(f"{emulator.url}/_control/faults", json=[{"status": 500}, spec], timeout=10)
    assert response.status_code == 400
    assert response.json()["error"]
    assert emulator.get("/_control/state")["faults"] == []


@pytest.mark.parametrize("body", [b"", b"{", b"7", b'["status"]'])
def test_a_fault_is_a_json_object(emulator, body):
    """Anything else is 400."""
    assert emulator.session.post(f"{emulator.url}/_control/faults", data=body, timeout=10).status_code == 400


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("delay=0.2", {"delay": "0.2"}),
        ("status=503:every=4", {"status": "503", "every": "4"}),
        ("redirect=http://127.0.0.1:9/a:apply=true", {"redirect": "http://127.0.0.1:9/a", "apply": "true"}),
        ("status=202:body=", {"status": "202", "body": ""}),
        ("refuse_attribute=a/b:c/city", {"refuse_attribute": "a/b:c/city"}),
    ],
)
def test_a_fault_can_be_written_as_text(text, spec):
    """action=value, joined by colons."""
    assert parse_fault(text) == spec


@pytest.mark.parametrize("text", ["", "status", "status=", "status=503:evry=2", "503"])
def test_text_that_is_no_fault_is_refused(text):
    """A ValueError with a sentence for the person at the command line."""
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        parse_fault(text)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 40))
def test_a_fault_strikes_as_often_as_its_schedule_says(every, times, calls):
    """The nth calls, until its times are used up."""
    faults = Faults([{"status": 500, "every": every, "times": times}])
    for _ in range(calls):
        faults.strike("/2.11/profiles/update")
    struck = min(times, calls // every)
    assert faults.view() == (
        [] if struck == times else [{"status": 500, "every": every, "times": times, "seen": calls, "struck": struck}]
    )


def test_the_documentation_lists_exactly_the_words_of_a_fault():
    """A word that is not documented does not exist, and the other way round."""
    section = DOCS.read_text(encoding="utf-8").split("## Faults")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == {*ACTIONS, *SCHEDULE}
    for example in re.findall(r"--faults '([^']+)'", section):
        parse_fault(example)


def test_every_action_compiles_from_text():
    """Whatever can be asked for over HTTP can be asked for at the command line."""
    samples = {"rate_limit": "off", "drop": "close", "framing": "close", "gzip_bomb": "1", "job": "stuck"}
    assert all(compile_fault({word: samples.get(word, "429")}) for word in ACTIONS)
