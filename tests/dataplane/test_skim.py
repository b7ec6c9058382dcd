"""A large body is judged as a small one is: the reader that skips against the plain one, and what it costs the neighbours."""

from __future__ import annotations

import json
import random
import threading
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hosting.dataplane.protocol import skim as skimming
from hosting.dataplane.protocol.era import hear
from hosting.dataplane.protocol.errors import Refusal
from hosting.dataplane.protocol.jsonrpc import LARGE_BYTES, MAX_BATCH, MAX_DEPTH, Message, parse
from hosting.dataplane.protocol.skim import Repeated, skim
from hosting.dataplane.sessions.session import capability_bits

SCALAR = st.sampled_from(
    ['""', "0", "-1", "1.5e3", "true", "null", '"x"', '"2.0"', '"a,b:{[]}"', '"\\\\"', '"\\""', '"\\u0041"', '"é"', '"\\ud83d\\ude00"', '"\\ud83d"', '"\\\\ud83d"', '"\\uDE00"', '"\\ud06d"', "1" * 40]
)  # fmt: skip
NAME = st.sampled_from(
    ['"jsonrpc"', '"id"', '"method"', '"params"', '"result"', '"error"', '"_meta"', '"name"', '"uri"', '"capabilities"', '"elicitation"', '"form"', '"a"', '"\\u0061"', '"\\u006dethod"', '"\\ud06dethod"', '"\\ud83d"', '"a:b,{"']
)  # fmt: skip
SPACE = st.sampled_from(["", "", "", " ", "\n\t\r "])


def listed(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda items, space: "[" + f"{space},".join(items) + space + "]", st.lists(values, max_size=4), SPACE
    )


def named(values: st.SearchStrategy[str], names: st.SearchStrategy[str] = NAME) -> st.SearchStrategy[str]:
    pairs = st.lists(st.tuples(names, SPACE, values), max_size=4)
    return st.builds(
        lambda items, space: (
            "{" + f",{space}".join(f"{name}{gap}:{gap}{value}" for name, gap, value in items) + space + "}"
        ),
        pairs,
        SPACE,
    )


VALUE = st.recursive(SCALAR, lambda inside: listed(inside) | named(inside), max_leaves=12)
MESSAGE = st.builds(
    lambda params, more, request_id: (
        f'{{"jsonrpc":"2.0","id":{request_id},"method":"tools/call","params":{params}{more}}}'
    ),
    named(VALUE),
    st.just("") | st.builds(lambda name, value: f",{name}:{value}", NAME, VALUE),
    st.sampled_from(["1", '"x"', '"\\ud83d"', '"\\ud83d\\ude00"', "1.5", "null"]),
)
BODY = MESSAGE | VALUE | listed(MESSAGE)


def broken(text: str, seed: int) -> str:
    """`text` with one character gone, doubled or another."""
    rolled = random.Random(seed)
    at = rolled.randrange(len(text) + 1)
    return text[:at] + rolled.choice(["", ",", ":", "]", "}", '"', "\\", "0", "\x01", " "]) + text[at + 1 :]


def reference(body: bytes) -> Any:
    """The simple reader: `json`, told of every pair."""

    def told(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        return made if len(made) == len(pairs) else Repeated(made)

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(body.decode(), object_pairs_hook=told, parse_constant=refuse)


def repeats(value: Any, levels: int = 3) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, Repeated) or (levels > 1 and any(repeats(item, levels - 1) for item in inside))


def padded(body: bytes) -> bytes:
    """The same value in a body that is skimmed."""
    return body + b" " * LARGE_BYTES


def verdict(body: bytes) -> tuple[Any, ...]:
    try:
        parsed = parse(body)
    except Refusal as refusal:
        return ("refused", refusal.kind.code, refusal.request_id)
    is_unclear = b"\\ud" in body.lower() and b"\\ue" in body
    return tuple(seen(one, is_unclear) for one in (parsed if isinstance(parsed, list) else [parsed]))


def seen(message: Message, is_unclear: bool) -> tuple[Any, ...]:
    """What the gateway looks at of a message. Text with halves of surrogate pairs may count as such where it is none."""
    params = message.params
    meta = params.get("_meta")
    return (
        message.kind,
        message.id,
        message.method,
        [name in params for name in ("name", "uri", "_meta", "a", "method")],
        [params[name] for name in ("name", "uri") if isinstance(params.get(name), str) and not is_unclear],
        capability_bits(params["capabilities"]) if isinstance(params.get("capabilities"), dict) else None,
        [(name in meta, type(meta.get(name))) for name in ("a", "uri")] if isinstance(meta, dict) else None,
    )


def skimmed(body: bytes) -> Any:
    return skim(body, max_depth=MAX_DEPTH, max_batch=MAX_BATCH)


@settings(deadline=None)  # a busy machine proves nothing
@given(text=BODY, seed=st.none() | st.integers(0, 10**9))
@example(text='{"jsonrpc":"2.0","id":1,"\\ud06dethod":"x","a":"\\ud83d","result":{}}', seed=None)
@example(text='{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":[{"b":1,"b":2}]}}', seed=None)
@example(text='{"jsonrpc":"2.0","id":1,"result":[{"b":1,"b":2}]}', seed=None)
def test_a_large_body_gets_the_verdict_of_a_small_one(text: str, seed: int | None) -> None:
    body = (text if seed is None else broken(text, seed)).encode()
    assert verdict(padded(body)) == verdict(body)


