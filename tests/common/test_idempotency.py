"""`Idempotency-Key` over HTTP, with real concurrency."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from django.utils import timezone

from smcp.common.idempotency import Claim, IdempotentRequest, KeptAnswer, KeyInUse
from smcp.common.ids import new_id
from smcp.common.tenancy import as_operator, as_tenant
from tests.restdoor import RestDoor, TenantAtTheDoor, make_operator, make_tenant
from tests.rooms import make_room

pytestmark = pytest.mark.usefixtures("committed_db")


@pytest.fixture
def acme(rest_door: RestDoor) -> TenantAtTheDoor:
    make_room()
    return make_tenant(rest_door)


def test_a_repeated_request_gets_the_first_answer_and_has_no_second_effect(acme: TenantAtTheDoor) -> None:
    caller, headers = acme.caller(), {"idempotency-key": "once"}
    first = caller.post(f"{acme.path}/servers", json={"slug": "one"}, headers=headers)
    again = caller.post(f"{acme.path}/servers", json={"slug": "one"}, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"]
    assert len(caller.ok("GET", f"{acme.path}/servers")["items"]) == 1


def test_a_key_used_for_another_request_is_refused(acme: TenantAtTheDoor) -> None:
    caller, headers = acme.caller(), {"idempotency-key": '"once"'}
    caller.ok("POST", f"{acme.path}/servers", json={"slug": "one"}, headers=headers)
    refused = caller.post(f"{acme.path}/servers", json={"slug": "two"}, headers={"idempotency-key": "once"})
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:smcp:problem:idempotency-key-reused")
    elsewhere = caller.post(
        f"{acme.path}/api-keys",
        json={"name": "x", "scopes": ["api:read"]},
        headers={"idempotency-key": "once"},
    )
    assert elsewhere.status_code == 422


def test_after_an_error_the_same_key_serves_the_corrected_request(acme: TenantAtTheDoor) -> None:
    caller, headers = acme.caller(), {"idempotency-key": "mend"}
    assert caller.post(f"{acme.path}/servers", json={"slug": "No"}, headers=headers).status_code == 422
    assert caller.post(f"{acme.path}/servers", json={"slug": "yes"}, headers=headers).status_code == 201


@pytest.mark.parametrize("key", ["x" * 256, "ключ"])
def test_a_key_that_cannot_be_kept_is_refused(acme: TenantAtTheDoor, key: str) -> None:
    answer = acme.caller().request(
        "POST",
        f"{acme.path}/servers",
        json={"slug": "one"},
        headers={"idempotency-key": key.encode()},  # type: ignore[dict-item]
    )
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:smcp:problem:idempotency-key-invalid")


def test_keys_of_different_callers_have_nothing_to_do_with_each_other(
    rest_door: RestDoor, acme: TenantAtTheDoor
) -> None:
    other, headers = make_tenant(rest_door), {"idempotency-key": "same"}
    for tenant in (acme, other):
        made = tenant.caller().ok("POST", f"{tenant.path}/servers", json={"slug": "one"}, headers=headers)
        assert made["slug"] == "one"
    assert (
        acme.caller("api:write")
        .post(f"{acme.path}/servers", json={"slug": "one"}, headers=headers)
        .status_code
        == 409
    )


@pytest.mark.parametrize("callers", [2, 8])
def test_of_many_at_the_same_time_exactly_one_does_the_work(acme: TenantAtTheDoor, callers: int) -> None:
    caller, together = acme.caller(), Barrier(callers)

    def ask(_: int) -> tuple[int, str]:
        together.wait(20)
        answer = caller.post(
            f"{acme.path}/api-keys",
            json={"name": "raced", "scopes": ["api:read"]},
            headers={"idempotency-key": "race"},
        )
        return answer.status_code, answer.json().get("key") or answer.json()["type"]

    with ThreadPoolExecutor(callers) as pool:
        answers = list(pool.map(ask, range(callers)))
    made = {key for status, key in answers if status == 201}
    others = {code for status, code in answers if status != 201}
    assert len(made) == 1
    assert others <= {"urn:smcp:problem:idempotency-key-in-use"}
    keys = caller.ok("GET", f"{acme.path}/api-keys?limit=100")["items"]
    assert [key["name"] for key in keys].count("raced") == 1


def test_without_a_key_every_request_is_its_own(acme: TenantAtTheDoor) -> None:
    body = {"name": "same", "scopes": ["api:read"]}
    made = {acme.caller().ok("POST", f"{acme.path}/api-keys", json=body)["id"] for _ in range(2)}
    assert len(made) == 2


def test_operators_have_keys_outside_any_tenant(rest_door: RestDoor) -> None:
    operator, slug = make_operator(rest_door), f"n{new_id()[-12:]}"
    answers = [
        operator.post("/tenants", json={"slug": slug, "name": "x"}, headers={"idempotency-key": slug})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()


def test_a_kept_answer_is_sealed(acme: TenantAtTheDoor) -> None:
    made = acme.caller().ok(
        "POST",
        f"{acme.path}/api-keys",
        json={"name": "x", "scopes": ["api:read"]},
        headers={"idempotency-key": "secret"},
    )
    with as_tenant(acme.id):
        row = IdempotentRequest.objects.get(key="secret")
    assert row.answer_sealed
    assert made["key"] not in row.answer_sealed
    assert made["id"] not in row.answer_sealed


def test_a_claim_whose_holder_died_is_taken_over_in_time(acme: TenantAtTheDoor) -> None:
    now = timezone.now()
    claim = Claim(tenant_id=acme.id, principal="key:x", key="died", fingerprint="0" * 64)
    with as_tenant(acme.id):
        assert claim.take(now=now) is None
    with as_tenant(acme.id), pytest.raises(KeyInUse):
        claim.take(now=now + timedelta(seconds=60))
    with as_tenant(acme.id):
        assert claim.take(now=now + timedelta(seconds=121)) is None
        claim.keep(KeptAnswer(status=201, body={"done": True}))
    with as_tenant(acme.id):
        assert claim.take(now=now + timedelta(seconds=122)) == KeptAnswer(status=201, body={"done": True})


def test_a_tenant_never_sees_what_operators_claimed(acme: TenantAtTheDoor) -> None:
    with as_operator():
        Claim(tenant_id=None, principal="operator:x", key=new_id(), fingerprint="0" * 64).take(
            now=timezone.now()
        )
        assert IdempotentRequest.objects.filter(principal="operator:x").exists()
    with as_tenant(acme.id):
        assert not IdempotentRequest.objects.filter(tenant=None).exists()
