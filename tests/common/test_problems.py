"""Every error of the REST door is problem+json, says which request it was, and gives nothing away."""

from __future__ import annotations

import json
import socket

import pytest

from smcp.common.errors import DomainError
from tests.restdoor import RestDoor, TenantAtTheDoor, make_tenant
from tests.rooms import make_room

pytestmark = pytest.mark.usefixtures("committed_db")


@pytest.fixture
def acme(rest_door: RestDoor) -> TenantAtTheDoor:
    make_room()
    return make_tenant(rest_door)


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "code"),
    [
        ("GET", "/nothing/here", {}, 404, "not-found"),
        ("GET", "{t}/servers/none", {}, 404, "not-found"),
        ("GET", "{t}/servers/none/environments/production", {}, 404, "not-found"),
        ("PUT", "{t}/servers", {}, 405, "method-not-allowed"),
        ("POST", "{t}/servers", {"content": b"{"}, 400, "body-invalid"),
        ("POST", "{t}/servers", {"content": b'{"slug": "a\\u0000"}'}, 400, "body-invalid"),
        ("POST", "{t}/servers", {"content": b'{"slug": "\\ud800"}'}, 400, "body-invalid"),
        ("POST", "{t}/servers", {"content": b"[" * 50_000}, 400, "body-invalid"),
        ("POST", "{t}/servers", {"content": b"\xff\xfe"}, 400, "body-invalid"),
        ("POST", "{t}/servers", {"content": b'"text"'}, 422, "invalid"),
        ("POST", "{t}/servers", {"json": {"slug": "ok", "colour": "red"}}, 422, "invalid"),
        ("POST", "{t}/servers", {"json": {"slug": "ok", "kind": "stdio"}}, 422, "server-kind-not-offered"),
        ("POST", "{t}/servers", {"json": {"slug": "ok", "kind": "hub"}}, 422, "server-kind-not-offered"),
        ("POST", "{t}/servers", {"json": {"slug": "Not Ok"}}, 422, "slug-invalid"),
        ("POST", "{t}/servers", {"json": {"catalog": "none"}}, 422, "invalid"),
        ("POST", "{t}/servers", {"json": {}}, 422, "invalid"),
        ("GET", "{t}/servers?limit=0", {}, 422, "invalid"),
        ("GET", "{t}/servers?limit=101", {}, 422, "invalid"),
        ("GET", "{t}/servers?limit=x", {}, 422, "invalid"),
        ("GET", "{t}/servers?cursor=made-up", {}, 422, "cursor-invalid"),
        ("GET", "{t}/servers?cursor=%00", {}, 400, "bad-request"),
        ("GET", "{t}/servers/a%00b", {}, 400, "bad-request"),
        ("GET", "{t}/servers/x/versions/99999999999999999999", {}, 404, "not-found"),
        ("GET", "{t}/servers/%ff%fe", {}, 404, "not-found"),
        ("POST", "{t}/servers", {"content": b"x" * 1_100_000}, 413, "too-large"),
    ],
)
def test_errors_are_problems(
    acme: TenantAtTheDoor, method: str, path: str, sent: dict[str, object], status: int, code: str
) -> None:
    answer = acme.caller().request(method, path.replace("{t}", acme.path), **sent)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:smcp:problem:{code}"), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"].rstrip(".").lower() != problem["title"].rstrip(".").lower()
    for error in problem.get("errors", ())[:1]:
        assert error["detail"] in problem["detail"] or code == "server-kind-not-offered"
    assert problem["instance"].startswith("/api/v1/")
    assert answer.headers["x-request-id"] == problem["request_id"] != ""
    assert answer.headers["cache-control"] == "no-store"


def test_a_405_says_what_is_allowed(acme: TenantAtTheDoor) -> None:
    assert {"GET", "POST"} <= set(
        acme.caller().request("PUT", f"{acme.path}/servers").headers["allow"].split(", ")
    )


