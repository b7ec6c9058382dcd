"""What other rooms may want to know of. Sent after the commit, with ids only: whoever listens reads the world again.

A lost signal (the process died between commit and sending) is repaired by the sweep that publishes facts again.
"""

from __future__ import annotations

from django.db import transaction
from django.dispatch import Signal

tenant_changed = Signal()  # tenant_id
api_key_changed = Signal()  # tenant_id, api_key_id


def tell_tenant_changed(tenant_id: str) -> None:
    transaction.on_commit(lambda: tenant_changed.send_robust(sender=None, tenant_id=tenant_id) and None)


def tell_api_key_changed(tenant_id: str, api_key_id: str) -> None:
    transaction.on_commit(
        lambda: api_key_changed.send_robust(sender=None, tenant_id=tenant_id, api_key_id=api_key_id) and None
    )
