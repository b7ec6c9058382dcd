"""Which account takes new Environments: one is chosen by chance among all that are open, those that lead nowhere too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.utils import timezone

from hosting.models import Account, Operation
from smcp.common.tenancy import as_system


def make_room() -> None:
    """An account that takes Environments, so that servers can be made without an edge. Nothing can be deployed there."""
    with as_system():
        Account.objects.get_or_create(
            name="empty-room",
            defaults={
                "cloudflare_account_id": "e" * 32,
                "api_base_url": "http://127.0.0.1:1/client/v4",
                "token_sealed": "",
                "dispatch_namespace": "n",
                "dispatch_url": "http://127.0.0.1:1",
                "ready_at": timezone.now(),
            },
        )


@contextmanager
def only_room(name: str) -> Iterator[None]:
    """Inside the block no other account takes anything, and what other tests left unfinished is over: real workers would
    serve it first, as its tenants have waited longest."""
    with as_system():
        others = Account.objects.exclude(name=name).filter(state=Account.State.OPEN)
        others_ids = list(others.values_list("id", flat=True))
        Account.objects.filter(id__in=others_ids).update(state=Account.State.FULL)
        Operation.objects.filter(finished_at=None).update(
            state=Operation.State.FAILED, finished_at=timezone.now()
        )
    try:
        yield
    finally:
        with as_system():
            Account.objects.filter(id__in=others_ids).update(state=Account.State.OPEN)
