"""Adobe Target's APIs over loopback."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from urllib.parse import urlsplit

import pytest
import requests

from etl.emulator.server import start

V1, V2 = "/m2/demo/profile/batchUpdate", "/m2/demo/v2/profile/batchUpdate"
SINGLE, STATUS = "/m2/demo/profile/update", "/m2/demo/profile/batchStatus"
FORM = "application/x-www-form-urlencoded"


class Target:
    """Talks to the emulator as a caller of Adobe."""

    def __init__(self, emulator) -> None:
        self.emulator = emulator

    def post(self, file: str, path: str = V2, **headers: str) -> requests.Response:
        return self.emulator.send("POST", path, file, **{"Content_Type": FORM, **headers})

    def submit(self, file: str, path: str = V2) -> str:
        """The status URL of a file that was taken."""
        answer = fields(self.post(file, path))
        assert answer["success"] == "true", answer
        return answer["batchStatus"]

    def poll(self, url: str) -> dict[str, str]:
        return fields(requests.get(f"{url}&showDetails=true", timeout=10))

    def deliver(self, file: str, path: str = V2) -> dict[str, str]:
        """The answer of the second poll."""
        url = self.submit(file, path)
        self.poll(url)
        return self.poll(url)

    def settings(self, **given) -> None:
        answer = self.emulator.session.post(f"{self.emulator.url}/_control/adobe", json=given, timeout=10)
        assert answer.status_code == 200, answer.text

    def meter(self, endpoint: str):
        return self.emulator.meter(endpoint, "demo")

    @property
    def held(self):
        return self.emulator.held("adobe_target")


def fields(response: requests.Response) -> dict[str, str]:
    assert response.headers["content-type"] == "text/xml;charset=UTF-8"
    return {element.tag: element.text or "" for element in ET.fromstring(response.content)}  # noqa: S314  # our own


@pytest.fixture
def target(emulator) -> Target:
    return Target(emulator)


# --- bulk ---


def test_a_file_is_taken_worked_on_and_reported(target):
    """The answer names its status on the host that was called; incomplete first, then complete with counters."""
    url = target.submit("batch=thirdPartyId,city,tier\ncrm-1,Saint-%C3%89tienne,gold\ncrm-2,,silver\n")
    assert urlsplit(url).netloc == urlsplit(target.emulator.url).netloc
    assert re.fullmatch(r"batchId=demo-1795312800000-\d+", urlsplit(url).query)
    assert target.held == {}
    first, second = target.poll(url), target.poll(url)
    assert first == {"batchId": url.partition("=")[2], "status": "incomplete", "batchSize": "2"}
    assert second == {
        **first,
        "status": "complete",
        "consumedCount": "2",
        "successfulUpdates": "2",
        "profilesNotFound": "0",
        "failedUpdates": "0",
    }
    assert target.held == {"crm-1": {"city": "Saint-Étienne", "tier": "gold"}, "crm-2": {"tier": "silver"}}


def test_without_details_there_are_no_counters(target):
    """Only the size."""
    url = target.submit("batch=thirdPartyId,a\nx,1\n")
    target.poll(url)
    assert list(fields(requests.get(url, timeout=10))) == ["batchId", "status", "batchSize"]


def test_v1_creates_nobody(target):
    """Unknown ids are counted as not found, and there is no consumedCount."""
    target.deliver("batch=thirdPartyId,a\nknown,1\n")
    answer = target.deliver("batch=thirdPartyId,a\nknown,2\nunknown,2\n", V1)
    assert (answer["successfulUpdates"], answer["profilesNotFound"], answer["failedUpdates"]) == ("1", "1", "0")
    assert "consumedCount" not in answer
    assert target.held == {"known": {"a": "2"}}
    assert target.meter("/profile/batchUpdate")["profiles_not_found"] == 1


def test_an_empty_value_leaves_things_as_they_are(target):
    """And a row of nothing but empty values makes no profile."""
    target.deliver("batch=thirdPartyId,a\nx,1\n")
    target.deliver("batch=thirdPartyId,a\nx,\ny,\n")
    assert target.held == {"x": {"a": "1"}}


def test_the_two_kinds_of_id_are_two_kinds_of_profile(target):
    """A pcId and a third-party id of the same letters do not meet."""
    target.deliver("batch=thirdPartyId,a\n7,1\n")
    target.deliver("batch=pcId,a\n7,2\n")
    assert target.held == {"7": {"a": "1"}, "pcId/7": {"a": "2"}}


def test_consecutive_v2_batches_override_each_other(target):
    """The second drops what the first said of the profile, unless an mbox call came between."""
    target.deliver("batch=thirdPartyId,a,b\nx,1,1\n")
    target.deliver("batch=thirdPartyId,b\nx,2\n")
    assert target.held == {"x": {"b": "2"}}
    target.emulator.send("POST", "/_control/adobe/mbox")
    target.deliver("batch=thirdPartyId,c\nx,3\nx,4\n")
    assert target.held == {"x": {"b": "2", "c": "4"}}
    target.deliver("batch=thirdPartyId,d\nx,5\n")
    assert target.held == {"x": {"b": "2", "d": "5"}}


def test_what_others_said_is_not_overridden(target):
    """Single and v1 updates stay; and overriding can be switched off."""
    target.deliver("batch=thirdPartyId,a\nx,1\n")
    target.post("mbox3rdPartyId=x&profile.b=1", SINGLE)
    target.deliver("batch=thirdPartyId,c\nx,1\n", V1)
    target.deliver("batch=thirdPartyId,d\nx,1\n")
    assert target.held == {"x": {"b": "1", "c": "1", "d": "1"}}
    target.settings(consecutive_batches_override=False)
    target.deliver("batch=thirdPartyId,e\nx,1\n")
    assert target.held["x"].keys() == {"b", "c", "d", "e"}


def test_rows_that_cannot_be_stored_fail_alone(target):
    """An impossible id, a profile over 64,000 bytes: counted and listed, the others are stored."""
    target.deliver(f"batch=thirdPartyId,a\nbig,{'x' * 50_000}\n")
    target.emulator.send("POST", "/_control/adobe/mbox")
    url = target.submit(f"batch=thirdPartyId,b\nbig,{'x' * 14_000}\na%2Fb,1\nfine,{'%C3%A9' * 10_000}\n")
    answers = [requests.get(f"{url}&showDetails=true", timeout=10) for _ in range(2)]
    assert (fields(answers[1])["successfulUpdates"], fields(answers[1])["failedUpdates"]) == ("1", "2")
    assert answers[1].text.count("<status>failed</status>") == 2
    assert "<profile><id>a/b</id><status>failed</status></profile>" in answers[1].text
    assert set(target.held) == {"big", "fine"}


@pytest.mark.parametrize(
    ("file", "headers"),
    [
        ("thirdPartyId,a\nx,1\n", {}),
        ("batch=thirdPartyId,a\nx,1+2\n", {}),
        ("batch=thirdPartyId,a\nx,1\n", {"Content_Type": "text/csv"}),
        ("batch=thirdPartyId,a\nx,1\n", {"Content_Encoding": "gzip"}),
        ("batch=thirdPartyId,a\nx," + "1" * 50_000_000, {}),
    ],
)
def test_a_refusal_looks_like_an_answer(target, file, headers):
    """200 with success false, no status URL, and a message that quotes nothing."""
    response = target.post(file, **headers)
    assert response.status_code == 200
    answer = fields(response)
    assert (answer["success"], answer["batchStatus"]) == ("false", "")
    assert answer["message"]
    assert target.emulator.get("/_control/jobs")["jobs"] == []


def test_an_unknown_batch_is_404(target):
    """In the same words as a refusal."""
    response = target.emulator.send("GET", f"{STATUS}?batchId=demo-1-1")
    assert (response.status_code, fields(response)["success"]) == (404, "false")


def test_only_the_last_ten_statuses_are_kept(target):
    """The eleventh batch takes the first one's place; its rows are stored all the same."""
    urls = [target.submit(f"batch=thirdPartyId,a\nx{n},1\n") for n in range(11)]
    statuses = [requests.get(url, timeout=10).status_code for url in urls]
    assert statuses == [404] + [200] * 10
    assert target.held == {"x0": {"a": "1"}}


