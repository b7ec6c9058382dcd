"""Processes come and go: asleep when idle, back on demand, gone with the edge, never orphaned."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.edge.harness import ACCOUNT_A, EdgeProcess, error, result, unique
from tests.edge.scripts import EVERYTHING, Stage, until, workerd_pids

Start = Callable[..., EdgeProcess]
HELLO = "export default { fetch() { return new Response('hello') } }"


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"workerd\0")
    except FileNotFoundError:
        return False


def test_an_idle_script_is_stopped_and_starts_again_on_demand(own_edge: Start) -> None:
    edge = own_edge("--rate-limit", "0", "--idle", "0.5")
    with edge.client(ACCOUNT_A) as api:
        stage = Stage(edge, api)
        name = stage.deploy()
        assert stage.call(name, "/grow?mb=1").text == "1"
        until(lambda: not workerd_pids(edge))
        assert stage.call(name, "/kept").text == "0"


def test_an_edge_that_stops_is_not_ready_while_its_streams_end(own_edge: Start) -> None:
    edge = own_edge("--rate-limit", "0")
    assert edge.process is not None
    with edge.client(ACCOUNT_A) as api, httpx.Client(trust_env=False, timeout=30) as client:
        stage = Stage(edge, api)
        headers = stage.headers(stage.deploy())
        with client.stream("GET", edge.workers_url + "/events", headers=headers) as events:
            chunks = events.iter_raw()
            assert next(chunks)
            edge.process.send_signal(signal.SIGTERM)
            stopping = until(lambda: [a for a in [client.get(edge.url + "/readyz")] if a.status_code == 503])[
                0
            ]
            assert stopping.json()["checks"]["serving"] is False
    assert edge.process.wait(20) == 0


def test_what_a_script_prints_takes_little_room_however_much_it_is(own_edge: Start) -> None:
    edge = own_edge("--rate-limit", "0")
    code = """export default { fetch() {
        const line = "x".repeat(10_000);
        for (let n = 0; n < 4000; n++) console.log(line);
        return new Response("printed");
    } }"""
    with edge.client(ACCOUNT_A) as api:
        stage = Stage(edge, api)
        assert stage.call(stage.deploy(code)).text == "printed"
        scripts = edge.data / "scripts"
        until(lambda: list(scripts.glob("*/console.log.1")))
        until(lambda: all(log.stat().st_size < 1024 for log in scripts.glob("*/console.log")))
        assert all(log.stat().st_size <= 8 * 1024 * 1024 for log in scripts.glob("*/console.log.1"))


async def test_a_script_with_an_open_stream_is_not_idle(own_edge: Start) -> None:
    edge = await asyncio.to_thread(own_edge, "--rate-limit", "0", "--idle", "0.5")
    with edge.client(ACCOUNT_A) as api:
        stage = await asyncio.to_thread(Stage, edge, api)
        name = await asyncio.to_thread(stage.deploy)
        async with stage.session(name) as session, session.get(stage.url("/events?ms=50")) as stream:
            for number in range(60):
                assert (await stream.content.readline()).decode().strip() == f"data: {number}"
                await stream.content.readline()


def test_a_cold_start_is_shared_by_all_who_wait_for_it(own_edge: Start) -> None:
    edge = own_edge("--rate-limit", "0")
    with edge.client(ACCOUNT_A) as api:
        stage = Stage(edge, api)
        name = stage.deploy()
        edge.stop()
        edge.start()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: stage.call(name, "/grow?mb=0").text, range(8)))
        assert sorted(answers) == sorted(str(number) for number in range(1, 9))
        assert len(workerd_pids(edge)) == 2


def test_a_script_is_back_after_its_process_crashed(own_edge: Start) -> None:
    edge = own_edge("--rate-limit", "0")
    with edge.client(ACCOUNT_A) as api:
        stage = Stage(edge, api)
        name = stage.deploy()
        assert stage.call(name, "/grow?mb=1").text == "1"
        for pid in workerd_pids(edge):
            os.kill(pid, signal.SIGKILL)
        assert stage.call(name, "/kept").text == "0"


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_processes_end_with_the_edge_and_it_serves_again_after(own_edge: Start, how: str) -> None:
    edge = own_edge("--rate-limit", "0")
    with edge.client(ACCOUNT_A) as api:
        stage = Stage(edge, api)
        names = [stage.deploy(bindings=stage.storage()) for _ in range(2)]
        stage.call(names[0], "/kv/put?k=a&v=kept")
        pids = workerd_pids(edge)
        assert len(pids) == 3
        getattr(edge, how)()
        until(lambda: not [pid for pid in pids if is_alive(pid)])
        edge.start()
        assert stage.call(names[0], "/kv/get?k=a").json() == "kept"
        assert stage.call(names[1], "/kv/get?k=a").json() is None
        assert len(list((edge.data / "scripts").glob("*/r*"))) == len(workerd_pids(edge)) == 3


def test_an_orphan_of_a_dead_edge_is_killed_at_the_next_start(own_edge: Start) -> None:
    """A process that outlived its edge (here: a stand-in with its notes) must not go on serving old code."""
    edge = own_edge("--rate-limit", "0")
    with edge.client(ACCOUNT_A) as api:
        stage = Stage(edge, api)
        name = stage.deploy(HELLO)
    edge.kill()
    orphan = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        text = Path(f"/proc/{orphan.pid}/stat").read_text()
        started = text[text.rindex(")") + 2 :].split()[19]
        [*_, place] = sorted((edge.data / "scripts").iterdir())
        run = place / "rdead"
        run.mkdir()
        (run / "pid").write_text(f"{orphan.pid} {started}")
        stranger = place / "rstranger"
        stranger.mkdir()
        (stranger / "pid").write_text(f"{os.getpid()} 1")
        edge.start()
        assert orphan.wait(10) == -signal.SIGKILL
        assert not run.exists()
        assert not stranger.exists()
        assert stage.call(name).text == "hello"
    finally:
        orphan.kill()
        orphan.wait()


def test_what_was_answered_survives_a_kill_of_the_edge(own_edge: Start) -> None:
    edge = own_edge("--rate-limit", "0")
    with edge.client(ACCOUNT_A) as api:
        stage = Stage(edge, api)
        name = stage.deploy(HELLO, tags=["kept"])
        result(
            api.put(f"{stage.path}/{name}/secrets", json={"name": "S", "text": "x", "type": "secret_text"})
        )
        gone = stage.deploy(HELLO)
        result(api.delete(f"{stage.path}/{gone}"))
        edge.kill()
        edge.start()
        assert result(api.get(f"{stage.path}/{name}/tags")) == ["kept"]
        assert [item["name"] for item in result(api.get(f"{stage.path}/{name}/secrets"))] == ["S"]
        assert error(api.get(f"{stage.path}/{gone}"), 404) == 10092
        assert stage.call(name).text == "hello"


def test_modules_nobody_needs_are_removed(own_edge: Start) -> None:
    edge = own_edge("--rate-limit", "0")
    with edge.client(ACCOUNT_A) as api:
        stage = Stage(edge, api)
        modules = edge.data / "modules"
        present = set(os.listdir(modules))
        shared = [stage.deploy(HELLO) for _ in range(2)]
        assert len(set(os.listdir(modules)) - present) == 1
        stage.deploy(EVERYTHING, name=shared[0])
        assert len(set(os.listdir(modules)) - present) == 2
        for name in shared:
            result(api.delete(f"{stage.path}/{name}"))
        assert set(os.listdir(modules)) == present
        assert error(stage.upload(unique("bad"), "export default { fetch( }"), 400) == 10021
        edge.stop()
        edge.start()
        assert set(os.listdir(modules)) == present


def test_beyond_the_number_that_may_run_the_longest_unused_rest(own_edge: Start) -> None:
    edge = own_edge("--rate-limit", "0", "--max-running", "3")
    with edge.client(ACCOUNT_A) as api:
        stage = Stage(edge, api)
        names = [stage.deploy(HELLO) for _ in range(6)]
        until(lambda: len(workerd_pids(edge)) <= 3)
        assert [stage.call(name).text for name in names] == ["hello"] * 6


def test_a_workerd_that_does_not_run_is_one_clear_sentence(tmp_path: Path) -> None:
    false = tmp_path / "workerd"
    false.write_text("#!/bin/sh\nexit 3\n")
    false.chmod(0o755)
    edge = EdgeProcess(tmp_path / "data", "--workerd", str(false))
    done = subprocess.run(edge.command(), env=edge.environ, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("edge: workerd does not start")
    assert "Traceback" not in done.stderr


def test_an_upload_whose_answer_is_lost_was_carried_out_and_can_be_repeated(stage: Stage) -> None:
    name = unique("script")
    fault = {"operation": "scripts.put", "kind": "lost_answer", "contains": name}
    made = httpx.post(f"{stage.edge.url}/_edge/faults", json=fault, headers=dict(stage.api.headers))
    assert made.status_code == 201
    with pytest.raises(httpx.TransportError):
        stage.upload(name, HELLO)
    assert stage.call(name).text == "hello"
    result(stage.upload(name, HELLO))
