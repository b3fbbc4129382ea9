"""The codes and the page for people say the same as the contracts."""

from pathlib import Path

import contracts
from contracts.__main__ import page

PAGE = Path(__file__).parents[2] / "docs" / "contracts.md"


def _codes_in_the_page():
    cells = [line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {code.strip(" `") for row in cells for code in (row[4] if len(row) > 4 else row[1]).split(",")} - {""}


def test_the_committed_page_is_the_generated_one():
    """docs/contracts.md is what `python -m contracts` prints."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_code_has_a_sentence_and_every_sentence_a_code(customers, receipts):
    """What can be reported can be explained: the worst rows there are produce exactly the codes that have sentences."""
    produced = set(contracts.JUDGED_ELSEWHERE)
    for model, build, columns in (
        (contracts.Crm, customers, contracts.crm.COLUMNS),
        (contracts.Pos, receipts, contracts.pos.COLUMNS),
    ):
        rows = build(dict.fromkeys(columns), dict.fromkeys(columns, "\x07"), {"latitude": "1"})
        produced.update(contracts.check(model, rows).codes.explode(empty_as_null=True).drop_nulls())
    assert produced == set(contracts.SENTENCES) == _codes_in_the_page()
    assert all(sentence.endswith(".") for sentence in contracts.SENTENCES.values())


def test_a_code_means_the_same_in_both_exports():
    """Where CRM and POS share a code, they share its sentence."""
    crm, pos = (dict(contracts.declare.sentences(model)) for model in (contracts.Crm, contracts.Pos))
    assert all(crm[code] == pos[code] for code in crm.keys() & pos.keys())
