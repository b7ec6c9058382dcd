"""KV over the API, as clients and wrangler use it."""

from __future__ import annotations

import base64
import json
import os
import time
from urllib.parse import quote

import pytest

from tests.edge.harness import EdgeClient, EdgeProcess, Neighbours, error, result, unique
from tests.edge.scripts import Stage

NAMESPACES = "/storage/kv/namespaces"
pytestmark = pytest.mark.acceptance("S4.9")


@pytest.fixture
def namespace(api: EdgeClient) -> str:
    return f"{NAMESPACES}/{api.create_kv()}"


def test_a_namespace_is_created_renamed_and_deleted(api: EdgeClient):
    title, renamed = unique("kv"), unique("renamed")
    created = result(api.post(NAMESPACES, json={"title": title}))
    assert created == {"id": created["id"], "title": title, "supports_url_encoding": True}
    url = f"{NAMESPACES}/{created['id']}"
    assert result(api.put(url, json={"title": renamed}))["title"] == renamed
    assert result(api.get(url))["title"] == renamed
    assert result(api.delete(url)) is None
    assert error(api.get(url), 404) == 10013
    assert error(api.delete(url), 404) == 10013


def test_a_json_body_may_come_as_text(api: EdgeClient):
    body = f'{{"title": "{unique("kv")}"}}'
    result(api.post(NAMESPACES, content=body, headers={"content-type": "text/plain"}))


def test_a_title_is_taken_once_in_an_account_and_free_in_another(api: EdgeClient, other_api: EdgeClient):
    title = unique("kv")
    result(api.post(NAMESPACES, json={"title": title}))
    assert error(api.post(NAMESPACES, json={"title": title}), 400) == 10014
    other = api.create_kv()
    assert error(api.put(f"{NAMESPACES}/{other}", json={"title": title}), 400) == 10014
    result(other_api.post(NAMESPACES, json={"title": title}))


@pytest.mark.parametrize("title", [None, "", "  ", 5, "x" * 513])
def test_a_title_that_cannot_be_is_refused(api: EdgeClient, title):
    assert error(api.post(NAMESPACES, json={"title": title}), 400) == 10019


def test_namespaces_are_listed_in_pages_and_a_page_past_the_end_is_empty(api: EdgeClient):
    mine = {api.create_kv() for _ in range(5)}
    found: set[str] = set()
    page = 1
    while True:
        answer = api.get(
            NAMESPACES, params={"page": page, "per_page": 2, "order": "title", "direction": "asc"}
        )
        listed = result(answer)
        info = answer.json()["result_info"]
        assert info["page"] == page
        assert info["count"] == len(listed) <= 2
        if not listed:
            break
        found |= {namespace["id"] for namespace in listed}
        page += 1
    assert mine <= found
    assert len(found) == info["total_count"]


@pytest.mark.parametrize(
    "key", ["plain", "k/é", "a/b/../c", "per%cent", "q?x=1&y#z", " space ", "nul\0byte", "🗝" * 100]
)
def test_a_key_may_hold_anything_when_it_is_percent_encoded(api: EdgeClient, namespace: str, key: str):
    value = os.urandom(100)
    url = f"{namespace}/values/{quote(key, safe='')}"
    result(api.put(url, content=value, headers={"content-type": "application/octet-stream"}))
    assert api.get(url).content == value
    assert [entry["name"] for entry in result(api.get(f"{namespace}/keys"))] == [key]
    result(api.delete(url))
    assert error(api.get(url), 404) == 10009


def test_a_value_comes_with_metadata_and_expiry_as_wrangler_sends_them(api: EdgeClient, namespace: str):
    url = f"{namespace}/values/k/é"
    parts = {"value": (None, "val"), "metadata": (None, '{"a": 1}')}
    result(api.put(url, params={"expiration_ttl": "600"}, files=parts))
    answer = api.get(url)
    assert answer.content == b"val"
    assert abs(int(answer.headers["expiration"]) - time.time() - 600) < 5
    assert result(api.get(f"{namespace}/metadata/k/é")) == {"a": 1}
    (entry,) = result(api.get(f"{namespace}/keys", params={"prefix": "k/"}))
    assert entry == {"name": "k/é", "expiration": int(answer.headers["expiration"]), "metadata": {"a": 1}}


