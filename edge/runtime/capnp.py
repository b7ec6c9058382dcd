"""workerd's configuration for one script, as Cap'n Proto text. Pure: strings in, a string out.

A process runs three things: the script (`main`, behind small modules of ours that can list its exports), one outside service
per resource it may use, and the sockets `w` (its requests) and `p` (the list of exports). All outside services lead
to one Unix socket `e`, the script's door to the edge; each adds a header that names the resource, and workerd removes a header of
that name that the script set itself. There is no other way out.

Paths are relative to the script's directory, where workerd runs. Schema: `workerd.capnp` in workerd's source.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edge.scripts.model import Script

RESOURCE_HEADER = "x-edge-resource"
PROTO_HEADER = "x-edge-proto"
CF_HEADER = "x-edge-cf"
OURS = "__edge_"  # what the names of our own modules and entrypoints begin with
ENTRY_NAME = f"{OURS}entry.js"
HEAP_MB = 128
JS = Path(__file__).parent / "js"
ENTRY_JS = (JS / "entry.js").read_text()
HELPERS = {f"{OURS}{name}": (JS / name).read_text() for name in ("exports.js", "thrown.js")}
DISPATCH_JS = (JS / "dispatch.js").read_text()
EMAIL_JS = (JS / "email.js").read_text()
ESCAPES = {byte: f"\\x{byte:02x}" for byte in range(256) if not 32 <= byte < 127 or byte in b'"\\'}

# Content type of an upload's part → kind of workerd module. Types absent here are stored but not loaded (source maps).
MODULE_KINDS = {
    "application/javascript+module": "esModule",
    "text/javascript+module": "esModule",
    "application/javascript": "commonJsModule",
    "text/javascript": "commonJsModule",
    "text/plain": "text",
    "text/html": "text",
    "text/sql": "text",
    "application/octet-stream": "data",
    "application/wasm": "wasm",
    "application/json": "json",
}


@dataclass(frozen=True)
class Socketed:
    """Where a process's files are, relative to the script's directory."""

    run: str  # of this process
    objects: str  # of the script's Durable Objects


def quoted(text: str) -> str:
    """A Cap'n Proto text literal: printable ASCII as it is, every other byte as \\xNN."""
    raw = text.encode("utf-8", "surrogatepass")
    return '"' + raw.decode("latin-1").translate(ESCAPES) + '"'


def module_file(number: int) -> str:
    return f"m{number}"


def resources_of(script: Script) -> dict[str, str]:
    """The names under which `script` may reach the edge's stores → the service that leads there."""
    named: dict[str, str] = {}
    for kind, prefix, field in (
        ("kv_namespace", "kv", "namespace_id"),
        ("r2_bucket", "r2", "bucket_name"),
        ("d1", "d1", "id"),
        ("dispatch_namespace", "dispatch", "namespace"),
    ):
        for binding in script.version.bindings_of(kind):
            resource = f"{prefix}/{binding[field]}"
            named[resource] = f"out:{resource}"
    return named


def config(script: Script, places: Socketed, *, is_trial: bool) -> str:
    """The whole file. In a trial Durable Objects live in memory, so nothing of the real data is touched."""
    version = script.version
    resources = resources_of(script)
    door = f"unix:{places.run}/e"
    services = [_main_service(script, resources, is_trial=is_trial)]
    if script.classes and not is_trial:
        services.append(f'(name="objects", disk=(path={quoted(places.objects)}, writable=true))')
    services.extend(_outside(service, resource, door) for resource, service in resources.items())
    services.append(_outside("egress", "egress/-", door))
    internal = [("cloudflare-internal:email", EMAIL_JS)]
    if version.bindings_of("dispatch_namespace"):
        internal.append(("edge-internal:dispatch", DISPATCH_JS))
    modules = (f"(name={quoted(name)}, internal=true, esModule={quoted(code)})" for name, code in internal)
    return f"""using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  logging=(structuredLogging=true),
  v8Flags=["--max-old-space-size={HEAP_MB}"],
  extensions=[(modules=[{_lines(modules)}])],
  sockets=[
    (name="w", address={quoted(f"unix:{places.run}/w")}, service="main",
      http=(forwardedProtoHeader="{PROTO_HEADER}", cfBlobHeader="{CF_HEADER}")),
    (name="p", address={quoted(f"unix:{places.run}/p")}, service=(name="main", entrypoint="__edge_probe"), http=())],
  services=[
    {_lines(services)}]);
"""


