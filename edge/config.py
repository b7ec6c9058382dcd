"""What an edge is told when it starts: flags for what may be seen in a process list, environment for what may not.

Tokens come from `EDGE_ACCOUNTS` only, never from the command line. Everything is checked here, once; a `Config` is valid.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ACCOUNT_ID = re.compile(r"[0-9a-f]{32}")
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{8,256}")
HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.]+\]")
PINNED_WORKERD = Path(__file__).parent / "node_modules/@cloudflare/workerd-linux-64/bin/workerd"


class ConfigError(Exception):
    """One clear sentence for whoever started the edge."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """A Cloudflare account and the bearer tokens that open it."""

    id: str
    tokens: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A valid configuration. Lengths of time in seconds, ports may be 0 (any free one)."""

    data: Path
    accounts: tuple[Account, ...]
    host: str = "127.0.0.1"
    api_port: int = 8787
    workers_port: int = 8788
    workerd: Path = PINNED_WORKERD
    rate_limit: int = 1200
    rate_window_s: float = 300.0
    has_faults: bool = False
    d1_timeout_s: float = 30.0
    kv_write_interval_s: float = 1.0
    allowed_hosts: frozenset[str] = frozenset()
    idle_s: float = 300.0
    recycle_mb: int = 192
    max_running: int = 200
    local_egress: frozenset[str] = frozenset()
    name_servers: tuple[str, ...] = ()

    def account(self, account_id: str) -> Account | None:
        return next((account for account in self.accounts if account.id == account_id), None)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edge",
        description="A local Cloudflare: API v4 for Workers, KV, R2 and D1 on one port, the Workers on another.",
        epilog="EDGE_ACCOUNTS=<account id, 32 hex digits>=<token>[,…] names the accounts; an account may appear "
        "again with another token. EDGE_ALLOWED_HOSTS=<host>[,…] are further Host names the API answers to.",
    )
    parser.add_argument("--data", type=Path, default=Path("var/edge"), help="directory that holds all state")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--api-port", type=int, default=8787)
    parser.add_argument("--workers-port", type=int, default=8788)
    parser.add_argument("--workerd", type=Path, default=PINNED_WORKERD, help="the workerd binary")
    parser.add_argument("--rate-limit", type=int, default=1200, help="API requests per window; 0 is no limit")
    parser.add_argument("--rate-window", type=float, default=300.0, metavar="SECONDS")
    parser.add_argument(
        "--d1-timeout", type=float, default=30.0, metavar="SECONDS", help="limit of one D1 call"
    )
    parser.add_argument(
        "--kv-write-interval",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="time between two writes to one KV key; 0 is no limit",
    )
    parser.add_argument(
        "--idle",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="a Worker nobody calls is stopped after this",
    )
    parser.add_argument(
        "--recycle-mb",
        type=int,
        default=192,
        metavar="MB",
        help="a Worker with more memory is started afresh",
    )
    parser.add_argument(
        "--max-running", type=int, default=200, help="beyond this many, idle Workers are stopped"
    )
    parser.add_argument(
        "--local-egress",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="a private address Workers may reach when their upload allows it; may be repeated",
    )
    parser.add_argument(
        "--dns",
        action="append",
        default=[],
        metavar="ADDRESS[:PORT]",
        help="a name server for what Workers fetch, instead of the system's; may be repeated",
    )
    parser.add_argument(
        "--faults", action="store_true", help="serve /_edge/faults: fail on request, for tests"
    )
    return parser


