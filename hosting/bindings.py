"""Bindings and Durable Object migrations that a tenant may declare: names only, the platform fills in what they mean.

A tenant that could name a resource id, another script or another namespace could reach another tenant, so all of those are
refused, each with its reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from hosting.policies import VALUE_BYTES_MAX, is_binding_name
from smcp.common.errors import Invalid

BINDINGS_MAX: Final = 128  # Cloudflare's limit of variables, which bindings count towards
CLASSES_MAX: Final = 100
_CLASS_RE = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,99}")

#: type → keys besides `type` and `name`, with what each must be.
TYPES: Final[Mapping[str, Mapping[str, str]]] = {
    "kv_namespace": {},
    "r2_bucket": {},
    "d1": {},
    "durable_object_namespace": {"class_name": "class"},
    "plain_text": {"text": "text"},
    "json": {"json": "json"},
    "secret_text": {},
    "version_metadata": {},
}
_OURS = "The platform gives every Environment resources of its own: declare the name only."
_FOREIGN = "A binding may not point at another script."
REFUSED_KEYS: Final[Mapping[str, str]] = {
    "namespace_id": _OURS,
    "bucket_name": _OURS,
    "id": _OURS,
    "database_id": _OURS,
    "database_name": _OURS,
    "preview_id": _OURS,
    "jurisdiction": _OURS,
    "script_name": _FOREIGN,
    "service": _FOREIGN,
    "environment": _FOREIGN,
    "entrypoint": _FOREIGN,
    "dispatch_namespace": "A binding may not reach a dispatch namespace.",
    "namespace": "A binding may not reach a dispatch namespace.",
    "old_name": "Nothing is inherited from another Version.",
}
REFUSED_TYPES: Final[Mapping[str, str]] = {
    "service": _FOREIGN,
    "dispatch_namespace": "A binding may not reach a dispatch namespace.",
    "inherit": "Nothing is inherited from another Version.",
    "secret_key": "Use secret_text.",
    "tail_consumer": _FOREIGN,
}


class BindingRefused(Invalid):
    code = "binding-refused"
    title = "A binding is not allowed"


class MigrationRefused(Invalid):
    code = "migration-refused"
    title = "A migration is not allowed"


def check_bindings(bindings: object) -> tuple[dict[str, Any], ...]:
    """As declared. Raises BindingRefused naming the binding."""
    if not isinstance(bindings, list):
        raise BindingRefused(fields={"metadata.bindings": "Must be a list."})
    if len(bindings) > BINDINGS_MAX:
        raise BindingRefused(fields={"metadata.bindings": f"At most {BINDINGS_MAX}."})
    seen: set[str] = set()
    for position, binding in enumerate(bindings):
        if why := _wrong_with(binding) or ("This name is declared twice." if binding["name"] in seen else ""):
            raise BindingRefused(fields={f"metadata.bindings.{position}": why})
        seen.add(binding["name"])
    return tuple(dict(binding) for binding in bindings)


def _wrong_with(binding: object) -> str:
    if not isinstance(binding, dict):
        return "A binding is an object with type and name."
    name, kind = binding.get("name"), binding.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        known = REFUSED_TYPES.get(kind, "") if isinstance(kind, str) else ""
        return known or f"Bindings of this type are not offered. There are: {', '.join(TYPES)}."
    if not isinstance(name, str) or not is_binding_name(name):
        return "A name is letters, digits and _, at most 80, and does not start with a digit."
    if kind == "secret_text" and "text" in binding:
        return (
            "Code does not carry secrets: declare the name, and put the value into the Environment's secrets."
        )
    for key in binding:
        if key not in {"type", "name", *TYPES[kind]}:
            return REFUSED_KEYS.get(key, f"The key “{key[:40]}” is not taken in {kind}.")
    for key, what in TYPES[kind].items():
        if key not in binding:
            return f"{kind} needs {key}."
        if why := _CHECKS[what](binding[key]):
            return f"{key}: {why}"
    return ""


def _wrong_text(value: object) -> str:
    if not isinstance(value, str) or len(value.encode("utf-8", "replace")) > VALUE_BYTES_MAX:
        return f"text of at most {VALUE_BYTES_MAX} bytes."
    return ""


def _wrong_json(value: object) -> str:
    return f"at most {VALUE_BYTES_MAX} bytes of JSON." if len(json.dumps(value)) > VALUE_BYTES_MAX else ""


def _wrong_class(value: object) -> str:
    return "" if isinstance(value, str) and _CLASS_RE.fullmatch(value) else "the name of a class."


_CHECKS: Final[Mapping[str, Callable[[object], str]]] = {
    "text": _wrong_text,
    "json": _wrong_json,
    "class": _wrong_class,
}


def check_migrations(migrations: object) -> dict[str, Any] | None:
    """`{new_tag, old_tag?, steps: […]}` or one step beside the tags. Raises MigrationRefused."""
    if migrations is None:
        return None
    if not isinstance(migrations, dict):
        raise _migration("Must be an object.")
    tags = {key: migrations[key] for key in ("new_tag", "old_tag") if key in migrations}
    rest = {key: value for key, value in migrations.items() if key not in tags}
    steps = rest.pop("steps") if "steps" in rest else [rest]
    if rest and steps != [rest]:
        raise _migration("Give either steps or one step, not both.")
    if not isinstance(tags.get("new_tag"), str) or not all(
        isinstance(tag, str) and 0 < len(tag) <= 100 for tag in tags.values()
    ):
        raise _migration("new_tag is needed, and tags are texts of at most 100 characters.")
    if not isinstance(steps, list) or not 1 <= len(steps) <= CLASSES_MAX:
        raise _migration(f"From 1 to {CLASSES_MAX} steps.")
    for step in steps:
        _check_step(step)
    return migrations


def _check_step(step: object) -> None:
    if not isinstance(step, dict):
        raise _migration("A step is an object.")
    for key, value in step.items():
        if key == "transferred_classes":
            raise _migration("Objects cannot be transferred from or to another script.")
        if key not in {"new_classes", "new_sqlite_classes", "deleted_classes", "renamed_classes"}:
            raise _migration(f"The key “{key[:40]}” is not taken.")
        if not isinstance(value, list) or len(value) > CLASSES_MAX:
            raise _migration(f"{key} is a list of at most {CLASSES_MAX}.")
        for entry in value:
            _check_entry(key, entry)


def _check_entry(key: str, entry: object) -> None:
    if key != "renamed_classes":
        names: list[object] = [entry]
    elif isinstance(entry, dict) and set(entry) == {"from", "to"}:
        names = list(entry.values())
    else:
        raise _migration("renamed_classes are {from, to}.")
    for name in names:
        if why := _wrong_class(name):
            raise _migration(f"{key}: {why}")


def _migration(why: str) -> MigrationRefused:
    return MigrationRefused(fields={"metadata.migrations": why})
