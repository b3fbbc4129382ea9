"""Batch's two endpoints over loopback."""

from __future__ import annotations

import hashlib
import json
import time

import pytest

from etl.emulator.batch import DEMO_API_KEY

MASS = "/2.11/profiles/mass-update"


def operation(custom_id: str = "crm-1", **attributes):
    return {"identifiers": {"custom_id": custom_id}, "attributes": attributes}


def operations(count: int):
    return [operation(f"crm-{index}", n=index) for index in range(count)]


def test_a_good_call_is_accepted_and_kept(emulator):
    """202 SUCCESS, and the profile holds what was sent."""
    response = emulator.post([operation(city="Paris", visits=3)])
    assert (response.status_code, response.json()) == (202, {"code": "SUCCESS"})
    assert response.headers["content-type"] == "application/json"
    assert emulator.attributes("crm-1") == {"city": "Paris", "visits": 3}


@pytest.mark.parametrize("version", ["2.4", "2.11", "2.13"])
def test_any_version_is_played(emulator, version):
    """The path names a version; all of them behave the same."""
    assert emulator.post(operations(1), f"/{version}/profiles/update").status_code == 202


@pytest.mark.parametrize(
    "path",
    [
        "/profiles/update",
        "/v2/profiles/update",
        "/2.11/profiles/update/",
        "/2.11/profiles/delete",
        "/2.11/profiles",
        "//",
    ],
)
def test_an_unknown_route_is_404(emulator, path):
    """Other paths answer 404 ROUTE_NOT_FOUND."""
    response = emulator.post(operations(1), path)
    assert (response.status_code, response.json()["error_code"]) == (404, "ROUTE_NOT_FOUND")


def test_only_post_is_a_route(emulator):
    """GET on an update path answers 404 too."""
    response = emulator.session.get(f"{emulator.url}/2.11/profiles/update", headers=emulator.headers(), timeout=10)
    assert (response.status_code, response.json()["error_code"]) == (404, "ROUTE_NOT_FOUND")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer other"},
        {"Authorization": DEMO_API_KEY},
        {"Authorization": ""},
        {"X_Batch_Project": "project_unknown"},
        {"X_Batch_Project": ""},
        {"Authorization": "", "X_Authorization": DEMO_API_KEY},
    ],
)
def test_key_and_project_must_both_be_right(emulator, headers):
    """Anything else answers 401 AUTHENTICATION_INVALID, and nothing is kept."""
    response = emulator.post(operations(1), **headers)
    assert (response.status_code, response.json()["error_code"]) == (401, "AUTHENTICATION_INVALID")
    assert emulator.get("/_control/profiles")["count"] == 0


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ([], {}),
        ({}, {}),
        (b"[{]", {}),
        (b'[{"identifiers":{"custom_id":"a"},"attributes":{"n":NaN}}]', {}),
        ([1], {}),
        ([{"identifiers": {"custom_id": "a"}, "attributes": []}], {}),
        ([{"identifiers": {"custom_id": "a"}, "attribute": {}}], {}),
        (operations(1), {"Content_Encoding": "gzip"}),
        (operations(1), {"Content_Type": "text/plain"}),
        (operations(1), {"Content_Type": ""}),
        (operations(201), {}),
    ],
)
def test_a_malformed_call_is_refused_whole(emulator, body, headers):
    """400 MALFORMED_REQUEST, nothing kept, no token taken."""
    response = emulator.post(body, **headers)
    assert (response.status_code, response.json()["error_code"]) == (400, "MALFORMED_REQUEST")
    assert emulator.get("/_control/profiles")["count"] == 0
    assert emulator.meter()["level"] == 1_000


def test_a_charset_may_be_named(emulator):
    """`application/json; charset=utf-8` is JSON."""
    assert emulator.post(operations(1), Content_Type="application/json; charset=UTF-8").status_code == 202