def test_a_status_is_kept_for_a_day(target):
    """24 hours, and not longer."""
    url = target.submit("batch=thirdPartyId,a\nx,1\n")
    target.emulator.clock.now += 86_400
    assert requests.get(url, timeout=10).status_code == 200
    target.emulator.clock.now += 1
    assert requests.get(url, timeout=10).status_code == 404


@pytest.mark.parametrize(("polls", "seen"), [(0, ["complete"] * 2), (1, ["complete"] * 2), (3, ["incomplete"] * 2)])
def test_a_batch_completes_at_its_nth_poll(target, polls, seen):
    """As the settings say."""
    target.settings(complete_after_polls=polls)
    url = target.submit("batch=thirdPartyId,a\nx,1\n")
    assert bool(target.held) == (polls == 0)
    assert [target.poll(url)["status"] for _ in range(2)] == seen


def test_a_batch_can_complete_by_the_clock(target):
    """Whether anybody asks or not."""
    target.settings(complete_after_seconds=30)
    url = target.submit("batch=thirdPartyId,a\nx,1\n")
    assert [target.poll(url)["status"] for _ in range(3)] == ["incomplete"] * 3
    target.emulator.clock.now += 30
    assert target.held == {"x": {"a": "1"}}
    assert target.poll(url)["status"] == "complete"


