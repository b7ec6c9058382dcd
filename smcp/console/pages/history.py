"""Latency history for charts: minutes of the ledger gathered into buckets, every stretch of time present, empty ones too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import DateTimeField, Max, QuerySet, Sum
from django.db.models.expressions import F, Func, Value
from django.utils import timezone

from hosting.models import LatencySample
from smcp.console.charts import Bucket

_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)


def buckets(
    samples: QuerySet[LatencySample], *, hours: int, count: int, now: datetime | None = None
) -> list[Bucket]:
    """The last `hours` in `count` buckets of equal length, oldest first. Traffic and probes are one here."""
    width = timedelta(hours=hours) / count
    end = _floor(now or timezone.now(), width) + width
    start = end - width * count
    rows: dict[datetime, Any] = {
        row["bucket"]: row
        for row in samples.filter(minute__gte=start, minute__lt=end)
        .order_by()
        .annotate(
            bucket=Func(
                Value(width),
                F("minute"),
                Value(_EPOCH),
                function="date_bin",
                output_field=DateTimeField(),
            )
        )
        .values("bucket")
        .annotate(
            asked=Sum("requests"),
            failed=Sum("failures"),
            spent=Sum("latency_ms_sum"),
            most=Max("latency_ms_max"),
        )
    }
    return [_bucket(start + width * i, rows.get(start + width * i)) for i in range(count)]


def _bucket(at: datetime, row: Any) -> Bucket:
    if row is None or not row["asked"]:
        return Bucket(at=at)
    return Bucket(
        at=at,
        requests=row["asked"],
        failures=row["failed"],
        mean_ms=row["spent"] / row["asked"],
        max_ms=row["most"],
    )


def _floor(at: datetime, width: timedelta) -> datetime:
    return at - (at - _EPOCH) % width
