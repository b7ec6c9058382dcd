"""Runs Workers in a workerd of their own, for tests of a Worker by itself.

One process per `running` block, on a port the kernel picks; it is killed when the block ends. What surrounds a Worker at
Cloudflare (a dispatch namespace, an outbound Worker's parameters) is described here in workerd's own terms.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
WORKERD = ROOT / "edge/node_modules/@cloudflare/workerd-linux-64/bin/workerd"
WORKERS = ROOT / "hosting/workers"
COMPATIBILITY_DATE = "2026-11-01"


@dataclass(frozen=True, kw_only=True)
class Service:
    """One Worker: its modules (the first one is the main one), bindings in workerd's text form, where its fetch() goes."""

    modules: Mapping[str, str]
    bindings: Sequence[str] = ()
    outbound: str = "nowhere"


def text(value: str) -> str:
    """A text literal of workerd's configuration language."""
    return (
        '"'
        + "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else _escaped(c) for c in value)
        + '"'
    )


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


def bind_text(name: str, value: str) -> str:
    return f"(name={text(name)}, text={text(value)})"


def bind_json(name: str, value: object) -> str:
    return f"(name={text(name)}, json={text(json.dumps(value))})"


def bind_service(name: str, service: str) -> str:
    return f"(name={text(name)}, service={text(service)})"


@contextmanager
def running(services: Mapping[str, Service], directory: Path) -> Iterator[str]:
    """Serve the first service and yield its URL. The name `network` reaches loopback only, `nowhere` nothing at all."""
    config = directory / "config.capnp"
    config.write_text(_config(services))
    read, write = os.pipe()
    with (directory / "workerd.log").open("wb") as log:
        process = subprocess.Popen(
            [str(WORKERD), "serve", str(config), "config", f"--control-fd={write}"],
            pass_fds=[write],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    os.close(write)
    try:
        with os.fdopen(read) as control:
            line = control.readline()
        assert line, (directory / "workerd.log").read_text()
        yield f"http://127.0.0.1:{json.loads(line)['port']}"
    finally:
        process.kill()
        process.wait()


def _config(services: Mapping[str, Service]) -> str:
    first = next(iter(services))
    described = [_service(name, service) for name, service in services.items()]
    return f"""using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = {text(first)})],
  services = [
    (name = "network", network = (allow = ["127.0.0.0/8"])),
    (name = "nowhere", network = (allow = [])),
    {",".join(described)}
  ]
);
"""


def _service(name: str, service: Service) -> str:
    modules = ",".join(
        f"(name={text(path)}, esModule={text(code)})" for path, code in service.modules.items()
    )
    return (
        f"(name={text(name)}, worker=(modules=[{modules}], compatibilityDate={text(COMPATIBILITY_DATE)}, "
        f"bindings=[{','.join(service.bindings)}], globalOutbound={text(service.outbound)}))"
    )