def test_batches_can_be_looked_at(target):
    """Each with its size, polls and digest; and the page shows them."""
    target.deliver("batch=thirdPartyId,a\nx,1\ny,1\n")
    [job] = target.emulator.get("/_control/jobs")["jobs"]
    sent = target.emulator.get("/_control/requests")["requests"][0]
    assert (job["version"], job["rows"], job["polls"], job["status"], job["successful"]) == (2, 2, 2, "complete", 2)
    assert (job["sha256"], job["submitted"]) == (sent["sha256"], sent["at"])
    assert job["id"] in requests.get(target.emulator.url, timeout=10).text


def test_fifty_calls_a_minute_and_no_more(target):
    """Bulk and status calls together: the 51st is 503 and takes nothing; single updates are exempt."""
    urls = [target.submit("batch=thirdPartyId,a\nx,1\n") for _ in range(2)]
    assert [target.poll(urls[0]) for _ in range(48)]
    assert target.post("batch=thirdPartyId,a\nx,1\n").status_code == 503
    assert requests.get(urls[1], timeout=10).status_code == 503
    assert target.post("mbox3rdPartyId=x&profile.a=1", SINGLE).status_code == 200
    target.emulator.clock.now += 59.9
    assert requests.get(urls[1], timeout=10).status_code == 503
    target.emulator.clock.now += 0.1
    assert requests.get(urls[1], timeout=10).status_code == 200
    assert target.meter("/profile/batchStatus")["most_calls_in_a_minute"] == 53


def test_a_daily_budget_is_kept_when_there_is_one(target):
    """Rows of bulk and single updates are counted apart, over 24 rolling hours."""
    target.settings(daily_budget=3)
    target.submit("batch=thirdPartyId,a\nx,1\ny,1\n")
    assert fields(target.post("batch=thirdPartyId,a\nx,1\ny,1\n"))["success"] == "false"
    singles = [target.post("mbox3rdPartyId=x&profile.a=1", SINGLE) for _ in range(4)]
    assert [single.status_code for single in singles] == [200, 200, 200, 429]
    assert fields(singles[3])["success"] == "false"
    assert target.meter("/v2/profile/batchUpdate")["rows_in_a_day"] == 2
    target.emulator.clock.now += 86_400
    target.submit("batch=thirdPartyId,a\nx,1\ny,1\n")


@pytest.mark.parametrize(
    "given", [{"polls": 1}, {"complete_after_polls": "soon"}, {"complete_after_polls": None}, [], 7]
)
def test_other_settings_are_refused(target, given):
    """400 with a sentence, and nothing is changed."""
    before = target.emulator.get("/_control/adobe")
    answer = target.emulator.session.post(f"{target.emulator.url}/_control/adobe", json=given, timeout=10)
    assert answer.status_code == 400
    assert target.emulator.get("/_control/adobe") == before


# --- single ---


def test_a_single_update_changes_who_is_there(target):
    """By GET, by a form, by both together."""
    target.deliver("batch=thirdPartyId,a\nx,1\n")
    assert target.emulator.send("GET", f"{SINGLE}?mbox3rdPartyId=x&profile.b=%C3%A9+%2B").status_code == 200
    target.post("profile.c=2", f"{SINGLE}?mbox3rdPartyId=x")
    target.post("mbox3rdPartyId=x&profile.a=&profile.d=3", SINGLE)
    assert target.held == {"x": {"a": "1", "b": "é +", "c": "2", "d": "3"}}


