"""Uploads over HTTP, tried in the real sandbox: workerd on the edge, asked by a real worker."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.files.storage import storages

from hosting.models import Version
from hosting.uploads import BODY_BYTES_MAX, TOTAL_BYTES_MAX
from smcp.common.tenancy import as_tenant
from tests.hosting.api.test_servers import make_server
from tests.parts import Parts
from tests.restdoor import RestDoor, TenantAtTheDoor, upload_parts

JS = "application/javascript+module"
GOOD = b'export default { async fetch() { return new Response("hi") } }'
METADATA = {"main_module": "worker.js", "compatibility_date": "2026-10-01"}


def upload(
    tenant: TenantAtTheDoor,
    server: str,
    code: bytes = GOOD,
    *,
    metadata: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    modules: dict[str, tuple[str, bytes]] | None = None,
) -> httpx.Response:
    files = upload_parts({**METADATA, **(metadata or {})}, {"worker.js": (JS, code), **(modules or {})})
    return tenant.caller("api:write").post(f"{server}/versions", files=files, headers=headers)


def left_behind(tenant: TenantAtTheDoor) -> list[str]:
    """Blobs and rows of the tenant."""
    folder = Path(storages["blobs"].path(tenant.id))
    blobs = [path.name for path in folder.rglob("*") if path.is_file()]
    with as_tenant(tenant.id):
        return blobs + [str(version) for version in Version.objects.all()]


@pytest.mark.acceptance("S4.34")
def test_good_code_becomes_a_version_with_its_handlers(busy_acme: TenantAtTheDoor) -> None:
    server = make_server(busy_acme)
    made = upload(
        busy_acme,
        server,
        metadata={
            "bindings": [{"type": "kv_namespace", "name": "KV"}, {"type": "secret_text", "name": "TOKEN"}],
            "annotations": {"workers/message": "first"},
        },
        modules={"lib/note.txt": ("text/plain", b"a note")},
    )
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"/api/v1{server}/versions/1"
    version = made.json()
    assert version["handlers"] == ["fetch"]
    assert [module["name"] for module in version["modules"]] == ["worker.js", "lib/note.txt"]
    assert version["annotations"] == {"message": "first"}
    caller = busy_acme.caller("api:read")
    assert caller.ok("GET", f"{server}/versions/1") == version
    assert caller.ok("GET", f"{server}/versions")["items"] == [version]
    assert caller.get(f"{server}/versions/{10**20}").status_code == 404
    actions = [event["action"] for event in caller.ok("GET", f"{busy_acme.path}/audit-events")["items"]]
    assert actions.count("version.uploaded") == 1


def test_the_same_content_again_is_the_same_version(busy_acme: TenantAtTheDoor) -> None:
    server = make_server(busy_acme)
    assert upload(busy_acme, server).status_code == 201
    again = upload(busy_acme, server, metadata={"annotations": {"workers/tag": "again"}})
    assert (again.status_code, again.json()["number"]) == (200, 1)
    assert upload(busy_acme, server, GOOD + b"// two").json()["number"] == 2


def test_the_same_content_at_the_same_time_is_one_version(busy_acme: TenantAtTheDoor) -> None:
    server = make_server(busy_acme)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: upload(busy_acme, server), range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 201]
    assert {answer.json()["number"] for answer in answers} == {1}


def test_a_tenant_uploads_a_few_at_a_time_and_is_told_to_wait(busy_acme: TenantAtTheDoor) -> None:
    server = make_server(busy_acme)
    with ThreadPoolExecutor(12) as pool:
        codes = [b"// %d\n%s" % (number, GOOD) for number in range(12)]
        answers = list(pool.map(lambda code: upload(busy_acme, server, code), codes))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert {answer.json()["type"] for answer in refused} == {"urn:smcp:problem:too-many-uploads"}
    numbers = sorted(answer.json()["number"] for answer in answers if answer.status_code == 201)
    assert numbers == list(range(1, 13 - len(refused)))


def test_an_upload_with_a_key_happens_once_whatever_its_boundary(busy_acme: TenantAtTheDoor) -> None:
    server, headers = make_server(busy_acme), {"idempotency-key": "upload-1"}
    first, again = (upload(busy_acme, server, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert upload(busy_acme, server, GOOD + b" ", headers=headers).status_code == 422


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (b"export default {", "SyntaxError"),
        (b'import x from "./missing.js"; export default { fetch() {} }', "missing"),
        (b'throw new Error("at the top"); export default { fetch() {} }', "at the top"),
        (b"export const nothing = 1", ""),
    ],
)
def test_code_that_does_not_load_is_refused_with_the_runtimes_reason_and_leaves_nothing(
    busy_acme: TenantAtTheDoor, code: bytes, said: str
) -> None:
    server = make_server(busy_acme)
    refused = upload(busy_acme, server, code, headers={"idempotency-key": "bad"})
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:smcp:problem:code-refused"), (
        refused.text
    )
    assert said in refused.json()["detail"]
    assert left_behind(busy_acme) == []
    assert upload(busy_acme, server, headers={"idempotency-key": "bad"}).status_code == 201


def test_a_refused_upload_takes_only_its_own_bytes_away(busy_acme: TenantAtTheDoor) -> None:
    server, shared = make_server(busy_acme), {"shared.txt": ("text/plain", b"shared")}
    assert upload(busy_acme, server, modules=shared).status_code == 201
    before = sorted(left_behind(busy_acme))
    assert upload(busy_acme, server, b"export default {", modules=shared).status_code == 422
    assert sorted(left_behind(busy_acme)) == before


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ({"main_module": "none.js"}, "upload-invalid"),
        ({"bindings": [{"type": "kv_namespace", "name": "KV", "namespace_id": "x"}]}, "binding-refused"),
        ({"compatibility_date": "2026-02-31"}, "compatibility-refused"),
    ],
)
def test_what_the_table_refuses_is_refused_over_http_too(
    acme: TenantAtTheDoor, metadata: dict[str, Any], code: str
) -> None:
    refused = upload(acme, make_server(acme), metadata=metadata)
    assert (refused.status_code, refused.json()["type"]) == (422, f"urn:smcp:problem:{code}")
    assert left_behind(acme) == []


def test_too_much_is_refused_before_it_is_kept(acme: TenantAtTheDoor) -> None:
    server = make_server(acme)
    modules = {"big.bin": ("application/octet-stream", b"x" * TOTAL_BYTES_MAX)}
    refused = upload(acme, server, modules=modules)
    assert (refused.status_code, refused.json()["type"]) == (413, "urn:smcp:problem:upload-too-large")
    beyond = acme.caller("api:write").post(
        f"{server}/versions",
        content=b"x" * (BODY_BYTES_MAX + 1),
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    assert (beyond.status_code, beyond.json()["type"]) == (413, "urn:smcp:problem:too-large")
    for answer in (refused, beyond):
        assert "At most 10 MiB in all modules together" in answer.json()["detail"]
    assert left_behind(acme) == []


@pytest.fixture(params=["refuses", "takes connections and says nothing"])
def lost_redis(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a Redis that is no help."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"redis://127.0.0.1:{1 if request.param == 'refuses' else listener.getsockname()[1]}/0"


def test_with_no_way_to_the_workers_it_says_when_to_come_back_and_leaves_nothing(
    parts: Parts, acme: TenantAtTheDoor, free_port: int, lost_redis: str
) -> None:
    server = make_server(acme)
    cut_off = RestDoor(parts, free_port, REDIS_URL=lost_redis)
    cut_off.start()
    try:
        acme.door = cut_off
        refused = upload(acme, server, headers={"idempotency-key": "later"})
    finally:
        cut_off.stop()
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:smcp:problem:check-unavailable")
    assert int(refused.headers["retry-after"]) > 0
    assert left_behind(acme) == []