def test_a_body_over_the_cap_is_413_even_when_it_is_long(emulator):
    """The caller hears the answer, also if it sends far more than is allowed."""
    response = emulator.post(b" " * 20_000_000)
    assert (response.status_code, response.json()["error_code"]) == (413, "REQUEST_TOO_LARGE")


def test_mass_update_takes_10_000_operations_quickly(emulator):
    """A full call of some 4 MB takes well under a second; one more operation is refused."""
    full = json.dumps(
        [
            operation(f"crm-{n}", **{f"attribute_{m}": f"value {n} of attribute {m}" for m in range(9)})
            for n in range(10_000)
        ],
    ).encode()
    assert 3_500_000 < len(full) < 5_000_000
    began = time.perf_counter()
    assert emulator.post(full, MASS).status_code == 202
    assert time.perf_counter() - began < 2  # about 0.3 s; the rest is for a busy machine
    assert emulator.get("/_control/profiles")["count"] == 10_000
    assert emulator.post(operations(10_001), MASS).status_code == 400


def test_broken_parts_are_dropped_and_listed(emulator):
    """Each broken attribute and identifier is an error with its index; everything else is taken."""
    response = emulator.post(
        [
            operation("crm-0", city="Lyon"),
            operation("crm-1", city="", Bad=1, visits=2),
            {"identifiers": {"custom_id": "null"}, "attributes": {"city": "Nice"}},
            {"attributes": {"city": "Nice"}},
            operation("crm-4", **{f"a{n}": n for n in range(51)}),
        ],
    )
    assert response.status_code == 202
    body = response.json()
    assert body["code"] == "SUCCESS_WITH_PARTIAL_ERRORS"
    assert [(error["bulk_index"], error["category"], error.get("attribute")) for error in body["errors"]] == [
        (1, "attribute", "city"),
        (1, "attribute", "Bad"),
        (2, "identifier", None),
        (3, "identifier", None),
        (4, "attribute", None),
    ]
    assert all(error["reason"] for error in body["errors"])
    held = emulator.get("/_control/profiles")["profiles"]
    assert {custom_id: profile["attributes"] for custom_id, profile in held.items()} == {
        "crm-0": {"city": "Lyon"},
        "crm-1": {"visits": 2},
    }


def test_fifty_attributes_are_allowed(emulator):
    """The limit itself is inside."""
    assert emulator.post([operation(**{f"a{n}": n for n in range(50)})]).json() == {"code": "SUCCESS"}


def test_the_last_write_of_each_attribute_wins(emulator):
    """Updates merge; null erases; arrays replace or are edited as sets; omitted attributes stay."""
    emulator.post([operation(city="Lyon", plan="gold", tags=["a", "b"], stores=["x"], kept=1)])
    emulator.post([operation(city="Nice", plan=None, tags={"$add": ["c", "a"], "$remove": ["b"]}, stores=["y"])])
    emulator.post([operation(stores={"$remove": ["y"]})])
    assert emulator.attributes("crm-1") == {"city": "Nice", "tags": ["a", "c"], "kept": 1}
    assert emulator.get("/_control/profiles/crm-1")["updates"] == 3


def test_an_array_cannot_be_edited_beyond_its_limit(emulator):
    """$add that would make 26 entries is refused, and the array stays."""
    emulator.post([operation(tags=[str(n) for n in range(25)])])
    response = emulator.post([operation(tags={"$add": ["one more"]})])
    assert response.json()["errors"][0]["attribute"] == "tags"
    assert len(emulator.attributes("crm-1")["tags"]) == 25


def test_events_are_said_not_to_be_taken_and_installations_store_nothing(emulator):
    """What is not emulated is answered honestly."""
    response = emulator.post([{"identifiers": {"custom_id": "crm-1"}, "events": [{"name": "x"}]}])
    assert response.json()["errors"][0]["category"] == "event"
    emulator.post([{"identifiers": {"installation": {"apikey": "a", "installation_id": "b"}}, "attributes": {"n": 1}}])
    assert emulator.get("/_control/profiles")["count"] == 1


