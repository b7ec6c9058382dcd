"""What the publisher of Routes wants to know of. Sent after the commit, with ids only: whoever listens reads the world again.

A lost signal is repaired by the sweep that publishes facts again.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.db import transaction
from django.db.models import F
from django.dispatch import Signal

from hosting.models import Environment

server_changed = Signal()  # tenant_id, server_id
environment_changed = Signal()  # tenant_id, environment_id
sessions_ended = Signal()  # tenant_id, session_ids


def tell_server_changed(tenant_id: str, server_id: str) -> None:
    transaction.on_commit(
        lambda: server_changed.send_robust(sender=None, tenant_id=tenant_id, server_id=server_id) and None
    )


def tell_sessions_ended(tenant_id: str, session_ids: Sequence[str]) -> None:
    transaction.on_commit(
        lambda: sessions_ended.send_robust(sender=None, tenant_id=tenant_id, session_ids=session_ids) and None
    )


def tell_environment_changed(tenant_id: str, environment_id: str) -> None:
    """Gives its Route a new version too, in the transaction of the change: that is how the sweep knows it was not published."""
    Environment.objects.filter(tenant_id=tenant_id, id=environment_id).update(
        route_version=F("route_version") + 1
    )
    transaction.on_commit(
        lambda: (
            environment_changed.send_robust(sender=None, tenant_id=tenant_id, environment_id=environment_id)
            and None
        )
    )
