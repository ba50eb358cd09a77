"""The control API over the real directory: every action, its outcomes, its limits, and who may do it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from agentcache.service.front.control import ACTIONS, PREFIX
from tests.service.stand import Stand


@pytest.fixture
def stand() -> Stand:
    return Stand()


def act(stand: Stand, method: str, path: str, headers: dict[str, str] | None = None, **body: Any) -> Any:
    answer = stand.http.request(method, PREFIX + path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_life_of_a_job(stand: Stand) -> None:
    assert act(stand, "POST", "/jobs/j")["outcome"] == "accepted"
    assert act(stand, "POST", "/jobs/j/turns")["outcome"] == "deferred"
    assert act(stand, "POST", "/jobs/j/turns/end", tool="bash")["outcome"] == "deferred"
    assert act(stand, "POST", "/jobs/j/tools/bash", expected_s=1.5)["outcome"] == "deferred"
    assert act(stand, "DELETE", "/jobs/j/tools/bash")["outcome"] == "deferred"
    kept = act(stand, "POST", "/jobs/j/retain", ttl_s=10, keep_priority=60)
    assert kept["outcome"] == "deferred" and kept["granted_s"] == 10 and kept["granted_priority"] == 60
    again = act(stand, "POST", "/jobs/j/retain", ttl_s=86400, lease=kept["lease"])
    assert again["outcome"] == "clipped" and again["lease"] == kept["lease"] and again["granted_s"] < 86400
    assert act(stand, "POST", "/jobs/j/release")["outcome"] == "deferred"
    assert act(stand, "DELETE", "/jobs/j")["outcome"] in ("accepted", "deferred")
    assert act(stand, "POST", "/jobs/j/retain", ttl_s=1)["outcome"] == "rejected"
    assert act(stand, "GET", "/explain?job=j")["outcome"] != "missing"
    stand.service.directory.check()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/jobs/none", {}),
        ("POST", "/jobs/none/retain", {"ttl_s": 1}),
        ("POST", "/jobs/none/tools/bash", {}),
        ("GET", "/explain?job=none", {}),
    ],
)
def test_an_unknown_job_is_missing(stand: Stand, method: str, path: str, body: dict[str, Any]) -> None:
    assert act(stand, method, path, **body)["outcome"] == "missing"


@pytest.mark.parametrize("as_header", [True, False])
def test_a_request_id_acts_once(stand: Stand, as_header: bool) -> None:
    act(stand, "POST", "/jobs/j")
    key = {"headers": {"Idempotency-Key": "k1"}} if as_header else {"request_id": "k1"}
    answers = [act(stand, "POST", "/jobs/j/retain", ttl_s=5, **key) for _ in range(2)]
    assert answers[0] == answers[1] and answers[0]["request_id"] == "k1"
    other = act(stand, "POST", "/jobs/j/retain", ttl_s=5)
    assert other["lease"] != answers[0]["lease"]


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/jobs/j/retain", {}, "ttl_s"),
        ("/jobs/j/retain", {"ttl_s": "long"}, "ttl_s"),
        ("/jobs/j/retain", {"ttl_s": -1}, "ttl_s"),
        ("/jobs/j/retain", {"ttl_s": 1, "keep_priority": 101}, "keep_priority"),
        ("/jobs/j/retain", {"ttl_s": 1, "priority": 3}, "unknown fields priority"),
        ("/jobs/" + "j" * 300, {}, "job"),
        ("/jobs/%00", {}, "control characters"),
        ("/jobs/j", {"request_id": ""}, "request_id"),
    ],
)
def test_what_is_no_such_message_is_refused(stand: Stand, path: str, body: dict[str, Any], says: str) -> None:
    answer = stand.http.post(PREFIX + path, json=body)
    assert answer.status_code == 422
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize("job", ["a/b", "ü", " ", "%2F", "?x=1"])
def test_any_name_may_be_sent_in_a_body(stand: Stand, job: str) -> None:
    assert act(stand, "POST", "/actions", action="start_job", job=job)["outcome"] == "accepted"
    assert act(stand, "POST", "/actions", action="retain", job=job, ttl_s=1)["outcome"] == "deferred"
    for body in ({"job": job}, {"action": "start_jobs", "job": job}, {"action": "start_job", "job": job, "x": 1}):
        assert stand.http.post(f"{PREFIX}/actions", json=body).status_code == 422


def test_sizes_are_limited(stand: Stand) -> None:
    assert stand.http.post(f"{PREFIX}/jobs/j", content=b"{" + b" " * 5000).status_code == 413
    assert stand.http.post(f"{PREFIX}/jobs/j", content=b"{").status_code == 422


def test_a_flood_is_shed_and_inference_goes_on() -> None:
    stand = Stand(control_per_s=0.001)
    codes = [stand.http.post(f"{PREFIX}/jobs/j").status_code for _ in range(20)]
    assert codes[:2] == [200, 200] and 429 in codes
    assert stand.http.post("/v1/completions", json={"prompt": "x"}).status_code == 200


def test_without_the_service_inference_goes_on(stand: Stand) -> None:
    stand.service.away = True
    answer = stand.http.post(f"{PREFIX}/jobs/j")
    assert answer.status_code == 503 and "served without it" in answer.json()["error"]["message"]
    assert stand.http.post("/v1/completions", json={"prompt": "x"}).status_code == 200


def test_a_tenant_neither_sees_nor_touches_anothers_jobs(tmp_path: Path) -> None:
    entries = [{"name": name, "tokens_sha256": [hashlib.sha256(name.encode()).hexdigest()]} for name in ("red", "blue")]
    (tmp_path / "t.json").write_text(json.dumps({"tenants": entries}))
    stand = Stand(tenants_file=str(tmp_path / "t.json"))
    red, blue = ({"Authorization": f"Bearer {name}"} for name in ("red", "blue"))
    assert stand.http.post(f"{PREFIX}/jobs/j").status_code == 401
    assert stand.http.get(f"{PREFIX}/snapshot").status_code == 401
    act(stand, "POST", "/jobs/j", red, request_id="k")
    lease = act(stand, "POST", "/jobs/j/retain", red, ttl_s=5)["lease"]
    for method, path, body in (
        ("DELETE", "/jobs/j", {}),
        ("POST", "/jobs/j/retain", {"ttl_s": 1, "lease": lease}),
        ("POST", "/actions", {"action": "release", "job": "red/j"}),
        ("GET", "/explain?job=j", {}),
    ):
        assert act(stand, method, path, blue, **body)["outcome"] == "missing"
    assert act(stand, "POST", "/jobs/j/retain", red, ttl_s=5, lease=lease)["outcome"] == "deferred"
    seen = act(stand, "GET", "/snapshot", blue)
    assert [tenant["tenant"] for tenant in seen["tenants"]] in ([], ["blue"]) and not seen["contexts"]
    assert [tenant["tenant"] for tenant in act(stand, "GET", "/snapshot", red)["tenants"]] == ["red"]


def test_openapi_describes_every_action(stand: Stand) -> None:
    paths = stand.http.get("/openapi.json").json()["paths"]
    for method, path, kind, summary in ACTIONS:
        described = paths[PREFIX + path][method.lower()]
        assert described["summary"] == summary
        fields = described["requestBody"]["content"]["application/json"]["schema"]["properties"]
        in_path = {parameter["name"] for parameter in described["parameters"]}
        assert set(fields) | in_path == set(kind.__struct_fields__)
        assert {"200", "401", "413", "422", "429", "503"} <= set(described["responses"])
    assert stand.http.get("/docs").status_code == 200
