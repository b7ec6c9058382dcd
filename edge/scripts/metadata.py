"""What an upload's metadata may say, checked before any code is loaded. Pure: metadata and the present script in, a Draft out.

Source: https://developers.cloudflare.com/workers/configuration/multipart-upload-metadata/. `egress` is the edge's own key:
`{"allow": ["host:port", …]}`, the only places the script may reach; absent, it may reach none.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.scripts.bindings import checked_bindings
from edge.scripts.classes import migrated
from edge.scripts.errors import InvalidUpload
from edge.scripts.model import (
    DEFAULT_CPU_MS,
    Module,
    ObjectClass,
    Script,
    ScriptKey,
    Version,
    new_version_id,
    now_text,
)

OLDEST_DATE = "2021-11-02"  # what Cloudflare assumes when none is given
MAX_CPU_MS = 300_000
MAX_TAGS = 8
MAX_TAG_LENGTH = 255
MAX_FLAGS = 100
MAX_EGRESS = 100
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
FLAG = re.compile(r"[A-Za-z0-9_.-]{1,100}")
EGRESS = re.compile(r"(?:\*\.)?(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?:\d{1,5}")
SHOWN_SETTINGS = ("observability", "placement", "logpush", "usage_model", "tail_consumers", "cache_options")
ENTRY_TYPES = ("application/javascript+module", "text/javascript+module")


@dataclass(frozen=True)
class Draft:
    """A Version that passed every check but the one of running it, and the classes it would leave."""

    version: Version
    tags: tuple[str, ...]
    classes: tuple[ObjectClass, ...]
    migration_tag: str | None


def draft(
    key: ScriptKey,
    metadata: Mapping[str, Any],
    modules: Sequence[Module],
    *,
    current: Script | None,
    newest_date: str,
) -> Draft:
    """The Version these describe. `newest_date` is the last compatibility date the runtime knows. Raises InvalidUpload."""
    if metadata.get("body_part") is not None:
        raise InvalidUpload(
            "Service Worker syntax is not supported here: upload ES modules with main_module."
        )
    main = _main_module(metadata.get("main_module"), modules)
    classes, migration_tag = migrated(
        metadata, current.classes if current else (), current.migration_tag if current else None
    )
    bindings = checked_bindings(
        key,
        metadata.get("bindings"),
        present=current.version.bindings if current else (),
        keep=string_list(metadata, "keep_bindings"),
        classes=classes,
    )
    cpu_ms = cpu_limit(metadata.get("limits"))
    version = Version(
        id=new_version_id(),
        number=current.version.number + 1 if current else 1,
        created_at=now_text(),
        main_module=main,
        modules=_main_first(main, modules),
        compatibility_date=compatibility_date(metadata.get("compatibility_date"), newest_date),
        compatibility_flags=compatibility_flags(metadata),
        bindings=bindings,
        cpu_ms=cpu_ms or DEFAULT_CPU_MS,
        has_cpu_limit=cpu_ms is not None,
        egress=egress(metadata.get("egress")),
        annotations=_annotations(metadata.get("annotations")),
        settings={name: metadata[name] for name in SHOWN_SETTINGS if metadata.get(name) is not None},
    )
    tags = checked_tags(metadata.get("tags"))
    if tags is None:
        tags = current.tags if current else ()
    return Draft(version=version, tags=tags, classes=classes, migration_tag=migration_tag)


def _main_module(name: Any, modules: Sequence[Module]) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidUpload("The metadata has no main_module.")
    wanted = name.removeprefix("./")
    main = next((module for module in modules if module.name == wanted), None)
    if main is None:
        raise InvalidUpload(f'main_module "{name}" was not among the uploaded parts.')
    if main.content_type not in ENTRY_TYPES:
        raise InvalidUpload(f'main_module "{name}" must have the content type {ENTRY_TYPES[0]}.')
    return main.name


def _main_first(main: str, modules: Sequence[Module]) -> tuple[Module, ...]:
    return tuple(sorted(modules, key=lambda module: module.name != main))


def compatibility_date(value: Any, newest: str) -> str:
    if value is None or value == "":
        return OLDEST_DATE
    try:
        if not isinstance(value, str) or not DATE.fullmatch(value):
            raise ValueError(value)
        datetime.date.fromisoformat(value)
    except ValueError as exc:
        raise InvalidUpload(f"Invalid compatibility date: {value!r}. Use YYYY-MM-DD.") from exc
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    if value > today:
        raise InvalidUpload(
            f"Can't set compatibility date in the future: \"{value}\". Today's date (UTC) is {today}."
        )
    if value > newest:
        raise InvalidUpload(
            f'The compatibility date "{value}" is later than the runtime\'s own, {newest}. Use that or an earlier one.'
        )
    return value


def compatibility_flags(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    flags = string_list(metadata, "compatibility_flags")
    if len(flags) > MAX_FLAGS or len(set(flags)) != len(flags):
        raise InvalidUpload("compatibility_flags has too many entries or repeats one.")
    for flag in flags:
        if not FLAG.fullmatch(flag):
            raise InvalidUpload(f"No such compatibility flag: {flag!r}.")
    return flags


def cpu_limit(limits: Any) -> int | None:
    """`limits.cpu_ms`, None where not given. Raises InvalidUpload."""
    if limits is None:
        return None
    if not isinstance(limits, dict):
        raise InvalidUpload("limits must be a JSON object.")
    cpu_ms = limits.get("cpu_ms")
    if cpu_ms is None:
        return None
    if type(cpu_ms) is not int or not 1 <= cpu_ms <= MAX_CPU_MS:
        raise InvalidUpload(f"limits.cpu_ms must be a whole number between 1 and {MAX_CPU_MS}.")
    return cpu_ms


def checked_tags(value: Any) -> tuple[str, ...] | None:
    """At most eight tags, in order, without repetition; None where not given. Raises InvalidUpload."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise InvalidUpload("tags must be a list of texts.")
    for tag in value:
        if not isinstance(tag, str) or not 1 <= len(tag) <= MAX_TAG_LENGTH or set(tag) & set(",&"):
            raise InvalidUpload("A tag is a text of 1 to 255 characters without ',' and '&'.")
    tags = tuple(dict.fromkeys(value))
    if len(tags) > MAX_TAGS:
        raise InvalidUpload(f"A script has at most {MAX_TAGS} tags.")
    return tags


def egress(value: Any) -> tuple[str, ...]:
    """The allow-list, in lower case. Raises InvalidUpload."""
    if value is None:
        return ()
    allow = value.get("allow") if isinstance(value, dict) else None
    if not isinstance(allow, list) or len(allow) > MAX_EGRESS:
        raise InvalidUpload(
            f'egress must be {{"allow": ["host:port", …]}} with at most {MAX_EGRESS} entries.'
        )
    entries = []
    for entry in allow:
        text = entry.lower() if isinstance(entry, str) else ""
        if not EGRESS.fullmatch(text) or not 1 <= int(text.rpartition(":")[2]) <= 65535:
            raise InvalidUpload(f"egress: {entry!r} is not host:port.")
        entries.append(text)
    return tuple(dict.fromkeys(entries))


def string_list(metadata: Mapping[str, Any], field: str) -> tuple[str, ...]:
    value = metadata.get(field)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidUpload(f"{field} must be a list of texts.")
    return tuple(value)


def _annotations(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(
        isinstance(text, str) and len(text) <= 1000 for text in value.values()
    ):
        raise InvalidUpload("annotations must be a JSON object of texts.")
    return value
