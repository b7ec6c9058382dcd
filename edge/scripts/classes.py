"""Which Durable Object classes of a script have storage, as uploads change that. Pure.

Two ways to say it: `migrations`, a list of steps each applied once, guarded by a tag; and `exports`, which describes what should be.
A class keeps its storage key through renames; deleting it gives the key up, and the runtime then removes its data.

Source: https://developers.cloudflare.com/durable-objects/reference/durable-objects-migrations/
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from edge.scripts.errors import InvalidUpload
from edge.scripts.model import ObjectClass

CLASS_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,255}")
Classes = dict[str, ObjectClass]


def migrated(
    metadata: Mapping[str, Any], classes: Iterable[ObjectClass], tag: str | None
) -> tuple[tuple[ObjectClass, ...], str | None]:
    """The classes and the migration tag after an upload with this metadata. Raises InvalidUpload."""
    current = {item.name: item for item in classes}
    migrations, exports = metadata.get("migrations"), metadata.get("exports")
    if migrations is not None and exports is not None:
        raise InvalidUpload("An upload has either migrations or exports, not both.")
    if exports is not None:
        return tuple(_reconciled(exports, current).values()), tag
    if migrations is None:
        return tuple(current.values()), tag
    if not isinstance(migrations, dict):
        raise InvalidUpload("migrations must be a JSON object.")
    old_tag, new_tag = migrations.get("old_tag"), migrations.get("new_tag")
    if new_tag is not None and (not isinstance(new_tag, str) or not new_tag):
        raise InvalidUpload("The new_tag of migrations must be a non-empty text.")
    if (old_tag or None) != tag:
        raise InvalidUpload(f"Migration tag precondition failed; current tag is {tag}", 10079)
    steps = migrations.get("steps", [migrations])
    if not isinstance(steps, list):
        raise InvalidUpload("The steps of migrations must be a list.")
    for step in steps:
        current = _apply(step, current)
    return tuple(current.values()), new_tag or tag


def _apply(step: Any, classes: Classes) -> Classes:
    if not isinstance(step, dict):
        raise InvalidUpload("Each step of migrations must be a JSON object.")
    if step.get("transferred_classes"):
        raise InvalidUpload("Transferring Durable Object classes between scripts is not supported here.")
    after = dict(classes)
    for field, is_sql in (("new_classes", False), ("new_sqlite_classes", True)):
        for name in _names(step.get(field), field):
            if name in after:
                raise InvalidUpload(
                    f"Cannot apply new-class migration to class '{name}' that is already depended on by "
                    "existing Durable Objects",
                    10074,
                )
            after[name] = new_class(name, is_sql=is_sql)
    for renamed in step.get("renamed_classes") or []:
        if not isinstance(renamed, dict):
            raise InvalidUpload("Each entry of renamed_classes must be a JSON object.")
        [old] = _names([renamed.get("from")], "renamed_classes")
        [new] = _names([renamed.get("to")], "renamed_classes")
        after = _renamed(after, old, new)
    for name in _names(step.get("deleted_classes"), "deleted_classes"):
        if after.pop(name, None) is None:
            raise InvalidUpload(
                f"Cannot apply delete-class migration to class '{name}' that does not exist", 10070
            )
    return after


def _reconciled(exports: Any, classes: Classes) -> Classes:
    if not isinstance(exports, dict):
        raise InvalidUpload("exports must be a JSON object.")
    after = dict(classes)
    for name, entry in exports.items():
        if not isinstance(entry, dict):
            raise InvalidUpload(f"The entry of exports for '{name}' must be a JSON object.")
        if entry.get("type") != "durable-object":
            continue
        _names([name], "exports")
        match entry.get("state") or "created":
            case "created":
                is_sql = _storage(name, entry)
                if name in after and after[name].is_sql != is_sql:
                    raise InvalidUpload(f"The storage of class '{name}' cannot be changed.")
                after.setdefault(name, new_class(name, is_sql=is_sql))
            case "deleted":
                after.pop(name, None)
            case "renamed":
                [new] = _names([entry.get("renamed_to")], "exports")
                if name in after:
                    after = _renamed(after, name, new)
            case state:
                raise InvalidUpload(f"The state {state!r} of class '{name}' is not supported here.")
    return after


def _storage(name: str, entry: Mapping[str, Any]) -> bool:
    storage = entry.get("storage")
    if storage not in ("sqlite", "legacy-kv"):
        raise InvalidUpload(f"The storage of class '{name}' must be sqlite or legacy-kv.")
    return bool(storage == "sqlite")


def _renamed(classes: Classes, old: str, new: str) -> Classes:
    if old not in classes:
        raise InvalidUpload(
            f"Cannot apply renamed-class migration to class '{old}' that does not exist", 10070
        )
    if new in classes:
        raise InvalidUpload(f"Cannot rename class '{old}' to '{new}', which already has objects", 10074)
    return {
        (new if name == old else name): (
            ObjectClass(name=new, key=item.key, is_sql=item.is_sql) if name == old else item
        )
        for name, item in classes.items()
    }


def new_class(name: str, *, is_sql: bool) -> ObjectClass:
    return ObjectClass(name=name, key=secrets.token_hex(16), is_sql=is_sql)


def _names(value: Any, field: str) -> list[str]:
    names = value or []
    if not isinstance(names, list):
        raise InvalidUpload(f"{field} must be a list of class names.")
    for name in names:
        if not isinstance(name, str) or not CLASS_NAME.fullmatch(name):
            raise InvalidUpload(f"{name!r} in {field} is not a class name.")
    return names
