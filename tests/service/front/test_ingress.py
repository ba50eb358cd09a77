"""The ingress: what reaches a replica, what comes back, and what is turned away."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Stop, TurnArrived, TurnFinished
from agentcache.policy.return_index import ReturnIndex
from agentcache.residency import Residency
from agentcache.service.routing.conversations import chained
from tests.service.agents import CLIENTS, codex, tree
from tests.service.stand import Stand

CHAT = "/v1/chat/completions"


def chat(*said: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text} for text in said], **more}


@pytest.fixture
def stand() -> Stand:
    return Stand()


@pytest.fixture
def tenants(tmp_path: Path) -> str:
    names = ("red", "blue")
    entries = [{"name": name, "tokens_sha256": [hashlib.sha256(f"key-{name}".encode()).hexdigest()]} for name in names]
    (tmp_path / "tenants.json").write_text(json.dumps({"tenants": entries}))
    return str(tmp_path / "tenants.json")


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer key-{name}"}


def test_a_request_passes_as_it_is(stand: Stand) -> None:
    body = chat("hello", temperature=0.25, seed=9007199254740993)
    seen = stand.http.post(f"{CHAT}?a=b", json=body).json()
    assert (seen["path"], seen["query"], seen["body"]) == (CHAT, "a=b", body)


@pytest.mark.parametrize(
    ("headers", "body", "xargs"),
    [
        ({"X-Session-ID": "s"}, {}, {"job_id": "s"}),
        ({"x_session_id": "s"}, {}, {"job_id": "s"}),
        ({"X-Claude-Code-Session-Id": "s"}, {}, {"job_id": "s"}),
        ({"X-Session-ID": "s", "X-Dynamo-Session-ID": "a"}, {}, {"job_id": "s", "session_id": "a"}),
        (
            {"X-Session-ID": "s"},
            {"vllm_xargs": {"session_id": "t", "k": 1}},
            {"job_id": "t", "session_id": "t", "k": 1},
        ),
        ({"X-Session-ID": "s"}, {"vllm_xargs": {"job_id": "j"}}, {"job_id": "j"}),
        ({}, {"kv_transfer_params": {"agentcache": {"job": "j"}}}, {"job_id": "j"}),
        ({"X-Session-ID": "x" * 257}, {}, None),
        ({}, {}, None),
    ],
)
def test_what_a_caller_says_of_its_session_reaches_the_engine(
    stand: Stand, headers: dict[str, str], body: dict[str, Any], xargs: dict[str, Any] | None
) -> None:
    seen = stand.http.post(CHAT, json=chat("hello", **body), headers=headers).json()
    assert seen["body"].get("vllm_xargs") == xargs


def test_a_session_has_a_home(stand: Stand) -> None:
    for _ in range(2):
        stand.http.post(CHAT, json=chat("hello"), headers={"X-Session-ID": "s"})
    first, second = stand.backend.plans
    assert (first.home, first.resident) == (None, {})
    assert second.home == "r1" and second.resident == {"r1": first.tokens}


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_an_id_of_a_tree_is_a_job_and_its_agents_are_told_apart(stand: Stand, client: Any) -> None:
    """A sub-agent that sends its parent's id takes neither the parent's context nor its home."""
    residency = Residency(ReturnIndex(CostModel(CostProfile(c_lin=1e-5, c_att=0.0), 16), 4096), 4096)
    contexts: dict[str, set[str]] = {}
    plans: dict[str, set[str]] = {}
    for number, asked in enumerate(tree(client, "t", 1)):
        stand.http.post(asked.path, json=asked.body, headers=asked.headers)
        seen = json.loads(stand.backend.calls[-1].body)
        assert seen["vllm_xargs"] == {"job_id": "t"}
        plans.setdefault(asked.agent, set()).add(stand.backend.plans[-1].job)
        keys = tuple(chained(None, None, asked.body))  # as far as prompts agree, so do they
        residency.observe(TurnArrived(f"{number}", keys, "/t", None), float(number))
        (context,) = (context for context in residency.contexts if context.turns)
        contexts.setdefault(asked.agent, set()).add(context.id)
        residency.observe(TurnFinished(f"{number}", keys, Stop.TOOL_USE), number + 0.5)
        residency.check()
    assert len(plans) == 5 and {len(names) for names in plans.values()} == {1}
    assert len(set.union(*plans.values())) == 5 and plans["main"] == {"/t"}
    if client is codex:
        return  # its agents share so much of a chain of few messages that only a chain of blocks tells them apart
    assert len(contexts["main"]) == 1
    assert not contexts["main"] & set.union(*(ids for agent, ids in contexts.items() if agent != "main"))


def test_a_conversation_without_a_session_is_known_by_its_content(stand: Stand) -> None:
    for said in (("system", "one"), ("other", "one"), ("system", "one", "answer", "two"), ("system", "two")):
        stand.http.post(CHAT, json=chat(*said))
    jobs = [plan.job for plan in stand.backend.plans]
    assert jobs[2] == jobs[0] and len(set(jobs)) == 3


def test_a_stream_passes_in_order(stand: Stand) -> None:
    answer = stand.http.post(CHAT, json=chat("hello", stream=True))
    assert answer.text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_errors_of_the_engine_are_the_callers_to_see(stand: Stand) -> None:
    assert stand.http.post(CHAT, json=chat("hello", status=400)).status_code == 400
    assert len(stand.backend.plans) == 1


def test_a_lost_replica_is_replaced_once(stand: Stand) -> None:
    stand.http.post(CHAT, json=chat("hello"), headers={"X-Session-ID": "s"})
    stand.backend.faults = [ConnectionError("gone")]
    answer = stand.http.post(CHAT, json=chat("hello"), headers={"X-Session-ID": "s"})
    assert answer.status_code == 200 and answer.headers["x-agentcache-replica"] == "r2"
    assert stand.backend.plans[2].avoid == {"r1"} and stand.backend.plans[2].resident == {}
    stand.http.post(CHAT, json=chat("hello"), headers={"X-Session-ID": "s"})
    assert stand.backend.plans[3].home == "r2"


def test_two_lost_replicas_are_an_error_that_says_so(stand: Stand) -> None:
    stand.backend.faults = [ConnectionError("gone")] * 2
    answer = stand.http.post(CHAT, json=chat("hello"))
    assert answer.status_code == 503 and "lost" in answer.json()["error"]["message"]
    assert answer.headers["retry-after"] == "1"


def test_a_replica_lost_before_its_first_byte_is_replaced(stand: Stand) -> None:
    stand.backend.breaks = 0
    assert stand.http.post(CHAT, json=chat("hello", stream=True)).status_code == 503
    assert len(stand.backend.plans) == 2


def test_a_replica_lost_in_the_middle_ends_the_stream_with_an_error(stand: Stand) -> None:
    stand.backend.breaks = 1
    answer = stand.http.post(CHAT, json=chat("hello", stream=True))
    assert answer.status_code == 200 and len(stand.backend.plans) == 1
    assert json.loads(answer.text.split("data: ")[-1])["error"]["code"] == 503


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b""])
def test_what_is_no_object_is_refused(stand: Stand, body: bytes) -> None:
    assert stand.http.post(CHAT, content=body).status_code == 400
    assert stand.backend.calls == []


def test_large_bodies_are_refused() -> None:
    stand = Stand(max_body_bytes=1000)
    assert stand.http.post(CHAT, json=chat("x" * 2000)).status_code == 413
    assert stand.http.post(CHAT, content=iter([b"x" * 600] * 2)).status_code == 413
    assert stand.backend.calls == []


def test_rates_are_limited() -> None:
    stand = Stand(requests_per_s=0.001, burst=2)
    answers = [stand.http.post(CHAT, json=chat("hello")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[2].headers["retry-after"]) > 100


def test_tenants_are_known_by_their_tokens(tenants: str) -> None:
    stand = Stand(tenants_file=tenants)
    assert stand.http.post(CHAT, json=chat("hello")).status_code == 401
    assert stand.http.post(CHAT, json=chat("hello"), headers={"Authorization": "Bearer nope"}).status_code == 401
    assert stand.backend.calls == []
    seen = stand.http.post(CHAT, json=chat("hello"), headers=bearer("red")).json()
    assert seen["body"]["cache_salt"] == "red"
    seen = stand.http.post(CHAT, json=chat("hello", cache_salt="blue"), headers={"x-api-key": "key-red"}).json()
    assert seen["body"]["cache_salt"] == "red.blue"
    assert "authorization" not in seen["headers"] and "x-api-key" not in seen["headers"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions/batch"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1//chat/completions"),
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/load_lora_adapter"),
    ],
)
def test_tenants_call_only_what_keeps_them_apart(tenants: str, method: str, path: str) -> None:
    stand = Stand(tenants_file=tenants)
    assert stand.http.request(method, path, json=chat("hello"), headers=bearer("red")).status_code == 403
    assert stand.backend.calls == []
    assert stand.http.get("/v1/models", headers=bearer("red")).status_code == 200
    previous = chat("hello", previous_response_id="resp_1")
    assert stand.http.post("/v1/responses", json=previous, headers=bearer("red")).status_code == 400


def test_tenants_with_one_prompt_share_no_context(tenants: str) -> None:
    stand = Stand(tenants_file=tenants)
    for name in ("red", "blue"):
        for headers in ({}, {"X-Session-ID": "s"}):
            stand.http.post(CHAT, json=chat("hello"), headers=bearer(name) | headers)
    assert len({plan.job for plan in stand.backend.plans}) == 4
    assert {plan.home for plan in stand.backend.plans} == {None}


def test_no_secret_is_logged(tenants: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    stand = Stand(tenants_file=tenants)
    stand.backend.faults = [ConnectionError("gone"), ConnectionError("key-red")]
    stand.http.post(CHAT, json=chat("hello"), headers=bearer("red"))
    stand.http.post(CHAT, json=chat("hello"), headers={"Authorization": "Bearer key-green"})
    assert "lost" in caplog.text and "key-" not in caplog.text


def test_prompts_are_measured_by_what_answers_tell(stand: Stand) -> None:
    expected = []
    for turn in range(40):
        # The echo tells the tokens as an engine would: one in two bytes.
        body = chat("x" * 1000, usage={"prompt_tokens": 540}, n=turn)
        stand.http.post(CHAT, json=body)
        stand.backend.plans[-1].tokens = 0
        expected.append(stand.ingress._expected_tokens(body, json.dumps(body).encode()))
    assert expected[0] < 300 and abs(expected[-1] - 540) < 60
