"""The lock: what `make` has installed is what was resolved, tested and committed."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

LOCK = [Requirement(line) for line in (Path(__file__).parents[1] / "requirements.lock").read_text().splitlines()]


def test_every_package_is_pinned_to_one_version():
    """Exactly, so that two machines have the same."""
    assert [str(pin) for pin in LOCK if [part.operator for part in pin.specifier] != ["=="]] == []


def test_what_is_installed_is_what_the_lock_pins():
    """On this Python, on this machine."""
    if not (Path(sys.prefix) / ".installed").exists():
        pytest.skip("this environment was not made by make")
    wanted = {pin.name: pin.specifier for pin in LOCK if pin.marker is None or pin.marker.evaluate()}
    found = {name: version(name) for name in wanted}
    assert {name: found[name] for name, pin in wanted.items() if not pin.contains(found[name], prereleases=True)} == {}
