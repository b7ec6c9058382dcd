"""What every API request passes through: Host, routes, tokens, rate, faults; and the errors that come out."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.edge.harness import ACCOUNT_A, ACCOUNT_B, EdgeClient, EdgeProcess, error, result, unique
from tests.waiting import wait_for

NAMESPACES = "/storage/kv/namespaces"


def test_the_token_of_an_account_is_verified_with_an_id_that_is_not_the_token(
    edge: EdgeProcess, api: EdgeClient
):
    for url in (f"{edge.url}/client/v4/user/tokens/verify", "/tokens/verify"):
        answer = api.get(url)
        verified = result(answer)
        assert verified["status"] == "active"
        assert len(verified["id"]) == 32
        assert edge.tokens[ACCOUNT_A] not in answer.text


def test_a_request_without_a_token_is_answered_9106(edge: EdgeProcess):
    assert error(httpx.get(f"{edge.url}/client/v4/accounts"), 400) == 9106


@pytest.mark.parametrize("header", ["Bearer", "Basic dXNlcjpwYXNz", "Bearer a b c", "Bearer short"])
def test_a_malformed_authorization_header_is_answered_6003(edge: EdgeProcess, header: str):
    answer = httpx.get(f"{edge.url}/client/v4/accounts", headers={"authorization": header})
    assert error(answer, 400) == 6003
    assert answer.json()["errors"][0]["error_chain"][0]["code"] == 6111


def test_an_unknown_token_is_answered_10000_in_an_account_and_9109_outside(edge: EdgeProcess):
    headers = {"authorization": "Bearer nobody-has-this-token"}
    assert error(httpx.get(f"{edge.url}/client/v4/user", headers=headers), 403) == 9109
    inside = f"{edge.url}/client/v4/accounts/{ACCOUNT_A}{NAMESPACES}"
    assert error(httpx.get(inside, headers=headers), 401) == 10000


@pytest.mark.acceptance("S4.5")
@pytest.mark.parametrize("account", [ACCOUNT_B, "c" * 32, "not-an-account"])
def test_a_token_opens_no_account_but_its_own_whether_that_exists_or_not(
    edge: EdgeProcess, api: EdgeClient, account: str
):
    base = f"{edge.url}/client/v4/accounts/{account}"
    for url in ("", NAMESPACES, "/r2/buckets", "/d1/database", "/tokens/verify"):
        assert error(api.get(base + url), 403) == 10000
    assert error(api.post(base + NAMESPACES, json={"title": "mine"}), 403) == 10000


def test_accounts_and_memberships_name_only_what_the_token_opens(edge: EdgeProcess, api: EdgeClient):
    accounts = result(api.get(f"{edge.url}/client/v4/accounts", params={"page": 1}))
    assert [account["id"] for account in accounts] == [ACCOUNT_A]
    assert result(api.get(f"{edge.url}/client/v4/accounts", params={"page": 2})) == []
    memberships = result(api.get(f"{edge.url}/client/v4/memberships"))
    assert [membership["account"]["id"] for membership in memberships] == [ACCOUNT_A]
    assert result(api.get(f"{edge.url}/client/v4/accounts/{ACCOUNT_A}"))["id"] == ACCOUNT_A
    assert "@" in result(api.get(f"{edge.url}/client/v4/user"))["email"]


def test_an_unknown_route_is_answered_7003_and_an_unknown_method_7001(edge: EdgeProcess, api: EdgeClient):
    assert error(api.get("/no/such/thing"), 404) == 7003
    assert error(httpx.get(edge.url), 404) == 7003
    answer = api.patch("/r2/buckets")
    assert error(answer, 405) == 7001
    assert answer.headers["allow"] == "GET, POST"


@pytest.mark.parametrize("query", ["page=0", "page=x", "per_page=-1", "per_page=9999999", "page=1e3"])
def test_a_page_that_cannot_be_is_a_clear_error(api: EdgeClient, query: str):
    assert error(api.get(f"{NAMESPACES}?{query}"), 400) == 6003


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"text"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_not_a_json_object_is_a_clear_error(api: EdgeClient, body: bytes):
    for url in (NAMESPACES, "/r2/buckets", "/d1/database"):
        error(api.post(url, content=body), 400)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8787", "localhost.evil.example", ""])
def test_a_host_name_that_is_not_ours_is_refused(edge: EdgeProcess, api: EdgeClient, host: str):
    answer = api.get(f"{edge.url}/client/v4/user/tokens/verify", headers={"host": host})
    assert answer.status_code in (400, 421)
    assert "active" not in answer.text


def test_liveness_and_readiness_need_no_token(edge: EdgeProcess):
    assert httpx.get(f"{edge.url}/healthz").json() == {"status": "ok"}
    ready = httpx.get(f"{edge.url}/readyz")
    assert ready.status_code == 200
    assert ready.json()["ready"] is True


def test_an_edge_that_cannot_write_is_not_ready(own_edge):
    edge = own_edge()
    in_the_way = edge.data / "ready"
    in_the_way.mkdir()
    answer = httpx.get(f"{edge.url}/readyz")
    assert answer.status_code == 503
    assert [name for name, holds in answer.json()["checks"].items() if not holds] == ["disk"]
    in_the_way.rmdir()
    assert httpx.get(f"{edge.url}/readyz").status_code == 200


def test_the_rate_limit_shuts_a_token_out_and_says_for_how_long(own_edge):
    edge = own_edge("--rate-limit", "5", "--rate-window", "1.5")
    with edge.client(ACCOUNT_A) as api, edge.client(ACCOUNT_B) as other:
        left = [api.get("/tokens/verify").headers["ratelimit"].split(";")[1] for _ in range(5)]
        assert left == ["r=4", "r=3", "r=2", "r=1", "r=0"]
        refused = api.post(NAMESPACES, json={"title": "too-much"})
        error(refused, 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 2
        assert api.get("/tokens/verify").status_code == 429
        assert other.get("/tokens/verify").status_code == 200
        deadline = time.monotonic() + 10
        while (answer := api.get(NAMESPACES)).status_code == 429:
            assert time.monotonic() < deadline
        assert result(answer) == []


def test_the_rate_limit_is_on_by_default(own_edge):
    with own_edge().client() as api:
        assert api.get("/tokens/verify").headers["ratelimit-policy"] == '"default";q=1200;w=300'


def test_faults_exist_only_where_they_are_asked_for(own_edge):
    with own_edge().client() as api:
        url = f"{str(api.base_url).partition('/client')[0]}/_edge/faults"
        assert error(api.post(url, json={"operation": "kv.create", "kind": "drop"}), 404) == 7003


@pytest.fixture
def faults(edge: EdgeProcess, api: EdgeClient):
    def plan(**fault) -> str:
        answer = api.post(f"{edge.url}/_edge/faults", json=fault)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    yield plan
    assert api.delete(f"{edge.url}/_edge/faults").status_code == 200


def titles(api: EdgeClient) -> list[str]:
    return [namespace["title"] for namespace in result(api.get(NAMESPACES, params={"per_page": 1000}))]


def test_a_status_fault_answers_with_its_error_and_does_nothing(api: EdgeClient, faults):
    faults(operation="kv.create", kind="status", status=503, code=10035, retry_after_s=7)
    title = unique("never")
    answer = api.post(NAMESPACES, json={"title": title})
    assert error(answer, 503) == 10035
    assert answer.headers["retry-after"] == "7"
    assert title not in titles(api)
    assert result(api.post(NAMESPACES, json={"title": title}))["title"] == title


def test_a_dropped_connection_did_nothing(api: EdgeClient, faults):
    faults(operation="kv.create", kind="drop")
    title = unique("never")
    with pytest.raises(httpx.TransportError):
        api.post(NAMESPACES, json={"title": title})
    assert title not in titles(api)


def test_a_lost_answer_was_carried_out(api: EdgeClient, faults):
    faults(operation="kv.create", kind="lost_answer")
    title = unique("done")
    with pytest.raises(httpx.TransportError):
        api.post(NAMESPACES, json={"title": title})
    assert title in titles(api)
    assert error(api.post(NAMESPACES, json={"title": title}), 400) == 10014


def test_a_lost_answer_of_a_streamed_value_gets_nothing_out(api: EdgeClient, faults):
    url = f"{NAMESPACES}/{api.create_kv()}/values/k"
    result(api.put(url, content=b"secret"))
    faults(operation="kv.values.get", kind="lost_answer")
    with pytest.raises(httpx.TransportError):
        api.get(url)
    assert api.get(url).content == b"secret"


def planned(edge: EdgeProcess, api: EdgeClient, fault_id: str) -> dict[str, Any]:
    listed = api.get(f"{edge.url}/_edge/faults").json()["faults"]
    return next(fault for fault in listed if fault["id"] == fault_id)


def test_a_late_answer_was_carried_out_long_before_it_arrives(edge: EdgeProcess, api: EdgeClient, faults):
    fault_id = faults(operation="kv.create", kind="late", delay_s=600)
    title = unique("done")
    with edge.client(ACCOUNT_A) as patient, ThreadPoolExecutor(1) as thread:
        asking = thread.submit(patient.post, NAMESPACES, json={"title": title})
        wait_for(lambda: planned(edge, api, fault_id)["waiting"] == 1, what="the request to be carried out")
        assert title in titles(api)
        assert not asking.done()
        api.delete(f"{edge.url}/_edge/faults/{fault_id}")
        assert result(asking.result())["title"] == title


def test_a_late_answer_arrives_in_the_end_and_says_what_it_would_have_said(
    edge: EdgeProcess, api: EdgeClient, faults
):
    url = f"{NAMESPACES}/{api.create_kv()}/values/k"
    result(api.put(url, content=b"value"))
    for fault_id, answer in (
        (faults(operation="kv.create", kind="late", delay_s=0.3), {"title": unique("late")}),
        (faults(operation="kv.create", kind="late", delay_s=0.3), {"title": ""}),
    ):
        started = time.monotonic()
        assert api.post(NAMESPACES, json=answer).is_success == bool(answer["title"])
        assert time.monotonic() - started >= 0.3
        assert planned(edge, api, fault_id)["waiting"] == 0
    faults(operation="kv.values.get", kind="late", delay_s=0.3)
    started = time.monotonic()
    assert api.get(url).content == b"value"
    assert time.monotonic() - started >= 0.3


def test_latency_delays_and_then_answers(api: EdgeClient, faults):
    faults(operation="kv.list", kind="latency", delay_s=0.3)
    started = time.monotonic()
    result(api.get(NAMESPACES))
    assert time.monotonic() - started >= 0.3


def test_a_fault_waits_its_turn_and_strikes_as_often_as_it_was_told(
    edge: EdgeProcess, api: EdgeClient, faults
):
    fault_id = faults(operation="d1.list", kind="status", after=1, times=2)
    statuses = [api.get("/d1/database").status_code for _ in range(4)]
    assert statuses == [200, 500, 500, 200]
    listed = {fault["id"]: fault for fault in api.get(f"{edge.url}/_edge/faults").json()["faults"]}
    assert listed[fault_id]["fired"] == 2
    assert api.delete(f"{edge.url}/_edge/faults/{fault_id}").json() == {"cleared": 1}


def test_a_fault_can_be_narrowed_to_a_path_and_touches_no_other_account(
    api: EdgeClient, other_api: EdgeClient, faults
):
    struck, spared = api.create_r2(), api.create_r2()
    faults(operation="r2.get", kind="status", contains=struck, times=None)
    assert error(api.get(f"/r2/buckets/{struck}"), 500) == 10013
    assert result(api.get(f"/r2/buckets/{spared}"))["name"] == spared
    faults(operation="r2.list", kind="status", times=None)
    assert other_api.get("/r2/buckets").status_code == 200


@pytest.mark.parametrize(
    "fault",
    [
        {"operation": "no.such", "kind": "drop"},
        {"operation": "kv.create", "kind": "explode"},
        {"operation": "kv.create", "kind": "status", "status": 200},
        {"operation": "kv.create", "kind": "latency", "delay_s": -1},
        {"operation": "kv.create", "kind": "drop", "surprise": 1},
        {"operation": "kv.create", "kind": "drop", "id": "mine"},
        {"operation": "kv.create", "kind": "late", "waiting": 1},
        [],
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(edge: EdgeProcess, api: EdgeClient, fault):
    assert error(api.post(f"{edge.url}/_edge/faults", json=fault), 400) == 6003


def test_only_a_known_token_may_plan_faults(edge: EdgeProcess):
    answer = httpx.post(f"{edge.url}/_edge/faults", json={"operation": "kv.create", "kind": "drop"})
    assert error(answer, 400) == 9106