def test_any_custom_id_can_be_asked_for(emulator):
    """Slashes and accents included; the ids are case-sensitive."""
    emulator.post([operation("a/b é", n=1)])
    assert emulator.attributes("a%2Fb%20%C3%A9") == {"n": 1}
    assert emulator.session.get(f"{emulator.url}/_control/profiles/A%2Fb", timeout=10).status_code == 404


def test_a_call_larger_than_the_free_tokens_is_refused_whole(emulator):
    """Six full calls at once: the sixth is 429 without Retry-After; 300 tokens a second come back."""
    statuses = [emulator.post(operations(200)).status_code for _ in range(6)]
    assert statuses == [202] * 5 + [429]
    refused = emulator.post(operations(1))
    assert refused.json()["error_code"] == "TOO_MANY_REQUESTS"
    assert "retry-after" not in refused.headers
    emulator.clock.now += 0.5
    assert emulator.post(operations(151)).status_code == 429
    assert emulator.post(operations(150)).status_code == 202


def test_mass_update_has_no_burst(emulator):
    """10,000 a second and no more; a second later the bucket is full again."""
    assert emulator.post(operations(10_000), MASS).status_code == 202
    emulator.clock.now += 0.5
    assert emulator.post(operations(5_001), MASS).status_code == 429
    emulator.clock.now += 0.5
    assert emulator.post(operations(10_000), MASS).status_code == 202


def test_endpoints_and_projects_have_their_own_buckets_and_profiles(emulator, other_project):
    """What one project or endpoint uses is not missed by another."""
    for _ in range(5):
        emulator.post(operations(200))
    assert emulator.post(operations(1)).status_code == 429
    assert emulator.post(operations(1), MASS).status_code == 202
    assert emulator.post([operation("theirs", n=1)], X_Batch_Project=other_project).status_code == 202
    assert "theirs" not in emulator.get("/_control/profiles")["profiles"]
    assert list(emulator.get(f"/_control/profiles?project={other_project}")["profiles"]) == ["theirs"]
    assert emulator.meter(account=other_project)["rows"] == 1


def test_the_meter_judges_a_caller_that_nobody_stops(emulator):
    """With the rate limit off an overdraft is counted, not refused."""
    emulator.faults({"rate_limit": "off"})
    assert {emulator.post(operations(200)).status_code for _ in range(7)} == {202}
    emulator.clock.now += 10
    emulator.post(operations(200))
    meter = emulator.meter()
    assert meter["lowest_level"] == -400
    assert meter["most_rows_in_a_second"] == 1_400
    assert (meter["calls"], meter["rows"], meter["rows_applied"], meter["statuses"]) == (8, 1_600, 1_600, {"202": 8})
    assert meter["last_arrival"] - meter["first_arrival"] == 10