def test_the_limits_of_keys_values_and_metadata_are_those_of_the_real_service(
    api: EdgeClient, namespace: str
):
    result(api.put(f"{namespace}/values/{'k' * 512}", content=b""))
    assert error(api.put(f"{namespace}/values/{'k' * 513}", content=b""), 414) == 10030
    assert error(api.put(f"{namespace}/values/k", content=b"x" * (25 * 1024 * 1024 + 1)), 413) == 10047
    parts = {"value": (None, "v"), "metadata": (None, '"' + "m" * 1023 + '"')}
    error(api.put(f"{namespace}/values/k", files=parts), 400)
    assert error(api.get(f"{namespace}/values/k"), 404) == 10009


def test_the_largest_value_is_kept_whole(api: EdgeClient, namespace: str):
    value = os.urandom(1024 * 1024) * 25
    result(api.put(f"{namespace}/values/large", content=value))
    assert api.get(f"{namespace}/values/large").content == value
    result(api.put(f"{namespace}/values/large", content=b"small"))
    assert api.get(f"{namespace}/values/large").content == b"small"


@pytest.mark.parametrize(
    "query",
    [
        "expiration_ttl=59",
        "expiration_ttl=0",
        "expiration_ttl=x",
        "expiration=1",
        "expiration_ttl=60.5",
        "expiration=nan",
    ],
)
def test_an_expiry_that_cannot_be_is_refused(api: EdgeClient, namespace: str, query: str):
    error(api.put(f"{namespace}/values/k?{query}", content=b"v"), 400)
    assert error(api.get(f"{namespace}/values/k"), 404) == 10009


def test_a_multipart_write_without_a_value_or_with_bad_metadata_writes_nothing(
    api: EdgeClient, namespace: str
):
    for parts in ({"metadata": (None, "{}")}, {"value": (None, "v" * 100_000), "metadata": (None, "{")}):
        error(api.put(f"{namespace}/values/k", files=parts), 400)
        assert error(api.get(f"{namespace}/values/k"), 404) == 10009


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"x"),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\ncontent-disposition: form-data; name=value\r\n\r\ncut off",
        ),
    ],
)
def test_a_malformed_multipart_body_is_a_clear_error(
    api: EdgeClient, namespace: str, content_type: str, body: bytes
):
    error(api.put(f"{namespace}/values/k", content=body, headers={"content-type": content_type}), 400)
    assert error(api.get(f"{namespace}/values/k"), 404) == 10009


def test_keys_are_listed_by_prefix_with_a_cursor_in_the_order_of_their_bytes(api: EdgeClient, namespace: str):
    keys = [f"p/{number:03}" for number in range(25)] + ["o", "p", "q", "p0"]
    entries = [{"key": key, "value": key} for key in keys]
    assert result(api.put(f"{namespace}/bulk", json=entries))["successful_key_count"] == len(keys)
    found, cursor = [], ""
    while True:
        answer = api.get(f"{namespace}/keys", params={"prefix": "p/", "limit": 10, "cursor": cursor})
        found += [entry["name"] for entry in result(answer)]
        cursor = answer.json()["result_info"]["cursor"]
        if not cursor:
            break
    assert found == sorted(key for key in keys if key.startswith("p/"))
    assert [entry["name"] for entry in result(api.get(f"{namespace}/keys"))] == sorted(keys)
    error(api.get(f"{namespace}/keys", params={"cursor": "§"}), 400)
    error(api.get(f"{namespace}/keys", params={"limit": 9}), 400)


def test_bulk_writes_reads_and_deletes(api: EdgeClient, namespace: str):
    raw = os.urandom(50)
    entries = [
        {"key": "text", "value": "héllo", "metadata": {"x": [1]}, "expiration_ttl": 60},
        {"key": "raw", "value": base64.b64encode(raw).decode(), "base64": True},
        {"key": "json", "value": '{"n": 1}'},
    ]
    result(api.put(f"{namespace}/bulk", json=entries))
    assert api.get(f"{namespace}/values/raw").content == raw
    got = result(api.post(f"{namespace}/bulk/get", json={"keys": ["text", "none"], "withMetadata": True}))[
        "values"
    ]
    assert got["none"] is None
    assert got["text"]["value"] == "héllo"
    assert got["text"]["metadata"] == {"x": [1]}
    typed = result(api.post(f"{namespace}/bulk/get", json={"keys": ["json"], "type": "json"}))
    assert typed == {"values": {"json": {"n": 1}}}
    error(api.post(f"{namespace}/bulk/get", json={"keys": ["text"], "type": "json"}), 400)
    error(api.post(f"{namespace}/bulk/get", json={"keys": [str(n) for n in range(101)]}), 400)
    result(api.post(f"{namespace}/bulk/delete", json=["text", "raw", "never-there"]))
    result(api.request("DELETE", f"{namespace}/bulk", json=["json"]))
    assert result(api.get(f"{namespace}/keys")) == []


