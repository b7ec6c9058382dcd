"""The bridge's mappings from one era's words to the other's, for whatever anybody may write."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.shared.inbound import encode_header_value, validate_mcp_param_headers

from hosting.dataplane.bridges.legs import is_modern_client_bridged
from hosting.dataplane.bridges.to_legacy import answers
from hosting.dataplane.bridges.to_legacy.asks import input_required, is_declared, read_ask
from hosting.dataplane.bridges.to_legacy.facts import UPDATED, Interests, rules_in
from hosting.dataplane.bridges.to_legacy.headers import ToolRule, check_headers, marks_in, rule_of
from hosting.dataplane.bridges.to_legacy.requests import (
    LEVELS,
    legacy_request,
    lowest_of,
    read_request,
    wants_message,
)
from hosting.dataplane.bridges.to_legacy.session import MAX_PENDING, Listener
from hosting.dataplane.bridges.to_modern.param_headers import InvalidAnnotation, annotated
from hosting.dataplane.bridges.to_modern.toolbook import Book, rewrite_list
from hosting.dataplane.contract import Route, Target
from hosting.dataplane.protocol.era import META_CAPABILITIES, META_PREFIX, META_SERVER, META_VERSION, hear
from hosting.dataplane.protocol.errors import Refusal
from hosting.dataplane.protocol.jsonrpc import parse
from hosting.dataplane.sessions.session import capability_bits

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NAMES = TEXT.filter(lambda name: not name.startswith(META_PREFIX))
OWN = {"_meta", "inputResponses", "requestState", "task"}


def asked(method: str, params: dict[str, Any], **meta: Any) -> Any:
    needed = {META_VERSION: "2026-07-28", META_CAPABILITIES: {}}
    message = {
        "jsonrpc": "2.0",
        "id": "x",
        "method": method,
        "params": {**params, "_meta": {**needed, **meta}},
    }
    body = json.dumps(message).encode()
    parsed = parse(body)
    assert not isinstance(parsed, list)
    return read_request(parsed, body)


@given(
    st.dictionaries(TEXT, VALUE, max_size=4), st.dictionaries(NAMES, VALUE, max_size=4), st.integers(1, 10**9)
)
def test_a_request_keeps_all_that_is_not_its_eras(
    params: dict[str, Any], meta: dict[str, Any], number: int
) -> None:
    params = {name: value for name, value in params.items() if name not in OWN}
    sent = json.loads(legacy_request(asked("vendor/any", params, **meta), number))
    expected_meta = dict(meta)
    if meta.get("progressToken") is not None or "progressToken" in meta:
        expected_meta["progressToken"] = number
    expected = {**params, "_meta": expected_meta} if expected_meta else params
    assert sent == {"jsonrpc": "2.0", "id": number, "method": "vendor/any", "params": expected}


@given(
    st.dictionaries(TEXT, VALUE, max_size=4).map(
        lambda result: {k: v for k, v in result.items() if k != "_meta"}
    )
)
def test_a_result_keeps_all_and_says_what_it_is(result: dict[str, Any]) -> None:
    call = asked("tools/call", {"name": "x"})
    told = json.loads(answers.modern_result(call, json.dumps(result).encode(), msgspec.Raw(b'{"name":"s"}')))
    expected = {**result, "resultType": "complete", "_meta": {META_SERVER: {"name": "s"}}}
    assert told == {"jsonrpc": "2.0", "id": "x", "result": expected}


@pytest.mark.parametrize("result", [b"1", b"[]", b'"x"', b"null", b'{"_meta":3}'])
def test_a_result_that_is_none_is_refused(result: bytes) -> None:
    with pytest.raises(Refusal):
        answers.modern_result(asked("tools/call", {"name": "x"}), result, msgspec.Raw(b"{}"))


@given(st.binary(max_size=200))
def test_no_message_of_a_server_breaks_the_reading(raw: bytes) -> None:
    params = answers.params_in(raw)
    answers.text_in(params, "uri")
    answers.progress(raw, 1, b"1")
    answers.tagged(raw, "notifications/x", 1)
    assert read_ask(raw, 1, "sampling/createMessage") is not None
    with pytest.raises(Refusal):
        answers.read_error(b"\xff" + raw, 1)


@given(st.integers(-40_000, 0))
def test_every_error_has_a_status_of_its_era(code: int) -> None:
    status = answers.status_of(code)
    assert status == (
        404 if code == -32601 else 400 if code in {-32700, -32600} or -32029 <= code <= -32020 else 200
    )


@given(
    st.dictionaries(st.sampled_from(["mode", "message", "url", "elicitationId", "task", "_meta", "x"]), VALUE)
)
def test_a_question_shows_nothing_that_only_legacy_revisions_know(params: dict[str, Any]) -> None:
    raw = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": params}).encode()
    ask = read_ask(raw, 1, "elicitation/create")
    assert ask is not None
    told = json.loads(input_required("r", {"k": ask}, "state"))["result"]
    shown = told["inputRequests"]["k"]["params"]
    assert not {"elicitationId", "task"} & set(shown)
    kept = {name: value for name, value in params.items() if name not in {"elicitationId", "task", "_meta"}}
    assert {name: value for name, value in shown.items() if name != "_meta"} == kept


@given(
    st.dictionaries(
        st.sampled_from(["elicitation", "sampling", "roots"]),
        st.dictionaries(st.sampled_from(["form", "url", "tools"]), st.just({}), max_size=3),
    )
)
def test_what_a_client_declares_is_what_it_is_asked(capabilities: dict[str, Any]) -> None:
    bits = capability_bits(capabilities)
    elicits = capabilities.get("elicitation")
    assert is_declared({"roots": {}}, bits) == ("roots" in capabilities)
    assert is_declared({"sampling": {"tools": {}}}, bits) == ("tools" in capabilities.get("sampling", {}))
    assert is_declared({"elicitation": {"url": {}}}, bits) == (elicits is not None and "url" in elicits)
    forms = elicits is not None and ("form" in elicits or "url" not in elicits)
    assert is_declared({"elicitation": {"form": {}}}, bits) == forms


@given(st.lists(st.sampled_from(LEVELS), max_size=5), st.sampled_from(LEVELS))
def test_at_the_lowest_level_everybody_hears_what_they_want(wanted: list[str], said: str) -> None:
    lowest = lowest_of(wanted)
    assert wants_message(said, lowest) == any(wants_message(said, level) for level in wanted)


PROPERTY = st.fixed_dictionaries(
    {"type": st.sampled_from(["string", "integer", "boolean", "number"])},
    optional={"x-mcp-header": st.sampled_from(["A", "b", "B", "bad name", "", 5])},
)
SCHEMA = st.recursive(
    st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={"properties": st.dictionaries(st.sampled_from("xyz"), PROPERTY, max_size=3)},
    ),
    lambda inner: st.fixed_dictionaries(
        {
            "type": st.just("object"),
            "properties": st.dictionaries(st.sampled_from("xyz"), inner | PROPERTY, max_size=3),
        },
        optional={
            "items": inner,
            "allOf": st.lists(inner, max_size=2),
            "default": st.just({"x-mcp-header": "D"}),
        },
    ),
    max_leaves=6,
)
SCALAR = (
    st.none() | st.booleans() | st.integers(-100, 100) | st.sampled_from(["a", " a", "é", "=?base64?YQ==?="])
)
ARGUMENTS = st.dictionaries(
    st.sampled_from("xyz"), SCALAR | st.dictionaries(st.sampled_from("xyz"), SCALAR, max_size=3), max_size=3
)


@settings(max_examples=300, deadline=None)
@given(SCHEMA, ARGUMENTS, st.data())
def test_headers_are_judged_as_the_official_server_judges_them(
    schema: dict[str, Any], arguments: dict[str, Any], data: st.DataObject
) -> None:
    headers: dict[str, str] = {}
    for mark in marks_in(schema):
        value: Any = arguments
        for name in mark.path:
            value = value.get(name) if isinstance(value, dict) else None
        rendered = (
            {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
        )
        choice = data.draw(st.sampled_from(["true", "false", "wrong", None, "right"]))
        if choice == "right" and value is not None and not isinstance(value, dict):
            headers[mark.header] = encode_header_value(rendered)
        elif choice not in {None, "right"}:
            headers[mark.header] = str(choice)
    theirs = validate_mcp_param_headers(schema, arguments, headers)
    rule = ToolRule(False, marks_in(schema))
    ours = True
    try:
        check_headers(rule, msgspec.Raw(json.dumps(arguments).encode()), headers)
    except Refusal:
        ours = False
    assert ours == (theirs is None)


@given(VALUE)
def test_no_tool_breaks_the_reading_of_its_rule(schema: Any) -> None:
    tool = {"name": "x", "inputSchema": schema, "execution": schema}
    raw = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in tool.items()}
    assert rule_of(raw) is None


@pytest.mark.parametrize(
    ("policy", "eras", "issues_sessions", "is_bridged"),
    [
        ("auto", ("legacy",), False, True),
        ("auto", ("legacy",), True, False),
        ("bridge", ("legacy",), True, True),
        ("decline", ("legacy",), False, False),
        ("bridge", ("legacy", "modern"), True, False),
        ("auto", ("modern",), False, False),
    ],
)
def test_who_is_bridged(policy: Any, eras: Any, issues_sessions: bool, is_bridged: bool) -> None:
    target = Target(script="s", release="r", weight=10_000, eras=eras, issues_sessions=issues_sessions)
    route = Route(
        tenant="t",
        version=1,
        environment="e",
        tenant_slug="t",
        server_slug="s",
        environment_slug="production",
        targets=(target,),
        modern_clients=policy,
    )
    assert is_modern_client_bridged(route, target) == is_bridged


def deep_and_wide(depth: int, width: int) -> dict[str, Any]:
    """A schema of so many properties, so many properties deep, that asks for a header."""
    schema: dict[str, Any] = {f"p{number}": {} for number in range(width)}
    schema["last"] = {"type": "string", "x-mcp-header": "Last"}
    for _ in range(depth):
        schema = {"a": {"properties": schema}}
    return {"properties": schema}


@pytest.mark.parametrize("read", [marks_in, annotated])
def test_a_schemas_depth_times_its_width_is_never_held(read: Any) -> None:
    """A server's list of 16 MB could make it gigabytes: every property's path is as long as it is deep."""
    schema = deep_and_wide(400, 20_000)
    tracemalloc.start()
    with contextlib.suppress(InvalidAnnotation):
        assert read(schema) == ()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 1024 * 1024
    assert [mark.path for mark in marks_in(deep_and_wide(3, 2))] == [("a", "a", "a", "last")]
    assert [path for path, _ in annotated(deep_and_wide(3, 2))] == [("a", "a", "a", "last")]


def test_what_is_learnt_of_tools_is_bounded_in_bytes() -> None:
    def tool(number: int) -> dict[str, Any]:
        property_ = {f"{number}-{'x' * 20_000}": {"type": "string", "x-mcp-header": "X"}}
        return {"name": f"tool-{number}", "inputSchema": {"properties": property_}}

    book = Book()
    for number in range(100):
        raw = msgspec.Raw(json.dumps([tool(number)]).encode())
        rewrite_list({"tools": raw}, book)
        rewrite_list({"tools": raw}, book)
    assert 10 < len(book.tools) < 30
    assert rules_in([json.dumps({"tools": [tool(1)]}).encode()])
    assert rules_in([json.dumps({"tools": [tool(number) for number in range(100)]}).encode()]) is None


@pytest.mark.parametrize(
    "raw", [b'{"result":{"a":"\xff"}}', b'{"result":{"\xc3":1}}', b'[{"method":"\xff"}]']
)
def test_what_is_not_utf8_is_heard_at_once_to_be_no_message(raw: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        hear(raw)


async def test_a_listener_that_falls_behind_is_told_instead_of_held() -> None:
    """Below one URI that it has subscribed to a server can name as many as it likes."""
    for size in (10, 100_000):
        listener = Listener(Interests(frozenset(), ("file:///",)))
        for number in range(2 * MAX_PENDING):
            listener.hear(UPDATED, f"file:///{number}", b"x" * size)
        heard = 0
        while (told := await listener.next()) is not None:
            heard += len(told[1])
        assert size <= heard <= 1_200_000
