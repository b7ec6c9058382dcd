"""A real nginx with the configuration that we hand out, in front of two gateways; where it listens, its nodes and its logs put elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from hosting.dataplane.contract import Route
from tests.dataplane.harness import (
    Caller,
    GatewayProcess,
    Publisher,
    StandInProcess,
    World,
    call_of,
    next_event,
    request,
)
from tests.nginx import find_nginx
from tests.parts import ROOT, free_ports
from tests.waiting import wait_for

CONFIG = ROOT / "docs" / "nginx"


class NginxProcess:
    """`docs/nginx` as it stands but for ports and places. `has_affinity`: as the file says to set it where there is no Redis."""

    def __init__(self, directory: Path, nodes: list[int], *, has_affinity: bool = False) -> None:
        self.port, self.watch_port = free_ports(2)
        self.directory = directory / "nginx"
        shutil.copytree(CONFIG, self.directory)
        self.change("smcp-listen.conf", "127.0.0.1:8080", f"127.0.0.1:{self.port}")
        for ours, node in zip((8081, 8082), nodes, strict=True):
            self.change("smcp-nodes.conf", f"127.0.0.1:{ours}", f"127.0.0.1:{node}")
        self.change("gateway.conf", "127.0.0.1:8089", f"127.0.0.1:{self.watch_port}")
        self.change("gateway.conf", "/var/log/nginx", str(self.directory))
        if has_affinity:
            self.change(
                "gateway.conf",
                'map "" $smcp_affinity {\n    default "";',
                'map "" $smcp_affinity {\n    default 1;',
            )
        self.process: subprocess.Popen[bytes] | None = None

    def change(self, name: str, old: str, new: str) -> None:
        file = self.directory / name
        text = file.read_text()
        assert old in text, f"{name} says no longer: {old}"
        file.write_text(text.replace(old, new))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """Whatever it wrote."""
        return "\n".join(file.read_text() for file in self.directory.glob("*.log"))

    def start(self) -> None:
        program = find_nginx()
        assert program, (
            "no nginx here: install nginx-light; outside CI `make test` leaves these tests out then"
        )
        arguments = ["-p", str(self.directory), "-c", str(self.directory / "nginx.conf"), "-g", "daemon off;"]
        with (self.directory / "stderr.log").open("wb") as log:
            self.process = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
        wait_for(self._answers, what="nginx to answer")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            return httpx.get(f"http://127.0.0.1:{self.watch_port}/healthz").text == "ok\n"
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)


@dataclass
class Pair:
    """Two gateways behind nginx. `world.gateway` is the first of them; `name_of` tells them apart."""

    world: World
    nodes: list[GatewayProcess]
    nginx: NginxProcess

    def name_of(self, response: Any) -> str:
        """The node that answered: its id is how every request id begins."""
        found = re.match(r"(node-[ab])-", response.headers["x-request-id"])
        assert found, response.headers
        return found[1]

    def node(self, name: str) -> GatewayProcess:
        return self.nodes["ab".index(name[-1])]

    def url(self, route: Route) -> str:
        return self.world.url(route).replace(self.world.gateway.url, self.nginx.url)

    def caller(self, route: Route, key: str, **initialize: Any) -> Caller:
        """A client that knows nginx only, with a session open."""
        caller = self.world.at(self.url(route), key)
        assert caller.initialize(**initialize).status_code == 200
        return caller

    def settle(self) -> None:
        """Until both nodes know what was published."""
        self.world.settle(*self.nodes[1:])


def paired(
    directory: Path,
    publisher: Publisher,
    standin: StandInProcess,
    first: GatewayProcess,
    *,
    redis_url: str,
    **nginx: Any,
) -> Iterator[Pair]:
    second = first.sibling(directory / "b", redis_url=redis_url, keepalive_s="1")
    nodes = [first, second]
    balancer = NginxProcess(directory, [node.port for node in nodes], **nginx)
    for node, name in zip(nodes, ("node-a", "node-b"), strict=True):
        node.environ |= {"SMCP_NODE_ID": name, "SMCP_GATEWAY_URL": balancer.url}
        node.log_path.parent.mkdir(exist_ok=True)
        node.start()
    balancer.start()
    try:
        with httpx.Client(timeout=20) as http:
            yield Pair(World(first, standin, publisher, http), nodes, balancer)
    finally:
        balancer.stop()
        for node in nodes:
            node.stop()


def kill(node: GatewayProcess) -> None:
    assert node.process is not None
    node.process.send_signal(signal.SIGKILL)
    node.process.wait()


def talk_http_sse(pair: Pair, route: Route, key: str) -> None:
    """A whole conversation of MCP 2024-11-05: what is posted comes back on the stream."""
    base = pair.url(route).removesuffix("/mcp")
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    given = {
        "protocolVersion": "2024-11-05",
        "capabilities": {},
        "clientInfo": {"name": "old", "version": "1"},
    }
    with pair.world.http.stream(
        "GET", f"{base}/sse", headers={**headers, "accept": "text/event-stream"}
    ) as stream:
        assert stream.status_code == 200, stream.read()
        lines = stream.iter_lines()
        endpoint = pair.nginx.url + next_event(lines)["data"]
        for number, body in enumerate((request("initialize", given), *[call_of("echo", text="old")] * 6)):
            posted = pair.world.http.post(endpoint, headers=headers, json={**body, "id": number})
            assert posted.status_code == 202, posted.text
            assert json.loads(next_event(lines)["data"])["id"] == number
