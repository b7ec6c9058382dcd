"""Rows that an operation holds until its transaction ends, found tenant first.

DomainError
├── Invalid:   SlugInvalid · OpenProxy
└── Conflict:  ServerGone · EnvironmentGone · RunsElsewhere · IsHosted
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.utils import timezone

from hosting import wake
from hosting.models import Environment, Remote, Server
from smcp.common.errors import Conflict, Invalid, NotFound
from smcp.common.slugs import validate_slug


class SlugInvalid(Invalid):
    code = "slug-invalid"
    title = "The slug cannot be used"


class OpenProxy(Invalid):
    code = "open-proxy"
    title = "Anybody could use what the headers open"


class ServerGone(Conflict):
    code = "server-gone"
    title = "The server is retired, or about to be"


class EnvironmentGone(Conflict):
    code = "environment-gone"
    title = "The environment is retired, or about to be"


class RunsElsewhere(Conflict):
    code = "server-runs-elsewhere"
    title = "The server runs elsewhere"


class IsHosted(Conflict):
    code = "server-hosted"
    title = "The server is hosted here"


def lock_server(*, tenant_id: str, server_id: str) -> Server:
    """Raises NotFound, ServerGone."""
    server = Server.objects.select_for_update().filter(tenant_id=tenant_id, id=server_id).first()
    if server is None:
        raise NotFound("server")
    if server.state in {Server.State.RETIRING, Server.State.RETIRED}:
        raise ServerGone(f"The server “{server.slug}” is {server.get_state_display().lower()}.")
    return server


def lock_environment(*, tenant_id: str, environment_id: str) -> Environment:
    """Raises NotFound, EnvironmentGone."""
    environment = (
        Environment.objects.select_for_update().filter(tenant_id=tenant_id, id=environment_id).first()
    )
    if environment is None:
        raise NotFound("environment")
    if environment.state != Environment.State.ACTIVE:
        raise EnvironmentGone(
            f"The environment “{environment.slug}” is {environment.get_state_display().lower()}."
        )
    return environment


def check_hosted(server: Server) -> None:
    """Raises RunsElsewhere for a Server that has no code of ours."""
    if server.kind != Server.Kind.WORKER:
        raise RunsElsewhere(
            f"The server “{server.slug}” runs elsewhere: it has an address, and no versions or deployments."
        )


def check_elsewhere(server: Server) -> None:
    """Raises IsHosted for a Server that is made of Versions."""
    if server.kind != Server.Kind.REMOTE:
        raise IsHosted(
            f"The server “{server.slug}” is hosted here: it has versions and deployments, and no address elsewhere."
        )


def refuse_open_proxy(access: Sequence[str], headers: Sequence[Any], *, is_confirmed: bool) -> None:
    """Raises OpenProxy for a server elsewhere that anybody may call with the tenant's own credentials, unless that is wanted."""
    if "public" in access and headers and not is_confirmed:
        raise OpenProxy(
            "The environment is public, so anybody could use what these headers open. Set confirm_public on the remote if that is meant.",
            fields={"confirm_public": "Needed: the environment is public and headers are configured."},
        )


def check_again(remote: Remote) -> None:
    """Something about the server elsewhere has changed: what it speaks is looked at soon."""
    Remote.objects.filter(tenant_id=remote.tenant_id, id=remote.id).update(
        check_due_at=timezone.now(), check_interval_s=Remote.CHECK_FIRST_S
    )
    wake.check_remotes()


def check_slug(slug: str, *, longest: int) -> None:
    """Raises SlugInvalid."""
    try:
        validate_slug(slug)
    except ValidationError as exc:
        raise SlugInvalid(exc.messages[0], fields={"slug": exc.messages[0]}) from exc
    if len(slug) > longest:
        raise SlugInvalid(fields={"slug": f"At most {longest} characters."})