def test_a_single_update_of_nobody_is_a_success_too(target):
    """Nothing is stored, nothing is said, and it is counted here."""
    answer = target.post("mbox3rdPartyId=nobody&profile.a=1", SINGLE)
    assert answer.status_code == 200
    assert fields(answer) == {"success": "true", "pcId": "", "message": "Request successfully submitted"}
    assert target.held == {}
    assert target.meter("/profile/update")["profiles_not_found"] == 1


def test_a_single_update_has_a_most_of_bytes(target):
    """8,000 for a GET, as its whole address; 60,000 for query and body of a POST."""
    room = 8_000 - len(f"{target.emulator.url}{SINGLE}?mbox3rdPartyId=x&profile.a=")
    gets = [target.emulator.send("GET", f"{SINGLE}?mbox3rdPartyId=x&profile.a={'a' * n}") for n in (room, room + 1)]
    assert [get.status_code for get in gets] == [200, 414]
    room = 60_000 - len("mbox3rdPartyId=x&profile.a=")
    posts = [target.post(f"profile.a={'a' * n}", f"{SINGLE}?mbox3rdPartyId=x") for n in (room + 1, room + 2)]
    assert [post.status_code for post in posts] == [200, 413]


@pytest.mark.parametrize("form", ["profile.a=1", "mbox3rdPartyId=x", "mbox3rdPartyId=x&mboxPC=y&profile.a=1"])
def test_a_single_update_of_another_shape_is_400(target, form):
    """With success false."""
    answer = target.post(form, SINGLE)
    assert (answer.status_code, fields(answer)["success"]) == (400, "false")


# --- all of them ---


def test_a_profile_can_be_fetched(target):
    """By its third-party id, as JSON; an unknown one is 404."""
    target.deliver("batch=thirdPartyId,city\ncrm-1,Lyon\n")
    at = "2026-11-22T02:00:00.000Z"
    path = "/rest/v1/profiles/thirdPartyId"
    assert target.emulator.get(f"{path}/crm-1?client=demo") == {
        "client": "demo",
        "visitorId": "crm-1",
        "modifiedAt": at,
        "profileAttributes": {"city": {"value": "Lyon", "modifiedAt": at}},
    }
    missing = target.emulator.send("GET", f"{path}/crm-9?client=demo")
    assert missing.status_code == 404
    assert missing.json() == {"status": 404, "message": "No profile found for client demo with third party id=crm-9"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/m2/other/v2/profile/batchUpdate"),
        ("GET", V2),
        ("POST", STATUS),
        ("PUT", SINGLE),
        ("POST", "/m2/demo/v2/profile/update"),
        ("GET", "/rest/v1/profiles/thirdPartyId/x?client=other"),
        ("GET", "/rest/v1/profiles/marketingCloudVisitorId/x"),
    ],
)
def test_another_client_or_route_is_404(target, method, path):
    """In Adobe's words."""
    response = target.emulator.send(method, path)
    assert (response.status_code, fields(response)["success"]) == (404, "false")


def test_a_token_may_be_required():
    """Everywhere, as a bearer; else 403 Forbidden."""
    with start(adobe_token="secret", adobe_settings={"complete_after_polls": 0}) as url, requests.Session() as session:
        calls = [("POST", V2), ("POST", V1), ("POST", SINGLE), ("GET", STATUS)]
        for method, path in [*calls, ("GET", "/rest/v1/profiles/thirdPartyId/x?client=demo")]:
            for headers in ({}, {"Authorization": "secret"}, {"Authorization": "Bearer other"}):
                answer = session.request(method, url + path, headers=headers, timeout=10)
                assert (answer.status_code, answer.text) == (403, "Forbidden")
        good = {"Authorization": "Bearer secret", "Content-Type": FORM}
        answer = session.post(url + V2, data="batch=thirdPartyId,a\nx,1\n", headers=good, timeout=10)
        assert fields(answer)["success"] == "true"


# --- faults ---


