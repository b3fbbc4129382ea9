"""Canaries: invented values that are looked for in whatever gets out, in every spelling that a format of ours gives them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus


def found(canaries: Iterable[str], content: str | bytes) -> list[str]:
    """The canaries that are in a content, whatever their case."""
    exact = content.encode() if isinstance(content, str) else content
    lower = exact.lower()
    return [
        canary
        for canary in canaries
        if any(form.encode().lower() in lower for form in _spellings(canary))
        or any(form in exact for form in _in_base64(canary))
    ]


def _spellings(text: str) -> set[str]:
    return {text, quote(text, safe=""), quote_plus(text), json.dumps(text)[1:-1]}


def _in_base64(text: str) -> Iterator[bytes]:
    """It takes three bytes at a time, so there are three; what hangs on the neighbours is left out."""
    for before, shared in ((0, 0), (1, 2), (2, 3)):
        whole = b"\0" * before + text.encode()
        yield b64encode(whole[: len(whole) // 3 * 3])[shared:]


def found_in_files(canaries: Iterable[str], *folders: Path) -> dict[str, list[str]]:
    """The files below some folders that hold canaries, and which."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    hits = {str(path): found(canaries, path.read_bytes()) for path in files}
    return {name: hit for name, hit in hits.items() if hit}
