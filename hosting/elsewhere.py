"""What goes with every request to a server that runs elsewhere: its configured headers, with what the Environment's secrets hold.

Nobody shows or stores what is opened here: it is sealed again into the Route, or sent to the server when we look at it ourselves.
Call inside `as_tenant` (or `as_system`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from hosting.dataplane.remotes import MAX_HEADERS_BYTES, RemoteHeaders, is_header_value
from hosting.models import Remote, Secret
from hosting.models.resource import context_of
from smcp.common.sealing import CannotOpen, open_sealed


class HeadersUnusable(Exception):
    """`problems`: position of the header → why it cannot be sent. Names of secrets, never what they hold."""

    def __init__(self, problems: Mapping[int, str]) -> None:
        super().__init__(next(iter(problems.values()), ""))
        self.problems = dict(problems)


def secrets_of(remotes: Sequence[Remote]) -> dict[str, dict[str, Secret]]:
    """Environment → name → the current revision, of those that the headers name."""
    named = {name for remote in remotes for name in names_in(remote)}
    found: dict[str, dict[str, Secret]] = defaultdict(dict)
    environments = [remote.environment_id for remote in remotes]
    for secret in Secret.objects.filter(environment_id__in=environments, name__in=named, is_current=True):
        found[secret.environment_id][secret.name] = secret
    return found


def names_in(remote: Remote) -> set[str]:
    """Secrets that its headers say."""
    return {header["secret"] for header in remote.headers}


def headers_of(remote: Remote, secrets: Mapping[str, Secret] | None = None) -> RemoteHeaders:
    """In the order configured. Raises HeadersUnusable."""
    known = secrets_of([remote])[remote.environment_id] if secrets is None else secrets
    problems: dict[int, str] = {}
    opened: list[tuple[str, str]] = []
    for position, header in enumerate(remote.headers):
        value = _value_of(known.get(header["secret"]))
        if value is None:
            problems[position] = f"There is no secret “{header['secret']}” here."
        elif not is_header_value(header["prefix"] + value):
            problems[position] = (
                f"What “{header['secret']}” holds cannot stand in a header: only visible ASCII can, with spaces inside."
            )
        else:
            opened.append((header["name"], header["prefix"] + value))
    if sum(len(name) + len(value) for name, value in opened) > MAX_HEADERS_BYTES:
        problems[0] = f"All headers together have at most {MAX_HEADERS_BYTES} bytes."
    if problems:
        raise HeadersUnusable(problems)
    return tuple(opened)


def _value_of(secret: Secret | None) -> str | None:
    if secret is None:
        return None
    context = context_of(secret.tenant_id, secret.environment_id, secret.name)
    try:
        return open_sealed(secret.sealed, context=context).decode()
    except CannotOpen:
        return None
