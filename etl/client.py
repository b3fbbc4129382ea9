"""One strict HTTP request: it ends in a whole `Answer`, in proof that nothing was sent, or in "unknown".

The only module that imports requests, and of it only the adapter: sessions bring redirects, cookies and netrc, and none
of them may stand between a payload and its account. Below it, urllib3's connections are made strict in three ways:
they know whether a byte of the request has left, every wait ends by one deadline, and every line of an answer must be
whole. The deadline covers everything but the resolving of names, which the operating system ends by itself.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import json
import logging
import os
import re
import socket
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.poolmanager import PoolManager
from urllib3.util import Url, parse_url
from urllib3.util.response import assert_header_parsing

from etl.errors import ConfigError, DeliveryError, NotSent, OutcomeUnknown, Redirected, Refused, Rejected, Throttled

# urllib3 quotes whole URLs, with their query, in its DEBUG lines.
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)

_PIECE = 64 * 1024
_CONNECTIONS_KEPT = 64  # more than any pool of workers: one that is not kept is opened anew for each call
_HEADER_VALUE = re.compile(r"([!-~]([\t -~]*[!-~])?)?")
_SECONDS = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/=-]{1,128}")
_REQUEST_ID_HEADERS = (
    "x-request-id",
    "request-id",
    "x-correlation-id",
    "x-amzn-requestid",
    "x-amz-request-id",
    "cf-ray",
)
_ERROR_CODE = re.compile(r"[A-Z_]{1,64}")
_CA_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")

# All that requests, urllib3 and http.client raise for a request or an answer that fails; requests' own are OSErrors.
_FAILURES = (OSError, ValueError, http.client.HTTPException, HTTPError)

# Each code of a request without an answer, and what to look at.
TROUBLES = {
    "dns_failed": "the name cannot be resolved: check the host of the connection and the network",
    "connect_failed": "no connection: check the host of the connection, the network and the firewall",
    "connect_timeout": "no connection in time: check the network and the firewall",
    "proxy_failed": "no way through the proxy: check HTTPS_PROXY, NO_PROXY and the proxy's credentials",
    "tls_failed": "no trusted TLS connection: check the host's certificate, this machine's clock and REQUESTS_CA_BUNDLE",
    "timeout": "no whole answer in time",
    "connection_lost": "the connection was lost before an answer came",
    "answer_cut": "the connection was lost in the middle of the answer",
    "answer_unreadable": "the answer is not readable HTTP",
    "answer_too_large": "the answer is larger than any that this vendor has reason to give",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole HTTP answer, whatever its status. A 2xx is not an acknowledgement until the destination has read `body`.

    An answer that is not `framed` (neither Content-Length nor chunks) ends where its connection ends, so a cut one shows
    only in its body. `seconds` is the time from before the connect to the last byte, `location` where a redirect leads.
    """

    status: int
    body: bytes = field(repr=False)
    retry_after: float | None
    request_id: str | None
    seconds: float
    framed: bool = True
    location: str | None = field(default=None, repr=False)


