"""The client against the real edge: names adopted, errors told apart, nothing repeated that must not be, and no token anywhere."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from hosting.cloudflare.client import HttpCloudflare
from hosting.cloudflare.errors import (
    CODES,
    Busy,
    CloudflareError,
    Conflict,
    NotEmpty,
    NotFound,
    RateLimited,
    Rejected,
    Unauthorised,
    Unavailable,
    error_of,
)
from hosting.cloudflare.multipart import encode
from hosting.cloudflare.port import Cloudflare, Module, ScriptUpload
from tests.parts import PlatformEdge

WORKER = b"export default { fetch() { return new Response('hi') } }"


class Account:
    """The client under test, with its permits counted, and the edge's faults."""

    def __init__(self, edge: PlatformEdge) -> None:
        self.edge = edge
        self.permits = 0
        self.http = HttpCloudflare(
            base_url=edge.api_url,
            account_id=edge.account_id,
            token=edge.token,
            dispatch_namespace="client-under-test",
            permit=self._permit,
            timeout_s=5,
        )
        self.client: Cloudflare = self.http

    @contextmanager
    def _permit(self) -> Iterator[None]:
        self.permits += 1
        yield

    def fault(self, operation: str, kind: str, **more: object) -> None:
        answer = httpx.post(
            f"{self.edge.url}/_edge/faults",
            json={"operation": operation, "kind": kind, **more},
            headers={"authorization": f"Bearer {self.edge.token}"},
            trust_env=False,
        )
        assert answer.status_code == 201, answer.text


@pytest.fixture
def account(edge: PlatformEdge) -> Iterator[Account]:
    under_test = Account(edge)
    under_test.client.ensure_dispatch_namespace()
    under_test.permits = 0
    yield under_test
    under_test.http.close()
    httpx.delete(
        f"{edge.url}/_edge/faults", headers={"authorization": f"Bearer {edge.token}"}, trust_env=False
    )


def fresh(prefix: str = "smcp-t") -> str:
    return f"{prefix}-{secrets.token_hex(8)}"


def upload(code: bytes = WORKER, **more: object) -> ScriptUpload:
    return ScriptUpload(
        main_module="w.js",
        modules=[Module(name="w.js", content_type="application/javascript+module", content=code)],
        compatibility_date="2026-10-01",
        **more,  # type: ignore[arg-type]
    )


# ── Creating and adopting ────────────────────────────────────────────────────────────────────────────────────────────


def test_making_the_same_thing_twice_gives_the_same_thing(account: Account) -> None:
    name = fresh()
    for ensure in (
        account.client.ensure_kv_namespace,
        account.client.ensure_r2_bucket,
        account.client.ensure_d1_database,
    ):
        first, second = ensure(name), ensure(name)
        assert first.id == second.id
        assert first.name == name


@pytest.mark.parametrize("product", ["kv", "r2", "d1"])
def test_what_was_made_although_its_answer_was_lost_is_adopted(account: Account, product: str) -> None:
    ensure = {
        "kv": account.client.ensure_kv_namespace,
        "r2": account.client.ensure_r2_bucket,
        "d1": account.client.ensure_d1_database,
    }[product]
    lists = {
        "kv": account.client.list_kv_namespaces,
        "r2": account.client.list_r2_buckets,
        "d1": account.client.list_d1_databases,
    }[product]
    name = fresh()
    account.fault(f"{product}.create", "lost_answer")
    found = ensure(name)
    assert [thing.id for thing in lists() if thing.name == name] == [found.id]


def test_a_creation_is_not_repeated_blindly(account: Account) -> None:
    account.fault("kv.create", "status", status=502, times=1)
    with pytest.raises(Unavailable):
        account.client.ensure_kv_namespace(fresh())
    assert account.permits == 2  # the creation, and one look whether it happened


def test_reading_is_repeated_once_and_only_once(account: Account) -> None:
    account.fault("d1.list", "drop", times=1)
    list(account.client.list_d1_databases())
    account.fault("d1.list", "drop", times=2)
    with pytest.raises(Unavailable):
        list(account.client.list_d1_databases())


def test_deleting_what_is_gone_is_no_error(account: Account) -> None:
    account.client.delete_kv_namespace("0" * 32)
    account.client.delete_d1_database("00000000-0000-4000-8000-000000000000")
    account.client.delete_r2_bucket(fresh())
    account.client.delete_script(fresh())
    account.client.delete_account_script(fresh())


def test_lists_end_at_their_last_page(account: Account) -> None:
    for prefix in ("smcp-a", "smcp-b"):
        account.client.ensure_kv_namespace(fresh(prefix))
    account.permits = 0
    listed = list(account.client.list_kv_namespaces())
    assert len({thing.id for thing in listed}) == len(listed) >= 2
    assert account.permits == 1


# ── Scripts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_scripts_come_and_go_by_name_and_by_tag(account: Account) -> None:
    name, tag = fresh(), f"tag-{secrets.token_hex(6)}"
    assert account.client.get_script(name) is None
    account.client.put_script(name, upload(tags=[tag]))
    assert [found.name for found in account.client.list_scripts(tag=tag)] == [name]
    assert account.client.get_script(name) is not None
    account.client.delete_scripts_tagged(tag)
    assert list(account.client.list_scripts(tag=tag)) == []


def test_an_upload_that_lost_its_answer_may_be_repeated(account: Account) -> None:
    name = fresh()
    account.fault("scripts.put", "lost_answer", times=1)
    account.client.put_script(name, upload())
    assert account.client.get_script(name) is not None
    account.client.delete_script(name)


