"""Cells several lists share."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import Count, OuterRef, Q, Subquery
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from hosting.models import HealthState
from smcp.console.templatetags.console import ago


def times(at: datetime | None) -> SafeString:
    return ago(at)


def health_summary(
    healthy: int | None, slow: int | None, unhealthy: int | None, unknown: int | None
) -> SafeString:
    """Dots with numbers, the worst first; a dash when there is nothing to be healthy."""
    parts = [
        ("bad", unhealthy, "not answering"),
        ("warn", slow, "slow"),
        ("good", healthy, "healthy"),
        ("quiet", unknown, "not seen yet"),
    ]
    shown = [(tone, f"{n} {words}", n) for tone, n, words in parts if n]
    if not shown:
        return format_html('<span class="c-none">{}</span>', "—")
    return format_html(
        '<span class="c-dots">{}</span>',
        format_html_join(
            "", '<span class="c-badge c-bare c-{}" title="{}"><span class="c-dot"></span>{}</span>', shown
        ),
    )


def two_lines(first: str | SafeString, second: str | SafeString) -> SafeString:
    return format_html('<span class="c-two"><span>{}</span><small>{}</small></span>', first, second)


def health_counts(owner: str) -> dict[str, Any]:
    """Annotations: how many Environments of the row are in each state of health. One subquery each, so rows never multiply."""
    path_to = {"tenant": "tenant", "server": "environment__server"}[owner]
    counts: dict[str, Any] = {}
    for state in ("healthy", "slow", "unhealthy", "unknown"):
        counts[f"{state}_count"] = Subquery(
            HealthState.objects.filter(
                Q(**{path_to: OuterRef("pk")}), ~Q(environment__state="retired"), state=state
            )
            .order_by()
            .values(path_to)
            .annotate(n=Count("pk"))
            .values("n")
        )
    return counts
