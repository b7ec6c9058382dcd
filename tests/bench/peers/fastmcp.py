"""FastMCP's proxy, stateless and answering with JSON, as its documentation advises for production."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.bench.peers import Peer, environment, spawn, wait_until_it_answers
from tests.bench.peers.words import call, requests
from tests.parts import free_port

SCRIPT = """
import sys
from fastmcp.server import create_proxy
create_proxy(sys.argv[2], name="proxy").run(
    transport="http", host="127.0.0.1", port=int(sys.argv[1]), log_level="ERROR", show_banner=False,
    stateless_http=True, json_response=True,
)
"""


def start(stack: ExitStack, directory: Path, upstream: str) -> Peer:
    port = free_port()
    python = str(environment("fastmcp") / "python")
    pid = spawn(stack, directory, "fastmcp", [python, "-c", SCRIPT, str(port), f"{upstream}/mcp"])
    wait_until_it_answers(f"http://127.0.0.1:{port}/mcp", *call("legacy", "json"))
    made = requests("/mcp", "legacy")
    return Peer("fastmcp", pid, port, {key: made[key] for key in made if key[1] == "json"}, share=0.01)
