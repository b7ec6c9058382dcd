"""Uploads that are refused: the reason, the code, and that nothing is left behind."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.edge.harness import error, result, unique
from tests.edge.scripts import ESM, OBJECTS, Stage, multipart

HELLO = "export default { fetch() { return new Response('hello') } }"


def message(response: Any) -> str:
    return str(response.json()["errors"][0]["message"])


@pytest.mark.parametrize(
    ("code", "number", "words"),
    [
        ("export default { fetch( }", 10021, "SyntaxError"),
        ("import x from './nope.js'; export default { fetch() {} }", 10021, "nope.js"),
        ("throw new Error('at the top'); export default { fetch() {} }", 10021, "at the top"),
        ("await fetch('http://example.com'); export default { fetch() {} }", 10021, "Disallowed operation"),
        ("for (;;); export default { fetch() {} }", 10021, "CPU time limit"),
        (
            "const all = []; for (;;) all.push(new Array(1e5).fill(0)); export default {}",
            10021,
            "memory limit",
        ),
        ("export default {}", 10068, "no registered event handlers"),
        ("export default { nothing() {} }", 10068, "no registered event handlers"),
        ("", 10068, "no registered event handlers"),
    ],
)
def test_code_that_does_not_load_is_refused_with_the_runtimes_own_words(
    stage: Stage, code: str, number: int, words: str
) -> None:
    name = unique("bad")
    answer = stage.upload(name, code)
    assert error(answer, 400) == number
    assert words in message(answer)
    assert "__edge" not in message(answer)
    assert error(stage.api.get(f"{stage.path}/{name}"), 404) == 10092


@pytest.mark.acceptance("S4.19")
@pytest.mark.parametrize(
    "list_of_exports",
    [
        '"{}"',
        '"[1]"',
        '"[{}]"',
        '"nonsense"',
        '"[".repeat(100000)',
        r'`[{"name":"default","kind":"object","handlers":["fetch","\\u0000"]}]`',
        r'`[{"name":"a\\u0000b","kind":"object","handlers":["fetch"]}]`',
        r'`[{"name":"default","kind":"object","handlers":[7]}]`',
        "new ReadableStream({ pull(to) { to.enqueue(new Uint8Array(65536).fill(32)); } })",
    ],
)
def test_a_script_that_lies_about_its_exports_is_refused(stage: Stage, list_of_exports: str) -> None:
    """The list is made in the script's own isolate, where every answer that is awaited may be put in its place."""
    forge = f"""
      Object.defineProperty(Response.prototype, "then", {{ configurable: true, value(resolve) {{
        delete Response.prototype.then;
        resolve(new Response({list_of_exports}));
      }} }});"""
    answer = stage.upload(unique("liar"), f"{forge}\n{HELLO}")
    assert error(answer, 400) == 10021


@pytest.mark.parametrize(
    "meddling",
    [
        "Response.json = () => new Promise(() => {})",
        "Response.json = () => new Response('[]')",
        "globalThis.Response = class { constructor() { for (;;); } }",
        "Object.entries = Object.keys = Reflect.ownKeys = JSON.stringify = () => { throw new Error('mine') }",
        "Array.prototype.map = Array.prototype[Symbol.iterator] = Array.prototype.push = () => { throw 1 }",
        "Object.prototype.toJSON = String.prototype.toJSON = Array.prototype.toJSON = () => '[]'",
        "Object.defineProperty(Function.prototype, Symbol.hasInstance, { value: () => true })",
    ],
)
def test_what_a_script_replaces_of_the_language_does_not_change_its_exports(
    stage: Stage, meddling: str
) -> None:
    name = unique("meddler")
    answer = stage.upload(name, f"try {{ {meddling} }} catch {{}}\n{HELLO}")
    assert result(answer)["handlers"] == ["fetch"]


@pytest.mark.parametrize("hang", ["for (;;)", "setInterval(() => {}, 100)", "setTimeout(() => {}, 60_000)"])
def test_a_script_whose_exports_take_for_ever_is_refused_within_seconds(stage: Stage, hang: str) -> None:
    answer = stage.upload(unique("endless"), f"Response.prototype.then = () => {{ {hang}; }};\n{HELLO}")
    assert error(answer, 400) == 10021
    assert "The exports could not be read within 3 seconds" in message(answer)


