"""Template filters and tags: how times, sizes, states and people read."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from django import template
from django.db.models import Model
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from smcp.console import badges, charts, listing

register = template.Library()

NONE = format_html('<span class="c-none">{}</span>', "—")


@register.filter
def ago(at: datetime | None, when_none: str = "") -> SafeString:
    """`3 minutes ago`, with the exact time on hover. The page's script keeps it true. What a template does not find is ""."""
    if not at:
        return format_html('<span class="c-none">{}</span>', when_none or "—")
    return format_html(
        '<time class="c-time" datetime="{}" title="{}" data-ago>{}</time>',
        at.isoformat(timespec="seconds"),
        exact(at),
        relative(at, timezone.now()),
    )


@register.filter
def exact(at: datetime | None) -> str:
    return f"{at:%-d %b %Y, %H:%M:%S} UTC" if at else ""


_UNITS = ((60, 1, "second"), (3600, 60, "minute"), (86400, 3600, "hour"), (math.inf, 86400, "day"))


def relative(at: datetime, now: datetime) -> str:
    """The words for a distance in time; console.js says the same ones."""
    seconds = (now - at).total_seconds()
    past, length = seconds >= 0, abs(seconds)
    if length < 10:
        return "just now" if past else "in a moment"
    if length > 45 * 86400:
        return f"{at:%-d %b %Y}"
    unit, word = next((unit, word) for limit, unit, word in _UNITS if length < limit)
    n = int(length // unit)
    text = f"{n} {word}{'' if n == 1 else 's'}"
    return f"{text} ago" if past else f"in {text}"


@register.simple_tag
def took(start: datetime | None, end: datetime | None = None) -> str:
    """How long something took, or has taken so far."""
    if start is None:
        return ""
    return length_of((end or timezone.now()) - start)


def length_of(delta: timedelta) -> str:
    seconds = max(delta.total_seconds(), 0.0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < 86400:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return f"{seconds // 86400:.0f} d {seconds % 86400 // 3600:.0f} h"


@register.filter
def ms(value: float | None) -> str:
    """Milliseconds, in as many digits as mean something."""
    if value is None:
        return "—"
    if value >= 10_000:
        return f"{value / 1000:.0f} s"
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


@register.filter
def size(value: int | None) -> str:
    """Bytes, binary units."""
    if value is None:
        return "—"
    amount = float(value)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


@register.filter
def count(value: int | None) -> str:
    """A number a person can take in: 812, 12.4 k, 3.1 M."""
    number = value or 0
    if number < 10_000:
        return f"{number:,}"
    if number < 1_000_000:
        return f"{number / 1000:.1f} k"
    return f"{number / 1_000_000:.1f} M"


@register.filter
def percent(value: Any) -> str:
    return f"{float(value):g} %"


@register.simple_tag
def state(family: str, value: str, label: str = "") -> SafeString:
    return badges.badge(family, value, label)


@register.filter
def tone(value: str, family: str) -> str:
    return badges.tone_of(family, value)


@register.filter
def link(obj: Model | None, text: str = "") -> SafeString:
    return listing.link_to(obj, text)


@register.filter
def url(obj: Model) -> str:
    return listing.url_of(obj)


@register.filter
def short(digest: str) -> SafeString:
    """The first characters of a long id, the whole of it on hover."""
    return format_html('<code class="c-code" title="{}">{}</code>', digest, digest[:12])


@register.filter
def words(code: str) -> str:
    """`upstream_error` → `upstream error`."""
    return code.replace("_", " ")


@register.filter
def tail(name: str) -> SafeString:
    """The end of a generated name, where it differs from its siblings; the whole of it on hover."""
    return format_html('<code class="c-code" title="{}">…{}</code>', name, name[-8:])


@register.filter
def of(key: str, names: dict[str, str]) -> str:
    """Looks a key up: `{{ row.created_by|of:people }}`."""
    return names.get(key, key)


@register.simple_tag
def meter(part: float, whole: float) -> SafeString:
    return charts.meter(part, whole)


@register.simple_tag
def progress(part: float, whole: float, operation_state: str) -> SafeString:
    """How far an Operation got, in the tone of its state."""
    return charts.progress(part, whole, badges.tone_of("operation", operation_state))


@register.filter
def kind(value: str) -> str:
    """`kv_namespace` → `KV namespace`."""
    return _KINDS.get(value, value.replace("_", " ").capitalize())


_KINDS = {
    "kv_namespace": "KV namespace",
    "r2_bucket": "R2 bucket",
    "d1": "D1 database",
    "d1_database": "D1 database",
    "durable_object_namespace": "Durable Object",
    "plain_text": "Text",
    "json": "JSON",
    "secret_text": "Secret",
    "script": "Script",
}
