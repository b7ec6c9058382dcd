"""What an upload may hold: the table of refusals, each with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hosting.catalog.catalog import list_entries
from hosting.cloudflare.port import Module
from hosting.compatibility import FLAGS, RUNTIME_DATE
from hosting.stdio import refuse_stdio
from hosting.uploads import (
    CPU_MS_MAX,
    MODULES_MAX,
    TOTAL_BYTES_MAX,
    Upload,
    check_upload,
    read_upload,
)
from smcp.common.errors import DomainError

NOW = datetime(2026, 11, 18, tzinfo=UTC)
JS = "application/javascript+module"
CODE = b'export default { fetch() { return new Response("hi") } }'
METADATA: dict[str, Any] = {"main_module": "worker.js", "compatibility_date": "2026-10-01"}


def judge(
    changes: dict[str, Any] | None = None, *more: Module, code: bytes = CODE, name: str = "worker.js"
) -> Upload:
    modules = [Module(name=name, content_type=JS, content=code), *more]
    return check_upload(metadata={**METADATA, **(changes or {})}, modules=modules, now=NOW)


def module(name: str, content: bytes = b"x", content_type: str = "text/plain") -> Module:
    return Module(name=name, content_type=content_type, content=content)


def bound(**binding: Any) -> dict[str, Any]:
    return {"bindings": [{"name": "B", **binding}]}


def migrated(**step: Any) -> dict[str, Any]:
    return {"migrations": {"new_tag": "v1", "steps": [step]}}


REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    # metadata
    ("upload-invalid", "metadata.main_module", {"main_module": None}),
    ("upload-invalid", "metadata.main_module", {"main_module": "other.js"}),
    ("upload-invalid", "metadata.main_module", {"main_module": 7}),
    ("upload-invalid", "metadata.assets", {"assets": {"jwt": "x"}}),
    ("upload-invalid", "metadata.body_part", {"body_part": "script"}),
    ("upload-invalid", "metadata.keep_bindings", {"keep_bindings": ["kv_namespace"]}),
    ("upload-invalid", "metadata.tags", {"tags": ["tenant-x"]}),
    ("upload-invalid", "metadata.tail_consumers", {"tail_consumers": [{"service": "spy"}]}),
    ("upload-invalid", "metadata.placement", {"placement": {"mode": "smart"}}),
    ("upload-invalid", "metadata.logpush", {"logpush": True}),
    ("upload-invalid", "metadata.observability", {"observability": {"enabled": True}}),
    ("upload-invalid", "metadata.usage_model", {"usage_model": "unbound"}),
    ("upload-invalid", "metadata.exports", {"exports": {}}),
    ("upload-invalid", "metadata.egress", {"egress": {"allow": ["10.0.0.1:80"]}}),
    ("upload-invalid", "metadata.dispatch_namespace", {"dispatch_namespace": "x"}),
    ("upload-invalid", "metadata.something_new", {"something_new": 1}),
    # compatibility
    ("compatibility-refused", "metadata.compatibility_date", {"compatibility_date": None}),
    ("compatibility-refused", "metadata.compatibility_date", {"compatibility_date": "2026-02-30"}),
    ("compatibility-refused", "metadata.compatibility_date", {"compatibility_date": "20261001"}),
    ("compatibility-refused", "metadata.compatibility_date", {"compatibility_date": "2026-11-18"}),
    ("compatibility-refused", "metadata.compatibility_date", {"compatibility_date": "2099-01-01"}),
    ("compatibility-refused", "metadata.compatibility_date", {"compatibility_date": "2019-01-01"}),
    ("compatibility-refused", "metadata.compatibility_flags", {"compatibility_flags": "nodejs_compat"}),
    ("compatibility-refused", "metadata.compatibility_flags", {"compatibility_flags": ["experimental"]}),
    ("compatibility-refused", "metadata.compatibility_flags", {"compatibility_flags": ["python_workers"]}),
    ("compatibility-refused", "metadata.compatibility_flags", {"compatibility_flags": ["no_such_flag"]}),
    ("compatibility-refused", "metadata.compatibility_flags", {"compatibility_flags": ["unsafe_module"]}),
    ("compatibility-refused", "metadata.compatibility_flags", {"compatibility_flags": ["nodejs_compat"] * 2}),
    # limits and annotations
    ("upload-invalid", "metadata.limits", {"limits": {"memory": 1}}),
    ("upload-invalid", "metadata.limits.cpu_ms", {"limits": {"cpu_ms": 0}}),
    ("upload-invalid", "metadata.limits.cpu_ms", {"limits": {"cpu_ms": CPU_MS_MAX + 1}}),
    ("upload-invalid", "metadata.limits.cpu_ms", {"limits": {"cpu_ms": True}}),
    ("upload-invalid", "metadata.annotations", {"annotations": {"workers/alias": "x"}}),
    ("upload-invalid", "metadata.annotations", {"annotations": {"workers/message": 1}}),
    # bindings that reach for what is not theirs
    ("binding-refused", "metadata.bindings.0", bound(type="kv_namespace", namespace_id="0" * 32)),
    ("binding-refused", "metadata.bindings.0", bound(type="r2_bucket", bucket_name="theirs")),
    ("binding-refused", "metadata.bindings.0", bound(type="r2_bucket", jurisdiction="eu")),
    ("binding-refused", "metadata.bindings.0", bound(type="d1", id="1-2-3")),
    ("binding-refused", "metadata.bindings.0", bound(type="d1", database_id="1-2-3")),
    ("binding-refused", "metadata.bindings.0", bound(type="service", service="theirs")),
    ("binding-refused", "metadata.bindings.0", bound(type="dispatch_namespace", namespace="all")),
    ("binding-refused", "metadata.bindings.0", bound(type="inherit", old_name="B")),
    ("binding-refused", "metadata.bindings.0", bound(type="queue", queue_name="q")),
    ("binding-refused", "metadata.bindings.0", bound(type="ai")),
    ("binding-refused", "metadata.bindings.0", bound(type="browser")),
    ("binding-refused", "metadata.bindings.0", bound(type="hyperdrive", id="x")),
    ("binding-refused", "metadata.bindings.0", bound(type="secret_key", algorithm={})),
    ("binding-refused", "metadata.bindings.0", bound(type="secret_text", text="hunter2")),
    (
        "binding-refused",
        "metadata.bindings.0",
        bound(type="durable_object_namespace", class_name="C", script_name="theirs"),
    ),
    (
        "binding-refused",
        "metadata.bindings.0",
        bound(type="durable_object_namespace", class_name="C", environment="production"),
    ),
    (
        "binding-refused",
        "metadata.bindings.0",
        bound(type="durable_object_namespace", class_name="C", namespace_id="x"),
    ),
    (
        "binding-refused",
        "metadata.bindings.0",
        bound(type="durable_object_namespace", class_name="C", dispatch_namespace="x"),
    ),
    # bindings that are not well formed
    ("binding-refused", "metadata.bindings.0", bound(type="durable_object_namespace")),
    (
        "binding-refused",
        "metadata.bindings.0",
        bound(type="durable_object_namespace", class_name="not a class"),
    ),
    ("binding-refused", "metadata.bindings.0", bound(type="plain_text")),
    ("binding-refused", "metadata.bindings.0", bound(type="plain_text", text=1)),
    ("binding-refused", "metadata.bindings.0", bound(type="plain_text", text="x" * 5121)),
    ("binding-refused", "metadata.bindings.0", bound(type="json", json=["x" * 5121])),
    ("binding-refused", "metadata.bindings.0", bound(type="kv_namespace", name="1st")),
    ("binding-refused", "metadata.bindings.0", bound(type="kv_namespace", name="a-b")),
    ("binding-refused", "metadata.bindings.0", bound(type="kv_namespace", name="x" * 81)),
    ("binding-refused", "metadata.bindings.0", bound(type=["kv_namespace"])),
    ("binding-refused", "metadata.bindings", {"bindings": {"B": {}}}),
    ("binding-refused", "metadata.bindings.0", {"bindings": ["KV"]}),
    ("binding-refused", "metadata.bindings.1", {"bindings": [{"name": "B", "type": "d1"}] * 2}),
    (
        "binding-refused",
        "metadata.bindings",
        {"bindings": [{"name": f"V{n}", "type": "plain_text", "text": ""} for n in range(129)]},
    ),
    # migrations
    (
        "migration-refused",
        "metadata.migrations",
        migrated(transferred_classes=[{"from": "C", "from_script": "theirs", "to": "C"}]),
    ),
    ("migration-refused", "metadata.migrations", {"migrations": {"steps": []}}),
    ("migration-refused", "metadata.migrations", {"migrations": {"new_tag": "v1", "steps": []}}),
    ("migration-refused", "metadata.migrations", {"migrations": []}),
    ("migration-refused", "metadata.migrations", {"migrations": {"new_tag": ""}}),
    ("migration-refused", "metadata.migrations", migrated(new_classes="C")),
    ("migration-refused", "metadata.migrations", migrated(new_classes=["not a class"])),
    (
        "migration-refused",
        "metadata.migrations",
        migrated(renamed_classes=[{"from": "A", "to": "B", "script": "x"}]),
    ),
    ("migration-refused", "metadata.migrations", migrated(stolen_classes=["C"])),
    (
        "migration-refused",
        "metadata.migrations",
        {"migrations": {"new_tag": "v1", "new_classes": ["A"], "steps": [{"new_classes": ["B"]}]}},
    ),
]


@pytest.mark.parametrize(
    ("code", "field", "changes"), REFUSED, ids=[f"{c} {f} {i}" for i, (c, f, _) in enumerate(REFUSED)]
)
@pytest.mark.acceptance("S4.34")
def test_metadata_that_is_not_allowed_is_refused_where_it_is_wrong(
    code: str, field: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(DomainError) as refused:
        judge(changes)
    assert refused.value.code == code
    assert field in refused.value.fields
    assert all(refused.value.fields.values())
    assert "hunter2" not in f"{refused.value} {refused.value.fields}"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"compatibility_date": RUNTIME_DATE.isoformat()},
        {"compatibility_flags": ["nodejs_compat", "strict_crypto_checks"]},
        {"limits": {"cpu_ms": CPU_MS_MAX}},
        {"limits": {}},
        {"annotations": {"workers/message": "hello", "workers/tag": "v1"}},
        {"bindings": []},
        bound(type="kv_namespace"),
        bound(type="r2_bucket"),
        bound(type="d1"),
        bound(type="plain_text", text="ü" * 100),
        bound(type="json", json={"a": [1, None]}),
        bound(type="secret_text"),
        bound(type="version_metadata"),
        bound(type="durable_object_namespace", class_name="Counter")
        | migrated(new_sqlite_classes=["Counter"]),
        migrated(renamed_classes=[{"from": "A", "to": "B"}], deleted_classes=["C"]),
        {"migrations": {"old_tag": "v1", "new_tag": "v2", "new_sqlite_classes": ["A"]}},
        {"main_module": "./worker.js"},
    ],
)
def test_what_is_allowed_passes(changes: dict[str, Any]) -> None:
    assert judge(changes).main_module == "worker.js"


def reason(changes: dict[str, Any], *more: Module, name: str = "worker.js", now: datetime = NOW) -> str:
    modules = [Module(name=name, content_type=JS, content=CODE), *more]
    with pytest.raises(DomainError) as refused:
        check_upload(metadata={**METADATA, **changes}, modules=modules, now=now)
    return str(refused.value)


def test_the_reason_names_the_field() -> None:
    assert reason({"assets": 1, "tags": []}) == (
        "metadata.assets: Static assets are not offered. (and 1 more)"
    )
    assert reason(bound(type="ai")).startswith("metadata.bindings.0: Bindings of this type")
    assert reason({"compatibility_date": "soon"}).startswith("metadata.compatibility_date: Must be a day")


def test_a_main_module_under_another_name_is_told_with_the_names_that_came_and_what_to_do() -> None:
    said = reason({}, name="other.js")
    assert said.startswith(
        "metadata.main_module: No part carries the main module “worker.js”, only “other.js”: a module is named by"
    )
    assert "filename" in said
    said = reason({"main_module": "a\nb" + "x" * 5000}, *(module(f"{n}.txt") for n in range(200)))
    assert "“4.txt”" not in said
    assert "and 196 more" in said
    assert len(said) < 900
    assert said.isprintable()


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (NOW, f"Must be from 2021-11-02 to {RUNTIME_DATE}, where the runtime that is installed here ends."),
        (datetime(2026, 9, 1, tzinfo=UTC), "Must be from 2021-11-02 to 2026-09-01, which is today."),
    ],
)
def test_a_date_beyond_the_end_is_told_whose_end_that_is(now: datetime, said: str) -> None:
    assert reason({"compatibility_date": "2026-11-18"}, now=now) == f"metadata.compatibility_date: {said}"


@pytest.mark.parametrize(
    "name",
    [
        "../a.js",
        "a/../b.js",
        "/etc/passwd",
        "a//b.js",
        "./",
        "",
        ".",
        "a\\b.js",
        "a\0b",
        "x" * 256,
        "a\nb",
        "é.js",
        "a/.",
    ],
)
def test_a_module_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(DomainError) as refused:
        judge({}, module(name))
    assert refused.value.code == "upload-invalid"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ((module("a.txt"), module("a.txt")), "upload-invalid"),
        ((module("a.bin", content_type=""),), "upload-invalid"),
        ((module("a.js", content_type="text/javascript"),), "upload-invalid"),
        ((module("a.html", content_type="text/html"),), "upload-invalid"),
        ((module("worker.py"),), "upload-invalid"),
        ((module("a", content_type="text/x-python"),), "upload-invalid"),
        ((module("a.js", b"\xff\xfe", JS),), "upload-invalid"),
        ((module("a.bin", b"x" * TOTAL_BYTES_MAX),), "upload-too-large"),
        (tuple(module(f"{n}.txt", b"") for n in range(MODULES_MAX)), "upload-too-large"),
    ],
)
def test_modules_that_cannot_be_taken_are_refused(more: tuple[Module, ...], code: str) -> None:
    with pytest.raises(DomainError) as refused:
        judge({}, *more)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "code",
    [
        'import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";',
        "const t = require('@modelcontextprotocol/sdk/server/stdio');",
        'import { StdioServerTransport } from "@modelcontextprotocol/server/stdio";',
        "await server.connect(new StdioServerTransport());",
        'import { spawn } from "node:child_process";',
        'const { exec } = require("child_process")',
        "const c = await import('child_process');",
        "#!/usr/bin/env node\nconsole.log(1)",
    ],
)
@pytest.mark.acceptance("S0.4", "S4.15", "S4.16")
def test_a_stdio_server_is_refused_with_advice(code: str) -> None:
    with pytest.raises(DomainError) as refused:
        judge(code=code.encode() + b"\nexport default {}")
    assert refused.value.code == "stdio-server"
    assert "Streamable HTTP" in str(refused.value)


@pytest.mark.parametrize(
    "described",
    [
        {"name": "my-server", "bin": {"my-server": "cli.js"}},
        {"mcpServers": {"files": {"command": "npx", "args": ["-y", "@x/files"]}}},
        {"command": "uvx", "args": ["server"]},
    ],
)
@pytest.mark.acceptance("S0.4")
def test_a_description_of_a_program_to_start_is_refused(described: dict[str, Any]) -> None:
    with pytest.raises(DomainError) as refused:
        judge({}, module("package.json", json.dumps(described).encode(), "application/json"))
    assert refused.value.code == "stdio-server"


@pytest.mark.parametrize(
    "code",
    [
        b'const note = "we once spoke stdio";',
        b"// import child_process is not possible here",
        b"class StdioServerTransport {} // bundled, never used",
        b'import { createServer } from "./lib/stdio-like.js";',
    ],
)
def test_code_that_only_mentions_such_things_passes(code: bytes) -> None:
    assert judge(code=code + b"\nexport default {}")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("worker.js", b'"from' + b" " * 2_000_000 + b'"; // child_process'),
        ("worker.js", b"import" + b"(" * 1_000_000 + b"/stdio" * 200_000),
        ("worker.js", b"new" + b" " * 1_000_000 + b"StdioServerTransport"),
        ("worker.js", b"#!" + b" " * 1_000_000),
        ("worker.js", b"from child_process " * 400_000),
        ("a.json", b"[" + b"[]," * 3_000_000 + b"[]]"),
    ],
)
def test_text_that_is_made_to_be_read_slowly_is_read_in_no_time(name: str, content: bytes) -> None:
    kind = "application/json" if name.endswith("json") else "application/javascript+module"
    refuse_stdio([Module(name=name, content_type=kind, content=content)])


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"command":' * 100_000, b"{", b"\xff", b'{"a":' + b"9" * 5000]
)
def test_json_that_nobody_can_read_is_no_stdio_server(content: bytes) -> None:
    assert judge(None, module("data.json", content, "application/json"))


def test_the_catalog_passes_its_own_judgement() -> None:
    for entry in list_entries():
        assert check_upload(metadata=entry.metadata, modules=entry.modules, now=NOW).size_bytes > 0


def test_the_same_content_has_the_same_digest_in_whatever_order_and_any_change_another() -> None:
    two = {"bindings": [{"name": "A", "type": "d1"}, {"name": "B", "type": "d1"}]}
    turned = {"bindings": list(reversed(two["bindings"]))}
    extra = module("a.txt")
    same = {judge(two, extra).digest, judge({**turned, "annotations": {"workers/tag": "x"}}, extra).digest}
    assert len(same) == 1
    other: list[Callable[[], Upload]] = [
        lambda: judge(two),
        lambda: judge(two, module("a.txt", b"y")),
        lambda: judge(two, module("b.txt")),
        lambda: judge({**two, "limits": {"cpu_ms": 5}}, extra),
        lambda: judge({**two, "compatibility_date": "2026-10-02"}, extra),
        lambda: judge({**two, "compatibility_flags": ["nodejs_compat"]}, extra),
        lambda: judge({**two, **migrated(new_classes=["A"])}, extra),
    ]
    assert len({each().digest for each in other} | same) == len(other) + 1


def body(*parts: tuple[str, bytes], boundary: str = "b", end: str = "--b--\r\n") -> bytes:
    pieces = [f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n" for head, content in parts]
    return b"".join(pieces) + end.encode()


HEAD = 'content-disposition: form-data; name="metadata"'
MAIN = f'content-disposition: form-data; name="x"; filename="./lib/worker.js"\r\ncontent-type: {JS}'


def test_a_module_is_named_by_its_file_name_folders_included() -> None:
    metadata = {**METADATA, "main_module": "lib/worker.js"}
    sent = body((HEAD, json.dumps(metadata).encode()), (MAIN, CODE))
    read = read_upload(content_type="multipart/form-data; boundary=b", body=sent, now=NOW)
    assert [each.name for each in read.modules] == ["lib/worker.js"]
    assert read.modules[0].content == CODE


def test_bytes_arrive_as_they_were() -> None:
    content = bytes(range(256)) + b"\r\n--x\r\n\n\r"
    blob = 'content-disposition: form-data; name="a.bin"; filename="a.bin"\r\ncontent-type: application/octet-stream'
    metadata = {**METADATA, "main_module": "lib/worker.js"}
    sent = body((HEAD, json.dumps(metadata).encode()), (MAIN, CODE), (blob, content))
    read = read_upload(content_type='multipart/form-data; boundary="b"', body=sent, now=NOW)
    assert {each.name: each.content for each in read.modules}["a.bin"] == content


@pytest.mark.parametrize(
    ("content_type", "sent"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", body((HEAD, b"{}"))),
        ("multipart/form-data; boundary=" + "x" * 71, b""),
        ("multipart/form-data; boundary=b\r\nx: y", b""),
        ("multipart/mixed; boundary=b", body((HEAD, b"{}"))),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", body((HEAD, b"{}"), end="")),
        ("multipart/form-data; boundary=b", body(("content-type: text/plain", b"{}"))),
        ("multipart/form-data; boundary=b", body(("content-disposition: attachment; name=a", b"{}"))),
        ("multipart/form-data; boundary=b", body(("content-disposition: " + "(" * 900, b"{}"))),
        ("multipart/form-data; boundary=b", body((HEAD + ";x=y" * 100, b"{}"))),
        ("multipart/form-data; boundary=b", body((HEAD + "\r\n" + HEAD, b"{}"))),
        ("multipart/form-data; boundary=b", body((HEAD + "\r\nx: " + "y" * 2000, b"{}"))),
        ("multipart/form-data; boundary=b; " + "(" * 30_000, body((HEAD, b"{}"))),
        ("multipart/form-data" + ";a*0=b" * 6000 + "; boundary=b", body((HEAD, b"{}"))),
        ("multipart/form-data; boundary=b", body(("content-disposition: form-data", b"{}"))),
        ("multipart/form-data; boundary=b", body((HEAD + "\r\ncontent-transfer-encoding: base64", b"e30="))),
        ("multipart/form-data; boundary=b", body((HEAD + "\r\nx: " + "y" * 5000, b"{}"))),
        ("multipart/form-data; boundary=b", body(*[(HEAD, b"{}")] * 300)),
        ("", b""),
    ],
)
def test_a_body_that_is_no_form_is_refused(content_type: str, sent: bytes) -> None:
    with pytest.raises(DomainError) as refused:
        read_upload(content_type=content_type, body=sent, now=NOW)
    assert refused.value.code == "multipart-invalid"


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"nonsense",
        b"[]",
        b'"x"',
        b'{"a": NaN}',
        b'{"a": "\\u0000"}',
        b'{"a": "\\ud800"}',
        b"[" * 9999,
        b"\xff",
    ],
)
def test_metadata_that_cannot_be_read_is_refused(metadata: bytes) -> None:
    with pytest.raises(DomainError) as refused:
        read_upload(
            content_type="multipart/form-data; boundary=b", body=body((HEAD, metadata), (MAIN, CODE)), now=NOW
        )
    assert refused.value.code == "upload-invalid"


def test_metadata_is_sent_exactly_once_and_stays_small() -> None:
    for parts, code in (
        ([(MAIN, CODE)], "upload-invalid"),
        ([(HEAD, b"{}"), (HEAD, b"{}")], "upload-invalid"),
        ([(HEAD, b" " * 300_000)], "upload-too-large"),
    ):
        with pytest.raises(DomainError) as refused:
            read_upload(content_type="multipart/form-data; boundary=b", body=body(*parts), now=NOW)
        assert refused.value.code == code


def test_the_latest_date_is_the_pinned_runtimes() -> None:
    """workerd names its versions 1.<day of its build>.<patch>."""
    pinned = json.loads((Path(__file__).parents[3] / "edge" / "package.json").read_text())
    version = pinned["dependencies"]["@cloudflare/workerd-linux-64"]
    found = re.fullmatch(r"1\.(\d{4})(\d{2})(\d{2})\.\d+", version)
    assert found
    assert RUNTIME_DATE.isoformat() == "-".join(found.groups())


def test_no_flag_on_the_list_is_an_experiment() -> None:
    assert not [flag for flag in FLAGS if "experimental" in flag or "python" in flag or "unsafe" in flag]
