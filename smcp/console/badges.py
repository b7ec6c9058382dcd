"""One table: every state of every object → the tone it is shown in. Lists, pages and charts all ask here."""

from __future__ import annotations

from typing import Literal

from django.utils.html import format_html
from django.utils.safestring import SafeString

Tone = Literal["good", "warn", "bad", "busy", "quiet"]

_TONES: dict[str, dict[str, Tone]] = {
    "tenant": {"active": "good", "suspended": "warn"},
    "server": {"active": "good", "suspended": "warn", "retiring": "busy", "retired": "quiet"},
    "environment": {"active": "good", "retiring": "busy", "retired": "quiet"},
    "health": {"healthy": "good", "slow": "warn", "unhealthy": "bad", "unknown": "quiet"},
    "operation": {
        "pending": "quiet",
        "running": "busy",
        "unwinding": "warn",
        "succeeded": "good",
        "failed": "bad",
    },
    "step": {
        "pending": "quiet",
        "started": "busy",
        "done": "good",
        "failed": "bad",
        "undoing": "warn",
        "undone": "quiet",
    },
    "release": {"planned": "quiet", "uploaded": "busy", "verified": "good", "removed": "quiet"},
    "resource": {"planned": "quiet", "live": "good", "deleting": "busy", "deleted": "quiet"},
    "account": {"open": "good", "full": "warn"},
    "key": {"live": "good", "expired": "quiet", "revoked": "bad"},
    "probe": {"ok": "good", "failed": "bad"},
    "session": {"open": "good", "ended": "quiet", "expired": "quiet"},
    "incident": {"open": "bad", "over": "good"},
}


def tone_of(family: str, state: str) -> Tone:
    """Unknown states are shown, quietly, never hidden."""
    return _TONES[family].get(state, "quiet")


def badge(family: str, state: str, label: str = "") -> SafeString:
    """A dot and a word. `label` defaults to the state's own name."""
    return format_html(
        '<span class="c-badge c-{}" data-state="{}"><span class="c-dot"></span>{}</span>',
        tone_of(family, state),
        state,
        label or state.replace("_", " ").capitalize(),
    )