@pytest.mark.parametrize(
    ("metadata", "number"),
    [
        ({"compatibility_date": "2999-01-01"}, 10021),
        ({"compatibility_date": "yesterday"}, 10021),
        ({"compatibility_date": "2026-02-31"}, 10021),
        ({"compatibility_flags": ["no_such_flag_at_all"]}, 10021),
        ({"compatibility_flags": "nodejs_compat"}, 10021),
        ({"main_module": "missing.js"}, 10021),
        ({"main_module": None}, 10021),
        ({"body_part": "script"}, 10021),
        ({"bindings": "X"}, 10021),
        ({"bindings": [{"type": "plain_text", "text": "x"}]}, 10052),
        ({"bindings": [{"type": "quantum", "name": "X"}]}, 10021),
        ({"bindings": [{"type": "service", "name": "X", "service": "other"}]}, 10021),
        ({"bindings": [{"type": "plain_text", "name": "X", "text": "a"}] * 2}, 10021),
        ({"bindings": [{"type": "plain_text", "name": "X"}]}, 10021),
        ({"bindings": [{"type": "plain_text", "name": "X", "text": "a" * 5121}]}, 10054),
        ({"bindings": [{"type": "plain_text", "name": f"X{n}", "text": "a"} for n in range(129)]}, 10055),
        ({"bindings": [{"type": "kv_namespace", "name": "X", "namespace_id": "0" * 32}]}, 10041),
        ({"bindings": [{"type": "r2_bucket", "name": "X", "bucket_name": "no-such-bucket"}]}, 10085),
        ({"bindings": [{"type": "d1", "name": "X", "id": "11111111-1111-4111-8111-111111111111"}]}, 10181),
        ({"bindings": [{"type": "dispatch_namespace", "name": "X", "namespace": "own"}]}, 10021),
        ({"bindings": [{"type": "durable_object_namespace", "name": "X", "class_name": "No"}]}, 10061),
        ({"bindings": [{"type": "inherit", "name": "X"}]}, 10057),
        ({"migrations": {"new_tag": "v1", "new_sqlite_classes": ["NotExported"]}}, 10070),
        ({"migrations": {"new_tag": "v1", "deleted_classes": ["Never"]}}, 10070),
        ({"migrations": {"new_tag": "v2", "old_tag": "v1", "new_classes": ["A"]}}, 10079),
        ({"migrations": {"new_tag": "v1", "transferred_classes": [{"from": "A", "to": "A"}]}}, 10021),
        ({"exports": {"A": {"type": "durable-object", "storage": "paper"}}}, 10021),
        ({"tags": [str(number) for number in range(9)]}, 10021),
        ({"tags": ["with&"]}, 10021),
        ({"limits": {"cpu_ms": 0}}, 10021),
        ({"limits": {"cpu_ms": 300_001}}, 10021),
        ({"egress": {"allow": ["no-port.example"]}}, 10021),
        ({"egress": {"allow": ["example.com:99999"]}}, 10021),
        ({"egress": ["example.com:443"]}, 10021),
    ],
)
def test_metadata_that_breaks_a_rule_is_refused_with_its_code(
    stage: Stage, metadata: dict[str, Any], number: int
) -> None:
    name = unique("bad")
    assert error(stage.upload(name, HELLO, **metadata), 400) == number
    assert error(stage.api.get(f"{stage.path}/{name}"), 404) == 10092


def test_a_library_that_imports_the_class_of_emails_loads(stage: Stage) -> None:
    name = stage.deploy("""
        import { EmailMessage } from "cloudflare:email";
        export default { fetch: () => Response.json(new EmailMessage("a@from.test", "b@to.test", "raw")) };
    """)
    assert stage.call(name).json() == {"from": "a@from.test", "to": "b@to.test", "raw": "raw"}


def test_a_refused_upload_leaves_the_old_script_serving(stage: Stage) -> None:
    name = stage.deploy(HELLO)
    assert error(stage.upload(name, "export default { fetch( }"), 400) == 10021
    assert stage.call(name).text == "hello"


def test_a_python_module_is_refused(stage: Stage) -> None:
    modules = {"worker.py": ("text/x-python", b"print('x')")}
    answer = stage.api.put(f"{stage.path}/{unique('bad')}", files=multipart(HELLO, {}, modules))
    assert error(answer, 400) == 10021


@pytest.mark.parametrize("name", ["../escape.js", "a/../../b.js", "__edge_entry.js", "./__edge_exports.js"])
def test_a_module_name_that_leaves_the_bundle_is_refused(stage: Stage, name: str) -> None:
    answer = stage.api.put(f"{stage.path}/{unique('bad')}", files=multipart(HELLO, {}, {name: (ESM, b"0")}))
    assert error(answer, 400) == 10021


def test_an_upload_that_is_not_multipart_or_not_json_is_refused(stage: Stage) -> None:
    path = f"{stage.path}/{unique('bad')}"
    assert error(stage.api.put(path, content=HELLO, headers={"content-type": ESM}), 400) == 10021
    broken = stage.api.put(
        path, content=b"--x\r\nnonsense", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert error(broken, 400) == 10021
    for metadata in ("{", "[]", json.dumps("text"), "[" * 100_000):
        answer = stage.api.put(
            path, files=[("metadata", (None, metadata)), ("index.js", ("index.js", HELLO, ESM))]
        )
        assert error(answer, 400) == 10021
    assert error(stage.api.put(path, files=[("index.js", ("index.js", HELLO, ESM))]), 400) == 10021


def test_a_script_over_ten_megabytes_is_refused(stage: Stage) -> None:
    modules = {"big.bin": ("application/octet-stream", os.urandom(11 * 1024 * 1024))}
    answer = stage.api.put(f"{stage.path}/{unique('bad')}", files=multipart(HELLO, {}, modules))
    assert error(answer, 413) == 10027


def test_eleven_megabytes_that_compress_well_are_accepted(stage: Stage) -> None:
    modules = {"big.bin": ("application/octet-stream", b"\0" * 11 * 1024 * 1024)}
    answer = stage.api.put(f"{stage.path}/{unique('big')}", files=multipart(HELLO, {}, modules))
    assert answer.status_code == 200


def test_a_class_with_objects_must_stay_exported(stage: Stage) -> None:
    name = stage.deploy(**OBJECTS)
    assert error(stage.upload(name, HELLO, migrations=None), 400) == 10064
    again = {"old_tag": "v1", "new_tag": "v2", "new_sqlite_classes": ["Counter"]}
    assert error(stage.upload(name, migrations=again), 400) == 10074
    assert error(stage.upload(name, **OBJECTS), 400) == 10079
    assert stage.call(name, "/object/add").json() == 1
