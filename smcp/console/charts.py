"""Charts as inline SVG, drawn here, without a script. Colours come from the style sheet, so both themes fit.

Shapes are drawn into a box of 1000 wide and stretched (`preserveAspectRatio="none"`); words stay outside in HTML, where they
keep their size on a narrow screen. Each bucket carries a `<title>`, which browsers show on hover.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from smcp.console.badges import Tone

_WIDTH = 1000


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """What happened in one stretch of time. Without requests there is no latency."""

    at: datetime
    requests: int = 0
    failures: int = 0
    mean_ms: float | None = None
    max_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing and the words around it."""

    svg: SafeString
    top: str
    middle: str
    begin: str
    end: str
    is_empty: bool


def latency_chart(buckets: Sequence[Bucket], *, height: int = 160) -> Chart:
    """Mean latency as a line over a soft area, failures as red ticks at the foot."""
    top = _round_up(max((b.mean_ms or 0.0 for b in buckets), default=0.0))
    step = _WIDTH / max(len(buckets), 1)
    body = height - 8

    def y(value: float) -> float:
        return round(4 + body * (1 - min(value / top, 1)), 1)

    lines, areas = [], []
    for run in _runs(buckets):
        points = [(round((i + 0.5) * step, 1), y(b.mean_ms or 0.0)) for i, b in run]
        if len(points) == 1:
            points = [
                (round(points[0][0] - step / 2, 1), points[0][1]),
                (round(points[0][0] + step / 2, 1), points[0][1]),
            ]
        path = " L".join(f"{px},{py}" for px, py in points)
        lines.append((f"M{path}",))
        areas.append((f"M{points[0][0]},{height} L{path} L{points[-1][0]},{height} Z",))
    grid = format_html_join(
        "",
        '<line class="c-grid" x1="0" x2="{}" y1="{}" y2="{}"/>',
        [(_WIDTH, gy, gy) for gy in (y(top), y(top / 2), height - 0.5)],
    )
    failed = format_html_join(
        "",
        '<rect class="c-fail" x="{}" y="{}" width="{}" height="10"/>',
        [
            (round(i * step + step * 0.15, 1), height - 10, round(step * 0.7, 1))
            for i, b in enumerate(buckets)
            if b.failures
        ],
    )
    svg = format_html(
        '<svg class="c-chart" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="Latency over time">'
        "{}{}{}{}{}</svg>",
        _WIDTH,
        height,
        grid,
        format_html_join("", '<path class="c-area" d="{}"/>', areas),
        format_html_join("", '<path class="c-line" d="{}"/>', lines),
        failed,
        _hovers(buckets, step, height),
    )
    return Chart(
        svg=svg,
        top=_ms(top),
        middle=_ms(top / 2),
        begin=_moment(buckets[0].at, buckets) if buckets else "",
        end="now",
        is_empty=not any(b.requests for b in buckets),
    )


def uptime_strip(buckets: Sequence[Bucket], *, height: int = 32) -> SafeString:
    """One bar a bucket: green when all was answered, red when not, grey when nobody asked."""
    step = _WIDTH / max(len(buckets), 1)
    bars = format_html_join(
        "",
        '<rect class="c-up-{}" x="{}" y="0" width="{}" height="{}" rx="2"><title>{}</title></rect>',
        [
            (_uptime_tone(b), round(i * step + step * 0.12, 1), round(step * 0.76, 1), height, _sentence(b))
            for i, b in enumerate(buckets)
        ],
    )
    return format_html(
        '<svg class="c-strip" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="Answered over time">{}</svg>',
        _WIDTH,
        height,
        bars,
    )


def sparkline(values: Sequence[float], *, height: int = 40) -> SafeString:
    """A line without words, for a tile."""
    top = max(values, default=0.0) or 1.0
    step = _WIDTH / max(len(values) - 1, 1)
    points = " L".join(
        f"{round(i * step, 1)},{round(2 + (height - 4) * (1 - value / top), 1)}"
        for i, value in enumerate(values)
    )
    if not points:
        return SafeString("")
    return format_html(
        '<svg class="c-spark" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">'
        '<path class="c-area" d="M0,{} L{} L{},{} Z"/><path class="c-line" d="M{}"/></svg>',
        _WIDTH,
        height,
        height,
        points,
        _WIDTH,
        height,
        points,
    )


