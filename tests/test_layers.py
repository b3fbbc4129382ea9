"""The house's walls: who may import whom, read from the source itself."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the outside in: a module imports from its own floor or from those below it.
FLOORS = (
    ("dags",),
    ("etl.airflow",),
    (
        "etl.audit",
        "etl.cli",
        "etl.erase",
        "etl.explain",
        "etl.purge",
        "etl.quarantine",
        "etl.report_page",
        "etl.start",
        "etl.status",
        "etl.terminal",
    ),
    ("etl.pipeline",),
    ("etl.report", "etl.reconcile", "etl.wait", "etl.load", "etl.plan"),
    ("etl.pack", "etl.state", "etl.transform", "etl.validate", "etl.arrival", "etl.extract"),
    (
        "etl.base",
        "etl.corrections",
        "etl.calendar",
        "etl.gates",
        "etl.turns",
        "etl.parts",
        "etl.policy",
        "etl.run",
        "etl.snapshot",
        "etl.delta",
        "etl.ends",
        "etl.identity",
        "etl.normalise",
        "etl.packing",
        "etl.reading",
        "etl.sync_rules",
        "etl.tombstones",
    ),
    ("etl.destinations", "etl.ledger", "etl.pacing"),
    ("etl.calls", "etl.client", "etl.storage", "etl.limits", "etl.settings", "etl.syncs"),
    ("etl.model", "etl.errors"),
)
# Apart from the way of a row: the stand-in for the vendors, and what makes invented exports.
APART = ("etl.emulator", "etl.sample", "etl.sample_defects")
# These set up an Airflow and an emulator on this machine, for a look around.
STAGE_HANDS = ("etl.airflow.demo", "etl.airflow.home", "etl.airflow.local")


def _modules() -> dict[str, Path]:
    files = [path for package in ("dags", "etl", "contracts") for path in (ROOT / package).rglob("*.py")]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    return {name.removesuffix(".__init__"): path for path, name in names.items() if "migrations" not in name}


MODULES = _modules()


def _imports(name: str, *, lazy: bool = True) -> Iterator[str]:
    """The modules that a module imports, by their full names; those inside functions only if `lazy`."""
    tree = ast.parse(MODULES[name].read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if id(node) in inside and not lazy:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            whole = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            yield from whole or {str(node.module)}


def _is_of(name: str, *parts: str) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _floor(name: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if _is_of(name, *floor))


ON_THE_WAY = sorted(name for name in MODULES if name != "etl" and not _is_of(name, "contracts", *APART))


@pytest.mark.parametrize("name", ON_THE_WAY)
def test_imports_point_one_way(name):
    """Nobody imports from a floor above; a new module has to be given its floor."""
    own = _floor(name)
    upward = {other for other in _imports(name) if _is_of(other, *ON_THE_WAY) and _floor(other) < own}
    assert upward == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_airflow_stays_in_its_rooms(name):
    """The command line runs where Airflow is not installed."""
    if not _is_of(name, "dags", "etl.airflow"):
        assert {other for other in _imports(name) if _is_of(other, "airflow", "etl.airflow", "dags")} == set()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if _is_of(name, "etl.emulator")))
def test_the_emulator_shares_nothing_with_what_it_tests(name):
    """One mistake must not pass on both sides: they meet over HTTP only."""
    ours = {other for other in _imports(name) if _is_of(other, "etl", "contracts", "dags")}
    assert {other for other in ours if not _is_of(other, "etl.emulator")} == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nobody_needs_the_emulator(name):
    """Only whoever starts it knows of it; the command line, only when it is started."""
    if not _is_of(name, "etl.emulator", *STAGE_HANDS):
        lazy = name != "etl.cli"
        assert {other for other in _imports(name, lazy=lazy) if _is_of(other, "etl.emulator")} == set()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if _is_of(name, "contracts")))
def test_contracts_import_nothing_of_ours(name):
    """What data must look like does not depend on what is done with it."""
    assert {other for other in _imports(name) if _is_of(other, "etl", "dags")} == set()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("etl.destinations.")))
def test_destinations_know_neither_each_other_nor_the_ledger(name):
    """A destination can be read, and thrown away, alone."""
    shared = [f"etl.destinations.{shared}" for shared in ("base", "json_text", "percent_text", "adobe_answers")]
    allowed = (*shared, "etl.client", "etl.limits", "etl.model", "etl.errors", "etl.settings")
    assert {other for other in _imports(name) if _is_of(other, "etl") and not _is_of(other, *allowed)} == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_the_network_has_one_door(name):
    """Only the client speaks HTTP, and only with requests."""
    doors = ("requests", "urllib3", "http.client", "urllib.request", "httpx", "aiohttp", "socket")
    if not _is_of(name, "etl.client", "etl.emulator", *STAGE_HANDS):
        used = {other for other in _imports(name) if _is_of(other, *doors)}
        assert used == ({"socket"} if name == "etl.ledger.lease" else set())  # its host's name is no network


@pytest.mark.parametrize("name", sorted(MODULES))
def test_certificates_are_always_checked(name):
    """No setting, and no module, takes the proof away that the vendor is the vendor."""
    ways_out = (
        "verify=False",
        "verify = False",
        "CERT_NONE",
        "check_hostname",
        "unverified_context",
        "disable_warnings",
    )
    assert [way for way in ways_out if way in MODULES[name].read_text()] == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_is_read_that_could_make_objects_or_guess_types(name):
    """YAML turns NO into false and an id into a number, and pickles are programs."""
    assert {other for other in _imports(name) if _is_of(other, "yaml", "pickle", "marshal", "shelve", "dill")} == set()


def test_reading_the_syncs_imports_nothing_heavy():
    """Airflow reads them every few seconds."""
    light = {"__future__", "collections.abc", "dataclasses", "os", "pathlib", "re", "tomllib", "typing", "etl.errors"}
    assert set(_imports("etl.syncs")) <= light
    assert {name.split(".")[0] for name in _imports("etl.errors")} <= sys.stdlib_module_names