def _main_service(script: Script, resources: dict[str, str], *, is_trial: bool) -> str:
    version = script.version
    entry = ENTRY_JS.replace('"__MAIN__"', json.dumps("./" + version.main_module))
    modules = [
        f"(name={quoted(ENTRY_NAME)}, esModule={quoted(entry)})",
        *(f"(name={quoted(name)}, esModule={quoted(text)})" for name, text in HELPERS.items()),
    ]
    for number, module in enumerate(version.modules):
        kind = MODULE_KINDS.get(module.content_type)
        if kind is not None:
            modules.append(f'(name={quoted(module.name)}, {kind}=embed "{module_file(number)}")')
    classes = [
        f"(className={quoted(item.name)}, uniqueKey={quoted(item.key)}, enableSql={str(item.is_sql).lower()})"
        for item in script.classes
    ]
    storage = "inMemory=void" if is_trial else 'localDisk="objects"'
    parts = [
        f"modules=[{_lines(modules)}]",
        f"compatibilityDate={quoted(version.compatibility_date)}",
        f"compatibilityFlags=[{', '.join(map(quoted, version.compatibility_flags))}]",
        f"bindings=[{_lines(_bindings(script, resources))}]",
        'globalOutbound="egress"',
    ]
    if classes:
        parts += [f"durableObjectNamespaces=[{_lines(classes)}]", f"durableObjectStorage=({storage})"]
    return f'(name="main", worker=({_lines(parts)}))'


def _bindings(script: Script, resources: dict[str, str]) -> Iterable[str]:
    version = script.version
    for binding in version.bindings:
        name = f"name={quoted(binding['name'])}"
        match binding["type"]:
            case "plain_text" | "secret_text":
                yield f"({name}, text={quoted(binding['text'])})"
            case "json":
                yield f"({name}, json={quoted(json.dumps(binding['json']))})"
            case "kv_namespace":
                yield f"({name}, kvNamespace={quoted(resources['kv/' + binding['namespace_id']])})"
            case "r2_bucket":
                yield f"({name}, r2Bucket={quoted(resources['r2/' + binding['bucket_name']])})"
            case "d1":
                yield _wrapped(name, "cloudflare-internal:d1-api", resources["d1/" + binding["id"]])
            case "dispatch_namespace":
                yield _wrapped(name, "edge-internal:dispatch", resources["dispatch/" + binding["namespace"]])
            case "durable_object_namespace":
                yield f"({name}, durableObjectNamespace={quoted(binding['class_name'])})"
            case "version_metadata":
                tag = version.annotations.get("workers/tag", "")
                facts = {"id": version.id, "tag": tag, "timestamp": version.created_at}
                yield f"({name}, json={quoted(json.dumps(facts))})"
            case kind:
                raise ValueError(f"a stored binding has the unknown type {kind!r}")


def _wrapped(name: str, module: str, service: str) -> str:
    inner = f'(name="fetcher", service={quoted(service)})'
    return f"({name}, wrapped=(moduleName={quoted(module)}, innerBindings=[{inner}]))"


def _outside(service: str, resource: str, door: str) -> str:
    options = [
        f'forwardedProtoHeader="{PROTO_HEADER}"',
        f"injectRequestHeaders=[(name={quoted(RESOURCE_HEADER)}, value={quoted(resource)})]",
    ]
    return f"(name={quoted(service)}, external=(address={quoted(door)}, http=({', '.join(options)})))"


def _lines(items: Iterable[str]) -> str:
    return ",\n      ".join(items)
