"""What an Environment may be told: who calls it, from which origins, what it may reach, its limits and its variables.

Pure checks. Each raises Invalid with the field at fault.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from hosting.dataplane import remotes
from hosting.dataplane.contract import Limits
from smcp.common.errors import Invalid

ACCESS: Final = ("public", "api_key")
TRANSPORTS: Final = ("streamable-http", "sse")
ORIGINS_MAX: Final = 50
EGRESS_MAX: Final = 50
VARIABLES_MAX: Final = 128
VALUE_BYTES_MAX: Final = 5 * 1024  # Cloudflare's own: 128 variables of 5 KB
RELEASES_KEPT_MAX: Final = 10
MODERN_CLIENTS: Final = ("auto", "bridge", "decline")

#: The most one Environment may ask for. Sizes in bytes, times in seconds.
CEILINGS: Final[Mapping[str, int]] = {
    "request_bytes": 16 * 1024 * 1024,
    "response_bytes": 64 * 1024 * 1024,
    "event_bytes": 16 * 1024 * 1024,
    "connect_timeout_s": 30,
    "answer_timeout_s": 600,
    "answer_budget_s": 1200,
    "stream_idle_s": 3600,
    "concurrency": 1024,
    "queue": 1024,
    "queue_wait_s": 60,
    "requests_per_minute": 100_000,
    "cpu_ms": 300_000,
}
#: What may be switched off.
MAY_BE_ZERO: Final = frozenset({"queue"})
_NAME_RE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}")
_PORT_RE = re.compile(r"[1-9][0-9]{0,4}")
_HOST_RE = re.compile(r"(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")


def check_limits(limits: Mapping[str, Any]) -> None:
    """Overrides of contract.Limits, and `cpu_ms`, which is the runtime's: known names, the right types, up to the ceilings."""
    known = {**{field.name: field.type for field in msgspec.structs.fields(Limits)}, "cpu_ms": int}
    wrong: dict[str, str] = {}
    for name, value in limits.items():
        is_number = isinstance(value, int if known.get(name) is int else int | float)
        if name not in known:
            wrong[f"limits.{name}"] = f"Unknown. There are: {', '.join(known)}."
        elif isinstance(value, bool) or not is_number:
            wrong[f"limits.{name}"] = "Must be a whole number." if known[name] is int else "Must be a number."
        elif name in MAY_BE_ZERO:
            if not 0 <= value <= CEILINGS[name]:
                wrong[f"limits.{name}"] = f"Must be at least 0 and at most {CEILINGS[name]}."
        elif not 0 < value <= CEILINGS[name]:
            wrong[f"limits.{name}"] = f"Must be above 0 and at most {CEILINGS[name]}."
    budget_s = limits.get("answer_budget_s", Limits().answer_budget_s)
    if not wrong and limits.get("answer_timeout_s", 0) > budget_s:
        wrong["limits.answer_timeout_s"] = (
            f"Must not be above answer_budget_s, which is {budget_s:g}: raise that too."
        )
    _refuse(wrong)


def check_access(access: Sequence[str]) -> None:
    if not access or not set(access) <= set(ACCESS) or len(set(access)) != len(access):
        _refuse({"access": f"Give one or more of: {', '.join(ACCESS)}."})


def check_origins(origins: Sequence[str]) -> None:
    """Browser origins as browsers write them: `https://app.example.com`, no path; or `*`."""
    if len(origins) > ORIGINS_MAX:
        _refuse({"allowed_origins": f"At most {ORIGINS_MAX}."})
    for origin in origins:
        try:
            parts = urlsplit(origin)
            is_plain = f"{parts.scheme}://{parts.netloc}" == origin and (parts.port or 1) > 0
        except ValueError:
            is_plain = False
        if origin != "*" and not (
            is_plain and parts.scheme in {"http", "https"} and parts.hostname and "@" not in origin
        ):
            _refuse({"allowed_origins": f"“{origin}” is no origin such as https://app.example.com, nor *."})


