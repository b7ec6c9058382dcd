"""A gateway that is told to end: no new work, running work finished or honestly ended, exit 0."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import httpx
import pytest

from tests.dataplane.harness import (
    Caller,
    GatewayProcess,
    Publisher,
    RedisProcess,
    StandInProcess,
    World,
    call_of,
    events_of,
    modern_request,
    next_event,
)
from tests.waiting import wait_for


@pytest.fixture
def mortal(tmp_path: Path, own_redis: RedisProcess, standin: StandInProcess) -> Iterator[World]:
    """A gateway of the test's own, to be ended."""
    publisher = Publisher(own_redis.url)
    publisher.new_epoch()
    gateway = GatewayProcess(
        tmp_path, redis_url=own_redis.url, dispatch_ring=standin.dispatch_ring, drain_s="3"
    )
    gateway.start()
    with httpx.Client(timeout=20) as http:
        yield World(gateway, standin, publisher, http)
    gateway.stop()
    publisher.close()


def test_sigterm_with_nothing_to_do_is_exit_0_at_once(mortal: World) -> None:
    mortal.gateway.terminate()
    assert mortal.gateway.wait(8) == 0
    assert "gateway.stopped" in mortal.gateway.log
    assert "Traceback" not in mortal.gateway.log


def test_running_calls_finish_and_new_ones_are_turned_away(mortal: World) -> None:
    caller = mortal.caller(mortal.server("ending"))
    answers: list[httpx.Response] = []
    running = Thread(target=lambda: answers.append(caller.call("wait", permit="ending")))
    running.start()
    wait_for(lambda: mortal.standin.seen, 5)
    with caller.stream(body=call_of("stream", count=2, permit="ending-stream")) as response:
        mortal.standin.go("ending-stream")
        lines = response.iter_lines()
        assert next_event(lines)
        mortal.gateway.terminate()
        wait_for(lambda: not is_listening(mortal.gateway.port), 3, what="the door to be closed")
        assert httpx.get(f"{mortal.gateway.admin_url}/readyz").status_code == 503
        mortal.standin.go("ending-stream")
        mortal.standin.go("ending")
        assert next_event(lines)
        assert '"result"' in next_event(lines)["data"]
    running.join()
    assert answers[0].status_code == 200
    assert mortal.gateway.wait(8) == 0


def test_an_open_connection_may_bring_one_last_request(mortal: World) -> None:
    """It could be on its way already, and a balancer would not dare to send it elsewhere."""
    caller = mortal.caller(mortal.server("ending-last"))
    with caller.stream(body=call_of("stream", count=1, permit="ending-last")) as holding:
        assert holding.status_code == 200
        with httpx.Client(timeout=20) as http:
            there = Caller(http, caller.url, None)
            there.headers = caller.headers
            assert "connection" not in there.call("echo").headers
            mortal.gateway.terminate()
            wait_for(lambda: not is_listening(mortal.gateway.port), 3, what="the door to be closed")
            last = there.call("echo")
            assert (last.status_code, last.headers["connection"]) == (200, "close")
            with pytest.raises(httpx.ConnectError):
                there.call("echo")
        mortal.standin.go("ending-last")
        assert '"result"' in holding.read().decode()
    assert mortal.gateway.wait(8) == 0


def test_who_was_let_in_by_the_system_is_served(mortal: World) -> None:
    """Connected, and their requests sent, before the gateway closed its door or accepted them."""
    caller = mortal.caller(mortal.server("ending-backlog"))
    body = json.dumps(call_of("echo")).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in caller.headers.items())
    request = f"POST {httpx.URL(caller.url).path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{head}content-length: {len(body)}\r\n\r\n"
    os.kill(mortal.gateway.pid, signal.SIGSTOP)
    try:
        clients = [socket.create_connection(("127.0.0.1", mortal.gateway.port), 10) for _ in range(20)]
        for client in clients:
            client.sendall(request.encode() + body)
        mortal.gateway.terminate()
    finally:
        os.kill(mortal.gateway.pid, signal.SIGCONT)
    for client in clients:
        with client:
            answer = client.makefile("rb").read()  # to the end of the connection
            assert answer.startswith(b"HTTP/1.1 200 ")
    assert mortal.gateway.wait(8) == 0


