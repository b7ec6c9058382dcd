"""What the publisher of Routes wants to know of. Sent after the commit, with ids only: whoever listens reads the world again.

A lost signal is repaired by the sweep that publishes facts again.
"""

from __future__ import annotations

from django.db import transaction
from django.dispatch import Signal

server_changed = Signal()  # tenant_id, server_id
environment_changed = Signal()  # tenant_id, environment_id


def tell_server_changed(tenant_id: str, server_id: str) -> None:
    transaction.on_commit(
        lambda: server_changed.send_robust(sender=None, tenant_id=tenant_id, server_id=server_id) and None
    )


def tell_environment_changed(tenant_id: str, environment_id: str) -> None:
    transaction.on_commit(
        lambda: (
            environment_changed.send_robust(sender=None, tenant_id=tenant_id, environment_id=environment_id)
            and None
        )
    )
