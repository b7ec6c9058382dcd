"""Compares the ledger with the account, and sweeps what crashed errands left behind. Of names that are not ours it knows nothing.

It reports: *drift* (the ledger says it lives, the account has nothing of that name) and *orphans* (ours by name, and the ledger
has no row, or says it is deleted). It removes by itself only what cannot hold a tenant's data: scripts of errands (`check-`,
`janitor-`), scripts the ledger wants gone, and orphaned scripts. Orphaned data is reported, and people decide.
Nothing younger than GRACE is touched: a request may still be under way.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from django.utils.dateparse import parse_datetime
from ulid import ULID

from hosting import names
from hosting.cloudflare.errors import CloudflareError, RateLimited
from hosting.cloudflare.port import Cloudflare, Found, ResourceKind
from hosting.models import UNFINISHED, Account, Operation, Resource
from hosting.provisioning.accounts import open_cloudflare, update_openness
from smcp.common.ids import ULID_RE
from smcp.common.tenancy import as_system

logger = logging.getLogger(__name__)
GRACE: Final = timedelta(minutes=10)


@dataclass
class Report:
    """What does not agree, by name. `swept`: removed just now."""

    drift: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.drift or self.orphans)


def reconcile_all(*, now: datetime) -> dict[str, Report]:
    """Every account, by our id. One that cannot be asked now is left for next time."""
    update_openness()
    with as_system():
        accounts = list(Account.objects.exclude(ready_at=None).values_list("id", flat=True))
    reports = {}
    for account_id in accounts:
        try:
            reports[account_id] = reconcile(account_id, open_cloudflare(account_id), now=now)
        except RateLimited:
            logger.info("reconciler.put_off account=%s", account_id)
        except CloudflareError as exc:
            logger.warning("reconciler.failed account=%s error=%s", account_id, exc)
    return reports


def reconcile(account_id: str, cloudflare: Cloudflare, *, now: datetime, grace: timedelta = GRACE) -> Report:
    """Raises CloudflareError."""
    report = Report()
    # The account first, then the ledger: what is made in between is in the ledger, because the row is written first.
    there = {kind: _ours(found) for kind, found in _listed(cloudflare)}
    ledger = _ledger(account_id)
    for kind, found in there.items():
        for thing in found:
            if _is_recent(thing, now, grace):
                continue
            if kind == ResourceKind.SCRIPT and _is_errand(thing.name):
                _sweep(cloudflare, thing, report, still_needed=_is_needed(thing.name))
            elif _is_orphan(thing, ledger, now, grace):
                if kind == ResourceKind.SCRIPT:
                    _sweep(cloudflare, thing, report, still_needed=False)
                else:
                    report.orphans.append(thing.name)
    names_there = {thing.name for found in there.values() for thing in found}
    report.drift = sorted(
        row.name
        for row in ledger.values()
        if row.state == Resource.State.LIVE and row.name not in names_there
    )
    _finish_removals(cloudflare, ledger, names_there, report, now)
    level = logging.INFO if report.is_clean else logging.WARNING
    logger.log(
        level,
        "reconciler.report account=%s drift=%s orphans=%s swept=%s",
        account_id,
        report.drift,
        report.orphans,
        len(report.swept),
    )
    return report


def _listed(cloudflare: Cloudflare) -> Iterator[tuple[ResourceKind, list[Found]]]:
    yield ResourceKind.SCRIPT, list(cloudflare.list_scripts())
    yield ResourceKind.KV_NAMESPACE, list(cloudflare.list_kv_namespaces())
    yield ResourceKind.R2_BUCKET, list(cloudflare.list_r2_buckets())
    yield ResourceKind.D1_DATABASE, list(cloudflare.list_d1_databases())


def _ours(found: list[Found]) -> list[Found]:
    own = re.compile(re.escape(names.prefix()) + rf"((check|janitor)-)?{ULID_RE.pattern}")
    return [thing for thing in found if own.fullmatch(thing.name)]


def _ledger(account_id: str) -> dict[str, Resource]:
    with as_system():
        return {row.name: row for row in Resource.objects.filter(account_id=account_id)}


def _is_errand(name: str) -> bool:
    return name.removeprefix(names.prefix()).startswith(("check-", "janitor-"))


def _is_needed(name: str) -> bool:
    """A janitor whose bucket is still being emptied."""
    _, _, row_id = name.removeprefix(names.prefix()).partition("-")
    with as_system():
        return Resource.objects.filter(
            id=row_id, kind=ResourceKind.R2_BUCKET, state=Resource.State.DELETING
        ).exists()


def _is_orphan(thing: Found, ledger: dict[str, Resource], now: datetime, grace: timedelta) -> bool:
    row = ledger.get(thing.name)
    if row is None:
        return True
    return row.state == Resource.State.DELETED and (row.deleted_at or now) < now - grace


def _is_recent(thing: Found, now: datetime, grace: timedelta) -> bool:
    """By the vendor's date, or by the time in our own id where it tells none."""
    made_at = parse_datetime(thing.created_at) if thing.created_at else None
    if made_at is not None and made_at.tzinfo is not None:
        return made_at > now - grace
    match = re.search(ULID_RE.pattern + "$", thing.name)
    return match is not None and _time_of(match[0]) > (now - grace).timestamp()


def _time_of(ulid: str) -> float:
    return ULID.from_str(ulid.upper()).timestamp


def _sweep(cloudflare: Cloudflare, thing: Found, report: Report, *, still_needed: bool) -> None:
    if still_needed:
        return
    cloudflare.delete_script(thing.name)
    report.swept.append(thing.name)


def _finish_removals(
    cloudflare: Cloudflare, ledger: dict[str, Resource], names_there: set[str], report: Report, now: datetime
) -> None:
    """Scripts an Operation wanted gone and could not remove."""
    leaving = [
        r for r in ledger.values() if (r.kind, r.state) == (ResourceKind.SCRIPT, Resource.State.DELETING)
    ]
    for row in leaving:
        with as_system():
            if Operation.objects.filter(environment_id=row.environment_id, state__in=UNFINISHED).exists():
                continue
        if row.name in names_there:
            cloudflare.delete_script(row.name)
            report.swept.append(row.name)
        with as_system():
            Resource.objects.filter(id=row.id, state=Resource.State.DELETING).update(
                state=Resource.State.DELETED, deleted_at=now
            )
