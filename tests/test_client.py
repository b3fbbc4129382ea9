"""The strict request, against real loopback servers that misbehave by a hand-written script."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import functools
import gc
import gzip
import ipaddress
import logging
import os
import select
import socket
import ssl
import struct
import threading
import time
import traceback
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.client import Answer, Client, parse_retry_after, raise_for_status
from etl.errors import (
    ConfigError,
    DeliveryError,
    EtlError,
    NotSent,
    OutcomeUnknown,
    Redirected,
    Refused,
    Rejected,
    Throttled,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
QUICK_S = 0.3
GRACE_S = 1.0
SECRET = "canary-secret"
VENDOR = "vendor.example.org"


# --- servers ---------------------------------------------------------------------------------------------------------


class Server:
    """Lets `talk` misbehave on every connection; keeps each whole request that it has read."""

    def __init__(self, talk: Callable[[Server, socket.socket], None], tls: ssl.SSLContext | None = None) -> None:
        self.talk = talk
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = 0
        self.stopping = threading.Event()
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/path"
        self._threads = [threading.Thread(target=self._accept, name="server")]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            if select.select([self._listener], [], [], 0.02)[0]:
                conn, _ = self._listener.accept()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._serve, args=(conn,), name="server"))
                self._threads[-1].start()

    def _serve(self, conn: socket.socket) -> None:
        conn.settimeout(10)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(conn)
            if self._tls:
                conn = stack.enter_context(self._tls.wrap_socket(conn, server_side=True))
            self.talk(self, conn)
        self.closed += 1

    def read(self, conn: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += _some(conn)
        head = data.partition(b"\r\n\r\n")[0].lower()
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
        while len(data) < len(head) + 4 + length:
            data += _some(conn)
        self.requests.append(data)
        return data

    def dribble(self, conn: socket.socket, pieces: Iterator[bytes], pause_s: float = 0.02) -> None:
        for piece in pieces:
            if self.stopping.wait(pause_s):
                return
            conn.sendall(piece)

    def stop(self) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join(15)
            assert not thread.is_alive()
        self._listener.close()


def _some(conn: socket.socket) -> bytes:
    data = conn.recv(65536)
    if not data:
        raise ConnectionError
    return data


def _says(*answers: bytes) -> Callable[[Server, socket.socket], None]:
    """One answer to each request of a connection, then the end of the connection."""

    def talk(server: Server, conn: socket.socket) -> None:
        for answer in answers:
            server.read(conn)
            conn.sendall(answer)

    return talk


def _forever(answer: bytes) -> Callable[[Server, socket.socket], None]:
    def talk(server: Server, conn: socket.socket) -> None:
        while True:
            server.read(conn)
            conn.sendall(answer)

    return talk


def _reset(conn: socket.socket) -> None:
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


def _answer(body: bytes = b"{}", *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def _repeat(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the proxies and CA bundles of the machine it runs on."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:

        def start(*args: object, **kwargs: object) -> Server:
            server = Server(*args, **kwargs)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(timeout_s=10) as client:
        yield client


@pytest.fixture
def hasty() -> Iterator[Client]:
    with Client(timeout_s=QUICK_S) as client:
        yield client


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and its key, for the vendor's invented name and for loopback."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, VENDOR)])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName(VENDOR), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "vendor.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(
        made.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture(scope="module")
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def _post(client: Client, url: str, body: bytes = b'{"a":1}') -> Answer:
    return client.post(url, body=body, headers={"Authorization": f"Bearer {SECRET}"})


def _outcome(client: Client, url: str, **kwargs: bytes) -> Answer | DeliveryError:
    try:
        return _post(client, url, **kwargs)
    except DeliveryError as error:
        return error


def _code(outcome: Answer | DeliveryError) -> tuple[type, str]:
    return type(outcome), getattr(outcome, "code", "")


# --- whole answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "400 Bad Request", "429 Slow Down", "503 Later", "599 X"])
def test_whole_answer_comes_back_whatever_its_status(serve: Callable[..., Server], client: Client, status: str) -> None:
    """An answer that is whole is returned; judging it is the caller's."""
    headers = "X-Request-Id: abc-123\r\nRetry-After: 7\r\n"
    server = serve(_says(_answer(b"<html>", status=status, headers=headers)))
    answer = _post(client, server.url)
    assert (answer.status, answer.body) == (int(status[:3]), b"<html>")
    assert (answer.retry_after, answer.request_id) == (7.0, "abc-123")
    assert 0 < answer.seconds < GRACE_S