def test_fields_are_named_with_what_is_wrong(acme: TenantAtTheDoor) -> None:
    answer = acme.caller().post(f"{acme.path}/servers", json={"slug": "ok", "name": "", "colour": 1})
    assert {error["field"] for error in answer.json()["errors"]} == {"name", "colour"}


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        ("/servers", {"slug": "ok", "colour": 1}, "colour: There is no such field here."),
        ("/servers", {"slug": 7}, "slug: Must be text."),
        ("/servers", {"slug": "ok", "name": ""}, "name: May not be empty."),
        ("/servers", {"slug": "x" * 25}, "slug: At most 24 characters."),
        ("/servers", {"slug": "ok", "name": "", "kind": 1}, "name: May not be empty. (and 1 more)"),
        ("/servers", {"catalog": "none"}, "catalog: There is no such entry."),
        ("/api-keys", {"scopes": []}, "name: It is needed. (and 1 more)"),
        ("/api-keys", {"name": "k", "scopes": []}, "scopes: May not be empty."),
        ("/api-keys", {"name": "k", "scopes": ["mcp:call"], "expires_at": "2027-06-30T00:00:00"},
         "expires_at: The time needs its zone, such as Z for UTC."),
        ("/servers/s/environments/production/deployments", {"versions": []}, "versions: May not be empty."),
        ("/servers/s/environments/production/deployments", {"versions": [{"version": 1, "percentage": 0.123}]},
         "versions.0.percentage: At most 2 decimals."),
        ("/servers/s/environments/production/deployments", {"versions": [{"version": 9, "percentage": 100}]},
         "versions.0.version: There is no such version."),
    ],
)  # fmt: skip
def test_the_detail_is_the_first_reason_in_plain_words(
    acme: TenantAtTheDoor, path: str, body: dict[str, object], detail: str
) -> None:
    caller = acme.caller()
    caller.ok("POST", f"{acme.path}/servers", json={"slug": "s"})
    refused = caller.post(f"{acme.path}{path}", json=body)
    assert (refused.status_code, refused.json()["detail"]) == (422, detail)


def test_a_limit_is_said_as_a_plain_number(acme: TenantAtTheDoor) -> None:
    caller = acme.caller("api:write")
    caller.ok("POST", f"{acme.path}/servers", json={"slug": "s"})
    where = f"{acme.path}/servers/s/environments/production"
    refused = caller.request("PATCH", where, json={"limits": {"request_bytes": 10**9}})
    assert refused.json()["detail"] == "limits.request_bytes: Must be above 0 and at most 16777216."


def test_a_body_too_large_is_said_in_mebibytes_under_the_clients_own_id(acme: TenantAtTheDoor) -> None:
    caller, headers = acme.caller("api:write"), {"x-request-id": "mine-1"}
    refused = caller.post(f"{acme.path}/servers", content=b"x" * 1_100_000, headers=headers)
    assert refused.json()["detail"] == "At most 1 MiB."
    assert refused.json()["request_id"] == refused.headers["x-request-id"] == "mine-1"


def test_a_plain_request_id_is_kept_and_any_other_is_replaced(acme: TenantAtTheDoor) -> None:
    caller = acme.caller()
    assert caller.get(acme.path, headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    assert caller.get(acme.path, headers={"x-request-id": "a b\t<x>"}).headers["x-request-id"] != "a b\t<x>"


def test_a_body_that_does_not_say_its_length_is_cut_off_too(
    rest_door: RestDoor, acme: TenantAtTheDoor
) -> None:
    """Chunked, and far beyond the limit: refused while it is still coming."""
    host, port = rest_door.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = (
            f"POST /api/v1{acme.path}/servers HTTP/1.1\r\nhost: {host}\r\n"
            f"authorization: Bearer {acme.keys['api:write']}\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        connection.sendall(head.encode())
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        try:
            for _ in range(40):
                connection.sendall(chunk)
        except OSError:
            pass  # it hung up on us, as it should
        answer = connection.makefile("rb").readline()
    assert answer.startswith(b"HTTP/1.1 413")


def test_every_domain_error_has_a_line_in_the_table() -> None:
    from smcp.api import STATUS

    def family(kind: type[DomainError]) -> list[type[DomainError]]:
        return [each for child in kind.__subclasses__() for each in (child, *family(child))]

    kinds = family(DomainError)
    assert kinds
    assert [kind for kind in kinds if not any(issubclass(kind, known) for known, _ in STATUS)] == []
    codes = {json.dumps(kind.code) for kind in kinds}
    assert all(code.strip('"').replace("-", "").isalnum() for code in codes)
