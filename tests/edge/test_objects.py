"""Durable Objects: their data, alarms and WebSockets through uploads, idleness, crashes and restarts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse

from tests.edge.harness import ACCOUNT_A, EdgeProcess, error, result
from tests.edge.scripts import EVERYTHING, OBJECTS, Stage, until, workerd_pids

Start = Callable[..., EdgeProcess]


def objects(stage: Stage, **metadata: Any) -> str:
    """A script with the Durable Object class Counter and a KV namespace."""
    kv = {"type": "kv_namespace", "name": "KV", "namespace_id": stage.api.create_kv()}
    return stage.deploy(bindings=[*OBJECTS["bindings"], kv], migrations=OBJECTS["migrations"], **metadata)


def test_data_survives_an_upload(stage: Stage) -> None:
    name = objects(stage)
    assert [stage.call(name, "/object/add").json() for _ in range(2)] == [1, 2]
    stage.deploy(EVERYTHING.replace("VERSION", "second"), name=name, bindings=OBJECTS["bindings"])
    assert stage.call(name, "/version").text == "second"
    assert stage.call(name, "/object/add").json() == 3


def test_a_refused_upload_does_not_touch_the_data(stage: Stage) -> None:
    name = objects(stage)
    assert stage.call(name, "/object/add").json() == 1
    assert error(stage.upload(name, "throw new Error('x')", bindings=[]), 400) == 10021
    assert stage.call(name, "/object/add").json() == 2


def test_a_renamed_class_keeps_its_data_and_a_deleted_one_loses_it(stage: Stage) -> None:
    name = objects(stage)
    assert stage.call(name, "/object/add").json() == 1
    renamed = EVERYTHING.replace("class Counter", "class Tally")
    binding = {"type": "durable_object_namespace", "name": "COUNTER", "class_name": "Tally"}
    steps = {"old_tag": "v1", "new_tag": "v2", "renamed_classes": [{"from": "Counter", "to": "Tally"}]}
    stage.deploy(renamed, name=name, bindings=[binding], migrations=steps)
    assert stage.call(name, "/object/add").json() == 2
    removed = {"old_tag": "v2", "new_tag": "v3", "deleted_classes": ["Tally"]}
    stage.deploy(name=name, migrations=removed)
    again = {"old_tag": "v3", "new_tag": "v4", "new_sqlite_classes": ["Counter"]}
    stage.deploy(name=name, bindings=OBJECTS["bindings"], migrations=again)
    assert stage.call(name, "/object/add").json() == 1


def test_exports_declare_classes_as_migrations_do(stage: Stage) -> None:
    exports = {"Counter": {"type": "durable-object", "storage": "sqlite"}}
    name = stage.deploy(bindings=OBJECTS["bindings"], exports=exports)
    assert stage.call(name, "/object/add").json() == 1
    stage.deploy(name=name, bindings=OBJECTS["bindings"], exports=exports)
    assert stage.call(name, "/object/add").json() == 2


def test_an_alarm_fires(stage: Stage) -> None:
    name = objects(stage)
    stage.call(name, "/object/wake?ms=50")
    until(lambda: stage.call(name, "/object/count?name=alarm").json() == 1)


def test_data_survives_a_crash_of_the_process(own_edge: Start) -> None:
    edge = own_edge("--rate-limit", "0")
    with edge.client(ACCOUNT_A) as api:
        stage = Stage(edge, api)
        name = objects(stage)
        assert stage.call(name, "/object/add").json() == 1
        before = workerd_pids(edge)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not before & workerd_pids(edge))
        assert stage.call(name, "/object/add").json() == 2
        assert not before & workerd_pids(edge)


def test_an_alarm_is_honoured_although_nobody_calls_after_a_restart(own_edge: Start) -> None:
    """The alarm writes to KV, which is read without waking the script."""
    edge = own_edge("--rate-limit", "0")
    with edge.client(ACCOUNT_A) as api:
        stage = Stage(edge, api)
        name = objects(stage)
        script = result(api.get(f"{stage.path}/{name}/bindings"))
        [namespace] = [item["namespace_id"] for item in script if item["type"] == "kv_namespace"]
        value = f"/storage/kv/namespaces/{namespace}/values/alarm"
        stage.call(name, "/object/wake?ms=3000")
        edge.kill()
        edge.start()
        until(lambda: api.get(value).text == "1")


def test_a_sleeping_script_is_woken_by_its_alarm(own_edge: Start) -> None:
    edge = own_edge("--rate-limit", "0", "--idle", "1")
    with edge.client(ACCOUNT_A) as api:
        stage = Stage(edge, api)
        name = objects(stage)
        bindings = result(api.get(f"{stage.path}/{name}/bindings"))
        [namespace] = [item["namespace_id"] for item in bindings if item["type"] == "kv_namespace"]
        stage.call(name, "/object/wake?ms=5000")
        until(lambda: not workerd_pids(edge))
        value = f"/storage/kv/namespaces/{namespace}/values/alarm"
        until(lambda: api.get(value).text == "1")


async def say(socket: ClientWebSocketResponse, text: str) -> dict[str, Any]:
    await socket.send_str(text)
    answer: dict[str, Any] = await socket.receive_json(timeout=10)
    return answer


@pytest.mark.acceptance("S0.8")
async def test_a_websocket_outlives_the_hibernation_of_its_object(stage: Stage) -> None:
    name = objects(stage)
    async with stage.session(name) as session, session.ws_connect(stage.url("/object/socket")) as socket:
        first = await say(socket, "one")
        assert (first["echo"], first["heard"]) == ("one", 1)

        async def reborn() -> dict[str, Any]:
            # workerd puts an object to rest after ten quiet seconds; only the attachment remembers.
            silent_s = 10.5
            while True:
                try:
                    raise AssertionError(await socket.receive(timeout=silent_s))
                except TimeoutError:
                    answer = await say(socket, "again")
                if answer["born"] != first["born"]:
                    return answer

        answer = await asyncio.wait_for(reborn(), 60)
        assert answer["heard"] >= 2


async def test_websockets_to_objects_work_again_after_a_restart_of_the_edge(own_edge: Start) -> None:
    edge = await asyncio.to_thread(own_edge, "--rate-limit", "0")
    with edge.client(ACCOUNT_A) as api:
        stage = await asyncio.to_thread(Stage, edge, api)
        name = await asyncio.to_thread(objects, stage)
        async with stage.session(name) as session, session.ws_connect(stage.url("/object/socket")) as socket:
            first = await say(socket, "one")
            await asyncio.to_thread(edge.kill)
            closed = await socket.receive(timeout=10)
            assert closed.data is None or isinstance(closed.data, int)
        await asyncio.to_thread(edge.start)
        async with stage.session(name) as session, session.ws_connect(stage.url("/object/socket")) as socket:
            assert (await say(socket, "two"))["born"] != first["born"]
