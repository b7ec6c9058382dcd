"""From an upload to the code that serves: check, try, commit, switch. In that order, so a failure leaves the old script serving.

The new code is loaded in a process of its own first; workerd's complaint is the answer (10021). That same process then serves,
unless the script has Durable Objects, whose data it was not given. A crash before the commit leaves the old script, after it the new
one. Changes to one script wait for each other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from edge.container import Edge
from edge.envelope import ApiError
from edge.runtime.process import Process, StartFailed
from edge.runtime.supervisor import Runtime
from edge.scripts.bindings import Binding
from edge.scripts.errors import InvalidUpload, NamespaceNotFound, NotFound
from edge.scripts.metadata import Draft, draft
from edge.scripts.model import (
    NamedHandlers,
    ObjectClass,
    Script,
    ScriptKey,
    new_tag,
    now_text,
)
from edge.uploads import Upload

MAX_ACCOUNT_SCRIPTS = 500


def runtime_of(edge: Edge) -> Runtime:
    assert isinstance(edge.runtime, Runtime)
    return edge.runtime


class Deployer:
    """Everything that changes a script."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._runtime = runtime_of(edge)
        self._store = self._runtime.store

    async def upload(self, key: ScriptKey, upload: Upload) -> Script:
        """Put the uploaded code in the script's place, or make the script. Raises ApiError."""
        async with self._runtime.lock(key):
            current = await self._current(key)
            made = draft(
                key, upload.metadata, upload.modules, current=current, newest_date=self._runtime.newest_date
            )
            return await self._deploy(key, current, made)

    async def change(self, key: ScriptKey, change: Callable[[Script], Draft]) -> Script:
        """Put an altered version of the present code in its place. Raises ApiError, NotFound."""
        async with self._runtime.lock(key):
            current = await self._current(key)
            if current is None:
                raise NotFound(in_namespace=bool(key.namespace))
            return await self._deploy(key, current, change(current))

    async def annotate(self, key: ScriptKey, change: Callable[[Script], Script]) -> Script:
        """Change what the running code does not see (tags, shown settings). Raises NotFound."""
        async with self._runtime.lock(key):
            current = await self._store.find(key)
            if current is None:
                raise NotFound(in_namespace=bool(key.namespace))
            changed = msgspec.structs.replace(change(current), modified_at=now_text())
            await self._store.save(changed)
            self._runtime.update(changed)
            return changed

    async def delete(self, keys: Sequence[ScriptKey]) -> None:
        """Delete those that are there, with their Durable Objects."""
        for key in keys:
            async with self._runtime.lock(key):
                orphans = await self._store.delete([key])
                await self._runtime.remove(key)
                self._runtime.files.remove(orphans)

    async def _current(self, key: ScriptKey) -> Script | None:
        if key.namespace and await self._store.find_namespace(key.account, key.namespace) is None:
            raise NamespaceNotFound
        return await self._store.find(key)

    async def _deploy(self, key: ScriptKey, current: Script | None, made: Draft) -> Script:
        if current is None and not key.namespace:
            await self._check_room(key.account)
        await self._check_exist(key.account, made.version.bindings)
        now = now_text()
        script = Script(
            account=key.account,
            namespace=key.namespace,
            name=key.name,
            slot=current.slot if current else await self._store.take_slot(),
            tag=current.tag if current else new_tag(),
            created_at=current.created_at if current else now,
            modified_at=now,
            version=made.version,
            tags=made.tags,
            classes=made.classes,
            migration_tag=made.migration_tag,
            is_on_subdomain=current.is_on_subdomain if current else False,
        )
        digests = {module.digest for module in script.version.modules}
        settled = asyncio.create_task(self._runtime.files.settle(digests))
        async with self._tried(script, current.classes if current else ()) as (tried, loaded):
            await settled
            orphans = await self._store.save(loaded)
            self._runtime.serve(loaded, tried)
        self._runtime.files.remove(orphans)
        return loaded

    @asynccontextmanager
    async def _tried(
        self, script: Script, present: Iterable[ObjectClass]
    ) -> AsyncIterator[tuple[Process, Script]]:
        """The script loaded in a process of its own, with its exports filled in. The process ends unless it is serving after."""
        process = self._runtime.try_out(script)
        began = time.perf_counter()
        try:
            await process.start()
            startup_ms = round((time.perf_counter() - began) * 1000)
            exports = await process.exports()
        except StartFailed as exc:
            await process.kill()
            if exc.is_its_fault:
                raise InvalidUpload(str(exc)) from exc
            raise ApiError(500, 10013, "The script could not be tried out; try again.") from exc
        try:
            loaded = with_exports(script, exports, {item.name for item in present}, startup_ms)
            process.script = loaded
            yield process, loaded
        except BaseException:
            await process.kill()
            raise
        if loaded.classes:
            await process.kill()

    async def _check_room(self, account: str) -> None:
        if len(await self._store.list_scripts(account, "")) >= MAX_ACCOUNT_SCRIPTS:
            raise InvalidUpload(f"An account has at most {MAX_ACCOUNT_SCRIPTS} Workers.", 10037)

    async def _check_exist(self, account: str, bindings: Iterable[Binding]) -> None:
        """Raises InvalidUpload with Cloudflare's code for the first binding of something the account does not have."""
        for binding in bindings:
            look: Awaitable[object]
            match binding["type"]:
                case "kv_namespace":
                    look = self._edge.storage.kv.get_namespace(account, binding["namespace_id"])
                    missing = f"KV namespace '{binding['namespace_id']}' not found.", 10041
                case "r2_bucket":
                    look = self._edge.storage.r2.get_bucket(account, binding["bucket_name"])
                    missing = f"R2 bucket '{binding['bucket_name']}' not found.", 10085
                case "d1":
                    look = self._edge.storage.d1.get_database(account, binding["id"])
                    missing = (
                        f"D1 binding '{binding['name']}' references database '{binding['id']}' which was not found.",
                        10181,
                    )
                case "dispatch_namespace":
                    if await self._store.find_namespace(account, binding["namespace"]) is None:
                        raise InvalidUpload(f"Dispatch namespace '{binding['namespace']}' not found.", 100119)
                    continue
                case _:
                    continue
            try:
                await look
            except ApiError as exc:
                raise InvalidUpload(*missing) from exc


def with_exports(
    script: Script, exports: Sequence[Mapping[str, Any]], present: set[str], startup_ms: int
) -> Script:
    """The script with its handlers noted. Raises InvalidUpload when it has none, or lacks a Durable Object class."""
    classes = {
        export["name"]
        for export in exports
        if export["kind"] == "durable_object" or export["kind"] == "class"
    }
    for item in script.classes:
        if item.name in classes:
            continue
        if item.name in present:
            raise InvalidUpload(
                f"New version of script does not export class '{item.name}' which is depended on by existing "
                "Durable Objects. Delete the class by a migration to remove its objects.",
                10064,
            )
        raise InvalidUpload(
            f"Cannot apply new-class migration to class '{item.name}' that is not exported by script", 10070
        )
    handlers = next((tuple(export["handlers"]) for export in exports if export["name"] == "default"), ())
    named = tuple(
        NamedHandlers(
            name=export["name"],
            handlers=("class",) if export["name"] in classes else tuple(export["handlers"]),
        )
        for export in exports
        if export["name"] != "default"
    )
    if not handlers and not any(item.handlers for item in named):
        raise InvalidUpload("The uploaded script has no registered event handlers.", 10068)
    version = msgspec.structs.replace(
        script.version, handlers=handlers, named_handlers=named, startup_time_ms=startup_ms
    )
    return msgspec.structs.replace(script, version=version)