def test_the_request_log_tells_what_arrived_but_no_secret(emulator):
    """Method, path, status, rows, bytes, time and digest of each request, in order."""
    body = json.dumps(operations(3)).encode()
    emulator.post(body)
    emulator.post(body, "/nowhere")
    first, second = emulator.get("/_control/requests")["requests"]
    assert first == {
        "at": emulator.clock.now,
        "method": "POST",
        "path": "/2.11/profiles/update",
        "status": 202,
        "outcome": "202",
        "rows": 3,
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    assert (second["path"], second["status"]) == ("/nowhere", 404)
    assert DEMO_API_KEY not in json.dumps([first, second, emulator.get("/_control/state")])


def test_reset_forgets_everything(emulator):
    """Profiles, meters, buckets, the log and faults are as at the start."""
    emulator.post(operations(200))
    emulator.faults({"status": 500})
    emulator.session.post(f"{emulator.url}/_control/reset", timeout=10)
    assert emulator.get("/_control/profiles")["count"] == 0
    assert emulator.get("/_control/requests")["requests"] == []
    assert emulator.get("/_control/state")["faults"] == []
    assert (emulator.meter()["calls"], emulator.meter()["level"]) == (0, 1_000)


def test_health_says_ok(emulator):
    """For whoever waits until the emulator is up."""
    assert emulator.get("/_control/health") == {"status": "ok"}


def test_the_list_of_exports_tells_whether_a_key_is_valid(emulator):
    """It is empty, and needs key and project."""
    path = "/2.11/exports/list"
    answer = emulator.session.get(emulator.url + path, headers=emulator.headers(), timeout=10)
    assert (answer.status_code, answer.json()) == (200, {"exports": [], "count": 0, "has_more": False})
    assert emulator.session.get(emulator.url + path, timeout=10).status_code == 401
    assert emulator.send("POST", path).status_code == 404


def _ask(emulator, path, **headers):
    url = emulator.url + path
    return emulator.session.get(url, headers=emulator.headers(**headers), timeout=10, allow_redirects=False)


def test_an_export_is_asked_for_looked_at_and_downloaded(emulator):
    """It is done at the second look, and has the attributes that were asked for, as they were then."""
    emulator.post([operation("crm-1", n=1, other=2, **{"date(day)": "2026-11-21T00:00:00Z"}), operation("crm-2", n=3)])
    request = {"export_type": "ATTRIBUTES", "attributes": ["n", "day"], "identifiers": ["custom_id"]}
    made = emulator.post(request, "/2.11/profiles/export")
    view = f"/2.11/exports/view?id={made.json()['id']}"
    running, done = (_ask(emulator, view).json() for _ in range(2))
    assert (made.status_code, running["status"], running["files"], done["status"]) == (202, "RUNNING", [], "SUCCESS")
    emulator.post([operation("crm-3", n=4)])
    link = emulator.session.get(done["files"][0]["url"], headers=emulator.headers(), timeout=10, allow_redirects=False)
    content = emulator.session.get(link.headers["location"], timeout=10)
    assert link.status_code == 307
    assert [json.loads(line) for line in content.text.splitlines()] == [
        {"identifiers": {"custom_id": "crm-1"}, "attributes": {"n": 1, "day": "2026-11-21T00:00:00Z"}},
        {"identifiers": {"custom_id": "crm-2"}, "attributes": {"n": 3}},
    ]
    assert _ask(emulator, link.headers["location"].removeprefix(emulator.url)).status_code == 400
    assert _ask(emulator, "/2.11/exports/list").json()["count"] == 1


@pytest.mark.parametrize(
    "request_", [[], {}, {"export_type": "EVENTS", "attributes": ["n"]}, {"export_type": "ATTRIBUTES"},
                 {"export_type": "ATTRIBUTES", "attributes": "n"}, {"export_type": "ATTRIBUTES", "identifiers": ["e-mail"]}],
)  # fmt: skip
def test_an_export_of_something_else_is_refused(emulator, request_):
    """Only attributes are played, and at least one name is needed."""
    assert emulator.post(request_, "/2.11/profiles/export").status_code == 400


def test_what_is_no_export_is_not_found(emulator):
    """Neither to look at, nor to download; and nothing without the key."""
    for path in ("/2.11/exports/view?id=export_1", "/2.11/exports/download?id=file_export_1"):
        assert _ask(emulator, path).status_code == 404
        assert _ask(emulator, path, Authorization="Bearer other").status_code == 401


def test_rows_can_be_taken_and_lost(emulator):
    """An answer 202, and nothing of the last rows."""
    emulator.faults({"lose_rows": 1})
    assert emulator.post([operation("crm-1", n=1), operation("crm-2", n=2)]).status_code == 202
    assert emulator.held("batch") == {"crm-1": {"n": 1}}


def test_profiles_are_asked_for_by_vendor(emulator):
    """Batch unless another is named; there is no fourth."""
    emulator.post([operation("crm-1", n=1)])
    assert emulator.held("batch") == {"crm-1": {"n": 1}}
    assert emulator.held("adobe_target") == emulator.held("releva") == {}
    assert emulator.send("GET", "/_control/profiles?vendor=other").status_code == 404
