"""The pages about destinations say what is sent and which limits hold; here they are held to it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from etl.client import Answer, raise_for_status
from etl.destinations import DESTINATIONS, ENDPOINTS
from etl.errors import OutcomeUnknown, Redirected, Refused, Rejected, Throttled
from etl.limits import documented

GOLDEN = Path(__file__).parent / "golden"
DOCS = Path(__file__).parents[2] / "docs" / "destinations"
OVERVIEW = (DOCS / "README.md").read_text()
PAGES = {endpoint: (DOCS / f"{endpoint}.md").read_text() for endpoint in ENDPOINTS}
REACTIONS = {
    "the payload is refused": Rejected,
    "we are refused": Refused,
    "a pause": Throttled,
    "never followed": Redirected,
    "outcome unknown": OutcomeUnknown,
}


def _rows(text: str, title: str) -> list[list[str]]:
    """The cells of the tables under a title."""
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]


def _names(cells: list[list[str]], column: int) -> set[str]:
    return {name for row in cells for name in re.findall(r"`([^`]+)`", row[column])}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_limits_are_those_of_the_table(endpoint):
    """Each of them, with its number, its unit and who says it."""
    told = {row[0].strip("`"): row[1:3] for row in _rows(PAGES[endpoint], "Limits") if row[0].startswith("`")}
    for policy in ("strict-window", "bucket"):
        told = {name: cells for name, cells in told.items() if not name.startswith(policy)}
    known = documented()[endpoint]
    assert told == {name: [f"{e['value']:,} {e['unit']}", e["source"]] for name, e in known.items()}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_example_is_of_the_golden_payload(endpoint):
    """What a reader sees is what is sent, in other white space at most."""
    [(kind, block)] = re.findall(r"```(json|text)\n(.*?)```", PAGES[endpoint], re.DOTALL)
    name = endpoint.removeprefix("adobe_target_") if kind == "text" else endpoint.partition("_")[0]
    golden = (GOLDEN / (f"adobe_{name}.txt" if kind == "text" else f"{name}.json")).read_text()
    if kind == "text":
        assert set(block.splitlines()) <= set(golden.splitlines())
    else:
        payload = json.loads(golden)
        assert json.loads(block) in (payload if isinstance(payload, list) else payload["profiles"])


def test_every_field_that_is_sent_is_told():
    """And none that is not."""
    [full, *_] = json.loads((GOLDEN / "batch.json").read_text())
    fields = {endpoint: _names(_rows(page, "What is sent"), 1) for endpoint, page in PAGES.items()}
    assert fields["batch_update"] == {"custom_id", *full["attributes"]}
    header = (GOLDEN / "adobe_bulk.txt").read_text().splitlines()[0]
    assert fields["adobe_target_bulk"] == set(header.removeprefix("batch=").split(","))
    form = (GOLDEN / "adobe_single.txt").read_text().splitlines()[0]
    assert fields["adobe_target_single"] == {pair.partition("=")[0] for pair in form.split("&")}
    profile = json.loads((GOLDEN / "releva.json").read_text())["profiles"][0]["profile"]
    custom = {entry["key"] for entry in profile.pop("custom")["string"]}
    assert fields["releva"] == {*profile, *custom}


def test_the_overview_names_every_destination():
    """Each has a row, and each endpoint a page."""
    table = OVERVIEW.partition("## ")[0]
    assert set(re.findall(r"^\| \[?`([a-z_]+)`", table, re.MULTILINE)) == set(DESTINATIONS)
    assert {path.stem for path in DOCS.glob("*.md")} == {"README", *ENDPOINTS}


def test_the_overview_has_the_numbers_of_the_table():
    """They are told in sentences, too."""
    known = documented()
    small, large = known["batch_update"]["rows_per_call"], known["batch_mass_update"]["rows_per_call"]
    single = known["adobe_target_single"]
    for said in (
        f"up to {small['value']:,} profiles a call", f"up to {large['value']:,} profiles a call",
        f"holds ({large['value']:,})", f"up to {known['releva']['rows_per_call']['value']} profiles a call",
        f"up to {single['rows_by_choice']['value']:,} changed profiles",
        f"in the last {single['profile_days']['value']} days",
    ):  # fmt: skip
        assert said in OVERVIEW


def test_statuses_mean_what_the_overview_says():
    """The first words of the second column are the reaction."""
    told = [row for row in _rows(OVERVIEW, "What an answer means") if re.match(r"[0-9]{3}", row[0])]
    assert len(told) == len(REACTIONS)
    for statuses, meaning in told:
        [reaction] = [error for words, error in REACTIONS.items() if meaning.startswith(words)]
        for status in statuses.split(", "):
            with pytest.raises(reaction) as raised:
                raise_for_status(Answer(status=int(status), body=b"", retry_after=None, request_id=None, seconds=0))
            assert type(raised.value) is reaction


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    """To a file that is there, and to a title in it."""
    for target, _, title in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", path.read_text())):
        found = path.parent / target if target else path
        titles = {re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                  for line in found.read_text().splitlines() if line.startswith("#")}  # fmt: skip
        assert not title or title in titles, (target, title)