@pytest.mark.parametrize(
    ("word", "status"), [("stuck", "stuck"), ("incomplete", "incomplete"), ("unknown_word", "paused")]
)
def test_a_batch_can_be_fated_at_its_submission(target, word, status):
    """Then every poll says so; a stuck or incomplete one stores nothing."""
    target.emulator.faults({"job": word, "path": "/batchUpdate", "times": 1})
    url = target.submit("batch=thirdPartyId,a\nx,1\n")
    assert [target.poll(url)["status"] for _ in range(4)] == [status] * 4
    assert bool(target.held) == (word == "unknown_word")
    assert target.deliver("batch=thirdPartyId,a\ny,1\n")["status"] == "complete"


def test_a_single_poll_can_lie(target):
    """At a poll the fault spoils this answer only, also after the batch is complete."""
    url = target.submit("batch=thirdPartyId,a\nx,1\n")
    target.emulator.faults({"job": "incomplete", "path": "/batchStatus", "every": 3})
    assert [target.poll(url)["status"] for _ in range(4)] == ["incomplete", "complete", "incomplete", "complete"]


def test_a_batch_can_be_lost_sight_of(target):
    """404 at every poll, or at one."""
    url = target.submit("batch=thirdPartyId,a\nx,1\n")
    target.emulator.faults({"job": "lost", "path": "/batchStatus", "times": 1})
    assert [requests.get(url, timeout=10).status_code for _ in range(2)] == [404, 200]


def test_counters_can_be_wrong(target):
    """Left out, negative, or those of another batch."""
    url = target.submit("batch=thirdPartyId,a\nx,1\n")
    target.poll(url)
    target.emulator.faults(*({"job": word, "times": 1} for word in ("no_counters", "negative_counters", "other_batch")))
    none, negative, other = (target.poll(url) for _ in range(3))
    assert list(none) == ["batchId", "status", "batchSize"]
    assert (negative["successfulUpdates"], negative["failedUpdates"]) == ("-1", "-1")
    assert other["batchId"] != none["batchId"]


def test_the_status_can_be_said_to_be_elsewhere(target):
    """The answer names another host."""
    target.emulator.faults({"status_host": "evil.test:8080"})
    assert target.submit("batch=thirdPartyId,a\nx,1\n").startswith("http://evil.test:8080/m2/demo/profile/batchStatus?")


def test_rows_can_fail_or_be_lost(target):
    """By id, by number from the top; the last ones are lost without a word but for consumedCount."""
    target.emulator.faults({"fail_id": ["x4"]}, {"fail_rows": 2}, {"lose_rows": 3})
    answer = target.deliver("batch=thirdPartyId,a\n" + "".join(f"x{n},1\n" for n in range(10)))
    names = ("batchSize", "consumedCount", "successfulUpdates", "failedUpdates")
    assert [answer[name] for name in names] == ["10", "7", "4", "3"]
    assert set(target.held) == {"x2", "x3", "x5", "x6"}


def test_a_file_with_a_poisoned_row_can_be_refused_whole(target):
    """success false for a file, 400 for a single update."""
    target.emulator.faults({"refuse_call_with": "x"})
    assert fields(target.post("batch=thirdPartyId,a\ny,1\nx,1\n"))["success"] == "false"
    assert fields(target.post("batch=thirdPartyId,a\ny,1\n"))["success"] == "true"
    assert target.post("mbox3rdPartyId=x&profile.a=1", SINGLE).status_code == 400


def test_answers_can_be_broken_or_dangerous_xml(target):
    """The vendor's own answer with a broken end, or behind entities that would expand to gigabytes."""
    target.emulator.faults({"malformed_xml": True, "times": 1}, {"entity_bomb": True, "times": 1})
    broken, bomb = (target.post("batch=thirdPartyId,a\nx,1\n").text for _ in range(2))
    with pytest.raises(ET.ParseError):
        ET.fromstring(broken)  # noqa: S314  # our own
    assert "<success>true</success>" in broken
    assert bomb.startswith("<!DOCTYPE")
    assert "<success>true</success>" in bomb
    assert len(bomb) < 2_000


def test_a_status_by_fault_comes_in_adobes_words(target):
    """As XML; the vendor does not see the call."""
    target.emulator.faults({"status": 503})
    answer = target.post("batch=thirdPartyId,a\nx,1\n")
    assert (answer.status_code, fields(answer)["success"]) == (503, "false")
    assert target.emulator.get("/_control/jobs")["jobs"] == []
