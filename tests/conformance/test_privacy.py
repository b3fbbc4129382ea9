"""Privacy: canaries in every field, and in the secret, are looked for in everything that a delivery leaves behind."""

from __future__ import annotations

import json
import logging
import traceback

import pytest

from canaries import found
from etl import report as reports
from etl.errors import DeliveryError
from sample_profiles import STRANGER

SECRET_CANARY = "canary-secret"
CANARY = {
    "customer_id": "canaryid", "email": "canary.mail", "phone": "+336399877", "first_name": "Canarina",
    "last_name": "Canarinetti", "birthday": "1987-06-05", "language": "eo", "country": "VU",
    "registered_at": "2001-02-03T04:05:06Z", "subscribed_at": "2002-03-04T05:06:07Z", "tags": "canarytag",
    "subscriptions": "canaryletter", "loyalty_tier": "canarytier", "city": "Canaryville", "latitude": "45.123456",
    "longitude": "4.654321", "avatar_url": "canary-picture",
}  # fmt: skip
# Two letters are found everywhere.
LOOKED_FOR = [text for name, text in CANARY.items() if name not in {"language", "country"}] + [SECRET_CANARY]


def _customer(number: int) -> dict[str, str]:
    own = {
        "customer_id": f"canaryid-{number}",
        "email": f"canary.mail{number}@example.org",
        "phone": f"+336399877{number:02}",
        "avatar_url": f"https://img.example.org/canary-picture-{number}.jpg",
        "email_opt_in": "true",
        "consent": "privacyPolicy",
    }
    return CANARY | own


def _found(text: str | bytes) -> list[str]:
    return found(LOOKED_FOR, text)


def _all_of(error: BaseException | None) -> str:
    """Everything that could be shown of an error, and of those that led to it."""
    said = []
    while error is not None:
        said += [repr(error), str(error), repr(error.args), repr(vars(error))]
        said += traceback.format_exception_only(error)
        error = error.__cause__ or error.__context__
    return "\n".join(said)


@pytest.fixture
def person(frame_of):
    """One profile with a canary in every field."""
    customer = _customer(1)
    values = {
        "tags": [customer["tags"]], "subscriptions": [customer["subscriptions"]], "email_opt_in": True,
        "latitude": float(customer["latitude"]), "longitude": float(customer["longitude"]),
        "last_store": "canarystore", "favourite_category": "canarygoods",
    }  # fmt: skip
    return frame_of([customer | values])


def test_no_error_and_no_repr_tells_a_value(account, person, caplog):
    """Whatever goes wrong, also when the vendor repeats what it was sent."""
    caplog.set_level(logging.DEBUG)
    said = [repr(account.connection())]
    echo = "canaryid-1 canary.mail1@example.org Canaryville"
    for fault in (
        *({"status": status, "body": echo} for status in (200, 202, 302, 400, 401, 413, 429, 500)),
        *({"status": status, "body": {"error_code": echo, "message": echo}} for status in (202, 400, 503)),
        {"body": f"<response><success>false</success><message>{echo}</message></response>"},
        {"body": {"code": "SUCCESS_WITH_PARTIAL_ERRORS", "errors": [{"bulk_index": 0, "attribute": echo}]}},
        {"redirect": f"http://127.0.0.1:9/?{echo.replace(' ', '&')}"}, {"drop": "reset"}, {"delay": 1},
        {"truncate": -1}, {"html": True}, {"gzip_bomb": 3},
    ):  # fmt: skip
        account.faults(fault)
        with account.endpoint(patient="delay" not in fault) as endpoint:
            rendered = endpoint.render(person.lazy()).collect().with_columns(**STRANGER)
            payload = endpoint.envelope.frame([text.encode() for text in endpoint.finish(rendered)])
            assert _found(payload), "the search can find something"
            said.append(repr(endpoint))
            try:
                said.append(repr(endpoint.submit(payload)))
            except DeliveryError as error:
                said.append(_all_of(error))
    assert [text for text in (*said, caplog.text) if _found(text)] == []


def test_a_run_with_failures_tells_no_value(account, caplog, capsys):
    """Report, ledger, logs, output, results of steps: all that stands outside private folders."""
    caplog.set_level(logging.DEBUG)
    people = [_customer(n) for n in range(30)]
    account.land(people)
    with account.endpoint() as endpoint:
        keys = [next(p[name] for name in endpoint.identity if p.get(name)) for p in people]
    account.faults(
        {"refuse_call_with": [keys[3], keys[17]], "fail_id": keys[5]},
        {"status": 500, "body": "canary.mail1@example.org", "times": 1},
        {"status": 400, "body": "canaryid-1", "times": 1},
        {"drop": "reset", "apply": True, "times": 1},
    )
    report = account.run(rows_per_call=account.stand.rows(8))
    assert report.balanced
    assert report.rows["rejected"] >= 2
    assert report.rows["accepted"] + report.rows["confirmed"] > 20
    ctx = account.made[-1]
    attempts, batches = ctx.ledger.attempts(ctx.name), ctx.ledger.batches(ctx.name)
    said = [repr(part) for part in (ctx, ctx.connection, report, attempts, batches)]
    said += [json.dumps(report.as_dict()), reports.as_text(report), caplog.text, *capsys.readouterr()]
    assert _found("\n".join(said)) == []
    work = account.root / "work"
    files = [path for path in (*work.rglob("*"), *account.root.glob("ledger.db*")) if path.is_file()]
    is_open = {path: "private" not in path.relative_to(account.root).parts for path in files}
    assert {path.name: found for path in files if is_open[path] and (found := _found(path.read_bytes()))} == {}
    assert {path.name for path in files if SECRET_CANARY.encode() in path.read_bytes()} == set()
    assert any(_found(path.read_bytes()) for path in files if not is_open[path]), "the search can find something"
