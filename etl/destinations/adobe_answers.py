"""Adobe Target's answers: the XML that it writes, what it says of a batch, and the address that may be asked about one.

What arrives here may come from anywhere, so XML with a DTD (and with it every entity and outside file) is no answer,
and an address is judged by one narrow grammar, in which no two readers of addresses can disagree.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from etl.model import BatchStatus, JobState
from etl.settings import is_loopback

_DEEPEST = 32
_HTML = re.compile(rb"\W*<(!doctype\s+html|html)\b", re.IGNORECASE)
_COUNTER = re.compile(r"[0-9]{1,18}")
_WORDS = {"complete": JobState.COMPLETE, "incomplete": JobState.INCOMPLETE, "stuck": JobState.STUCK}
_FAILED = frozenset({"failed", "error"})

_VENDOR = ".tt.omtrdc.net"
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_DETAILS = "showDetails=true"
_ADDRESS = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<rest>(?:/[A-Za-z0-9._~:/!$&'()*+,;=%-]*(?:\?[A-Za-z0-9._~:/?!$&'()*+,;=%-]*)?)?)"
)


def response(body: bytes) -> Element | None:
    """The `response` element of an answer, in any encoding that XML knows; None for everything else."""
    builder, parser, depth = TreeBuilder(), expat.ParserCreate(), 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            _refuse()
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.ProcessingInstructionHandler = _refuse
    try:
        parser.Parse(body, True)
        root = builder.close()
    except (expat.ExpatError, ValueError, LookupError):  # the latter two also for a strange encoding
        return None
    return root if root.tag == "response" else None


def text_of(element: Element, name: str) -> str | None:
    """The text of the one child of this name; None if there is none, several, or one that is no plain text."""
    found = element.findall(name)
    return (found[0].text or "") if len(found) == 1 and not len(found[0]) else None


def is_html(body: bytes) -> bool:
    """True for a page for people: a portal, a proxy or a firewall answers, not the vendor."""
    return _HTML.match(body) is not None


def batch_status(body: bytes, job: str) -> BatchStatus:
    """What the answer to a question about a job says; `unreadable`, with a code, unless it says so in known words."""
    said = response(body)
    word = None if said is None else text_of(said, "status")
    if said is None or not word:
        return BatchStatus(state=JobState.UNREADABLE, code="no_status")
    asked, answered = parse_qs(urlsplit(job).query).get("batchId"), text_of(said, "batchId")
    if asked and answered and answered not in asked:
        return BatchStatus(state=JobState.UNREADABLE, code="other_batch")
    if word not in _WORDS:
        return BatchStatus(state=JobState.UNREADABLE, code="unknown_status_word")
    failed = [text_of(profile, "id") for profile in said.findall("profile") if text_of(profile, "status") in _FAILED]
    return BatchStatus(
        state=_WORDS[word],
        size=_counter(said, "batchSize"),
        consumed=_counter(said, "consumedCount"),
        confirmed=_counter(said, "successfulUpdates"),
        not_found=_counter(said, "profilesNotFound"),
        failed=_counter(said, "failedUpdates"),
        failed_ids=tuple(filter(None, failed)),
    )


def status_url(text: str, host: str) -> str | None:
    """The address that may be asked for details, of what the vendor gave and the connection's host; None if none may.

    As given, with `showDetails=true`, on the connection's own host and port; where that is under `tt.omtrdc.net`, on
    any host under it. https is restored, except on this machine itself.
    """
    given, own = _ADDRESS.fullmatch(text), _ADDRESS.fullmatch(host)
    if not given or not own:
        return None
    scheme, port, name = given["scheme"], given["port"], given["host"].lower()
    if scheme == "http" and not is_loopback(name.strip("[]")):
        scheme, port = "https", None if port == _DEFAULT_PORTS["http"] else port
    port = port or _DEFAULT_PORTS[scheme]
    allowed = {(own["host"].lower(), own["port"] or _DEFAULT_PORTS[own["scheme"]])}
    if own["host"].lower().endswith(_VENDOR) and name.endswith(_VENDOR):
        allowed.add((name, _DEFAULT_PORTS["https"]))
    if (name, port) not in allowed:
        return None
    at = "" if port == _DEFAULT_PORTS[scheme] else f":{port}"
    path, _, query = given["rest"].partition("?")
    asked = query if _DETAILS in query.split("&") else "&".join(filter(None, (query, _DETAILS)))
    return f"{scheme}://{given['host']}{at}{path or '/'}?{asked}"


def _counter(said: Element, name: str) -> int | None:
    text = text_of(said, name) or ""
    return int(text) if _COUNTER.fullmatch(text) else None


def _refuse(*_: object) -> None:
    raise ValueError("not the XML of an answer")