def test_what_is_sent_is_what_the_caller_gave(serve: Callable[..., Server], client: Client) -> None:
    """The bytes of the body, the caller's headers, and the wish for an uncompressed answer; nothing is asked twice."""
    server = serve(_says(OK, OK))
    body = bytes(range(256)) * 1000
    client.post(server.url + "?a=1", body=body, headers={"X-Key": "k", "accept-encoding": "gzip"})
    client.get(server.url, headers={"X-Key": "k"})
    post, get = server.requests
    assert post.startswith(b"POST /path?a=1 HTTP/1.1\r\n")
    assert post.endswith(b"\r\n\r\n" + body)
    assert get.startswith(b"GET /path HTTP/1.1\r\n")
    for sent in server.requests:
        assert sent.lower().count(b"accept-encoding: identity") == 1
        assert sent.lower().count(b"accept-encoding:") == 1
        assert b"X-Key: k" in sent


def test_nothing_is_added_from_earlier_answers_or_netrc(
    serve: Callable[..., Server], client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cookies are not kept, and a netrc does not replace the credentials of the connection."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login someone password {SECRET}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve(_forever(_answer(headers="Set-Cookie: session=1; Path=/\r\n")))
    for _ in range(2):
        client.get(server.url, headers={})
    assert all(b"cookie" not in sent.lower() and b"authorization" not in sent.lower() for sent in server.requests)


def test_compressed_answer_is_decoded(serve: Callable[..., Server], client: Client) -> None:
    """A vendor that compresses although it was asked not to is still read."""
    server = serve(_says(_answer(gzip.compress(b"hello", mtime=0), headers="Content-Encoding: gzip\r\n")))
    assert _post(client, server.url).body == b"hello"


@pytest.mark.parametrize(
    ("headers", "request_id"),
    [
        ("CF-Ray: 7d0a-CDG\r\n", "7d0a-CDG"),
        ("x-amzn-RequestId: A1/b=\r\n", "A1/b="),
        ("X-Request-Id: someone@example.org\r\nCF-Ray: 1\r\n", "1"),
        (f"X-Request-Id: {'a' * 129}\r\n", None),
        ("X-Request-Id: a b\r\n", None),
        ("", None),
    ],
)
def test_request_id_is_taken_only_if_it_looks_like_one(
    serve: Callable[..., Server], client: Client, headers: str, request_id: str | None
) -> None:
    """A request id may be printed anywhere, so nothing else may pass for one."""
    server = serve(_says(_answer(headers=headers)))
    assert _post(client, server.url).request_id == request_id


# --- connections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        _answer(gzip.compress(b"{}", mtime=0), headers="Content-Encoding: gzip\r\n"),
    ],
)
def test_connection_is_kept_between_requests(serve: Callable[..., Server], client: Client, answer: bytes) -> None:
    """One TCP connection serves many calls, whatever shape their answers have."""
    server = serve(_forever(answer))
    statuses = {_post(client, server.url).status for _ in range(5)}
    assert len(statuses) == 1
    assert (server.connections, len(server.requests)) == (1, 5)


def test_connection_that_the_server_closed_in_between_is_replaced(serve: Callable[..., Server], client: Client) -> None:
    """A connection seen to be closed before the first byte is not used, so nothing is in doubt."""
    server = serve(_says(OK))
    for number in range(1, 4):
        _post(client, server.url)
        while server.closed < number:
            time.sleep(0.01)
    assert server.connections == 3


@pytest.mark.parametrize("end", [socket.socket.close, _reset])
def test_loss_on_a_reused_connection_is_unknown_and_not_retried(
    serve: Callable[..., Server], client: Client, end: Callable[[socket.socket], None]
) -> None:
    """A stale connection may have carried the request away, so it is neither "not sent" nor sent again."""

    def talk(server: Server, conn: socket.socket) -> None:
        _says(OK)(server, conn)
        server.read(conn)
        end(conn)

    server = serve(talk)
    _post(client, server.url)
    assert _code(_outcome(client, server.url)) == (OutcomeUnknown, "connection_lost")
    assert (server.connections, len(server.requests)) == (1, 2)


def test_late_final_answer_is_never_taken_for_the_next_request(serve: Callable[..., Server], client: Client) -> None:
    """An interim answer ends its connection: the final one that follows belongs to nobody else."""

    def talk(server: Server, conn: socket.socket) -> None:
        server.read(conn)
        conn.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        server.read(conn)
        conn.sendall(_answer(b"answer to the first"))

    server = serve(talk)
    first = _post(client, server.url)
    with pytest.raises(OutcomeUnknown):
        raise_for_status(first)
    server.talk = _says(_answer(b"answer to the second"))
    assert _post(client, server.url).body == b"answer to the second"