def test_who_only_listens_is_sent_elsewhere_at_once(mortal: World) -> None:
    legacy = mortal.caller(mortal.server("ending-listen", mortal.target("scripted-stateful")))
    modern = Caller(mortal.http, legacy.url, mortal.key())
    body, headers = modern_request("subscriptions/listen", {"notifications": {}}, request_id="sub")
    with legacy.stream("GET") as one, modern.stream(body=body, **headers) as two:
        assert two.status_code == 200, two.read()
        two_lines = two.iter_lines()
        assert next_event(two_lines)
        mortal.gateway.terminate()
        assert one.read().decode().strip().endswith("retry: 1000")
        last = next_event(two_lines)["data"]
    assert '"resultType":"complete"' in last
    assert '"io.modelcontextprotocol/subscriptionId":"sub"' in last
    assert mortal.gateway.wait(8) == 0


def test_a_call_that_outlasts_the_drain_ends_in_an_honest_error(mortal: World) -> None:
    caller = mortal.caller(mortal.server("ending-long"))
    with caller.stream(body=call_of("stream", count=2, permit="never")) as response:
        wait_for(lambda: mortal.standin.seen, 5)
        mortal.gateway.terminate()
        told = response.read().decode()
    assert events_of(told)[-1]["error"]["message"] == "this gateway is shutting down"
    assert mortal.gateway.wait(8) == 0


def test_a_json_call_that_outlasts_the_drain_is_not_left_hanging(mortal: World) -> None:
    caller = mortal.caller(mortal.server("ending-hang"))
    answers: list[httpx.Response] = []
    running = Thread(target=lambda: answers.append(caller.call("hang")))
    running.start()
    wait_for(lambda: mortal.standin.seen, 5)
    mortal.gateway.terminate()
    running.join(10)
    assert answers[0].status_code == 503
    assert answers[0].json()["error"]["message"] == "this gateway is shutting down"
    assert mortal.gateway.wait(8) == 0


def test_a_second_sigterm_does_not_wait(mortal: World) -> None:
    caller = mortal.caller(mortal.server("ending-twice"))
    with caller.stream(body=call_of("stream", count=1, permit="never")) as response:
        wait_for(lambda: mortal.standin.seen, 5)
        mortal.gateway.terminate()
        wait_for(lambda: "gateway.draining" in mortal.gateway.log, 3)
        mortal.gateway.terminate()
        response.read()
    assert mortal.gateway.wait(8) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"SMCP_DATAPLANE_KEYS": ""}, "SMCP_DATAPLANE_KEYS is not set"),
        ({"SMCP_DATAPLANE_KEYS": "k1:tooshort"}, "SMCP_DATAPLANE_KEYS: key 'k1'"),
        ({"SMCP_PROBE_KEY": "x"}, "SMCP_PROBE_KEY"),
        ({"SMCP_GATEWAY_PORT": "http"}, "SMCP_GATEWAY_PORT is not a number"),
        ({"SMCP_GATEWAY_URL": "ftp://x"}, "SMCP_GATEWAY_URL"),
    ],
)
def test_a_wrong_environment_is_one_sentence_and_exit_2(
    tmp_path: Path, own_redis: RedisProcess, standin: StandInProcess, change: dict[str, str], said: str
) -> None:
    gateway = GatewayProcess(tmp_path, redis_url=own_redis.url, dispatch_ring=standin.dispatch_ring)
    gateway.environ.update(change)
    gateway.spawn()
    assert gateway.wait() == 2
    assert said in gateway.log
    assert len(gateway.log.splitlines()) == 1


@pytest.mark.parametrize("which", ["SMCP_GATEWAY_PORT", "SMCP_GATEWAY_ADMIN_PORT"])
def test_a_port_in_use_is_one_sentence_and_exit_1(
    tmp_path: Path, own_redis: RedisProcess, standin: StandInProcess, which: str
) -> None:
    gateway = GatewayProcess(tmp_path, redis_url=own_redis.url, dispatch_ring=standin.dispatch_ring)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gateway.environ[which] = str(taken.getsockname()[1])
        gateway.spawn()
        assert gateway.wait() == 1
    assert "cannot listen" in gateway.log
    assert "Traceback" not in gateway.log


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
