"""What scripts in a namespace and an account's own Workers have in common over the API: the same handlers behind both paths.

The path says which script: `{namespace}` is there or it is not. Secrets go in and never come out.
Source: https://developers.cloudflare.com/api/resources/workers_for_platforms/ and …/workers/.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import MultipartWriter, Payload, web
from aiohttp.abc import AbstractStreamWriter

from edge.container import Edge
from edge.envelope import BadRequest, json_body, json_object, success
from edge.routes import account_of
from edge.scripts.bindings import Binding, shown
from edge.scripts.deploy import Deployer, runtime_of
from edge.scripts.errors import InvalidUpload, NotFound, SecretNotFound
from edge.scripts.metadata import (
    SHOWN_SETTINGS,
    Draft,
    checked_tags,
    draft,
)
from edge.scripts.model import Module, Script, ScriptKey
from edge.scripts.modules import ModuleFiles
from edge.uploads import receive_upload

ACCOUNT_NAME = re.compile(r"[a-z0-9_][a-z0-9_-]{0,62}")
NAMESPACE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
CODE_SETTINGS = ("bindings", "compatibility_date", "compatibility_flags", "limits", "migrations", "exports")
MAX_SETTINGS = 1024 * 1024


def key_of(request: web.Request) -> ScriptKey:
    """Raises InvalidUpload (10016) for a name no script can have."""
    namespace = request.match_info.get("namespace", "")
    name = request.match_info["script"]
    if not (NAMESPACE_NAME if namespace else ACCOUNT_NAME).fullmatch(name):
        raise InvalidUpload(
            "Invalid Worker name. Ensure that it includes only lowercase letters, numbers, underscores and dashes, "
            "and is at most 63 characters long.",
            10016,
        )
    return ScriptKey(account_of(request), namespace, name)


async def get_script(request: web.Request, edge: Edge) -> Script:
    """The script in the path. Raises NotFound."""
    key = key_of(request)
    script = await runtime_of(edge).store.find(key)
    if script is None:
        raise NotFound(in_namespace=bool(key.namespace))
    return script


# The script itself


async def put(request: web.Request, edge: Edge) -> web.Response:
    key = key_of(request)
    async with receive_upload(request, runtime_of(edge).files) as upload:
        script = await Deployer(edge).upload(key, upload)
    result = script_view(script)
    result["startup_time_ms"] = script.version.startup_time_ms
    result["entry_point"] = script.version.main_module
    result["deployment_id"] = script.version.etag
    return success(result)


async def content(request: web.Request, edge: Edge) -> web.StreamResponse:
    """The modules as they were uploaded, multipart; the header names the main one."""
    script = await get_script(request, edge)
    files = runtime_of(edge).files
    for module in script.version.modules:
        files.pin(module.digest)
    try:
        writer = MultipartWriter("form-data")
        for module in script.version.modules:
            part = writer.append_payload(StoredModule(files, module))
            part.set_content_disposition("form-data", name=module.name, filename=module.name)
        headers = {"cf-entrypoint": script.version.main_module, "etag": f'"{script.version.etag}"'}
        response = web.Response(body=writer, headers=headers)
        await response.prepare(request)
        await response.write_eof()
        return response
    finally:
        files.unpin(module.digest for module in script.version.modules)


class StoredModule(Payload):
    """A module as a part of an answer, read while it is sent."""

    _autoclose = True

    def __init__(self, files: ModuleFiles, module: Module) -> None:
        super().__init__(module, content_type=module.content_type)
        self._files = files
        self._module = module
        self._size = module.size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a stored module is only sent")

    async def write(self, writer: AbstractStreamWriter) -> None:
        async for chunk in self._files.read(self._module.digest):
            await writer.write(chunk)


def script_view(script: Script) -> dict[str, Any]:
    version = script.version
    return {
        "id": script.name,
        "tag": script.tag,
        "tags": list(script.tags),
        "etag": version.etag,
        "handlers": list(version.handlers),
        "named_handlers": [
            {"name": item.name, "handlers": list(item.handlers)} for item in version.named_handlers
        ],
        "created_on": script.created_at,
        "modified_on": script.modified_at,
        "usage_model": version.settings.get("usage_model", "standard"),
        "compatibility_date": version.compatibility_date,
        "compatibility_flags": list(version.compatibility_flags),
        "migration_tag": script.migration_tag,
        "logpush": version.settings.get("logpush", False),
        "observability": version.settings.get("observability"),
        "tail_consumers": version.settings.get("tail_consumers"),
        "last_deployed_from": "api",
        "has_assets": False,
        "has_modules": True,
    }


# Settings and bindings


async def get_settings(request: web.Request, edge: Edge) -> web.Response:
    return success(settings_view(await get_script(request, edge)))


async def patch_settings(request: web.Request, edge: Edge) -> web.Response:
    """Settings that the code sees make a new version; tags and what is only shown do not."""
    key = key_of(request)
    settings = await _settings_body(request, edge)
    tags = checked_tags(settings.get("tags"))
    if any(settings.get(name) is not None for name in CODE_SETTINGS):
        newest = runtime_of(edge).newest_date
        script = await Deployer(edge).change(key, lambda current: _resettled(current, settings, newest))
    else:
        script = await Deployer(edge).annotate(key, lambda current: _annotated(current, settings, tags))
    return success(settings_view(script))


async def _settings_body(request: web.Request, edge: Edge) -> dict[str, Any]:
    if not request.content_type.startswith("multipart/"):
        return await json_object(request, limit=MAX_SETTINGS)
    async with receive_upload(request, runtime_of(edge).files, metadata_part="settings") as upload:
        return upload.metadata


def _resettled(current: Script, settings: Mapping[str, Any], newest_date: str) -> Draft:
    version = current.version
    metadata: dict[str, Any] = {
        **version.settings,
        "main_module": version.main_module,
        "bindings": list(version.bindings),
        "compatibility_date": version.compatibility_date,
        "compatibility_flags": list(version.compatibility_flags),
        "limits": {"cpu_ms": version.cpu_ms} if version.has_cpu_limit else None,
        "annotations": version.annotations,
        "egress": {"allow": list(version.egress)},
        **{name: value for name, value in settings.items() if value is not None},
    }
    if settings.get("bindings") is not None and "keep_bindings" not in settings:
        # A client cannot send back a secret it was never shown; leaving it out does not delete it.
        metadata["keep_bindings"] = ["secret_text"]
    return draft(current.key, metadata, version.modules, current=current, newest_date=newest_date)


def _annotated(current: Script, settings: Mapping[str, Any], tags: tuple[str, ...] | None) -> Script:
    kept = dict(current.version.settings)
    kept.update({name: settings[name] for name in SHOWN_SETTINGS if name in settings})
    version = msgspec.structs.replace(current.version, settings=kept)
    return msgspec.structs.replace(current, version=version, tags=current.tags if tags is None else tags)


def settings_view(script: Script) -> dict[str, Any]:
    version = script.version
    return {
        "bindings": [shown(binding) for binding in version.bindings],
        "compatibility_date": version.compatibility_date,
        "compatibility_flags": list(version.compatibility_flags),
        "limits": {"cpu_ms": version.cpu_ms} if version.has_cpu_limit else {},
        "logpush": version.settings.get("logpush", False),
        "migrations": {"new_tag": script.migration_tag} if script.migration_tag else None,
        "observability": version.settings.get("observability"),
        "placement": version.settings.get("placement", {}),
        "tags": list(script.tags),
        "tail_consumers": version.settings.get("tail_consumers"),
        "usage_model": version.settings.get("usage_model", "standard"),
    }


async def get_bindings(request: web.Request, edge: Edge) -> web.Response:
    script = await get_script(request, edge)
    return success([shown(binding) for binding in script.version.bindings])


# Secrets


async def list_secrets(request: web.Request, edge: Edge) -> web.Response:
    script = await get_script(request, edge)
    return success([shown(binding) for binding in script.version.bindings_of("secret_text")])


async def get_secret(request: web.Request, edge: Edge) -> web.Response:
    script = await get_script(request, edge)
    name = _secret_name(request)
    for binding in script.version.bindings_of("secret_text"):
        if binding["name"] == name:
            return success(shown(binding))
    raise SecretNotFound(name)


async def put_secret(request: web.Request, edge: Edge) -> web.Response:
    body = await json_object(request, limit=MAX_SETTINGS)
    name = body.get("name")
    if not isinstance(name, str):
        raise BadRequest("A secret has a name.")
    await _change_secrets(request, edge, {name: body})
    return success({"name": name, "type": "secret_text"})


async def delete_secret(request: web.Request, edge: Edge) -> web.Response:
    name = _secret_name(request)
    await _change_secrets(request, edge, {name: None})
    return success(None)


async def bulk_secrets(request: web.Request, edge: Edge) -> web.Response:
    """`{"secrets": {name: {name, type, text} or null}}`, null deletes; all of them in one new version."""
    secrets = (await json_object(request, limit=MAX_SETTINGS)).get("secrets")
    if not isinstance(secrets, dict):
        raise BadRequest("The body must be an object with secrets.")
    script = await _change_secrets(request, edge, secrets, must_exist=False)
    return success([shown(binding) for binding in script.version.bindings_of("secret_text")])


async def _change_secrets(
    request: web.Request, edge: Edge, changes: Mapping[str, Any], *, must_exist: bool = True
) -> Script:
    def change(current: Script) -> Draft:
        bindings = {binding["name"]: binding for binding in current.version.bindings}
        for name, secret in changes.items():
            present = bindings.get(name)
            if present is not None and present["type"] != "secret_text":
                raise InvalidUpload(
                    f"Binding name '{name}' already in use. Please use a different name and try again.", 10053
                )
            if secret is not None:
                bindings[name] = _secret(name, secret)
            elif present is not None:
                del bindings[name]
            elif must_exist:
                raise SecretNotFound(name)
        settings = {"bindings": list(bindings.values()), "keep_bindings": []}
        return _resettled(current, settings, runtime_of(edge).newest_date)

    return await Deployer(edge).change(key_of(request), change)


def _secret(name: str, given: Any) -> Binding:
    text = given.get("text") if isinstance(given, dict) else None
    if not isinstance(text, str) or given.get("type", "secret_text") != "secret_text" or not name:
        raise BadRequest("A secret is an object with name, type secret_text, and text.")
    return {"name": name, "type": "secret_text", "text": text}


def _secret_name(request: web.Request) -> str:
    name = request.match_info["secret"]
    return unquote(name) if request.query.get("url_encoded") == "true" else name


# Tags


async def get_tags(request: web.Request, edge: Edge) -> web.Response:
    return success(list((await get_script(request, edge)).tags))


async def put_tags(request: web.Request, edge: Edge) -> web.Response:
    tags = checked_tags(await json_body(request, limit=MAX_SETTINGS)) or ()
    return success(list((await _retag(request, edge, lambda _: tags)).tags))


async def put_tag(request: web.Request, edge: Edge) -> web.Response:
    tag = request.match_info["tag"]
    script = await _retag(request, edge, lambda tags: checked_tags([*tags, tag]) or ())
    return success(list(script.tags))


async def delete_tag(request: web.Request, edge: Edge) -> web.Response:
    tag = request.match_info["tag"]
    await _retag(request, edge, lambda tags: tuple(item for item in tags if item != tag))
    return success(None)


async def _retag(
    request: web.Request, edge: Edge, change: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> Script:
    return await Deployer(edge).annotate(
        key_of(request), lambda script: msgspec.structs.replace(script, tags=change(script.tags))
    )
