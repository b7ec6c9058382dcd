"""Rows that an operation holds until its transaction ends, found tenant first.

DomainError
├── Invalid:   SlugInvalid
└── Conflict:  ServerGone · EnvironmentGone
"""

from __future__ import annotations

from django.core.exceptions import ValidationError

from hosting.models import Environment, Server
from smcp.common.errors import Conflict, Invalid, NotFound
from smcp.common.slugs import validate_slug


class SlugInvalid(Invalid):
    code = "slug-invalid"
    title = "The slug cannot be used"


class ServerGone(Conflict):
    code = "server-gone"
    title = "The server is retired, or about to be"


class EnvironmentGone(Conflict):
    code = "environment-gone"
    title = "The environment is retired, or about to be"


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


def check_slug(slug: str, *, longest: int) -> None:
    """Raises SlugInvalid."""
    try:
        validate_slug(slug)
    except ValidationError as exc:
        raise SlugInvalid(exc.messages[0], fields={"slug": exc.messages[0]}) from exc
    if len(slug) > longest:
        raise SlugInvalid(fields={"slug": f"At most {longest} characters."})
