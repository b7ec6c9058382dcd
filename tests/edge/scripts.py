"""Deploying Workers to a test's edge and calling them through a dispatcher of the account."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from aiohttp import ClientSession

from tests.edge.harness import EdgeClient, EdgeProcess, result, unique

WORKERS = Path(__file__).parent / "workers"
EVERYTHING = (WORKERS / "everything.js").read_text()
DISPATCHER = (WORKERS / "dispatcher.js").read_text()
ESM = "application/javascript+module"
DATE = "2026-11-01"
OBJECTS: dict[str, Any] = {
    "bindings": [{"type": "durable_object_namespace", "name": "COUNTER", "class_name": "Counter"}],
    "migrations": {"new_tag": "v1", "new_sqlite_classes": ["Counter"]},
}


def multipart(
    code: str | bytes, metadata: Mapping[str, Any], modules: Mapping[str, tuple[str, bytes]] | None = None
) -> Any:
    """The files of an upload: `index.js`, further modules by name as (content type, bytes), and the metadata."""
    settings = {"main_module": "index.js", "compatibility_date": DATE, **metadata}
    parts: list[Any] = [("metadata", (None, json.dumps(settings)))]
    parts.append(("index.js", ("index.js", code, ESM)))
    parts += [(name, (name, content, kind)) for name, (kind, content) in (modules or {}).items()]
    return parts


class Stage:
    """A dispatch namespace and the dispatcher in front of it, in one account of one edge."""

    def __init__(self, edge: EdgeProcess, api: EdgeClient) -> None:
        self.edge = edge
        self.api = api
        self.namespace = unique("ns")
        self.dispatcher = unique("dispatcher")
        result(api.post("/workers/dispatch/namespaces", json={"name": self.namespace}))
        binding = {"type": "dispatch_namespace", "name": "DISPATCHER", "namespace": self.namespace}
        result(
            api.put(
                f"/workers/scripts/{self.dispatcher}", files=multipart(DISPATCHER, {"bindings": [binding]})
            )
        )

        result(api.post(f"/workers/scripts/{self.dispatcher}/subdomain", json={"enabled": True}))

    @property
    def host(self) -> str:
        return f"{self.dispatcher}.{self.api.account[:8]}.workers.localhost"

    @property
    def path(self) -> str:
        return f"/workers/dispatch/namespaces/{self.namespace}/scripts"

    def upload(self, name: str, code: str | bytes = EVERYTHING, **metadata: Any) -> httpx.Response:
        return self.api.put(f"{self.path}/{name}", files=multipart(code, metadata))

    def deploy(self, code: str | bytes = EVERYTHING, *, name: str | None = None, **metadata: Any) -> str:
        """Upload a script that must be accepted; its name."""
        name = name or unique("script")
        result(self.upload(name, code, **metadata))
        return name

    def headers(self, script: str, **headers: str) -> dict[str, str]:
        return {"host": self.host, "x-to": script, **headers}

    def call(
        self,
        script: str,
        path: str = "/",
        *,
        method: str = "GET",
        content: bytes | str | None = None,
        timeout_s: float = 30,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=timeout_s) as client:
            return client.request(
                method,
                self.edge.workers_url + path,
                headers={**self.headers(script), **(headers or {})},
                content=content,
            )

    def session(self, script: str) -> ClientSession:
        """An aiohttp session for streams and WebSockets, which are reached by `url`."""
        return ClientSession(headers=self.headers(script))

    def url(self, path: str) -> str:
        return self.edge.workers_url + path

    def storage(self) -> list[dict[str, Any]]:
        """Bindings KV, BUCKET and DB to new stores of the account."""
        return [
            {"type": "kv_namespace", "name": "KV", "namespace_id": self.api.create_kv()},
            {"type": "r2_bucket", "name": "BUCKET", "bucket_name": self.api.create_r2()},
            {"type": "d1", "name": "DB", "id": self.api.create_d1()},
        ]


def until(condition: Callable[[], Any], timeout_s: float = 20) -> Any:
    """Wait for a condition to hold; what it returned then."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)
    return found


def workerd_pids(edge: EdgeProcess) -> set[int]:
    """The workerd processes that are children of this edge."""
    assert edge.process is not None
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if parent_of(path) == edge.process.pid and (path / "cmdline").read_bytes().startswith(
                b"workerd\0"
            ):
                found.add(int(path.name))
        except OSError:
            continue
    return found


def parent_of(path: Path) -> int:
    text = (path / "stat").read_text()
    return int(text[text.rindex(")") + 2 :].split()[1])
