"""An upload as Cloudflare's own API takes it: a part `metadata` (JSON) and one part a module. Here it is read and judged.

Everything is allowed by list, so a key that Cloudflare invents tomorrow is refused until somebody has thought about it.
Pure: bytes in, `Upload` or an error out. What the code itself does shows in the sandbox, later.

Invalid
├── MultipartInvalid · UploadInvalid · BindingRefused · MigrationRefused · CompatibilityRefused · StdioServer
TooLarge
└── UploadTooLarge

Source: https://developers.cloudflare.com/workers/configuration/multipart-upload-metadata/
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final

from hosting.bindings import check_bindings, check_migrations
from hosting.cloudflare.port import Module
from hosting.compatibility import check_date, check_flags
from hosting.multipart import Part, parse_multipart
from hosting.stdio import refuse_stdio
from smcp.common.errors import Invalid, TooLarge
from smcp.common.strict_json import NotUsable, parse_json
from smcp.common.wording import size

TOTAL_BYTES_MAX: Final = 10 * 1024 * 1024
METADATA_BYTES_MAX: Final = 256 * 1024
#: The whole request: modules, metadata, and the headers of the parts.
BODY_BYTES_MAX: Final = TOTAL_BYTES_MAX + METADATA_BYTES_MAX + 256 * 1024
BODY_MOST: Final = f"At most {size(TOTAL_BYTES_MAX)} in all modules together, and {size(BODY_BYTES_MAX)} in the whole request."
MODULES_MAX: Final = 250
NAME_MAX: Final = 255
CPU_MS_MAX: Final = 300_000
ANNOTATION_MAX: Final = 500
NAMES_SHOWN: Final = 5  # of modules, in an error
NAME_SHOWN: Final = 80

MODULE_TYPES: Final = frozenset(
    {
        "application/javascript+module",
        "application/json",
        "application/octet-stream",
        "application/source-map",
        "application/wasm",
        "text/plain",
    }
)
METADATA_KEYS: Final = frozenset(
    {
        "annotations",
        "bindings",
        "compatibility_date",
        "compatibility_flags",
        "limits",
        "main_module",
        "migrations",
    }
)
#: Keys people know from Cloudflare, and why we do not take them.
REFUSED_KEYS: Final[Mapping[str, str]] = {
    "assets": "Static assets are not offered.",
    "body_part": "Write the Worker as a module: main_module, not body_part.",
    "code_update_strategy": "The platform decides when code is replaced.",
    "exports": "Declare Durable Objects by migrations.",
    "keep_bindings": "Each Version declares all of its bindings.",
    "logpush": "Logs are the platform's.",
    "observability": "Logs and metrics are the platform's.",
    "placement": "The platform places Workers.",
    "tags": "Tags are the platform's. A note of your own goes into annotations.",
    "tail_consumers": "Another script would see the traffic.",
    "usage_model": "The platform has one.",
}
_SEGMENT_RE = re.compile(r"[A-Za-z0-9_@$+~()\[\]. -]+")


class UploadInvalid(Invalid):
    code = "upload-invalid"
    title = "The upload cannot be used"


class UploadTooLarge(TooLarge):
    code = "upload-too-large"
    title = "The upload is too large"


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A judged upload. `digest` names everything that makes it behave; annotations are not part of it."""

    main_module: str
    modules: Sequence[Module]
    compatibility_date: date
    compatibility_flags: Sequence[str] = ()
    bindings: Sequence[Mapping[str, Any]] = ()  # as declared, without ids
    migrations: Mapping[str, Any] | None = None
    limits: Mapping[str, int] = field(default_factory=dict)  # {cpu_ms}
    annotations: Mapping[str, str] = field(default_factory=dict)  # {message, tag}

    @property
    def size_bytes(self) -> int:
        return sum(len(module.content) for module in self.modules)

    @property
    def digest(self) -> str:
        """sha256, hex. The order of modules and bindings says nothing, so it does not count."""
        said = {
            "main_module": self.main_module,
            "modules": sorted(
                [module.name, module.content_type, hashlib.sha256(module.content).hexdigest()]
                for module in self.modules
            ),
            "compatibility_date": self.compatibility_date.isoformat(),
            "compatibility_flags": sorted(self.compatibility_flags),
            "bindings": sorted((dict(binding) for binding in self.bindings), key=lambda b: str(b["name"])),
            "migrations": self.migrations,
            "limits": dict(self.limits),
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_upload(*, content_type: str, body: bytes, now: datetime) -> Upload:
    """Raises the errors above, with the field at fault."""
    parts = parse_multipart(content_type=content_type, body=body)
    metadata = _metadata([part for part in parts if part.name == "metadata"])
    modules = [_module(part) for part in parts if part.name != "metadata"]
    return check_upload(metadata=metadata, modules=modules, now=now)


def check_upload(*, metadata: Mapping[str, Any], modules: Sequence[Module], now: datetime) -> Upload:
    """The same judgement for what does not come by HTTP: the catalog's own Workers."""
    _check_keys(metadata)
    _check_modules(modules)
    main_module = _main_module(metadata.get("main_module"), modules)
    refuse_stdio(modules)
    return Upload(
        main_module=main_module,
        modules=tuple(modules),
        compatibility_date=check_date(metadata.get("compatibility_date"), now=now),
        compatibility_flags=check_flags(metadata.get("compatibility_flags", [])),
        bindings=check_bindings(metadata.get("bindings", [])),
        migrations=check_migrations(metadata.get("migrations")),
        limits=_limits(metadata.get("limits", {})),
        annotations=_annotations(metadata.get("annotations", {})),
    )


def _metadata(parts: list[Part]) -> dict[str, Any]:
    if len(parts) != 1:
        raise UploadInvalid(
            "Exactly one part must be named metadata.", fields={"metadata": "Exactly one part."}
        )
    if len(parts[0].content) > METADATA_BYTES_MAX:
        raise UploadTooLarge(f"metadata: at most {size(METADATA_BYTES_MAX)}.")
    try:
        metadata = parse_json(parts[0].content)
    except NotUsable as exc:
        raise UploadInvalid(fields={"metadata": str(exc)}) from exc
    if not isinstance(metadata, dict):
        raise UploadInvalid(fields={"metadata": "Must be a JSON object."})
    return metadata


def _check_keys(metadata: Mapping[str, Any]) -> None:
    wrong = {
        f"metadata.{key}": REFUSED_KEYS.get(key, f"Unknown. There are: {', '.join(sorted(METADATA_KEYS))}.")
        for key in metadata
        if key not in METADATA_KEYS
    }
    if wrong:
        raise UploadInvalid(fields=wrong)


def _module(part: Part) -> Module:
    # Cloudflare names a module by its file name first; "./a.js" and "a.js" are the same module.
    name = (part.filename or part.name).removeprefix("./")
    return Module(name=name, content_type=part.content_type, content=part.content)


def _check_modules(modules: Sequence[Module]) -> None:
    if len(modules) > MODULES_MAX:
        raise UploadTooLarge(f"At most {MODULES_MAX} modules.")
    if sum(len(module.content) for module in modules) > TOTAL_BYTES_MAX:
        raise UploadTooLarge(f"At most {size(TOTAL_BYTES_MAX)} in all modules together.")
    seen: set[str] = set()
    for module in modules:
        if why := _wrong_with(module):
            shown = _shown(module.name)
            raise UploadInvalid(f"The module “{shown}” cannot be used: {why}", fields={shown: why})
        if module.name in seen:
            raise UploadInvalid(
                f"Two modules are named “{module.name}”.", fields={module.name: "Named twice."}
            )
        seen.add(module.name)


def _wrong_with(module: Module) -> str:
    segments = module.name.split("/")
    if len(module.name) > NAME_MAX:
        return f"its name is longer than {NAME_MAX} characters."
    if any(not _SEGMENT_RE.fullmatch(segment) or not segment.strip(". ") for segment in segments):
        return "its name must be a relative path of plain characters, without “..”."
    if module.content_type.startswith("text/x-python") or module.name.endswith(".py"):
        return "Python Workers are not offered."
    if module.content_type not in MODULE_TYPES:
        return f"give its part a content type: one of {', '.join(sorted(MODULE_TYPES))}."
    if module.content_type == "application/javascript+module":
        try:
            module.content.decode()
        except UnicodeDecodeError:
            return "it is not UTF-8."
    return ""


def _main_module(name: object, modules: Sequence[Module]) -> str:
    if not isinstance(name, str) or not name:
        raise UploadInvalid(fields={"metadata.main_module": "Name the module that the Worker starts with."})
    for module in modules:
        if module.name == name.removeprefix("./"):
            if module.content_type != "application/javascript+module":
                why = "The main module must be application/javascript+module."
                raise UploadInvalid(fields={"metadata.main_module": why})
            return module.name
    raise UploadInvalid(fields={"metadata.main_module": _nobody_is(name, modules)})


def _nobody_is(name: str, modules: Sequence[Module]) -> str:
    """Most often curl sent another file name than the part's own name."""
    wanted = f"No part carries the main module “{_shown(name)}”"
    if not modules:
        return f"{wanted}: there is no part but metadata."
    seen = ", ".join(f"“{_shown(module.name)}”" for module in modules[:NAMES_SHOWN])
    more = f" and {len(modules) - NAMES_SHOWN} more" if len(modules) > NAMES_SHOWN else ""
    return (
        f"{wanted}, only {seen}{more}: a module is named by its part's filename before its part's name, so send that filename "
        "(with curl: `;filename=…` after the content type) or name one of these in main_module."
    )


def _shown(name: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name[:NAME_SHOWN])


def _limits(limits: object) -> dict[str, int]:
    if not isinstance(limits, dict) or not set(limits) <= {"cpu_ms"}:
        raise UploadInvalid(fields={"metadata.limits": "Only cpu_ms is taken."})
    cpu_ms = limits.get("cpu_ms")
    if cpu_ms is None:
        return {}
    if not isinstance(cpu_ms, int) or isinstance(cpu_ms, bool) or not 1 <= cpu_ms <= CPU_MS_MAX:
        raise UploadInvalid(fields={"metadata.limits.cpu_ms": f"From 1 to {CPU_MS_MAX} milliseconds."})
    return {"cpu_ms": cpu_ms}


def _annotations(annotations: object) -> dict[str, str]:
    known = {"workers/message": "message", "workers/tag": "tag"}
    if (
        not isinstance(annotations, dict)
        or not set(annotations) <= set(known)
        or not all(isinstance(text, str) and len(text) <= ANNOTATION_MAX for text in annotations.values())
    ):
        why = f"Only workers/message and workers/tag, at most {ANNOTATION_MAX} characters each."
        raise UploadInvalid(fields={"metadata.annotations": why})
    return {known[key]: text for key, text in annotations.items()}
