"""The bridge's mappings, without a gateway: each told by examples, and by the official SDK's reading of the same rules."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import (
    decode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    validate_mcp_param_headers,
    x_mcp_header_map,
)

from hosting.dataplane.bridges.legs import set_leg_of_legacy_client
from hosting.dataplane.bridges.to_modern.answers import (
    Error,
    InputRequired,
    Unanswerable,
    conclude,
    without_subscription,
)
from hosting.dataplane.bridges.to_modern.asked import Client, own_request, read_asked
from hosting.dataplane.bridges.to_modern.introduction import initialize_result, read_introduction
from hosting.dataplane.bridges.to_modern.param_headers import InvalidAnnotation, annotated, headers_of
from hosting.dataplane.bridges.to_modern.questions import Questions, Waiter, check_capability, read_answer
from hosting.dataplane.bridges.to_modern.toolbook import Book, rewrite_list
from hosting.dataplane.bridges.to_modern.wrapping import wrapped_result, wrapped_schema
from hosting.dataplane.call import Plan
from hosting.dataplane.contract import Route, Target
from hosting.dataplane.eras.modern import decode_value, encode_value
from hosting.dataplane.protocol.era import hear
from hosting.dataplane.protocol.errors import Refusal
from hosting.dataplane.sessions.session import Sessions, capability_bits, opened, opened_without_server

pytestmark = pytest.mark.acceptance("P1")

ROUTE = Route(
    tenant="t" * 26, version=1, environment="e", tenant_slug="t", server_slug="s", environment_slug="e"
)
RING = {"k1": b"k" * 32}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value).encode())


class TestLegs:
    @pytest.mark.parametrize(
        ("eras", "issues_sessions", "leg"),
        [
            (("legacy", "modern"), False, "modern"),
            (("legacy", "modern"), True, "legacy"),
            (("modern",), True, "modern"),
            (("modern",), False, "modern"),
            (("legacy",), False, "legacy"),
        ],
    )
    def test_a_new_session_gets_the_better_leg(self, eras: Any, issues_sessions: bool, leg: str) -> None:
        target = Target(script="a", release="a", weight=1, eras=eras, issues_sessions=issues_sessions)
        plan = Plan(target, "POST", {}, None)
        set_leg_of_legacy_client(plan, heals=True)
        assert plan.leg == leg

    def moved(self, *, to: Target, leg: str, upstream_id: str = "", heals: bool = True) -> Plan:
        new = Sessions(RING).new(principal="p", now=1e9, capabilities=0)
        session = (
            opened_without_server(new, revision="2025-11-25", release="old", client=None)
            if leg == "modern"
            else opened(new, revision="2025-11-25", release="old", upstream_id=upstream_id)
        )
        plan = Plan(to, "POST", {}, None, session=session)
        set_leg_of_legacy_client(plan, heals=heals)
        return plan

    def test_a_session_goes_with_the_release_it_moves_to(self) -> None:
        modern = Target(script="a", release="new", weight=1, eras=("modern",))
        legacy = Target(script="a", release="new", weight=1, eras=("legacy",))
        assert self.moved(to=modern, leg="legacy").leg == "modern"
        assert self.moved(to=modern, leg="legacy", upstream_id="x").leg == "modern"
        plan = self.moved(to=legacy, leg="modern")
        assert (plan.leg, plan.is_stranded) == ("legacy", True)
        plan = self.moved(to=legacy, leg="legacy")
        assert (plan.leg, plan.is_stranded) == ("legacy", False)
        with pytest.raises(Refusal):
            self.moved(to=modern, leg="legacy", upstream_id="x", heals=False)

    def test_a_session_stays_on_its_leg_at_its_release(self) -> None:
        same = Target(script="a", release="old", weight=1)
        assert self.moved(to=same, leg="legacy").leg == "legacy"
        assert self.moved(to=same, leg="modern").leg == "modern"


class TestHeaders:
    @given(st.text())
    def test_every_text_survives_a_header(self, text: str) -> None:
        encoded = encode_value(text)
        assert encoded.isascii()
        assert not {"\r", "\n", "\0"} & set(encoded)
        assert decode_value(encoded) == text
        assert decode_header_value(encoded) == text

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "string", "x-mcp-header": "A"},
            {"properties": {"a": {"type": "object", "x-mcp-header": "A"}}},
            {"properties": {"a": {"type": ["string"], "x-mcp-header": "A"}}},
            {"properties": {"a": {"type": "string", "x-mcp-header": "A b"}}},
            {"properties": {"a": {"type": "string", "x-mcp-header": ""}}},
            {"properties": {"a": {"type": "string", "x-mcp-header": "A\r\nB"}}},
            {"properties": {"a": {"type": "string", "x-mcp-header": 1}}},
            {"properties": {"a": {"items": {"type": "string", "x-mcp-header": "A"}}}},
            {"anyOf": [{"properties": {"a": {"type": "string", "x-mcp-header": "A"}}}]},
            {"$defs": {"a": {"type": "string", "x-mcp-header": "A"}}},
            {
                "properties": {
                    "a": {"type": "string", "x-mcp-header": "A"},
                    "b": {"type": "string", "x-mcp-header": "a"},
                }
            },
        ],
    )
    def test_an_invalid_annotation_is_refused_as_the_official_sdk_does(self, schema: Any) -> None:
        assert find_invalid_x_mcp_header(schema) is not None
        with pytest.raises(InvalidAnnotation):
            annotated(schema)

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "a": st.text() | st.none(),
                "b": st.integers(-(2**53) + 1, 2**53 - 1),
                "c": st.booleans(),
                "d": st.fixed_dictionaries({}, optional={"e": st.text()}),
            },
        )
    )
    def test_headers_of_a_call_are_those_the_official_sdk_would_send_and_takes(self, arguments: Any) -> None:
        schema = {
            "properties": {
                "a": {"type": "string", "x-mcp-header": "A"},
                "b": {"type": "integer", "x-mcp-header": "B"},
                "c": {"type": "boolean", "x-mcp-header": "C"},
                "d": {"properties": {"e": {"type": "string", "x-mcp-header": "E"}}},
            }
        }
        headers = headers_of(annotated(schema), arguments)
        theirs = mcp_param_headers(x_mcp_header_map(schema), arguments)
        assert headers == {name.lower(): value for name, value in theirs.items()}
        assert validate_mcp_param_headers(schema, arguments, headers) is None

    def test_data_that_looks_like_an_annotation_is_none(self) -> None:
        schema = {"properties": {"a": {"type": "object", "default": {"x-mcp-header": "A"}, "const": []}}}
        assert annotated(schema) == ()


class TestAsked:
    @given(JSON, JSON)
    def test_a_clients_values_reach_the_server_as_they_are(self, value: Any, extra: Any) -> None:
        params = {"name": "t", "arguments": value, "extra": extra, "_meta": {"vendor": value}}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
        told = json.loads(read_asked(body).body(Client()))
        meta = told["params"].pop("_meta")
        del params["_meta"]
        assert told["params"] == params
        assert meta["vendor"] == value

    def test_numbers_are_not_rewritten(self) -> None:
        body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"a":1.50,"b":1E2,"c":123456789012345678901}}}'
        assert b'{"a":1.50,"b":1E2,"c":123456789012345678901}' in read_asked(body).body(Client())

    @given(st.text())
    def test_a_state_goes_back_byte_for_byte(self, state: str) -> None:
        spelled = json.dumps(state).encode()
        again = own_request("tools/call", {}).again(None, msgspec.Raw(spelled))
        assert b'"requestState":' + spelled in again.body(Client())

    def test_meta_that_is_no_object_is_refused(self) -> None:
        with pytest.raises(Refusal):
            read_asked(b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":[]}}')


class TestConclusions:
    def concluded(self, method: str = "tools/call", **message: Any) -> Any:
        (spoken,) = hear(json.dumps({"jsonrpc": "2.0", "id": 1, **message}).encode())
        return conclude(own_request(method, {}), spoken)

    @given(st.dictionaries(st.text(max_size=8), JSON, max_size=4))
    def test_a_complete_result_is_what_it_was_without_the_marks(self, result: dict[str, Any]) -> None:
        marks = {"resultType": "complete", "ttlMs": 1, "cacheScope": "public"}
        reserved: dict[str, Any] = {"io.modelcontextprotocol/serverInfo": {}}
        own = {name: value for name, value in result.items() if name not in marks and name != "_meta"}
        found = self.concluded(result={**own, **marks, "_meta": reserved})
        assert json.loads(msgspec.json.encode(found)) == own

    @pytest.mark.parametrize(
        "result",
        [
            {"resultType": "input_required"},
            {"resultType": "input_required", "inputRequests": {}},
            {"resultType": "input_required", "inputRequests": [], "requestState": "x"},
            {"resultType": "complete2"},
            {"resultType": {}},
        ],
    )
    def test_what_cannot_be_understood_is_an_error(self, result: Any) -> None:
        assert isinstance(self.concluded(result=result), Error)

    def test_only_some_requests_may_ask(self) -> None:
        wanted = {"resultType": "input_required", "requestState": "x"}
        assert isinstance(self.concluded("tools/list", result=wanted), Error)
        assert isinstance(self.concluded("prompts/get", result=wanted), InputRequired)

    def test_errors_keep_their_data_unless_they_are_about_the_gateway(self) -> None:
        error = {"code": -32602, "message": "no", "data": {"a": [1]}}
        assert json.loads(msgspec.json.encode(self.concluded(error=error))) == error
        assert self.concluded(error={**error, "code": -32022}).code == -32603
        assert self.concluded(error="broken").code == -32603
        with pytest.raises(Unanswerable):
            self.concluded(error={**error, "code": -32021})

    @given(JSON)
    def test_a_notification_loses_its_mark_and_nothing_else(self, value: Any) -> None:
        params = {"a": value, "_meta": {"io.modelcontextprotocol/subscriptionId": 1, "b": value}}
        told = without_subscription(json.dumps({"jsonrpc": "2.0", "method": "m", "params": params}).encode())
        assert json.loads(told)["params"] == {"a": value, "_meta": {"b": value}}
        untouched = b'{"jsonrpc":"2.0", "method":"m"}'
        assert without_subscription(untouched) is untouched


SCHEMAS = st.recursive(
    st.sampled_from([{"type": "integer"}, {"$ref": "#/$defs/a"}, {"const": 1}, {"enum": [{"$ref": "#"}]}]),
    lambda inner: st.one_of(
        inner.map(lambda schema: {"type": "array", "items": schema}),
        st.lists(inner, min_size=1, max_size=3).map(lambda schemas: {"anyOf": schemas}),
        st.dictionaries(st.sampled_from(["a", "$ref", "const"]), inner, max_size=2).map(
            lambda schemas: {"properties": schemas}
        ),
        inner.map(lambda schema: {"not": schema}),
    ),
    max_leaves=6,
)


class TestWrapping:
    @given(SCHEMAS, st.sampled_from([{"type": "string"}, {"type": "array", "items": {"type": "null"}}]), JSON)
    def test_a_wrapped_schema_takes_a_wrapped_value_whenever_the_schema_took_it(
        self, schema: dict[str, Any], definition: dict[str, Any], value: Any
    ) -> None:
        schema = {**schema, "$defs": {"a": definition}}
        before = jsonschema.Draft202012Validator(schema)
        after = jsonschema.Draft202012Validator(wrapped_schema(schema))
        assert after.is_valid({"result": value}) == before.is_valid(value)
        assert not after.is_valid({})

    def test_references_to_the_root_are_moved_and_others_are_not(self) -> None:
        tree = {"type": "array", "items": {"$ref": "#"}}
        after = jsonschema.Draft202012Validator(wrapped_schema(tree))
        assert after.is_valid({"result": [[], [[]]]})
        assert not after.is_valid({"result": [1]})
        named = {"anyOf": [{"$ref": "https://a.example/x"}, {"$ref": "#anchor"}, {"$id": "b", "$ref": "#/c"}]}
        assert wrapped_schema(named)["properties"]["result"] == named
        own = {"$id": "https://a.example/y", "anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": True}}
        assert wrapped_schema(own)["properties"]["result"] == own
        assert wrapped_schema(True)["properties"] == {"result": True}

    @pytest.mark.parametrize("content", [[], None, "x", [{"type": "image"}]])
    def test_the_value_stands_beside_it_as_text(self, content: Any) -> None:
        found = wrapped_result({"structuredContent": raw([1, "é"]), "content": raw(content)})
        told = json.loads(msgspec.json.encode(found))
        assert told["structuredContent"] == {"result": [1, "é"]}
        assert json.loads(told["content"][-1]["text"]) == [1, "é"]

    def test_a_text_that_is_there_stays_alone(self) -> None:
        blocks = [{"type": "text", "text": "one"}]
        found = wrapped_result({"structuredContent": raw(1), "content": raw(blocks)})
        assert json.loads(msgspec.json.encode(found))["content"] == blocks

    def test_a_tool_that_changes_is_learnt_anew(self) -> None:
        book = Book()
        wrapped = {"name": "a", "inputSchema": {}, "outputSchema": {"type": "array"}}
        rewrite_list({"tools": raw([wrapped])}, book)
        assert book.find("a").is_wrapped
        rewrite_list({"tools": raw([{**wrapped, "outputSchema": {"type": "object"}}])}, book)
        assert not book.find("a").is_wrapped


class TestQuestions:
    SESSION = Sessions(RING).new(
        principal="p", now=1e9, capabilities=capability_bits({"elicitation": {}, "sampling": {}, "roots": {}})
    )

    def test_an_id_leads_to_its_asker_and_only_for_its_session(self) -> None:
        questions, waiter = Questions(RING), Waiter("node-1", "b" * 32, 7)
        question = questions.write("k", raw({"method": "roots/list"}), waiter, self.SESSION, ROUTE)
        assert json.loads(question.message)["id"] == question.id
        assert questions.waiter_of(question.id, self.SESSION, ROUTE) == waiter
        other = Sessions(RING).new(principal="p", now=1e9, capabilities=0)
        assert questions.waiter_of(question.id, other, ROUTE) is None
        assert questions.waiter_of(7, self.SESSION, ROUTE) is None

    @pytest.mark.parametrize("entry", [1, {}, {"method": 1}, {"method": "roots/list", "params": []}])
    def test_what_is_no_question_is_none(self, entry: Any) -> None:
        with pytest.raises(Unanswerable):
            Questions(RING).write("k", raw(entry), Waiter("n", "b", 1), self.SESSION, ROUTE)

    @pytest.mark.parametrize(
        ("declared", "method", "params", "is_declared"),
        [
            ({"elicitation": {}}, "elicitation/create", {}, True),
            ({"elicitation": {}}, "elicitation/create", {"mode": "form"}, True),
            ({"elicitation": {}}, "elicitation/create", {"mode": "url"}, False),
            ({"elicitation": {"form": {}, "url": {}}}, "elicitation/create", {"mode": "url"}, True),
            ({"elicitation": {"url": {}}}, "elicitation/create", {}, False),
            ({"elicitation": {}}, "elicitation/create", {"mode": "new"}, False),
            ({"sampling": {}}, "sampling/createMessage", {}, True),
            ({"sampling": {}}, "sampling/createMessage", {"tools": []}, False),
            ({"sampling": {"tools": {}}}, "sampling/createMessage", {"toolChoice": {}}, True),
            ({"roots": {}}, "roots/list", {}, True),
            ({}, "roots/list", {}, False),
            ({"roots": {}}, "ping", {}, False),
        ],
    )
    def test_only_what_is_declared_is_asked(
        self, declared: Any, method: str, params: Any, is_declared: bool
    ) -> None:
        fields = {name: raw(value) for name, value in params.items()}
        bits = capability_bits(declared)
        if is_declared:
            check_capability(method, fields, bits)
        else:
            with pytest.raises(Unanswerable):
                check_capability(method, fields, bits)

    def test_an_answer_is_its_result_untouched_or_refused(self) -> None:
        assert bytes(read_answer(b'{"jsonrpc":"2.0","id":1,"result":{"a": 1.50}}')) == b'{"a": 1.50}'
        for refused in (b'{"id":1,"error":{"code":1,"message":"no"}}', b'{"id":1}', b"[]", b"x"):
            with pytest.raises(Unanswerable):
                read_answer(refused)


class TestIntroductions:
    def test_a_server_without_a_name_gets_the_routes(self) -> None:
        told = read_introduction(b'{"supportedVersions":["2026-07-28"],"capabilities":{}}')
        result = initialize_result(told, asked=7, route=ROUTE, release="r1")
        assert result["serverInfo"] == {"name": "s", "version": "r1"}
        assert result["protocolVersion"] == "2025-11-25"
        assert (told.kept_s, told.is_public) == (0, False)

    def test_nothing_is_kept_for_longer_than_an_hour(self) -> None:
        told = read_introduction(
            b'{"supportedVersions":[],"capabilities":{},"ttlMs":1e12,"cacheScope":"public"}'
        )
        assert (told.kept_s, told.is_public, told.is_modern) == (3600, True, False)

    def test_a_long_name_still_fits_into_the_sessions_id(self) -> None:
        sessions = Sessions(RING)
        client = {"name": "é" * 1000, "version": "\ud800" + "v" * 1000}
        new = sessions.new(principal="p", now=1e9, capabilities=1023)
        session = opened_without_server(new, revision="2025-11-25", release="r" * 26, client=client)
        text = sessions.mint(session, ROUTE)
        assert len(text) <= 512
        assert sessions.open(text, route=ROUTE, principal="p", now=1e9) == session
        assert session.client_name == "é" * 32