@settings(deadline=None)  # a busy machine proves nothing
@given(text=BODY, seed=st.none() | st.integers(0, 10**9))
def test_what_is_skimmed_is_what_json_reads(text: str, seed: int | None) -> None:
    body = (text if seed is None else broken(text, seed)).encode()
    try:
        expected = reference(body)
    except ValueError:
        with pytest.raises(Refusal):
            skimmed(body)
        return
    value = skimmed(body)
    assert type(value) is (Repeated if isinstance(expected, dict) and repeats(expected) else type(expected)) or not isinstance(expected, dict | list)  # fmt: skip
    if isinstance(expected, list) and len(expected) <= MAX_BATCH:
        assert [isinstance(item, Repeated) for item in value] == [
            isinstance(item, dict) and repeats(item) for item in expected
        ]


@settings(deadline=None)
@given(body=st.binary(max_size=200), at=st.integers(0, 200))
def test_any_bytes_get_one_verdict(body: bytes, at: int) -> None:
    around = b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":"'
    for text in (body, around + body + b'"}}', around + b'"' + body + b"}}"):
        assert verdict(padded(text)) == verdict(text)


@given(
    fill=st.sampled_from(["é", "\\\\", '\\"', "[", '","', "\\u00e9", "a\\n", "😀"]), shift=st.integers(0, 9)
)
def test_a_string_is_one_wherever_the_pieces_are_cut(fill: str, shift: int) -> None:
    inside = "x" * shift + fill * (70_000 // len(fill))
    body = f'{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"a":["{inside}"],"name":"n"}}}}'.encode()
    assert len(body) > LARGE_BYTES
    parsed = parse(body)
    assert isinstance(parsed, Message)
    assert parsed.params["name"] == "n"
    for wrong in (body[:-1], body.replace(b'"],', b"],"), body.replace(b'"name"', b'"a":1,"name"')):
        with pytest.raises(Refusal):
            parse(wrong)


def holding(params: str) -> bytes:
    return f'{{"jsonrpc":"2.0","id":1,"method":"x","params":{params}}}'.encode()


def names(count: int) -> str:
    return "{" + ",".join(f'"{at}":0' for at in range(count)) + "}"


def nested(depth: int) -> str:
    return f'{{"a":{"[" * depth}{"]" * depth},"b":"{"x" * 70_000}"}}'


class TestBounds:
    @pytest.mark.parametrize(
        "params",
        [
            f'{{"a":[{"[]," * 1_000_000}0]}}',
            names(skimming.MAX_NAMES + 1),
            f'{{"a":{names(skimming.MAX_NAMES + 1)}}}',
            f'{{"capabilities":{{"a":"{"x" * skimming.MAX_WHOLE_BYTES}"}}}}',
            f'{{"a":[{"1" * (skimming.MAX_DIGITS + 1)},"{"x" * 70_000}"]}}',
            nested(MAX_DEPTH - 1),
        ],
        ids=["values", "names", "arguments", "capabilities", "digits", "depth"],
    )
    def test_more_than_the_bounds_is_refused(self, params: str) -> None:
        with pytest.raises(Refusal):
            parse(holding(params))

    @pytest.mark.parametrize(
        "params",
        [
            f'{{"arguments":{{"data":[{"255," * 1_000_000}0]}}}}',
            names(skimming.MAX_NAMES - 10),
            f'{{"a":[{"1" * skimming.MAX_DIGITS},"{"1" * 70_000}"]}}',
            nested(MAX_DEPTH - 2),
        ],
        ids=["values", "names", "digits", "depth"],
    )
    def test_up_to_the_bounds_it_is_not(self, params: str) -> None:
        assert isinstance(parse(holding(params)), Message)


class TestCost:
    """Counted in the processor's time of the thread that parses, so that a busy machine changes nothing."""

    @pytest.mark.parametrize("item", ["[],", "0,", "1.5,", '"",', "1" * 4200 + ",", '"\\n\\n\\n\\n",'])
    def test_others_get_their_turn_while_a_large_body_is_parsed(self, item: str) -> None:
        body = holding(f'{{"a":[{item * (15 * 1024 * 1024 // len(item))}0]}}')
        stretches = [0.0]

        def work() -> None:
            with suppress(Refusal):
                parse(body, gives_way=True)

        thread = threading.Thread(target=work)
        thread.start()
        assert thread.ident is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        last = 0.0
        while thread.is_alive():
            with suppress(OSError):  # it may have ended since
                now = time.clock_gettime(clock)
                stretches.append(now - last)
                last = now
            time.sleep(0.0005)
        thread.join()
        assert max(stretches) < 0.25

    def test_nothing_is_built_of_what_nobody_looks_at(self) -> None:
        body = holding(f'{{"arguments":{{"data":[{"255," * 1_000_000}0]}}}}')
        tracemalloc.start()
        try:
            parse(body)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 2 * 1024 * 1024

    @pytest.mark.parametrize("name", ["jsonrpc", "\\u006asonrpc"])
    def test_a_batch_without_end_is_refused_before_it_is_built(self, name: str) -> None:
        item = f'{{"{name}":""}},'
        data = f"[{item * 1_000_000}{{}}]".encode()
        tracemalloc.start()
        try:
            with pytest.raises(msgspec.MsgspecError):
                hear(data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 100_000

    def test_a_batch_of_the_largest_size_is_heard(self) -> None:
        data = json.dumps([{"jsonrpc": "2.0", "id": at, "result": {}} for at in range(MAX_BATCH)]).encode()
        assert [message.id for message in hear(data)] == list(range(MAX_BATCH))
