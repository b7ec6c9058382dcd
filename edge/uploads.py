"""A script upload as it comes over the wire: multipart parts into an Upload, streamed to disk within bounds.

The part `metadata` is JSON; every other part is a module, named by its *filename* first, then its name (wrangler sends both, other
clients one). Nothing here knows what metadata means: `edge/scripts/metadata.py` does. Until the caller leaves `receive_upload` its
modules are pinned; if we crash half-way they are swept at the next start.

Source: https://developers.cloudflare.com/workers/configuration/multipart-upload-metadata/
"""

from __future__ import annotations

import asyncio
import posixpath
import re
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from edge.reading import NotJson, decoded
from edge.runtime.capnp import MODULE_KINDS, OURS
from edge.scripts.errors import InvalidUpload, UploadTooLarge
from edge.scripts.model import Module
from edge.scripts.modules import ModuleFiles, TooLarge

MAX_SCRIPT = 10 * 1024 * 1024  # compressed, as Cloudflare counts
MAX_UPLOAD = 64 * 1024 * 1024  # as sent
MAX_METADATA = 1024 * 1024
MAX_PARTS = 2000
CHUNK = 64 * 1024
STALLED_S = 60.0
STORED_KINDS = frozenset({*MODULE_KINDS, "application/source-map"})
MODULE_NAME = re.compile(r"[^\x00-\x1f\x7f\\]{1,512}")


@dataclass(frozen=True)
class Upload:
    """What was sent: the metadata as parsed JSON, and the modules, whose bytes are on disk."""

    metadata: dict[str, Any]
    modules: tuple[Module, ...]


@asynccontextmanager
async def receive_upload(
    request: web.Request, files: ModuleFiles, *, metadata_part: str = "metadata"
) -> AsyncIterator[Upload]:
    """The upload in the request's body. Raises InvalidUpload, UploadTooLarge."""
    if not request.content_type.startswith("multipart/"):
        raise InvalidUpload("A script is uploaded as multipart/form-data with a part named metadata.")
    modules: dict[str, Module] = {}
    metadata: dict[str, Any] | None = None
    left = MAX_UPLOAD
    try:
        try:
            async for part in _parts(await request.multipart()):
                if part.name == metadata_part:
                    metadata = await _parse_metadata(await _small(part, MAX_METADATA))
                    continue
                if len(modules) >= MAX_PARTS:
                    raise InvalidUpload(f"An upload has at most {MAX_PARTS} modules.")
                module = await _receive_module(part, files, left)
                if module.name in modules:
                    files.unpin([module.digest])
                    raise InvalidUpload(f'Module "{module.name}" was uploaded twice.')
                modules[module.name] = module
                left -= module.size
        except (ValueError, HttpProcessingError) as exc:
            raise InvalidUpload("The multipart body is malformed.") from exc
        except TimeoutError as exc:
            raise InvalidUpload("The upload stalled.") from exc
        if metadata is None:
            raise InvalidUpload(f"The upload has no part named {metadata_part}.")
        await _check_size(files, list(modules.values()))
        yield Upload(metadata=metadata, modules=tuple(modules.values()))
    finally:
        files.unpin(module.digest for module in modules.values())


async def _parts(reader: MultipartReader) -> AsyncIterator[BodyPartReader]:
    while True:
        async with asyncio.timeout(STALLED_S):
            part = await reader.next()
        if part is None:
            return
        if not isinstance(part, BodyPartReader):
            raise InvalidUpload("A part of the upload is multipart itself.")
        yield part


async def _chunks(part: BodyPartReader) -> AsyncIterator[bytes]:
    while True:
        async with asyncio.timeout(STALLED_S):
            chunk = await part.read_chunk(CHUNK)
        if not chunk:
            return
        yield bytes(chunk)


async def _small(part: BodyPartReader, limit: int) -> bytes:
    collected = bytearray()
    async for chunk in _chunks(part):
        collected += chunk
        if len(collected) > limit:
            raise UploadTooLarge(f"The metadata is larger than {limit} bytes.")
    return bytes(collected)


async def _parse_metadata(raw: bytes) -> dict[str, Any]:
    try:
        metadata = await decoded(raw)
    except NotJson as exc:
        raise InvalidUpload("The metadata is not valid JSON.") from exc
    if not isinstance(metadata, dict):
        raise InvalidUpload("The metadata must be a JSON object.")
    return metadata


async def _receive_module(part: BodyPartReader, files: ModuleFiles, limit: int) -> Module:
    name = normalised(part.filename or part.name or "")
    content_type = part.headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
    if content_type not in STORED_KINDS:
        raise InvalidUpload(f'Module "{name}" has the unsupported content type {content_type!r}.')
    try:
        digest, size = await files.receive(_chunks(part), limit=limit)
    except TooLarge as exc:
        raise UploadTooLarge(f"The upload is larger than {MAX_UPLOAD // 2**20} MB.") from exc
    return Module(name=name, content_type=content_type, digest=digest, size=size)


def normalised(name: str) -> str:
    """A module's name as imports see it: no leading `./`. Raises InvalidUpload for names that leave the bundle."""
    clean = posixpath.normpath(name) if name else ""
    if not MODULE_NAME.fullmatch(clean) or clean.startswith(("/", "..")) or clean == ".":
        raise InvalidUpload(f"{name!r} is not a valid module name.")
    if clean.startswith(OURS):
        raise InvalidUpload(f"Module names that begin with {OURS} are reserved.")
    return clean


async def _check_size(files: ModuleFiles, modules: list[Module]) -> None:
    counted = [module for module in modules if module.content_type in MODULE_KINDS]
    if sum(module.size for module in counted) <= MAX_SCRIPT:
        return
    size = await asyncio.to_thread(lambda: sum(_compressed(files, module) for module in counted))
    if size > MAX_SCRIPT:
        raise UploadTooLarge(
            f"Your Worker exceeded the size limit of {MAX_SCRIPT // 2**20} MB after compression."
        )


def _compressed(files: ModuleFiles, module: Module) -> int:
    packer, size = zlib.compressobj(6), 0
    with files.path(module.digest).open("rb") as file:
        while chunk := file.read(CHUNK):
            size += len(packer.compress(chunk))
    return size + len(packer.flush())
