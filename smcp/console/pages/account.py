"""One Account: how full it is and what stands in it. The token is never read here."""

from __future__ import annotations

from typing import Any

from django.db.models import Count

from hosting.cloudflare.port import ResourceKind
from hosting.models import Account, Environment, Resource


def context(account: Account) -> dict[str, Any]:
    kinds = dict(
        Resource.objects.filter(account=account)
        .exclude(state=Resource.State.DELETED)
        .order_by()
        .values_list("kind")
        .annotate(n=Count("id"))
        .values_list("kind", "n")
    )
    environments = Environment.objects.filter(account=account).exclude(state=Environment.State.RETIRED)
    return {
        "title": account.name,
        "account": account,
        "kinds": [(kind_label(kind), kind.value, kinds.get(kind.value, 0)) for kind in ResourceKind],
        "used": environments.count(),
        "environments": environments.select_related("server__tenant", "health").order_by("-id")[:20],
        "failing": Resource.objects.filter(account=account, state=Resource.State.DELETING).select_related(
            "environment__server__tenant"
        )[:10],
    }


def kind_label(kind: str) -> str:
    return {
        ResourceKind.SCRIPT: "Script",
        ResourceKind.KV_NAMESPACE: "KV namespace",
        ResourceKind.R2_BUCKET: "R2 bucket",
        ResourceKind.D1_DATABASE: "D1 database",
    }.get(ResourceKind(kind), kind)