def parse_config(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration from flags and environment. Raises ConfigError; argparse itself exits 2 on unknown flags."""
    flags = parser().parse_args(argv)
    for name in ("api_port", "workers_port"):
        if not 0 <= getattr(flags, name) <= 65535:
            raise ConfigError(f"--{name.replace('_', '-')} must be between 0 and 65535.")
    if flags.api_port == flags.workers_port != 0:
        raise ConfigError("--api-port and --workers-port must differ.")
    if flags.rate_limit < 0:
        raise ConfigError("--rate-limit must not be negative (0 switches the limit off).")
    for name in ("recycle_mb", "max_running"):
        if getattr(flags, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1.")
    for name in ("rate_window", "d1_timeout", "idle"):
        if not 0 < getattr(flags, name) < 86400:
            raise ConfigError(f"--{name.replace('_', '-')} must be a positive number of seconds below a day.")
    if not 0 <= flags.kv_write_interval < 86400:
        raise ConfigError("--kv-write-interval must be a number of seconds below a day (0 is no limit).")
    for entry in flags.dns:
        if not is_name_server(entry):
            raise ConfigError(f"--dns must be an IP address, with :PORT if it is not 53, not {entry!r}.")
    if not flags.workerd.is_file() or not os.access(flags.workerd, os.X_OK):
        raise ConfigError(
            f"There is no workerd at {flags.workerd}: install it with `npm ci` in edge/, or name one with --workerd."
        )
    return Config(
        data=flags.data.absolute(),
        accounts=parse_accounts(environ.get("EDGE_ACCOUNTS", "")),
        host=flags.host,
        api_port=flags.api_port,
        workers_port=flags.workers_port,
        workerd=flags.workerd.absolute(),
        rate_limit=flags.rate_limit,
        rate_window_s=flags.rate_window,
        has_faults=flags.faults,
        d1_timeout_s=flags.d1_timeout,
        kv_write_interval_s=flags.kv_write_interval,
        allowed_hosts=parse_hosts(environ.get("EDGE_ALLOWED_HOSTS", "")),
        idle_s=flags.idle,
        recycle_mb=flags.recycle_mb,
        max_running=flags.max_running,
        local_egress=frozenset(entry.lower() for entry in flags.local_egress),
        name_servers=tuple(flags.dns),
    )


def is_name_server(text: str) -> bool:
    """`192.0.2.1`, `192.0.2.1:53`, `2001:db8::1` or `[2001:db8::1]:53`."""
    host, port = text, "53"
    if text.startswith("[") or text.count(":") == 1:
        host, _, port = text.rpartition(":")
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return port.isascii() and port.isdigit() and 0 < int(port) < 65536


def parse_accounts(text: str) -> tuple[Account, ...]:
    """`<id>=<token>[,…]` as accounts. Raises ConfigError, which never repeats a token."""
    tokens: dict[str, list[str]] = {}
    for number, entry in enumerate(filter(None, (part.strip() for part in text.split(","))), start=1):
        account_id, _, token = entry.partition("=")
        if not ACCOUNT_ID.fullmatch(account_id):
            raise ConfigError(
                f"Entry {number} of EDGE_ACCOUNTS does not start with an account id of 32 hex digits."
            )
        if not TOKEN.fullmatch(token):
            raise ConfigError(
                f"Entry {number} of EDGE_ACCOUNTS has no valid token (8 to 256 of A-Z a-z 0-9 . _ ~ + / = -)."
            )
        if token in tokens.setdefault(account_id, []):
            raise ConfigError(f"Entry {number} of EDGE_ACCOUNTS repeats an earlier one.")
        tokens[account_id].append(token)
    if not tokens:
        raise ConfigError("EDGE_ACCOUNTS is empty: set it to <account id, 32 hex digits>=<token>[,…].")
    prefixes = {account_id[:8] for account_id in tokens}
    if len(prefixes) != len(tokens):
        raise ConfigError(
            "Two accounts in EDGE_ACCOUNTS share their first 8 digits, which name them in host names."
        )
    return tuple(Account(id=account_id, tokens=tuple(values)) for account_id, values in tokens.items())


def parse_hosts(text: str) -> frozenset[str]:
    hosts = [part.strip().lower() for part in text.split(",") if part.strip()]
    for host in hosts:
        if not HOST.fullmatch(host):
            raise ConfigError(f"EDGE_ALLOWED_HOSTS: {host!r} is not a host name.")
    return frozenset(hosts)
