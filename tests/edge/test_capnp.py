"""What workerd is told: every text arrives as it was given, and writing it down costs the same whatever is in it."""

from __future__ import annotations

import json

import psutil
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.runtime.capnp import quoted
from tests.edge.harness import result, unique
from tests.edge.scripts import DATE, EVERYTHING, Stage, multipart


def plainly(text: str) -> str:
    """The same as `quoted`, byte by byte."""
    raw = text.encode("utf-8", "surrogatepass")
    kept = [chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in raw]
    return '"' + "".join(kept) + '"'


@settings(deadline=None)
@given(st.text(st.characters()))
def test_a_text_is_quoted_byte_by_byte(text: str) -> None:
    assert quoted(text) == plainly(text)
    assert quoted(text).isascii()


def test_a_variable_of_any_text_arrives_as_it_is(stage: Stage) -> None:
    text = "".join(map(chr, range(1, 0x250))) + '"\\ \\x41 ✓ 😀'
    name = stage.deploy(bindings=[{"type": "plain_text", "name": "TEXT", "text": text}])
    assert stage.call(name, "/var?name=TEXT").json() == text


def test_variables_of_accents_cost_the_edge_no_more_than_others(stage: Stage) -> None:
    assert stage.edge.process is not None
    edge = psutil.Process(stage.edge.process.pid)
    name = unique("script")

    def cost_s(text: str) -> float:
        before = edge.cpu_times()
        variables = [{"type": "plain_text", "name": f"V{number}", "text": text} for number in range(128)]
        _, code = multipart(EVERYTHING, {})
        metadata = {"main_module": "index.js", "compatibility_date": DATE, "bindings": variables}
        files = [("metadata", (None, json.dumps(metadata, ensure_ascii=False))), code]
        result(stage.api.put(f"{stage.path}/{name}", files=files))
        after = edge.cpu_times()
        return after.user + after.system - before.user - before.system

    cost_s("x" * 5100)
    assert cost_s("é" * 2550) < 3 * cost_s("x" * 5100) + 0.2
