"""The page at /: it shows what arrived, and nothing that arrived can act in it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from etl.emulator import page


class Tags(HTMLParser):
    """Collects elements and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def rendered(*, attributes=None, path="/2.11/profiles/update", fault=None, custom_id="crm-1") -> str:
    return page.render(
        endpoints=[],
        jobs=[],
        requests=[{"at": 0, "method": "POST", "path": path, "outcome": "202", "rows": 1, "bytes": 2, "sha256": "ab"}],
        profiles=[{"vendor": "Batch", "id": custom_id, "updated": 0, "updates": 1, "attributes": attributes or {}}],
        faults=[{"body": fault or "x", "seen": 1, "struck": 1}],
    )


def test_the_page_shows_what_arrived(emulator):
    """Counts, limits used, profiles with their attributes, requests and faults."""
    emulator.post([{"identifiers": {"custom_id": "crm-7"}, "attributes": {"city": "Lyon", "tags": ["a", "b"]}}] * 150)
    emulator.post([], "/2.11/profiles/mass-update")
    emulator.faults({"status": 503, "every": 4})
    text = Tags(requests.get(emulator.url, timeout=10).text).text
    for shown in ("150 of 200", "150 of 1,000", "crm-7", "city Lyon", '["a", "b"]', "mass-update", "400", "status 503"):
        assert shown in text


def test_an_empty_emulator_has_a_page(emulator):
    """Nothing has arrived: it says so."""
    assert "No profile has arrived yet" in requests.get(emulator.url, timeout=10).text


def test_endpoints_without_a_call_are_only_named(emulator):
    """What is not in use takes one line."""
    emulator.send("GET", "/m2/demo/profile/batchStatus?batchId=none")
    html = requests.get(emulator.url, timeout=10).text
    assert re.findall("<h3>(.*)</h3>", html) == ["/profile/batchStatus"]
    assert "1 of 50 calls" in Tags(html).text
    assert "Releva /api/v0/profiles" in Tags(html).text.split("Not called yet: ")[1]


def test_an_overdrawn_bucket_is_seen(emulator):
    """The bar is full and marked."""
    emulator.faults({"rate_limit": "off"})
    for _ in range(6):
        emulator.post([{"identifiers": {"custom_id": "crm-7"}}] * 200)
    html = requests.get(emulator.url, timeout=10).text
    assert "1,200 of 1,000" in html
    assert 'class="fill w100 over"' in html


def test_the_policy_allows_the_pages_own_style_and_nothing_else(emulator):
    """default-src 'none', the style by its hash, no script, no frame."""
    response = requests.get(emulator.url, timeout=10)
    policy = response.headers["content-security-policy"]
    style = re.search(r"<style>(.*?)</style>", response.text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert "unsafe" not in policy


def test_the_page_loads_nothing():
    """No script, no outside address, no inline style or handler."""
    tags = Tags(rendered())
    assert not {"script", "img", "iframe", "object", "form"} & set(tags.names)
    assert not [
        name for name, value in tags.attributes if name.startswith("on") or name == "style" or "//" in (value or "")
    ]


@pytest.mark.parametrize("nasty", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</code><b>", "&lt;"])
def test_what_arrived_is_text_and_never_markup(nasty):
    """Names, values, ids, paths and faults are escaped and shown as they are."""
    harmless = Tags(rendered())
    tags = Tags(rendered(attributes={nasty: nasty, "list": [nasty]}, path=nasty, fault=nasty, custom_id=nasty))
    assert set(tags.names) == set(harmless.names)
    assert {name for name, _ in tags.attributes} == {name for name, _ in harmless.attributes}
    assert tags.text.count(nasty) >= 4


@given(st.dictionaries(st.text(), st.text() | st.lists(st.text()) | st.integers() | st.none(), max_size=3), st.text())
def test_no_text_changes_the_structure(attributes, custom_id):
    """One more attribute is one more <code> and <b>, whatever it says."""
    plain = Tags(rendered(attributes={str(n): "x" for n in range(len(attributes))}))
    assert Tags(rendered(attributes=attributes, custom_id=custom_id)).names == plain.names