def test_close_closes_every_connection(serve: Callable[..., Server]) -> None:
    """At once and without the garbage collector, also after a failure, whose traceback knows the pool."""
    server = serve(_says(b"garbage\r\n\r\n"))
    gc.disable()
    try:
        with Client() as client:
            _outcome(client, server.url)
            server.talk = _forever(OK)
            _post(client, server.url)
            assert server.closed < 2
        until = time.monotonic() + 5
        while server.closed < 2 and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        gc.enable()
    assert (server.connections, server.closed) == (2, 2)


def test_threads_share_a_client(serve: Callable[..., Server], client: Client) -> None:
    """Each thread gets the answer to its own request."""

    def talk(server: Server, conn: socket.socket) -> None:
        while True:
            conn.sendall(_answer(server.read(conn).partition(b"\r\n\r\n")[2]))

    server = serve(talk)
    bodies = [str(number).encode() for number in range(200)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda body: _post(client, server.url, body).body, bodies)) == bodies


# --- nothing was sent ------------------------------------------------------------------------------------------------


def test_refused_connection_is_not_sent(client: Client) -> None:
    """Nobody listens: no byte left."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert _code(_outcome(client, f"http://127.0.0.1:{port}/")) == (NotSent, "connect_failed")


@pytest.mark.parametrize("number", [errno.ECONNRESET, errno.EPIPE, errno.EHOSTUNREACH, errno.ETIMEDOUT])
def test_connect_that_fails_in_any_way_is_not_sent(
    client: Client, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A connect that is reset is no request that was reset."""

    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "connect", fails)
    outcome = _outcome(client, "http://127.0.0.1:9/")
    assert _code(outcome) == (NotSent, "connect_failed")
    assert os.strerror(number) in str(outcome)


def test_unknown_name_is_not_sent(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not resolve: no byte left."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    outcome = _outcome(client, f"https://{VENDOR}/")
    assert _code(outcome) == (NotSent, "dns_failed")
    assert "Name or service not known" in str(outcome)


def _found(port: int) -> tuple[object, ...]:
    """What a name resolves to, where a test stands in for the resolver."""
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)


