"""Whatever a network does to an exchange, at whatever byte: nothing is accepted that was not acknowledged in whole."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager

import pytest

from etl import destinations
from etl.client import Client
from etl.errors import DeliveryError, NotSent, OutcomeUnknown
from etl.model import BatchStatus, JobState, Receipt
from fault_proxy import Exchange, Fault, FaultProxy
from sample_profiles import STRANGER
from soak import SOAK, every

PERSON = {"customer_id": "C-1", "email": "c1@example.org", "city": "Lyon", "loyalty_tier": "gold"}
DEADLINE_S, GRACE_S = 0.25, 1.0
FRAMINGS = ("length", "chunked", "close")
COLUMNS = ("exchanges", "false accepts", "misclassified", "over the deadline")


@pytest.fixture(scope="module")
def table(request):
    """Counts what was tried and what went wrong, and prints it under soak."""
    counts: dict[str, Counter[str]] = {}
    yield counts
    if SOAK:
        with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{'':24}" + "".join(f"{name:>20}" for name in COLUMNS))  # noqa: T201  (the table is the point)
            for stand, found in counts.items():
                print(f"{stand:24}" + "".join(f"{found[name]:>20,}" for name in COLUMNS))  # noqa: T201


class Line:
    """One call after the other, to an account behind a proxy."""

    def __init__(self, account, proxy, payload, counts):
        self.account, self.proxy, self.payload, self.counts = account, proxy, payload, counts

    @contextmanager
    def client(self, timeout_s: float = 10.0):
        """What sends the payload, over connections of its own that are kept open."""
        with Client(timeout_s=timeout_s) as client:
            endpoint = destinations.connect(self.account.stand.endpoint, self.account.connection(), client)

            def send(
                fault: Fault | None = None, *, poll: str | None = None, **how: object
            ) -> Receipt | BatchStatus | DeliveryError:
                self.account.clock.now += 60  # a pace that no vendor minds
                self.proxy.next_exchange(fault, **how)
                started = time.monotonic()
                try:
                    ended = endpoint.submit(self.payload) if poll is None else endpoint.poll(poll)
                except DeliveryError as error:
                    ended = error
                self.counts["exchanges"] += 1
                self.counts["over the deadline"] += time.monotonic() - started > timeout_s + GRACE_S
                return ended

            yield send

    def tried(self, fault: Fault | None = None, **how: object) -> Receipt | DeliveryError:
        """How a call on a new connection ends."""
        timeout_s = DEADLINE_S if fault and fault.do in {"stall", "dribble"} else 10.0
        with self.client(timeout_s) as send:
            return send(fault, **how)

    def must_be_unknown(self, ended: Receipt | DeliveryError, what: object) -> None:
        """Never accepted; and not sent only if no byte of it came."""
        proof = isinstance(ended, NotSent) and not self.proxy.exchange.passed["request"]
        self.counts["false accepts"] += isinstance(ended, Receipt)
        self.counts["misclassified"] += not (type(ended) is OutcomeUnknown or proof)
        assert type(ended) is OutcomeUnknown or proof, what


@pytest.fixture
def line(account, frame_of, table):
    """The account, with one person's payload and a proxy before it."""
    account.stand.introduce(account.url, [PERSON["customer_id"]])
    with FaultProxy(account.url).running() as proxy:
        vendor, account.url = account.url, proxy.url
        with account.endpoint() as endpoint:
            rendered = endpoint.render(frame_of([PERSON]).lazy()).collect().with_columns(**STRANGER)
            payload = endpoint.envelope.frame([text.encode() for text in endpoint.finish(rendered)])
        yield Line(account, proxy, payload, table.setdefault(str(account.stand), Counter()))
        account.url = vendor


def _sizes(line, **how) -> Exchange:
    """An exchange without a fault, for how many bytes there are."""
    ended = line.tried(**how)
    assert isinstance(ended, Receipt), ended
    return line.proxy.exchange


@pytest.mark.parametrize("do", ["cut", "reset"])
def test_an_answer_that_ends_early_is_never_accepted(line, do):
    """At every byte, whether its end is told by a length, by chunks, or by the end of the connection only."""
    for framing in FRAMINGS:
        size = _sizes(line, framing=framing).passed["response"]
        for at in (*every(range(size - 3), 6), *range(size - 3, size)):
            fault = Fault(do=do, way="response", at=at)
            line.must_be_unknown(line.tried(fault, framing=framing), (framing, fault))


def test_a_status_that_ends_early_never_says_how_a_batch_ended(line):
    """Where a vendor can be asked; of an answer that is whole but for its end, too."""
    job = line.tried().job
    if job is None:
        return
    for framing in FRAMINGS:
        assert line.tried(poll=job, framing=framing).state is JobState.COMPLETE
        size = line.proxy.exchange.passed["response"]
        for at in (*every(range(size - 3), 6), *range(size - 3, size)):
            said = line.tried(Fault(do="cut", way="response", at=at), poll=job, framing=framing)
            wrong = isinstance(said, BatchStatus) and said.state is not JobState.UNREADABLE
            line.counts["false accepts"] += wrong
            assert not wrong, (framing, at)


@pytest.mark.parametrize("do", ["cut", "reset"])
def test_a_request_that_is_cut_is_unknown_from_its_first_byte_on(line, do):
    """On a new connection as on one that was used before; and nobody sends it again by himself."""
    size = _sizes(line).passed["request"]
    for at in every(range(-1, size + 1), 9):
        fault = Fault(do=do, way="request", at=at)
        line.must_be_unknown(line.tried(fault), fault)
        with line.client() as send:
            assert isinstance(send(), Receipt)
            connections = line.proxy.connections
            line.must_be_unknown(send(fault), ("reused", fault))
            assert line.proxy.connections == connections


@pytest.mark.parametrize("do", ["stall", "dribble"])
@pytest.mark.parametrize("way", ["request", "response"])
def test_the_deadline_holds_wherever_the_line_goes_slow(line, way, do):
    """Headers and body alike; a byte now and then does not renew it."""
    size = _sizes(line).passed[way]
    for at in every(range(size), 2):
        fault = Fault(do=do, way=way, at=at, pause_s=DEADLINE_S / 2)
        ended = line.tried(fault)
        if isinstance(ended, Receipt):  # so near the end that the last bytes were in time
            assert do == "dribble"
            assert size - at <= 2
        else:
            line.must_be_unknown(ended, fault)
    assert line.counts["over the deadline"] == 0


def test_a_pause_within_the_deadline_changes_nothing(line):
    """An answer that comes late is an answer."""
    for way in ("request", "response"):
        for at in every(range(_sizes(line).passed[way]), 3):
            assert isinstance(line.tried(Fault(do="pause", way=way, at=at)), Receipt), (way, at)


def test_a_request_that_the_network_repeats_leaves_the_same_profiles(line):
    """The vendor counts it twice, and holds what it held."""
    once = _sizes(line) and line.account.people
    before = len(line.account.calls)
    assert isinstance(line.tried(duplicate=True), Receipt)
    assert len(line.account.calls) == before + 2
    assert line.account.people == once != []


def test_a_connection_that_ends_between_requests_is_replaced(line):
    """What ended before a byte of the next request left is no reason to doubt that one."""
    with line.client() as send:
        assert isinstance(send(framing="close"), Receipt)
        assert isinstance(send(), Receipt)
        assert isinstance(send(), Receipt)
    assert line.proxy.connections == 2
