"""The door behind a script's bindings, met by something that is not workerd: it gives nothing away and never breaks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector, web

from edge.bindings import handle
from edge.config import Account, Config
from edge.container import Edge
from edge.faults import Faults
from edge.lanes import Lanes
from edge.ratelimit import RateLimiter
from edge.state import State
from edge.storage import Storage
from edge.storage.d1 import NoSuchDatabase
from edge.storage.d1_engine import Shape, Statement
from edge.storage.kv_rules import NoSuchNamespace
from edge.storage.r2_rules import Attributes, NoSuchBucket
from tests.edge.harness import ACCOUNT_A, ACCOUNT_B


class Door:
    """A script's door with one namespace, bucket and database granted; each exists for another account too."""

    def __init__(
        self, edge: Edge, session: ClientSession, granted: dict[str, str], foreign: list[str]
    ) -> None:
        self.edge = edge
        self.session = session
        self.granted = granted
        self.foreign = foreign

    async def ask(
        self, method: str, path: str, resource: str, *, data: bytes = b"", **headers: str
    ) -> tuple[int, str, dict[str, str]]:
        sent = {
            "x-edge-resource": resource,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        async with self.session.request(method, f"http://door{path}", headers=sent, data=data) as answer:
            return answer.status, await answer.text(), {k.lower(): v for k, v in answer.headers.items()}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    state, lanes = State(tmp_path / "state.sqlite"), Lanes()
    storage = Storage(tmp_path, state, lanes, d1_timeout_s=5, kv_write_interval_s=0)
    await storage.start()
    edge = Edge(
        config=Config(data=tmp_path, accounts=(Account(id=ACCOUNT_A, tokens=()),)),
        state=state,
        lanes=lanes,
        storage=storage,
        faults=Faults(),
        limiter=RateLimiter(0, 1),
    )

    async def create(account: str) -> dict[str, str]:
        return {
            "kv": f"kv/{(await storage.kv.create_namespace(account, 'n')).id}",
            "r2": f"r2/{(await storage.r2.create_bucket(account, 'bucket-' + account[:4])).name}",
            "d1": f"d1/{(await storage.d1.create_database(account, 'd')).id}",
        }

    granted, foreign = await create(ACCOUNT_A), await create(ACCOUNT_B)
    grants = frozenset([*granted.values(), "queue/1"])

    async def answer(request: web.Request) -> web.StreamResponse:
        return await handle(request, edge, ACCOUNT_A, grants)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    async with ClientSession(connector=UnixConnector(path=str(tmp_path / "s"))) as session:
        yield Door(edge, session, granted, list(foreign.values()))
    await runner.cleanup()
    await lanes.stop()
    await state.close()


@pytest.mark.acceptance("S4.5")
async def test_what_was_not_granted_is_forbidden_whatever_it_is(door: Door):
    for resource in ("", "kv", "kv/", "kv/../" + ACCOUNT_B, "queue/1", "queue/2", *door.foreign):
        for method, path in (("GET", "/"), ("PUT", "/k"), ("POST", "/query")):
            status, _, _ = await door.ask(method, path, resource)
            assert status == 403


async def test_a_granted_resource_of_another_account_is_not_there_either(door: Door):
    kv, bucket, database = (resource.partition("/")[2] for resource in door.foreign)
    storage = door.edge.storage
    with pytest.raises(NoSuchNamespace):
        await storage.kv.list_keys(ACCOUNT_A, kv)
    with pytest.raises(NoSuchBucket):
        await storage.r2.list_objects(ACCOUNT_A, bucket)
    with pytest.raises(NoSuchDatabase):
        await storage.d1.query(ACCOUNT_A, database, [Statement("SELECT 1")], Shape.NONE)


@pytest.mark.parametrize(
    ("method", "path", "headers", "data"),
    [
        ("POST", "/", {}, b""),
        ("PATCH", "/k", {}, b""),
        ("GET", "/%FF", {}, b""),
        ("GET", "/" + "k" * 513, {}, b""),
        ("PUT", "/k?expiration=soon", {}, b"v"),
        ("PUT", "/k", {"cf_kv_metadata": "{"}, b"v"),
        ("GET", "/?key_count_limit=0", {}, b""),
        ("GET", "/?key_count_limit=5000", {}, b""),
        ("POST", "/bulk/get", {}, b"{"),
        ("POST", "/bulk/get", {}, b'{"keys": [1]}'),
        ("POST", "/bulk/get", {}, b'{"keys": ["a"], "type": "xml"}'),
    ],
)
async def test_a_malformed_kv_request_is_a_4xx_with_its_reason(
    door: Door, method: str, path: str, headers: dict[str, str], data: bytes
):
    status, text, _ = await door.ask(method, path, door.granted["kv"], data=data, **headers)
    assert 400 <= status < 500
    assert text


@pytest.mark.parametrize(
    "asked",
    [
        None,
        "{",
        "[]",
        {},
        {"method": "explode"},
        {"method": "get"},
        {"method": "get", "object": ""},
        {"method": "get", "object": "k", "onlyIf": 1},
        {"method": "get", "object": "k", "onlyIf": {"etagMatches": ["x"]}},
        {"method": "get", "object": "k", "range": {"offset": "x"}},
        {"method": "list", "limit": 0},
        {"method": "list", "cursor": "%"},
    ],
)
async def test_a_malformed_r2_request_is_an_error_in_its_header(door: Door, asked: object):
    text = asked if isinstance(asked, str) else json.dumps(asked)
    headers = {} if asked is None else {"cf_r2_request": text}
    status, _, answered = await door.ask("GET", "/", door.granted["r2"], data=b"", **headers)
    assert 400 <= status < 500
    assert json.loads(answered["cf-r2-error"])["v4code"]


@pytest.mark.parametrize(
    ("size", "asked"),
    [
        ("", {}),
        ("x", {}),
        ("99999999", {}),
        ("5", {"method": "put"}),
        ("99", {"method": "put", "object": "k"}),
        (None, {"method": "put"}),
        (None, {"method": "put", "object": "k", "sha1": "zz"}),
        (None, {"method": "put", "object": "k", "customFields": [1]}),
        (None, {"method": "put", "object": "k", "httpFields": {"contentType": "a\r\nb"}}),
        (None, {"method": "put", "object": "k", "storageClass": "Cheap"}),
        (None, {"method": "delete", "objects": "k"}),
        (None, {"method": "delete"}),
        (None, {"method": "uploadPart", "object": "k", "uploadId": "u", "partNumber": 0}),
        (None, {"method": "completeMultipartUpload", "object": "k", "uploadId": "u", "parts": [{}]}),
        (None, {"method": "abortMultipartUpload", "object": "k", "uploadId": "u"}),
    ],
)
async def test_a_malformed_r2_write_is_an_error_in_its_header_and_writes_nothing(
    door: Door, size: str | None, asked: dict[str, object]
):
    body = json.dumps(asked).encode()
    resource = door.granted["r2"]
    size = str(len(body)) if size is None else size
    status, _, answered = await door.ask("PUT", "/", resource, data=body, cf_r2_metadata_size=size)
    assert 400 <= status < 500
    assert json.loads(answered["cf-r2-error"])["v4code"]
    listing = await door.edge.storage.r2.list_objects(ACCOUNT_A, resource.partition("/")[2])
    assert listing.objects == []


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/dump", b"{}"),
        ("/query", b""),
        ("/query", b"1"),
        ("/query", b"[1]"),
        ("/query", b'{"sql": 1}'),
        ("/query?resultsFormat=XML", b'{"sql": "SELECT 1"}'),
        ("/query", b'{"sql": "SELECT ?", "params": [{}]}'),
        ("/execute", b'[{"sql": "SELEC"}]'),
    ],
)
async def test_a_malformed_d1_request_is_an_error_in_its_body(door: Door, path: str, data: bytes):
    status, text, _ = await door.ask("POST", path, door.granted["d1"], data=data)
    answer = json.loads(text)
    answer = answer[-1] if isinstance(answer, list) else answer
    assert status == 200
    assert answer["success"] is False
    assert answer["error"]


async def test_deleting_what_is_being_written_ends_in_not_found(door: Door):
    storage, bucket = door.edge.storage, door.granted["r2"].partition("/")[2]

    async def late() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        await storage.r2.delete_bucket(ACCOUNT_A, bucket)
        yield b"x"

    with pytest.raises(NoSuchBucket):
        await storage.r2.put(ACCOUNT_A, bucket, "k", late(), Attributes())
    with pytest.raises(NoSuchBucket):
        await storage.r2.get_bucket(ACCOUNT_A, bucket)
    assert list((door.edge.config.data / "r2" / ACCOUNT_A).iterdir()) == []
