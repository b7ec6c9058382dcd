"""Finds servers that were written for a terminal: they talk over stdin and stdout, or start programs. Workers have neither.

Looks at text only, so it errs on the side of letting things through; what slips by fails in the sandbox or in the probe. The text is
a stranger's and may be ten megabytes of traps: only the surroundings of a few telling words are read, in time linear in its length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

from hosting.cloudflare.port import Module
from smcp.common.errors import Invalid

ADVICE: Final = (
    "Servers here are Workers that speak Streamable HTTP: serve MCP from `fetch` (for instance with the SDK's web-standard"
    " transport) instead of stdin and stdout, and call other services over HTTP instead of starting programs."
)
_IMPORT = rb"(?:from|import|require)\s{0,20}(?:\(\s{0,20})?[\"'`]"
_TELLING: Final = re.compile(rb"/stdio|StdioServerTransport|StdioClientTransport|child_process")
_SIGNS: Final = (
    (re.compile(_IMPORT + rb"@modelcontextprotocol/[a-z]{1,20}(?:/server|/client)?/stdio(?:\.js)?[\"'`]"), "imports the SDK's stdio transport"),
    (re.compile(rb"\bnew\s{1,20}Stdio(?:Server|Client)Transport\b"), "uses the SDK's stdio transport"),
    (re.compile(_IMPORT + rb"(?:node:)?child_process[\"'`]"), "imports child_process"),
)  # fmt: skip
_PROGRAM: Final = re.compile(rb"#!\s{0,20}/\S")
_BEFORE, _AFTER = 120, 10  # bytes around a telling word
_WORDS_READ: Final = 1000
_JSON_READ: Final = 256 * 1024  # a configuration is small
_PROGRAMS: Final = frozenset(
    {"npx", "uvx", "uv", "node", "bun", "deno", "python", "python3", "docker", "bash", "sh"}
)


class StdioServer(Invalid):
    code = "stdio-server"
    title = "stdio servers cannot be hosted"


def refuse_stdio(modules: Iterable[Module]) -> None:
    """Raises StdioServer, naming the module and the sign."""
    for module in modules:
        sign = None
        if module.content_type == "application/javascript+module":
            sign = _sign_in_code(module.content)
        elif module.name.endswith(".json"):
            sign = _sign_in_json(module.content)
        if sign:
            raise StdioServer(f"The module “{module.name}” {sign}. {ADVICE}", fields={module.name: sign})


def refuse_command(wish: dict[str, Any]) -> None:
    """The shape of desktop clients' configuration: {"command": "npx", "args": […]}. Raises StdioServer."""
    if _starts_program(wish):
        raise StdioServer(
            f"This asks to start a program. {ADVICE}", fields={"command": "Nothing is started here."}
        )


def _sign_in_code(content: bytes) -> str | None:
    if _PROGRAM.match(content):
        return "starts with #!, so it is a program"
    for word in islice(_TELLING.finditer(content), _WORDS_READ):
        around = content[max(0, word.start() - _BEFORE) : word.end() + _AFTER]
        if sign := next((why for pattern, why in _SIGNS if pattern.search(around)), None):
            return sign
    return None


def _sign_in_json(content: bytes) -> str | None:
    if len(content) > _JSON_READ:
        return None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    servers = value.get("mcpServers", value)
    if _starts_program(value) or (isinstance(servers, dict) and any(map(_starts_program, servers.values()))):
        return "tells how to start a program"
    if value.get("bin") and "name" in value:
        return "describes a program to install (bin)"
    return None


def _starts_program(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("command"), str):
        return False
    return "args" in value or value["command"].rpartition("/")[2] in _PROGRAMS