def check_egress(allow: Sequence[str]) -> None:
    """`host:port` of public hosts. Names that resolve to private addresses are refused later, when they are reached."""
    if len(allow) > EGRESS_MAX:
        _refuse({"egress_allow": f"At most {EGRESS_MAX}."})
    for entry in allow:
        host, _, port = entry.rpartition(":")
        if not (_PORT_RE.fullmatch(port) and int(port) < 65536 and _is_public_host(host)):
            _refuse(
                {
                    "egress_allow": f"“{entry}” is not host:port with a public host, such as api.example.com:443."
                }
            )


def check_variables(variables: Mapping[str, str]) -> None:
    """name → text, for plain_text bindings."""
    wrong = {
        f"variables.{name}": "A name is letters, digits and _, at most 80, and does not start with a digit."
        for name in variables
        if not is_binding_name(name)
    } | {
        f"variables.{name}": f"At most {VALUE_BYTES_MAX} bytes."
        for name, text in variables.items()
        if len(text.encode()) > VALUE_BYTES_MAX
    }
    if len(variables) > VARIABLES_MAX:
        wrong["variables"] = f"At most {VARIABLES_MAX}."
    _refuse(wrong)


def check_releases_kept(kept: int) -> None:
    if not 1 <= kept <= RELEASES_KEPT_MAX:
        _refuse({"releases_kept": f"From 1 to {RELEASES_KEPT_MAX}."})


def check_modern_clients(policy: str) -> None:
    if policy not in MODERN_CLIENTS:
        _refuse({"modern_clients": f"One of: {', '.join(MODERN_CLIENTS)}."})


def check_secret(name: str, value: str) -> None:
    wrong = {}
    if not is_binding_name(name):
        wrong["name"] = "A name is letters, digits and _, at most 80, and does not start with a digit."
    if not value or len(value.encode()) > VALUE_BYTES_MAX:
        wrong["value"] = f"From 1 to {VALUE_BYTES_MAX} bytes."
    _refuse(wrong)


def check_remote(
    *, url: str, transport: str, headers: Sequence[Mapping[str, str]], allowed: remotes.Allowed
) -> None:
    """Where a server is that runs elsewhere, and what is sent along: `headers` are {"name", "prefix", "secret"}."""
    wrong: dict[str, str] = {}
    if why := remotes.check_url(url, allowed):
        wrong["url"] = why
    if transport not in TRANSPORTS:
        nothing = " Programs are not started here." if transport == "stdio" else ""
        wrong["transport"] = f"One of: {', '.join(TRANSPORTS)}.{nothing}"
    if len(headers) > remotes.MAX_HEADERS:
        wrong["headers"] = f"At most {remotes.MAX_HEADERS}."
    names = [header["name"].lower() for header in headers]
    for position, header in enumerate(headers):
        at = f"headers.{position}"
        if why := remotes.check_header_name(header["name"]):
            wrong[f"{at}.name"] = why
        elif names.index(names[position]) != position:
            wrong[f"{at}.name"] = "Each header once."
        if not is_binding_name(header["secret"]):
            wrong[f"{at}.secret"] = "The name of a secret of this environment."
        if not remotes.is_header_value(header["prefix"] + "x"):
            wrong[f"{at}.prefix"] = "Visible ASCII, such as “Bearer ”."
    _refuse(wrong)


def is_binding_name(name: str) -> bool:
    """A name under which code sees a binding, variable or secret: a JavaScript identifier without surprises."""
    return _NAME_RE.fullmatch(name) is not None


def _is_public_host(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        return _HOST_RE.fullmatch(host) is not None and not host.endswith(
            (".localhost", ".local", ".internal")
        )


def _refuse(wrong: Mapping[str, str]) -> None:
    if wrong:
        raise Invalid(fields=wrong)