def stack(parts: Sequence[tuple[str, str, int]]) -> SafeString:
    """One bar of several parts: (tone, label, number)."""
    total = sum(n for _, _, n in parts) or 1
    bars, x = [], 0.0
    for tone, label, n in parts:
        width = _WIDTH * n / total
        if n:
            bars.append((tone, round(x, 1), round(width, 1), f"{label}: {n}"))
        x += width
    return format_html(
        '<svg class="c-stack" viewBox="0 0 {} 10" preserveAspectRatio="none" aria-hidden="true">{}</svg>',
        _WIDTH,
        format_html_join(
            "",
            '<rect class="c-fill-{}" x="{}" y="0" width="{}" height="10"><title>{}</title></rect>',
            bars,
        ),
    )


def meter(part: float, whole: float) -> SafeString:
    """How full something is; amber from 80 %, red from 95 %."""
    share = _share(part, whole)
    tone = "bad" if share >= 0.95 else "warn" if share >= 0.8 else "main"
    return _bar(share, tone, "used")


def progress(part: float, whole: float, tone: Tone) -> SafeString:
    """How far something got, in the tone of its state: full is no danger here."""
    return _bar(_share(part, whole), tone, "done")


def _share(part: float, whole: float) -> float:
    return min(part / whole, 1.0) if whole else 0.0


def _bar(share: float, tone: str, word: str) -> SafeString:
    return format_html(
        '<svg class="c-meter" viewBox="0 0 {} 10" preserveAspectRatio="none" role="img" aria-label="{} % {}">'
        '<rect class="c-fill-{}" x="0" y="0" width="{}" height="10"/></svg>',
        _WIDTH,
        round(share * 100),
        word,
        tone,
        round(_WIDTH * share, 1),
    )


def _runs(buckets: Sequence[Bucket]) -> list[list[tuple[int, Bucket]]]:
    """Stretches of buckets with requests. A gap of up to three buckets is bridged; a longer one stays a gap."""
    runs: list[list[tuple[int, Bucket]]] = []
    for i, bucket in enumerate(buckets):
        if bucket.mean_ms is None:
            continue
        if runs and i - runs[-1][-1][0] <= 4:
            runs[-1].append((i, bucket))
        else:
            runs.append([(i, bucket)])
    return runs


def _hovers(buckets: Sequence[Bucket], step: float, height: int) -> SafeString:
    return format_html_join(
        "",
        '<rect class="c-hover" x="{}" y="0" width="{}" height="{}"><title>{}</title></rect>',
        [(round(i * step, 1), round(step, 1), height, _sentence(b)) for i, b in enumerate(buckets)],
    )


def _sentence(bucket: Bucket) -> str:
    when = f"{bucket.at:%-d %b, %H:%M} UTC"
    if not bucket.requests:
        return f"{when}: nobody asked"
    text = f"{when}: {bucket.requests:,} request{'' if bucket.requests == 1 else 's'}"
    if bucket.mean_ms is not None:
        text += f", {_ms(bucket.mean_ms)} on average"
    if bucket.max_ms is not None:
        text += f", {_ms(bucket.max_ms)} at most"
    if bucket.failures:
        text += f", {bucket.failures:,} failed"
    return text


def _uptime_tone(bucket: Bucket) -> str:
    if not bucket.requests:
        return "none"
    if not bucket.failures:
        return "good"
    return "bad" if bucket.failures / bucket.requests >= 0.5 else "warn"


def _round_up(value: float) -> float:
    """The next pleasant number for an axis."""
    if value <= 0:
        return 10.0
    size = 1.0
    while True:
        for factor in (1, 1.5, 2, 3, 4, 6, 8):
            if value <= factor * size:
                return factor * size
        size *= 10


def _ms(value: float) -> str:
    return f"{value / 1000:g} s" if value >= 1000 else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _moment(at: datetime, buckets: Sequence[Bucket]) -> str:
    long = (buckets[-1].at - at).total_seconds() > 2 * 86400
    return f"{at:%-d %b}" if long else f"{at:%-d %b, %H:%M} UTC"