class Client:
    """Sends one request at a time in each thread that calls it, and keeps connections open between requests.

    A request takes `timeout_s` seconds in all, and an answer has at most `max_answer_bytes` bytes once decoded. Raises
    ConfigError for an address, a header or a setting of the environment that cannot be used.
    """

    def __init__(self, *, timeout_s: float = 60, max_answer_bytes: int = 1024 * 1024) -> None:
        self._timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._ca_bundle = _ca_bundle()
        self._adapter = _Adapter(pool_maxsize=_CONNECTIONS_KEPT)

    def post(self, url: str, *, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send `body` once. Raises ConfigError, NotSent or OutcomeUnknown; judge the answer with `raise_for_status`."""
        return self._request("POST", url, headers, body)

    def get(self, url: str, *, headers: Mapping[str, str]) -> Answer:
        """Ask once. Raises ConfigError, NotSent or OutcomeUnknown; judge the answer with `raise_for_status`."""
        return self._request("GET", url, headers, None)

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._adapter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        address = _checked_address(url)
        request = _prepared(method, url, headers, body)
        proxies = _proxies(url, address)
        started = time.monotonic()
        exchange = _Exchange(started=started, deadline=started + self._timeout_s)
        token = _EXCHANGE.set(exchange)
        try:
            return self._exchange(request, proxies, exchange)
        except _FAILURES as error:
            reason = _system_reason(error)
        finally:
            _EXCHANGE.reset(token)
        # Outside the except block, so that not even __context__ leads to the libraries' words: they quote whole URLs.
        raise _failed(exchange, address, reason)

    def _exchange(self, request: requests.PreparedRequest, proxies: dict[str, str], exchange: _Exchange) -> Answer:
        with self._adapter.send(
            request, stream=True, timeout=self._timeout_s, verify=self._ca_bundle, proxies=proxies
        ) as response:
            body = bytearray()
            for piece in response.raw.stream(_PIECE, decode_content=True):
                body += piece
                if len(body) > self._max_answer_bytes:
                    exchange.failure = "answer_too_large"
                    raise http.client.HTTPException
            return Answer(
                status=response.status_code,
                body=bytes(body),
                retry_after=parse_retry_after(response.headers.get("Retry-After"), date=response.headers.get("Date")),
                request_id=_request_id(response.headers),
                seconds=time.monotonic() - exchange.started,
                framed=bool(response.raw.chunked or "Content-Length" in response.headers),
                location=response.headers.get("Location"),
            )


def raise_for_status(answer: Answer) -> None:
    """Return for 2xx; else raise the error whose class says what to do: see `etl.errors`."""
    reaction = _reaction(answer.status)
    if reaction is None:
        return
    vendor_code = _vendor_code(answer.body)
    raise reaction.error(
        f"HTTP {answer.status}{f' {vendor_code}' if vendor_code else ''}: {reaction.advice}",
        code=f"http_{answer.status}",
        status=answer.status,
        request_id=answer.request_id,
        retry_after=answer.retry_after,
    )


class _Reaction(NamedTuple):
    error: type[DeliveryError]
    advice: str


_BY_STATUS = {
    # The credentials or the address are wrong, not the rows: the next call would end the same way.
    401: _Reaction(Refused, "check the password of the connection"),
    403: _Reaction(Refused, "check what the key of the connection is allowed to do"),
    404: _Reaction(Refused, "check the host, login and extra of the connection"),
    # Client errors by their number, yet they speak of the moment, not of the payload.
    408: _Reaction(OutcomeUnknown, "the vendor did not wait for the whole request"),
    425: _Reaction(OutcomeUnknown, "the vendor was not ready for the request"),
    # The one status that promises that nothing was taken.
    429: _Reaction(Throttled, "the vendor asks for a pause"),
}
_BY_HUNDRED = {
    2: None,
    # Perhaps not the vendor but a proxy or a portal answers; and a POST that follows becomes a GET without its rows.
    3: _Reaction(Redirected, "redirects are not followed; check the host of the connection and the network"),
    # The vendor read the payload and says that it is wrong.
    4: _Reaction(Rejected, "the vendor refuses the payload, which is split until the guilty rows stand alone"),
}
# 5xx can happen at any point of the vendor's work; 1xx and unheard-of numbers prove nothing.
_ANYTHING_ELSE = _Reaction(OutcomeUnknown, "the vendor failed, perhaps after taking the request")


def _reaction(status: int) -> _Reaction | None:
    return _BY_STATUS.get(status, _BY_HUNDRED.get(status // 100, _ANYTHING_ELSE))


def parse_retry_after(value: str | None, *, date: str | None = None) -> float | None:
    """Seconds to wait, 0 or more and uncapped; None without a usable value. An HTTP date counts from `date` or now."""
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return max(0.0, float(text))
    until = _http_date(text)
    if until is None:
        return None
    return max(0.0, until - (_http_date(date or "") or datetime.now(UTC).timestamp()))


def _http_date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _request_id(headers: Mapping[str, str]) -> str | None:
    candidates = (headers.get(name, "") for name in _REQUEST_ID_HEADERS)
    return next((value for value in candidates if _REQUEST_ID.fullmatch(value)), None)


def _vendor_code(body: bytes) -> str | None:
    """The only thing of an answer's body that may stand in a message."""
    try:
        code = json.loads(body)["error_code"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return code if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else None


def _checked_address(url: str) -> Url:
    address = _parsed(url)
    if not _is_http(address) or address.auth is not None:
        raise ConfigError("the host of a connection must look like https://host, without a user or password in it")
    if address.scheme == "http" and not _is_loopback(address):
        raise ConfigError(f"http:// would show the data to the network: use https://{address.netloc}")
    return address


def _parsed(url: str) -> Url:
    try:
        return parse_url(url)  # the parser that also decides where requests connects to
    except ValueError:
        return Url()


def _is_http(address: Url) -> bool:
    return address.scheme in {"http", "https"} and bool(address.host)


def _is_loopback(address: Url) -> bool:
    host = (address.host or "").strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _prepared(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> requests.PreparedRequest:
    for name, value in headers.items():
        if not _HEADER_VALUE.fullmatch(value):
            raise ConfigError(f"header {name}: its value has a line break, a blank at an end or a non-ASCII character")
    strict = {"User-Agent": "profile-etl", **headers, "Accept-Encoding": "identity"}
    try:
        return requests.Request(method, url, headers=strict, data=body).prepare()
    except ValueError:
        pass
    raise ConfigError("the address or a header that the connection leads to cannot be sent")


def _proxies(url: str, address: Url) -> dict[str, str]:
    """What HTTPS_PROXY, ALL_PROXY and NO_PROXY say at the time of the request."""
    proxies = {} if _is_loopback(address) else get_environ_proxies(url)
    proxy = select_proxy(url, proxies)
    if proxy and not _is_http(_parsed(proxy if "://" in proxy else f"http://{proxy}")):
        raise ConfigError("the proxy in HTTPS_PROXY or ALL_PROXY must look like http://host:port; SOCKS cannot be used")
    return proxies


def _ca_bundle() -> str | bool:
    for variable in _CA_BUNDLES:
        if path := os.environ.get(variable):
            if not Path(path).exists():
                raise ConfigError(f"{variable} names a file that does not exist")
            return path
    return True


def _failed(exchange: _Exchange, address: Url, reason: str) -> DeliveryError:
    code = exchange.failure
    if time.monotonic() >= exchange.deadline:
        code = "timeout" if exchange.begun else "connect_timeout"
    message = f"{address.netloc}: {TROUBLES[code]}{f' ({reason})' if reason else ''}"
    if exchange.begun:
        return OutcomeUnknown(f"{message}; the request may have been taken", code=code)
    return NotSent(f"{message}; nothing was sent", code=code)


def _system_reason(error: BaseException | None) -> str:
    """The words of the operating system or of OpenSSL, which know neither query nor header."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__cause__ or error.__context__
    return ""


@dataclass(slots=True, kw_only=True)
class _Exchange:
    """How far one request has come: `failure` is what a failure at this moment is called."""

    started: float
    deadline: float
    begun: bool = False  # a byte of the request may have left
    failure: str = "connect_failed"

    def left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


# Connections outlive requests and are shared by threads, so they find the request that they work for here.
_EXCHANGE: ContextVar[_Exchange] = ContextVar("exchange")


class _Source(io.RawIOBase):
    """A socket to read from. Each read gets what is left of the time, so that dribbled bytes do not renew it."""

    def __init__(self, source: io.RawIOBase, sock: socket.socket) -> None:
        self._source = source
        self._sock = sock
        self._exchange = _EXCHANGE.get()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._exchange.failure == "answer_unreadable":
            self._exchange.failure = "answer_cut"
        self._sock.settimeout(self._exchange.left())
        count: int | None = self._source.readinto(buffer)
        if count and self._exchange.begun:
            self._exchange.failure = "answer_unreadable"
        return count

    def close(self) -> None:
        self._source.close()
        super().close()


class _WholeLines(io.BufferedReader):
    """http.client takes the end of the connection for the end of the headers; here a line without its end is a cut."""

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n"):
            raise http.client.IncompleteRead(b"")
        return line


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = _WholeLines(_Source(self.fp.detach(), sock))

    def begin(self) -> None:
        super().begin()
        assert_header_parsing(self.msg)  # behind a broken line, Content-Length is not seen any more
        if self.status < http.HTTPStatus.OK:
            self.will_close = True  # the final answer still follows; the next request must not take it for its own


class _Connection(HTTPConnection):
    response_class = _Response
    _tunnelling = False

    def _new_conn(self) -> socket.socket:
        exchange = _EXCHANGE.get()
        exchange.failure = "proxy_failed" if self.proxy else "dns_failed"
        addresses = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        exchange.failure = "proxy_failed" if self.proxy else "connect_failed"
        error: OSError | None = None
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                sock.settimeout(exchange.left() / (len(addresses) - tried))  # a silent address leaves time to the next
                sock.connect(address)
                sock.settimeout(exchange.left())  # for the TLS handshake
            except OSError as this:
                sock.close()
                error = this
            else:
                exchange.failure = "tls_failed"
                return sock
        raise NewConnectionError(self, "") from error  # a bare reset would pass for one of a sent request

    def _tunnel(self) -> None:
        """What is said to a proxy to get through it is no byte of the request."""
        exchange = _EXCHANGE.get()
        exchange.failure = "proxy_failed"
        self._tunnelling = True
        try:
            super()._tunnel()
        finally:
            self._tunnelling = False
        self.sock.settimeout(exchange.left())  # for the TLS handshake
        exchange.failure = "tls_failed"

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        exchange = _EXCHANGE.get()
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):  # in pieces, because TLS renews the time-out with each of its records
            self.sock.settimeout(exchange.left())
            if not self._tunnelling:
                exchange.begun = True
                exchange.failure = "connection_lost"
            super().send(view[start : start + _PIECE])


class _TlsConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    """requests' adapter, which neither retries nor follows redirects by itself, over strict connections."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _make_strict(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return _make_strict(super().proxy_manager_for(proxy, **kwargs))


def _make_strict(manager: PoolManager) -> PoolManager:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    manager.pools.dispose_func = HTTPConnectionPool.close  # else `close` leaves sockets to the garbage collector
    return manager
