"""The last good state on disk, so that a node can start while Redis is away.

One file: a header line (form, installation, epoch, cursor, how many facts), then one fact a line as the contract encodes them.
It is written whole beside the old one, flushed, and renamed over it: a crash leaves the old file or the new, never half of
either, and gateways of one installation may share a directory: they write the same. Only its owner may read it. A file of another installation, another form, or short of facts is no snapshot.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from hosting.dataplane.contract import AnyFact, decode_fact, encode
from hosting.dataplane.facts.routes import Table

FORM = 1
FILE_NAME = "routes.snapshot"


class _Header(msgspec.Struct, kw_only=True):
    form: int
    installation: str
    epoch: str
    cursor: str
    saved_at: float
    facts: int


class NoSnapshot(Exception):
    """There is no usable file; the reason is in the message."""


def save_snapshot(
    directory: Path, *, installation: str, epoch: str, cursor: str, facts: list[AnyFact], now: float
) -> None:
    """Blocks on the disk: call it in a thread. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    header = _Header(
        form=FORM, installation=installation, epoch=epoch, cursor=cursor, saved_at=now, facts=len(facts)
    )
    aside = directory / f"{FILE_NAME}.{secrets.token_hex(8)}"
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(header) + b"\n")
            file.writelines(encode(fact) + b"\n" for fact in facts)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(directory / FILE_NAME)
    finally:
        aside.unlink(missing_ok=True)


def load_snapshot(directory: Path, *, installation: str) -> tuple[Table, float]:
    """The Table as it was, and when it was saved. Raises NoSnapshot."""
    try:
        with (directory / FILE_NAME).open("rb") as file:
            header = msgspec.json.decode(file.readline(), type=_Header)
            if (header.form, header.installation) != (FORM, installation):
                raise NoSnapshot("it is of another form or installation")
            table = Table(epoch=header.epoch, cursor=header.cursor)
            read = 0
            for line in file:
                table.apply(decode_fact(line))
                read += 1
    except (OSError, msgspec.MsgspecError) as exc:
        raise NoSnapshot(type(exc).__name__) from exc
    if read != header.facts:
        raise NoSnapshot(f"{read} of {header.facts} facts")
    return table, header.saved_at
