"""The bindings of an upload: their types, names, sizes, and what is kept from the present version. Pure.

Whether the things they name exist is asked later, of the stores (`edge/scripts/deploy.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge.scripts.errors import InvalidUpload
from edge.scripts.model import ObjectClass, ScriptKey

MAX_VARIABLES = 128
MAX_VARIABLE_BYTES = 5 * 1024
MAX_NAME = 255
VARIABLES = ("plain_text", "json", "secret_text")
# Type → the field that says what it is bound to.
FIELDS = {
    "plain_text": "text",
    "secret_text": "text",
    "json": "json",
    "kv_namespace": "namespace_id",
    "r2_bucket": "bucket_name",
    "d1": "id",
    "durable_object_namespace": "class_name",
    "version_metadata": None,
    "dispatch_namespace": "namespace",
}
ALSO_STORED = {"dispatch_namespace": ("outbound",)}
Binding = dict[str, Any]


def checked_bindings(
    key: ScriptKey,
    value: Any,
    *,
    present: Sequence[Binding],
    keep: Iterable[str],
    classes: Sequence[ObjectClass],
) -> tuple[Binding, ...]:
    """The bindings as they are stored: those given, plus those of the types in `keep` that are not named again.

    Raises InvalidUpload.
    """
    if value is not None and not isinstance(value, list):
        raise InvalidUpload("bindings must be a list.")
    known = {binding["name"]: binding for binding in present}
    bindings: dict[str, Binding] = {}
    for index, given in enumerate(value or []):
        binding = _checked(key, index, given, known, classes)
        if binding["name"] in bindings:
            raise InvalidUpload(f"Two bindings have the name '{binding['name']}'.")
        bindings[binding["name"]] = binding
    kept = set(keep)
    for name, binding in known.items():
        if binding["type"] in kept:
            bindings.setdefault(name, binding)
    _check_counts(bindings.values())
    return tuple(bindings.values())


def _checked(
    key: ScriptKey, index: int, given: Any, known: Mapping[str, Binding], classes: Sequence[ObjectClass]
) -> Binding:
    if not isinstance(given, dict):
        raise InvalidUpload(f"Binding at index {index} must be a JSON object.")
    name, kind = given.get("name"), given.get("type")
    if not isinstance(name, str) or not name:
        raise InvalidUpload(f"Binding at index {index} must have a name.", 10052)
    if len(name) > MAX_NAME or not name.isprintable():
        raise InvalidUpload(f"The name of the binding at index {index} is too long or not printable.")
    if kind == "inherit":
        return _inherited(name, given, known)
    if not isinstance(kind, str) or kind not in FIELDS:
        raise InvalidUpload(f"Binding '{name}' has the unknown type {kind!r}.")
    if kind == "dispatch_namespace" and key.namespace:
        raise InvalidUpload(f"Binding '{name}': scripts in a dispatch namespace cannot dispatch.")
    binding: Binding = {"name": name, "type": kind}
    field = FIELDS[kind]
    if field is not None:
        if field not in given:
            raise InvalidUpload(f"Binding '{name}' of type {kind} must have a {field}.")
        binding[field] = given[field]
        if field != "json" and (not isinstance(given[field], str) or (field != "text" and not given[field])):
            raise InvalidUpload(f"The {field} of binding '{name}' must be a text.")
    if kind == "durable_object_namespace":
        _check_class(key, name, given, classes)
    for extra in ALSO_STORED.get(kind, ()):
        if given.get(extra) is not None:
            binding[extra] = given[extra]
    return binding


def _inherited(name: str, given: Mapping[str, Any], known: Mapping[str, Binding]) -> Binding:
    source = known.get(given.get("old_name") or name)
    if source is None:
        raise InvalidUpload(
            f"Cannot inherit binding '{name}': the present version has none of that name.", 10057
        )
    return {**source, "name": name}


def _check_class(key: ScriptKey, name: str, given: Mapping[str, Any], classes: Sequence[ObjectClass]) -> None:
    if given.get("script_name") not in (None, "", key.name):
        raise InvalidUpload(f"Binding '{name}': Durable Objects of another script cannot be bound here.")
    if all(item.name != given["class_name"] for item in classes):
        raise InvalidUpload(
            f"Cannot create binding for class '{given['class_name']}' because it is not currently configured to "
            "implement Durable Objects. Ensure a migration has been applied to it.",
            10061,
        )


def _check_counts(bindings: Iterable[Binding]) -> None:
    variables = [binding for binding in bindings if binding["type"] in VARIABLES]
    if len(variables) > MAX_VARIABLES:
        raise InvalidUpload(
            f"A script has at most {MAX_VARIABLES} variables and secrets; this one has {len(variables)}.",
            10055,
        )
    for binding in variables:
        size = variable_size(binding)
        if size > MAX_VARIABLE_BYTES:
            raise InvalidUpload(
                f"Binding '{binding['name']}' is too large: {size} bytes of at most {MAX_VARIABLE_BYTES}.",
                10054,
            )


def variable_size(binding: Mapping[str, Any]) -> int:
    if binding["type"] == "json":
        return len(json.dumps(binding["json"], separators=(",", ":"), ensure_ascii=False).encode())
    return len(binding["text"].encode("utf-8", "surrogatepass"))


def shown(binding: Mapping[str, Any]) -> Binding:
    """A binding as answers show it: a secret's value never leaves."""
    if binding["type"] == "secret_text":
        return {"name": binding["name"], "type": "secret_text"}
    return dict(binding)