@pytest.mark.parametrize(
    "entries",
    [
        {},
        [{"key": "a"}],
        [{"key": "a", "value": 1}],
        [{"key": "", "value": ""}],
        [{"key": "a", "value": "%", "base64": True}],
        [{"key": "a", "value": "", "expiration_ttl": 1}],
        [{"key": "a", "value": ""}] * 10_001,
    ],
)
def test_a_bulk_write_with_one_bad_entry_writes_none(api: EdgeClient, namespace: str, entries):
    good = [{"key": "good", "value": "1"}]
    error(api.put(f"{namespace}/bulk", json=good + entries if isinstance(entries, list) else entries), 400)
    assert result(api.get(f"{namespace}/keys")) == []


def test_a_large_bulk_write_and_read_hold_up_nobody(edge: EdgeProcess, namespace: str):
    values = {f"k{number}": os.urandom(6000) for number in range(2000)}
    entries = [
        {"key": key, "value": base64.b64encode(value).decode(), "base64": True}
        for key, value in values.items()
    ]
    body = json.dumps([*entries, {"key": "one", "value": "é" * 5_000_000}])
    writing, reading = Neighbours(edge), Neighbours(edge)
    with edge.client(timeout_s=120) as api:
        written = writing.while_running(lambda: api.put(f"{namespace}/bulk", content=body))
        assert result(written)["successful_key_count"] == 2001
        read = reading.while_running(lambda: api.post(f"{namespace}/bulk/get", json={"keys": ["one"]}))
        assert result(read)["values"] == {"one": "é" * 5_000_000}
        assert api.get(f"{namespace}/values/k1999").content == values["k1999"]
    assert writing.longest_s < writing.took_s / 3


def test_a_body_of_millions_of_lists_is_refused_and_holds_up_nobody(edge: EdgeProcess, namespace: str):
    body, neighbours = b"[" + b",".join([b"[]"] * 5_000_000) + b"]", Neighbours(edge)
    with edge.client(timeout_s=120) as api:
        error(neighbours.while_running(lambda: api.put(f"{namespace}/bulk", content=body)), 400)
    assert neighbours.longest_s < neighbours.took_s / 3


def test_a_key_is_written_once_in_the_interval_whoever_writes(own_edge):
    edge = own_edge("--rate-limit", "0", "--kv-write-interval", "3600")
    with edge.client() as api:
        stage, bindings = (
            Stage(edge, api),
            [{"type": "kv_namespace", "name": "KV", "namespace_id": api.create_kv()}],
        )
        script, url = stage.deploy(bindings=bindings), f"{NAMESPACES}/{bindings[0]['namespace_id']}/values"
        error(api.put(f"{url}/a?expiration_ttl=1", content=b"refused, so it does not count"), 400)
        result(api.put(f"{url}/a", content=b"first"))
        error(api.put(f"{url}/a", content=b"second"), 429)
        error(api.put(f"{url}/a", files={"value": (None, "second"), "metadata": (None, "{}")}), 429)
        assert api.get(f"{url}/a").content == b"first"
        assert stage.call(script, "/kv/put?k=a&v=second").headers["x-thrown"]
        assert stage.call(script, "/kv/put?k=b&v=1").text == "ok"
        error(api.put(f"{url}/b", content=b"second"), 429)
        result(api.put(f"{NAMESPACES}/{api.create_kv()}/values/a", content=b"another namespace's"))


def test_a_key_may_be_written_again_after_the_interval(own_edge):
    edge = own_edge("--rate-limit", "0")
    with edge.client() as api:
        url = f"{NAMESPACES}/{api.create_kv()}/values/k"
        began, sent = time.monotonic(), 0
        while sent < 2:
            sent += api.put(url, content=b"v").status_code == 200
        assert time.monotonic() - began >= 1.0


@pytest.mark.acceptance("S4.5", "S4.31")
def test_another_account_finds_no_namespace_of_ours(api: EdgeClient, other_api: EdgeClient, namespace: str):
    result(api.put(f"{namespace}/values/k", content=b"ours"))
    for answer in (
        other_api.get(namespace),
        other_api.get(f"{namespace}/values/k"),
        other_api.put(f"{namespace}/values/k", content=b"theirs"),
        other_api.delete(f"{namespace}/values/k"),
        other_api.get(f"{namespace}/keys"),
        other_api.put(f"{namespace}/bulk", json=[{"key": "k", "value": "theirs"}]),
        other_api.put(namespace, json={"title": "theirs"}),
        other_api.delete(namespace),
    ):
        assert error(answer, 404) == 10013
    assert api.get(f"{namespace}/values/k").content == b"ours"