@contextlib.contextmanager
def _silent_port() -> Iterator[int]:
    """A port whose queue is full, so that a connect is neither taken nor refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            queued = stack.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_connect_timeout_is_not_sent(hasty: Client) -> None:
    """A host that never takes the connection: no byte left, and the deadline holds."""
    started = time.monotonic()
    with _silent_port() as port:
        assert _code(_outcome(hasty, f"http://127.0.0.1:{port}/")) == (NotSent, "connect_timeout")
    assert QUICK_S <= time.monotonic() - started < QUICK_S + GRACE_S


def test_silent_address_leaves_time_for_the_next(
    serve: Callable[..., Server], hasty: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host with one dead and one living address is reached inside the one deadline."""
    server = serve(_says(OK))
    with _silent_port() as silent:
        found = [_found(silent), _found(server.port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert _post(hasty, "http://localhost/").seconds < QUICK_S


def test_untrusted_certificate_is_not_sent(serve: Callable[..., Server], client: Client, tls: ssl.SSLContext) -> None:
    """A certificate that nobody vouches for stops the call before the request."""
    server = serve(_says(OK), tls)
    outcome = _outcome(client, server.url)
    assert _code(outcome) == (NotSent, "tls_failed")
    assert "certificate verify failed" in str(outcome)
    assert server.requests == []


def test_plain_text_instead_of_tls_is_not_sent(serve: Callable[..., Server], client: Client) -> None:
    """A server that does not speak TLS gets no request."""

    def talk(_: Server, conn: socket.socket) -> None:
        conn.recv(65536)
        conn.sendall(OK)

    server = serve(talk)
    assert _code(_outcome(client, server.url.replace("http:", "https:"))) == (NotSent, "tls_failed")


def test_handshake_that_never_ends_is_not_sent(
    serve: Callable[..., Server], hasty: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The TLS handshake ends by the deadline, and may take all of it, also at the first of two addresses."""
    server = serve(lambda server, _: server.stopping.wait(10))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [_found(server.port)] * 2)
    started = time.monotonic()
    assert _code(_outcome(hasty, f"https://{VENDOR}/")) == (NotSent, "connect_timeout")
    assert QUICK_S <= time.monotonic() - started < QUICK_S + GRACE_S


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_ca_bundle_of_the_environment_is_trusted(
    serve: Callable[..., Server], certificate: Path, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A company's own certificate authority is named where every other tool looks for it."""
    monkeypatch.setenv(variable, str(certificate))
    server = serve(_forever(OK), tls)
    with Client(timeout_s=10) as client:
        assert [_post(client, server.url).status for _ in range(3)] == [200] * 3
    assert server.connections == 1


def test_missing_ca_bundle_is_a_setting_to_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
        Client()


# --- proxies ---------------------------------------------------------------------------------------------------------


def _tunnel_to(port: int) -> Callable[[Server, socket.socket], None]:
    """A proxy that lets every CONNECT through to one port of this machine."""

    def talk(server: Server, conn: socket.socket) -> None:
        server.read(conn)
        conn.sendall(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n")
        with socket.create_connection(("127.0.0.1", port)) as target:
            ends = {conn: target, target: conn}
            while not server.stopping.is_set():
                for end in select.select(list(ends), [], [], 0.02)[0]:
                    ends[end].sendall(_some(end))

    return talk


def test_proxy_of_the_environment_carries_https(
    serve: Callable[..., Server], certificate: Path, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy sees a CONNECT line and its own credentials; the request and its key stay inside TLS."""
    vendor = serve(_forever(OK), tls)
    proxy = serve(_tunnel_to(vendor.port))
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:word@127.0.0.1:{proxy.port}")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with Client(timeout_s=10) as client:
        assert [_post(client, f"https://{VENDOR}/path").status for _ in range(2)] == [200, 200]
    (connect,) = proxy.requests
    assert connect.startswith(f"CONNECT {VENDOR}:443 HTTP/1.".encode())
    assert b"Proxy-Authorization: Basic " in connect
    assert SECRET.encode() not in connect
    assert all(b"proxy-authorization" not in sent.lower() for sent in vendor.requests)
    assert len(vendor.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
        b"HTTP/1.1 200 Connection establ",
        b"HTTP/1.1 200 Connection established\r\nVia: 1.1 pro",
        b"garbage\r\n\r\n",
        b"",
    ],
)
def test_proxy_that_gives_no_way_through_is_not_sent(
    serve: Callable[..., Server], client: Client, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """What was said to the proxy is no byte of the request."""
    proxy = serve(_says(answer))
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@127.0.0.1:{proxy.port}")
    outcome = _outcome(client, f"https://{VENDOR}/")
    assert _code(outcome) == (NotSent, "proxy_failed")
    assert SECRET not in _all_words(outcome)


def test_proxy_that_never_answers_is_not_sent(
    serve: Callable[..., Server], hasty: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline covers the proxy, also one that dribbles."""

    def talk(server: Server, conn: socket.socket) -> None:
        server.read(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\n")
        server.dribble(conn, _repeat(b"X: 1\r\n"))

    proxy = serve(talk)
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.port}")
    started = time.monotonic()
    assert _code(_outcome(hasty, f"https://{VENDOR}/")) == (NotSent, "connect_timeout")
    assert QUICK_S <= time.monotonic() - started < QUICK_S + GRACE_S


def test_tunnelled_handshake_shares_the_deadline(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow proxy does not give the TLS handshake behind it a new deadline."""

    def talk(server: Server, conn: socket.socket) -> None:
        server.read(conn)
        server.stopping.wait(0.9)
        conn.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        server.stopping.wait(10)

    proxy = serve(talk)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    with Client(timeout_s=1) as client:
        started = time.monotonic()
        assert _code(_outcome(client, f"https://{VENDOR}/")) == (NotSent, "connect_timeout")
    assert time.monotonic() - started < 1.6


def test_dead_proxy_is_not_sent(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that nobody runs is named as the culprit."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{port}")
    assert _code(_outcome(client, f"https://{VENDOR}/")) == (NotSent, "proxy_failed")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_never_proxied(
    serve: Callable[..., Server], client: Client, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A proxy cannot reach this machine's own emulator."""
    server, proxy = serve(_says(OK)), serve(_says(OK))
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
    assert _post(client, f"http://{host}:{server.port}/").status == 200
    assert proxy.connections == 0


def test_no_proxy_is_honoured(
    serve: Callable[..., Server], client: Client, monkeypatch: pytest.MonkeyPatch, tls: ssl.SSLContext
) -> None:
    """A host in NO_PROXY is called directly."""
    vendor, proxy = serve(_says(OK), tls), serve(_says(OK))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [_found(vendor.port)])
    assert _code(_outcome(client, f"https://{VENDOR}/")) == (NotSent, "tls_failed")
    assert (vendor.connections, proxy.connections) == (1, 0)


@pytest.mark.parametrize("proxy", ["socks5://user:{}@127.0.0.1:1080", "http://", "http://user:{}@[", "ftp://{}"])
def test_proxy_that_cannot_be_used_is_a_setting_to_fix(
    client: Client, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """Such a proxy stops the run; it is neither bypassed nor tried again."""
    monkeypatch.setenv("ALL_PROXY", proxy.format(SECRET))
    with pytest.raises(ConfigError, match="ALL_PROXY") as caught:
        _post(client, f"https://{VENDOR}/")
    assert SECRET not in _all_words(caught.value)


# --- the outcome is unknown ------------------------------------------------------------------------------------------

FRAMED = {
    "length": b'HTTP/1.1 202 Accepted\r\nX: 1\r\nContent-Length: 7\r\n\r\n{"a":1}',
    "chunked": b'HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n4;x=y\r\n":1}\r\n0\r\nT: 1\r\n\r\n',
    "interim": b"HTTP/1.1 100 Continue\r\nA: 1\r\n\r\n" + OK,
}


@pytest.mark.parametrize("shape", FRAMED)
@pytest.mark.parametrize("end", [socket.socket.close, _reset])
def test_answer_cut_at_any_byte_is_unknown(
    serve: Callable[..., Server], client: Client, shape: str, end: Callable[[socket.socket], None]
) -> None:
    """No part of an answer passes for the whole: status line, headers, body, chunk sizes and trailers alike."""
    whole = FRAMED[shape]
    server = serve(_says(whole))
    assert _post(client, server.url).status in {200, 202}
    for offset in range(len(whole)):

        def talk(server: Server, conn: socket.socket, offset: int = offset) -> None:
            server.read(conn)
            conn.sendall(whole[:offset])
            end(conn)

        server.talk = talk
        outcome = _outcome(client, server.url)
        assert isinstance(outcome, OutcomeUnknown), offset
        if end is not _reset:
            assert outcome.code == ("answer_cut" if offset else "connection_lost"), offset


def test_unframed_answer_is_whole_only_from_its_headers_on(serve: Callable[..., Server], client: Client) -> None:
    """Without a length the end of the body proves nothing: what came is handed on for the destination to judge."""
    head, body = b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", b'{"a":1}'
    server = serve(_says(b""))
    for offset in range(len(head + body) + 1):
        server.talk = _says((head + body)[:offset])
        outcome = _outcome(client, server.url)
        if offset < len(head):
            assert isinstance(outcome, OutcomeUnknown), offset
        else:
            assert isinstance(outcome, Answer)
            assert outcome.body == body[: offset - len(head)]


def test_connection_lost_at_any_byte_of_the_request_is_unknown(serve: Callable[..., Server], client: Client) -> None:
    """From the first byte on, nobody can prove that the vendor did not take the request."""
    server = serve(_says(OK))
    _post(client, server.url)
    for offset in range(1, len(server.requests[0]), 7):

        def talk(_: Server, conn: socket.socket, offset: int = offset) -> None:
            for _ in range(offset):
                conn.recv(1)
            _reset(conn)

        server.talk = talk
        assert _code(_outcome(client, server.url)) == (OutcomeUnknown, "connection_lost"), offset


def _hang(server: Server, conn: socket.socket) -> None:
    server.read(conn)
    server.stopping.wait(10)


def _dribbled(start: bytes, piece: bytes, pause_s: float = 0.02) -> Callable[[Server, socket.socket], None]:
    def talk(server: Server, conn: socket.socket) -> None:
        server.read(conn)
        conn.sendall(start)
        server.dribble(conn, _repeat(piece), pause_s)

    return talk


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _threads_of_the_client() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name != "server"}


@pytest.mark.parametrize(
    "talk",
    [
        pytest.param(_hang, id="no answer"),
        pytest.param(_dribbled(b"", b"H"), id="status line"),
        pytest.param(_dribbled(b"HTTP/1.1 200 OK\r\nX: ", b"x"), id="one header"),
        pytest.param(_dribbled(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), id="interim answers"),
        pytest.param(_dribbled(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x"), id="body"),
        pytest.param(_dribbled(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), id="unframed body"),
        pytest.param(_dribbled(CHUNKED, b"1\r\nx\r\n"), id="chunks"),
        pytest.param(_dribbled(CHUNKED + b"1;", b"x"), id="chunk size"),
        pytest.param(_dribbled(CHUNKED + b"0\r\n", b"T: 1\r\n", 0), id="endless trailers at full speed"),
        pytest.param(
            _dribbled(
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 99999999\r\n\r\n",
                gzip.compress(b"", mtime=0),
                0,
            ),
            id="endless empty gzip members",
        ),
    ],
)
def test_deadline_holds_against_every_way_to_answer_slowly(
    serve: Callable[..., Server], hasty: Client, talk: Callable[[Server, socket.socket], None]
) -> None:
    """The time-out is for the whole request, to within a second, and leaves no thread behind."""
    server = serve(talk)
    before = _threads_of_the_client()
    started = time.monotonic()
    outcome = _outcome(hasty, server.url)
    assert QUICK_S <= time.monotonic() - started < QUICK_S + GRACE_S
    assert _code(outcome) == (OutcomeUnknown, "timeout")
    assert _threads_of_the_client() <= before


def test_late_byte_does_not_renew_the_deadline(serve: Callable[..., Server]) -> None:
    """A wait gets what is left of the time, not the time-out again."""
    server = serve(_dribbled(b"", b"H", 0.9))
    with Client(timeout_s=1) as client:
        started = time.monotonic()
        assert _code(_outcome(client, server.url)) == (OutcomeUnknown, "timeout")
    assert time.monotonic() - started < 1.6


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("pause_s", [0.01, 10])
def test_deadline_holds_against_a_server_that_reads_slowly(
    serve: Callable[..., Server],
    certificate: Path,
    tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    pause_s: float,
    secure: bool,
) -> None:
    """The time-out covers the sending of a large payload, also where TLS cuts it into records."""

    def talk(server: Server, conn: socket.socket) -> None:
        while not server.stopping.wait(pause_s):
            conn.recv(32768)

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = serve(talk, tls if secure else None)
    with Client(timeout_s=QUICK_S) as client:
        started = time.monotonic()
        outcome = _outcome(client, server.url, body=bytes(32 * 1024 * 1024))
        assert QUICK_S <= time.monotonic() - started < QUICK_S + GRACE_S
    assert _code(outcome) == (OutcomeUnknown, "timeout")


@functools.cache
def _bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    megabyte = bytes(1024 * 1024)
    return b"".join(packer.compress(megabyte) for _ in range(200)) + packer.flush()


@pytest.mark.parametrize("chunked", [False, True])
def test_gzip_bomb_does_not_grow_memory(serve: Callable[..., Server], client: Client, chunked: bool) -> None:
    """The cap counts decoded bytes: 200 KB that would become 200 MB cost no more than a large answer."""
    bomb = _bomb()
    assert len(bomb) < 250_000
    if chunked:
        head = CHUNKED[:-2] + b"Content-Encoding: gzip\r\n\r\n"
        bomb = head + f"{len(bomb):x}\r\n".encode() + bomb + b"\r\n0\r\n\r\n"
    else:
        bomb = _answer(bomb, headers="Content-Encoding: gzip\r\n")
    server = serve(_says(bomb))
    tracemalloc.start()
    try:
        outcome = _outcome(client, server.url)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert _code(outcome) == (OutcomeUnknown, "answer_too_large")
    assert peak < 10_000_000


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_endless_answer_is_cut_off(serve: Callable[..., Server], client: Client, start: bytes) -> None:
    """Endless bodies and endless header lines stop being read long before the deadline."""
    server = serve(_dribbled(start, b"x" * 65536, 0))
    started = time.monotonic()
    assert isinstance(_outcome(client, server.url), OutcomeUnknown)
    assert time.monotonic() - started < GRACE_S


def test_answer_of_exactly_the_cap_is_whole(serve: Callable[..., Server]) -> None:
    """The cap is the largest answer that is still read."""
    server = serve(_forever(_answer(b"x" * 1000)))
    with Client(max_answer_bytes=1000) as client:
        assert len(_post(client, server.url).body) == 1000
    with Client(max_answer_bytes=999) as client:
        assert _code(_outcome(client, server.url)) == (OutcomeUnknown, "answer_too_large")


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\n{}",
        CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
        CHUNKED + b"-5\r\n{}\r\n0\r\n\r\n",
        _answer(b"not gzip", headers="Content-Encoding: gzip\r\n"),
    ],
)
def test_answer_that_is_not_http_is_unknown(serve: Callable[..., Server], client: Client, answer: bytes) -> None:
    """Something answered, and nobody can say what; the request after it is none the worse."""

    def talk(server: Server, conn: socket.socket) -> None:
        while True:
            server.read(conn)
            conn.sendall(answer if len(server.requests) == 1 else OK)

    server = serve(talk)
    assert _code(_outcome(client, server.url)) == (OutcomeUnknown, "answer_unreadable")
    assert _post(client, server.url).status == 200


_MUTATED = st.tuples(
    st.sampled_from([*FRAMED.values(), OK]), st.integers(0, 120), st.integers(0, 4), st.binary(max_size=6)
).map(lambda parts: parts[0][: parts[1]] + parts[3] + parts[0][parts[1] + parts[2] :])


def test_no_answer_makes_anything_but_an_answer_or_unknown() -> None:
    """Whatever bytes come back, no foreign exception escapes and nothing passes for "not sent"."""
    server = Server(_says(OK))

    @settings(max_examples=150, deadline=None)
    @given(st.one_of(_MUTATED, st.binary(max_size=60)))
    def check(answer: bytes) -> None:
        server.talk = _says(answer)
        with Client(timeout_s=5) as client:
            assert isinstance(_outcome(client, server.url), (Answer, OutcomeUnknown))

    try:
        check()
    finally:
        server.stop()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(serve: Callable[..., Server], client: Client, status: int) -> None:
    """The other host sees neither the key nor the payload; the caller is told to stop."""
    other = serve(_says(OK))
    server = serve(_forever(_answer(b"", status=f"{status} Moved", headers=f"Location: {other.url}?{SECRET}\r\n")))
    answer = _post(client, server.url)
    assert (other.connections, len(server.requests)) == (0, 1)
    with pytest.raises(Redirected) as caught:
        raise_for_status(answer)
    assert SECRET not in _all_words(caught.value)


# --- settings that cannot be used ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"http://{VENDOR}/",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://2130706433/",
        "http://127.0.0.1.example.org/",
        "http://localhost.example.org/",
        "http://localhost@example.org/",
        "http://example.org\\@127.0.0.1/",
        "http://example.org#@127.0.0.1/",
        "http://[::2]/",
        f"https://user:{SECRET}@{VENDOR}/",
        f"ftp://{VENDOR}/",
        "file:///etc/hosts",
        f"//{VENDOR}/",
        VENDOR,
        "https://",
        "https://exa mple.org/",
        "https://example.org:port/",
        "https://[::1/",
        "https://.example.org/",
        "",
    ],
)
def test_address_that_is_not_https_or_loopback_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Plain http leaves this machine under no spelling, and no name is even looked up."""
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: asked.append(args))
    with pytest.raises(ConfigError) as caught:
        _post(client, url)
    assert asked == []
    assert SECRET not in _all_words(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "[::1]", "localhost", "LOCALHOST"])
def test_plain_http_is_for_loopback(serve: Callable[..., Server], client: Client, host: str) -> None:
    """The emulator needs no certificate."""
    server = serve(_forever(OK))
    outcome = _outcome(client, f"http://{host}:{server.port}/")
    assert isinstance(outcome, (Answer, NotSent))


@given(value=st.text(max_size=30), bad=st.sampled_from(["\r", "\n", "\r\n", "\0", "é", "\x7f", "\u2028"]))
def test_header_value_that_could_start_another_header_is_refused(value: str, bad: str) -> None:
    """A pasted line break is found before anything is sent, and the message does not repeat the secret."""
    with Client() as client, pytest.raises(ConfigError, match="header Authorization") as caught:
        client.get("http://127.0.0.1:9/", headers={"Authorization": f"{SECRET}{value}{bad}{value}"})
    assert SECRET not in _all_words(caught.value)


@pytest.mark.parametrize("name", ["", "A:", "A\r\nB"])
def test_header_name_that_could_start_another_header_is_refused(client: Client, name: str) -> None:
    """As a value: before anything is sent."""
    with pytest.raises(ConfigError):
        client.get("http://127.0.0.1:9/", headers={name: "x"})


@pytest.mark.parametrize("value", [" x", "x ", "x\n"])
def test_blank_around_a_pasted_key_is_refused(client: Client, value: str) -> None:
    """Such a key would be refused by the vendor without a hint why."""
    with pytest.raises(ConfigError, match="header X-Key"):
        client.get("http://127.0.0.1:9/", headers={"X-Key": value})


# --- nothing leaks ---------------------------------------------------------------------------------------------------


def _all_words(error: BaseException) -> str:
    words = "".join(traceback.format_exception(error))
    while error is not None:
        words += repr(error) + repr(vars(error))
        error = error.__cause__ or error.__context__
    return words


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n" + SECRET.encode(),
        b"HTTP/1.1 " + SECRET.encode() + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon " + SECRET.encode() + b"\r\n\r\n",
        CHUNKED + SECRET.encode() + b"\r\n",
        _answer(SECRET.encode(), headers="Content-Encoding: gzip\r\n"),
    ],
)
def test_errors_and_logs_hold_no_secret(
    serve: Callable[..., Server],
    client: Client,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    answer: bytes,
) -> None:
    """Not the query, not the headers, not the payload, not the answer: in no message, cause, context or DEBUG line."""
    caplog.set_level(logging.DEBUG)
    server = serve(_says(answer))
    outcome = _outcome(client, f"{server.url}?key={SECRET}", body=SECRET.encode())
    assert isinstance(outcome, OutcomeUnknown)
    server.talk = _says(OK)
    with Client() as other:
        _post(other, f"{server.url}?key={SECRET}")
    assert SECRET not in _all_words(outcome) + caplog.text + "".join(capfd.readouterr())
    assert outcome.__cause__ is None
    assert outcome.__context__ is None
    assert f"127.0.0.1:{server.port}" in str(outcome)


def test_not_sent_holds_no_secret(client: Client) -> None:
    """A refused connection names the host and the reason, never the query."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    outcome = _outcome(client, f"http://127.0.0.1:{port}/?key={SECRET}")
    assert SECRET not in _all_words(outcome)
    assert str(outcome) == (
        f"127.0.0.1:{port}: no connection: check the host of the connection, the network and the firewall"
        " (Connection refused); nothing was sent"
    )


def test_answer_does_not_show_its_body() -> None:
    """An answer in a log line may quote a profile."""
    assert SECRET not in repr(_judged(200, body=SECRET.encode()))


# --- Retry-After -----------------------------------------------------------------------------------------------------

NOON = "Tue, 02 Jan 2024 12:00:00 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("1.5", 1.5),
        ("-3", 0),
        ("315360000", 315360000),
        ("Tue, 02 Jan 2024 12:00:30 GMT", 30),
        ("Tuesday, 02-Jan-24 12:00:30 GMT", 30),
        ("Tue, 02 Jan 2024 13:00:30 +0100", 30),
        ("Tue, 02 Jan 2024 11:00:00 GMT", 0),
        ("Mon, 02 Jan 2034 12:00:00 GMT", 3653 * 86400),
        ("soon", None),
        ("1, 2", None),
        ("1e3", None),
        ("١٢", None),
        ("Tue, 99 Jan 2024 12:00:30 GMT", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    """Never earlier than told, never negative; what cannot be understood is nothing. The caller caps."""
    assert parse_retry_after(value, date=NOON) == seconds


def test_retry_after_date_counts_from_now_without_a_date() -> None:
    """A vendor that says when but not what time it has is taken at our clock."""
    until = format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5), usegmt=True)
    for date in (None, "garbage"):
        wait = parse_retry_after(until, date=date)
        assert wait is not None
        assert 297 < wait <= 300


_HEADER = st.one_of(st.text(), st.integers().map(str), st.datetimes().map(format_datetime))


@given(value=_HEADER, date=st.none() | _HEADER)
def test_retry_after_takes_any_text(value: str, date: str | None) -> None:
    """A header cannot break the run."""
    wait = parse_retry_after(value, date=date)
    assert wait is None or wait >= 0


# --- the decision ----------------------------------------------------------------------------------------------------


def _judged(status: int, body: bytes = b"") -> Answer:
    return Answer(status=status, body=body, retry_after=3.0, request_id="r-1", seconds=0.1)


def _expected(status: int) -> type[EtlError] | None:
    named = {401: Refused, 403: Refused, 404: Refused, 429: Throttled, 408: OutcomeUnknown, 425: OutcomeUnknown}
    hundreds = {2: None, 3: Redirected, 4: Rejected}
    return named.get(status) or hundreds.get(status // 100, OutcomeUnknown)


def _reaction(answer: Answer) -> DeliveryError | None:
    try:
        raise_for_status(answer)
    except DeliveryError as error:
        return error
    return None


def test_every_status_has_one_reaction() -> None:
    """2xx is the destination's to read; a class says what to do about every other."""
    for status in range(100, 1000):
        error, expected = _reaction(_judged(status)), _expected(status)
        assert type(error) is (expected or type(None)), status
        if error:
            assert (error.code, error.status) == (f"http_{status}", status)
            assert (error.request_id, error.retry_after) == ("r-1", 3.0)


def test_message_says_what_to_do_next() -> None:
    """A refused key is fixed in the connection."""
    with pytest.raises(Refused, match=r"^HTTP 401 AUTHENTICATION_INVALID: check the password of the connection$"):
        raise_for_status(_judged(401, b'{"error_code":"AUTHENTICATION_INVALID","error_message":"canary-secret"}'))


@pytest.mark.parametrize(
    "body",
    [
        b'{"error_code":"canary-secret"}',
        b'{"error_code":"someone@example.org"}',
        b'{"error_code":["canary-secret"]}',
        b'["canary-secret"]',
        b"canary-secret",
        b"[" * 100_000,
        b'{"error_code":' + b"9" * 10_000 + b"}",
        b"\xff\xfe\x00canary-secret",
        b'{"error_code":"' + b"A" * 65 + b'"}',
        b"null",
    ],
)
def test_message_quotes_nothing_else_of_the_body(body: bytes) -> None:
    """A vendor's answer can repeat the rows that it refuses."""
    with pytest.raises(Rejected) as caught:
        raise_for_status(_judged(400, body))
    assert str(caught.value).startswith("HTTP 400: ")
    assert SECRET not in str(caught.value)
