"""`make up` from its first start to every way it can end."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import stat
from pathlib import Path

import httpx
import psutil
import pytest

from tests.parts import LOOPBACK
from tests.stack.harness import StackRun

pytestmark = pytest.mark.timeout(240)


def tools_by_the_printed_command(run: StackRun) -> list[str]:
    """Does what the curl line on the screen says, and returns the names of the tools."""
    line = next(
        line for line in run.output.splitlines() if line.startswith(f"curl {run.summary['gateway']}/")
    )
    _, url, *flags = shlex.split(line)
    options = list(zip(flags[::2], flags[1::2], strict=True))
    headers = dict(value.split(": ", 1) for flag, value in options if flag == "-H")
    body = next(value for flag, value in options if flag == "-d")
    answer = httpx.post(url, content=body, headers=headers, timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    data = next((line[5:] for line in answer.text.splitlines() if line.startswith("data:")), answer.text)
    return [tool["name"] for tool in json.loads(data)["result"]["tools"]]


@pytest.mark.acceptance("S0.22", "P12")
def test_a_first_start_brings_up_the_platform_with_a_live_server(whole_stack: StackRun) -> None:
    run = whole_stack.start()
    summary = run.summary
    for door in ("api", "console"):
        assert httpx.get(f"{summary[door]}/healthz", trust_env=False).status_code == 200
    assert "calculator" in tools_by_the_printed_command(run)
    assert summary["demo"]["endpoint"] in run.output
    for name in ("stack.json", "secrets.json"):
        assert stat.S_IMODE((run.var / name).stat().st_mode) == 0o600
    assert run.end(signal.SIGINT) == 0
    assert run.leftovers() == []


def test_a_second_start_keeps_everything_and_is_quick(whole_stack: StackRun) -> None:
    before = whole_stack.summary
    run = whole_stack.start()
    assert run.took_s < 60  # this machine may be busy; `make bench` holds it to 10 s
    assert run.summary == before
    assert "calculator" in tools_by_the_printed_command(run)
    assert run.end(signal.SIGTERM) == 0
    assert run.leftovers() == []


def listening(run: StackRun) -> list[tuple[str, int]]:
    """Address and port of every listener the stack has opened."""
    pids = {process.pid for process in run.processes()}
    connections = psutil.net_connections("tcp")
    return [
        (c.laddr[0], c.laddr[1]) for c in connections if c.laddr and c.status == "LISTEN" and c.pid in pids
    ]


def test_nothing_listens_beyond_loopback_by_default(running: StackRun) -> None:
    opened = listening(running)
    assert {port for _, port in opened} >= set(running.ports.values())
    assert {address for address, _ in opened} == {LOOPBACK}
    assert running.end() == 0


def test_told_to_it_opens_the_doors_and_nothing_else(whole_stack: StackRun) -> None:
    run = whole_stack.start(SMCP_BIND="0.0.0.0")
    opened = {port for address, port in listening(run) if address != LOOPBACK}
    assert opened == {run.ports[door] for door in ("api", "console", "gateway")}
    assert "unencrypted" in run.output
    assert run.end() == 0


@pytest.mark.parametrize("name", ["worker", "monitor", "gateway", "postgres"])
def test_a_killed_child_ends_everything_with_a_sentence(running: StackRun, name: str) -> None:
    running.process(name).kill()
    assert running.wait() == 1
    assert f"✗ {name} was ended by SIGKILL" in running.last_words()
    assert running.leftovers() == []


def test_a_killed_supervisor_leaves_nothing(running: StackRun) -> None:
    running.supervisor().kill()
    assert running.wait() == 1
    assert "ended by SIGKILL" in running.last_words()
    running.wait_gone(20)


def test_a_killed_keeper_leaves_nothing(running: StackRun) -> None:
    running.popen.kill()
    running.wait()
    running.wait_gone(40)


def test_keeper_and_supervisor_killed_at_once_leave_nothing(running: StackRun) -> None:
    supervisor = running.supervisor()
    running.popen.kill()
    supervisor.kill()
    running.wait()
    running.wait_gone(40)


def test_a_second_stack_on_the_same_directory_is_refused(running: StackRun, tmp_path: Path) -> None:
    other = StackRun(running.var)
    other.log_path = tmp_path / "other.log"
    assert other.begin().wait() == 1
    assert "Another `make up` is running" in other.last_words()
    assert httpx.get(f"{running.summary['api']}/healthz", trust_env=False).status_code == 200
    assert running.end() == 0


def test_a_port_in_use_is_one_sentence_and_nothing_is_started(tmp_path: Path) -> None:
    run = StackRun(tmp_path / "var")
    with socket.socket() as taken:
        taken.bind((LOOPBACK, run.ports["gateway"]))
        taken.listen()
        assert run.begin().wait() == 1
    assert run.last_words() == (
        f"✗ Port {run.ports['gateway']} is in use, and the gateway needs it: stop what listens there, or set "
        "SMCP_GATEWAY_PORT to another port."
    )
    assert run.leftovers() == []
    assert not (run.var / "secrets.json").exists()


def test_two_processes_cannot_share_a_port(tmp_path: Path) -> None:
    run = StackRun(tmp_path / "var")
    assert run.begin(SMCP_API_PORT="8001", SMCP_CONSOLE_PORT="8001").wait() == 1
    assert "SMCP_CONSOLE_PORT and SMCP_API_PORT are both 8001" in run.output
    assert not run.var.exists()


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"SMCP_BIND": "everywhere"}, "SMCP_BIND must be an IP address"),
        ({"CLOUDFLARE_API_TOKEN": "secret-token"}, "Set both CLOUDFLARE_API_TOKEN and CLOUDFLARE_ACCOUNT_ID"),
        ({"DATABASE_URL": "mysql://u:secret-token@h/d"}, "DATABASE_URL must look like postgresql://"),
        ({"REDIS_URL": "localhost:6379"}, "REDIS_URL must look like redis://"),
        ({"SMCP_REDIS_PORT": "many"}, "SMCP_REDIS_PORT must be a port"),
    ],
)
def test_what_it_is_told_wrongly_is_one_sentence(
    tmp_path: Path, environ: dict[str, str], sentence: str
) -> None:
    run = StackRun(tmp_path / "var")
    assert run.begin(**environ).wait() == 1
    assert sentence in run.last_words()
    assert "secret-token" not in run.output
    assert not run.var.exists()