def test_an_upload_has_the_shape_wrangler_gives_it() -> None:
    body, content_type = encode(upload(cpu_ms=50, tags=["a"], egress=["example.com:443"]))
    request = httpx.Request("PUT", "http://x", content=body, headers={"content-type": content_type})
    head = request.content.decode()
    assert 'name="metadata"\r\n\r\n{' in head, "the metadata has no file name and no content type"
    assert 'name="w.js"; filename="w.js"\r\nContent-Type: application/javascript+module\r\n\r\nexport' in head
    assert '"limits": {"cpu_ms": 50}' in head
    assert '"egress": {"allow": ["example.com:443"]}' in head


def test_a_module_name_cannot_break_out_of_its_header() -> None:
    nasty = Module(name='a"\r\nx: y', content_type="text/plain\r\nx: y", content=b"")
    body, _ = encode(ScriptUpload(main_module="a", modules=[nasty], compatibility_date="2026-10-01"))
    assert b"\r\nx: y" not in body


# ── Errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_code_the_runtime_refuses_is_rejected_in_the_vendors_words(account: Account) -> None:
    with pytest.raises(Rejected) as refused:
        account.client.put_script(fresh(), upload(b"export default {"))
    assert refused.value.permanent
    assert refused.value.code == 10021
    assert "SyntaxError" in refused.value.message


def test_a_bucket_with_objects_is_not_empty(account: Account) -> None:
    name = fresh()
    account.client.ensure_r2_bucket(name)
    url = f"{account.edge.api_url}/accounts/{account.edge.account_id}/r2/buckets/{name}/objects/x"
    authorization = {"authorization": f"Bearer {account.edge.token}"}
    httpx.put(url, content=b"x", headers=authorization, trust_env=False).raise_for_status()
    with pytest.raises(NotEmpty):
        account.client.delete_r2_bucket(name)
    httpx.delete(url, headers=authorization, trust_env=False).raise_for_status()
    account.client.delete_r2_bucket(name)


def test_a_429_says_when_to_come_back_whatever_its_code(account: Account) -> None:
    account.fault("kv.list", "status", status=429, code=10013, retry_after_s=17, times=1)
    with pytest.raises(RateLimited) as refused:
        list(account.client.list_kv_namespaces())
    assert refused.value.retry_after_s == 17
    assert account.permits == 1, "a refusal for haste is not answered with haste"


@pytest.mark.parametrize("kind", ["drop", "lost_answer"])
def test_a_broken_connection_leaves_the_outcome_unknown(account: Account, kind: str) -> None:
    account.fault("kv.list", kind, times=None)
    with pytest.raises(Unavailable) as failed:
        list(account.client.list_kv_namespaces())
    assert failed.value.outcome_unknown
    assert not failed.value.permanent


def test_a_slow_answer_is_given_up_and_not_repeated(account: Account, edge: PlatformEdge) -> None:
    account.fault("d1.list", "latency", delay_s=3, times=1)
    hasty = HttpCloudflare(
        base_url=edge.api_url,
        account_id=edge.account_id,
        token=edge.token,
        dispatch_namespace="x",
        timeout_s=0.3,
    )
    with hasty, pytest.raises(Unavailable) as failed:
        list(hasty.list_d1_databases())
    assert "in time" in failed.value.message


def test_nobody_there_and_somebody_else_there_are_both_unavailable(edge: PlatformEdge) -> None:
    for base_url in ("http://127.0.0.1:1/client/v4", edge.workers_url):
        with (
            HttpCloudflare(
                base_url=base_url, account_id=edge.account_id, token="t" * 20, dispatch_namespace="x"
            ) as client,
            pytest.raises(CloudflareError),
        ):
            client.verify_token()


@pytest.mark.acceptance("S4.19")
def test_the_token_is_in_no_message_no_log_and_no_repr(
    edge: PlatformEdge, caplog: pytest.LogCaptureFixture
) -> None:
    token = "wrong-token-" + secrets.token_hex(12)
    caplog.set_level(logging.DEBUG)
    with HttpCloudflare(
        base_url=edge.api_url, account_id=edge.account_id, token=token, dispatch_namespace="x"
    ) as client:
        with pytest.raises(Unauthorised) as refused:
            client.verify_token()
        with pytest.raises(Unauthorised):
            client.ensure_kv_namespace(fresh())
        seen = f"{refused.value!r}{refused.value}{client!r}{vars(client)!r}{vars(refused.value)!r}"
    assert token not in seen
    assert token not in caplog.text


def test_codes_mean_what_they_mean_in_their_own_product_only() -> None:
    def kind(product: str, status: int, code: int) -> type[CloudflareError]:
        return type(error_of(product=product, status=status, code=code, message="", retry_after_s=None))

    assert kind("kv", 404, 10013) is NotFound
    assert kind("kv", 500, 10013) is Unavailable
    assert kind("workers", 500, 10013) is Unavailable
    assert kind("kv", 400, 10014) is Conflict
    assert kind("workers", 400, 10014) is Rejected
    assert kind("r2", 404, 10006) is NotFound
    assert kind("workers", 400, 10006) is Rejected
    assert kind("workers", 409, 10035) is Busy
    assert kind("r2", 403, 10000) is Unauthorised
    assert kind("d1", 429, 7500) is RateLimited
    assert set(CODES) == {"workers", "kv", "r2", "d1"}
