"""Answers: each one means what `etl.errors` says, and only the documented acknowledgement is one."""

from __future__ import annotations

import pytest

from etl.destinations.base import AwaitsCompletion
from etl.errors import DeliveryError, NotSent, OutcomeUnknown, Redirected, Refused, Rejected, Throttled
from etl.model import JobState
from sample_profiles import STRANGER

PERSON = {"customer_id": "C-1", "email": "c1@example.org", "city": "Lyon"}
STATUSES = {
    Rejected: (400, 409, 413, 422),
    Refused: (401, 403, 404),
    Throttled: (429,),
    OutcomeUnknown: (408, 425, 500, 502, 503, 504),
    Redirected: (300, 301, 302, 303, 304, 307, 308),
}
SPOILT = [
    {"drop": "reset"}, {"drop": "close"}, {"drop": "reset", "apply": True}, {"drop": "close", "apply": True},
    {"delay": 1}, {"delay": 1, "apply": True}, {"truncate": -1}, {"truncate": -1, "framing": "chunked"},
    {"truncate": -1, "framing": "close"}, {"truncate": 0}, {"truncate": 0, "framing": "chunked"},
    {"html": True}, {"status": 200, "html": True}, {"status": 202, "html": True}, {"entity_bomb": True},
    {"gzip_bomb": 3}, {"body": "OK"}, {"body": []}, {"body": {"success": True}}, {"body": "null"}, {"body": "\x00"},
    {"body": "<response><success>yes</success></response>"},
]  # fmt: skip


@pytest.fixture
def submit(account, frame_of):
    """One call with one person, at a vendor that was told how to answer; its receipt, or its error."""

    def send(**fault):
        account.faults(*filter(None, [fault]))
        with account.endpoint(patient="delay" not in fault) as endpoint:
            rendered = endpoint.render(frame_of([PERSON]).lazy()).collect().with_columns(**STRANGER)
            try:
                return endpoint.submit(endpoint.envelope.frame([text.encode() for text in endpoint.finish(rendered)]))
            except DeliveryError as error:
                return error

    return send


def test_statuses_say_what_to_do(submit):
    """Reject the payload, stop, wait, or do not know; whatever the body says."""
    expected = {status: error for error, statuses in STATUSES.items() for status in statuses}
    errors = {status: submit(status=status) for status in expected}
    assert {status: type(error) for status, error in errors.items()} == expected
    assert {status: error.status for status, error in errors.items()} == {status: status for status in expected}


def test_a_redirect_is_not_followed(submit, account):
    """Its target never hears of it."""
    before = len(account.calls)
    assert type(submit(redirect=f"{account.url}/elsewhere")) is Redirected
    assert len(account.calls) == before + 1


def test_a_pause_that_the_vendor_asks_for_is_told(submit):
    """In seconds."""
    assert submit(status=429, retry_after=7).retry_after == 7
    assert submit(status=503, retry_after=7).retry_after == 7


def test_what_is_no_whole_acknowledgement_proves_nothing(submit):
    """Lost, late, cut, a web page, or other words: under whatever status, and whether it was taken or not."""
    assert {str(fault): type(submit(**fault)) for fault in SPOILT} == {str(fault): OutcomeUnknown for fault in SPOILT}


def test_an_empty_success_is_no_acknowledgement(submit, account):
    """But for a vendor whose documented one is empty."""
    statuses = {200, 201, 202, 204, 206} - account.stand.empty_success
    answers = {status: submit(status=status, body="") for status in statuses}
    assert {status: type(answer) for status, answer in answers.items()} == dict.fromkeys(statuses, OutcomeUnknown)


def test_a_vendor_that_is_not_there_was_sent_nothing(account):
    """Nobody listens, so that it may be tried again freely."""
    account.url = "http://127.0.0.1:9"
    with account.endpoint() as endpoint, pytest.raises(NotSent):
        endpoint.submit(b"anything")


def test_only_who_can_be_asked_gives_a_job(submit, account):
    """And what is no whole status of it never says that it is complete."""
    receipt = submit()
    with account.endpoint() as endpoint:
        assert isinstance(endpoint, AwaitsCompletion) is (receipt.job is not None)
        if not isinstance(endpoint, AwaitsCompletion):
            return
    for fault in (*SPOILT, *({"status": status} for statuses in STATUSES.values() for status in statuses)):
        account.faults(fault)
        with account.endpoint(patient="delay" not in fault) as endpoint:
            try:
                said = endpoint.poll(receipt.job).state
            except DeliveryError:
                continue
        assert said in {JobState.GONE, JobState.UNREADABLE}, fault
