"""WebSocket frames, whatever pieces they come in, and whatever comes that is none."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosting.dataplane.protocol.frames import (
    SENDABLE,
    Closed,
    Control,
    FrameError,
    FrameParser,
    Heard,
    encode_close,
    encode_frame,
)


def masked(frame: bytes, mask: bytes) -> bytes:
    """A server's frame as a client would send it."""
    size = {126: 4, 127: 10}.get(frame[1], 2)
    body = bytes(byte ^ mask[at % 4] for at, byte in enumerate(frame[size:]))
    return frame[:1] + bytes((frame[1] | 0x80,)) + frame[2:size] + mask + body


def in_pieces(data: bytes, cuts: list[int], limit: int = 1 << 20) -> list[Heard]:
    parser, heard, at = FrameParser(limit), [], 0
    for end in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        parser.feed(data[at:end])
        at = end
        while (whole := parser.next()) is not None:
            heard.append(whole)
    assert parser.held == 0 or heard == []
    return heard


MASKS = st.binary(min_size=4, max_size=4)


@given(data=st.binary(max_size=70_000), mask=MASKS, cuts=st.lists(st.integers(0, 1 << 17), max_size=5))
def test_a_message_is_whole_whatever_pieces_it_comes_in(data: bytes, mask: bytes, cuts: list[int]) -> None:
    assert in_pieces(masked(encode_frame(2, data), mask), cuts) == [data]


@given(
    parts=st.lists(st.text(max_size=30), min_size=1, max_size=5),
    mask=MASKS,
    ping=st.binary(max_size=125),
    cuts=st.lists(st.integers(0, 5000), max_size=5),
)
def test_fragments_are_one_message_and_pings_between_them_none(
    parts: list[str], mask: bytes, ping: bytes, cuts: list[int]
) -> None:
    frames = []
    for at, part in enumerate(parts):
        frame = bytearray(encode_frame(0 if at else 1, part.encode()))
        if at < len(parts) - 1:
            frame[0] &= 0x7F
        frames += [masked(bytes(frame), mask), masked(encode_frame(9, ping), mask)]
    heard = in_pieces(b"".join(frames), cuts)
    assert [each for each in heard if isinstance(each, str)] == ["".join(parts)]
    assert [each for each in heard if isinstance(each, Control)] == [Control("ping", ping)] * len(parts)


@given(code=st.integers(0, 65535), reason=st.text(max_size=200), mask=MASKS)
def test_only_what_may_be_said_is_said_at_the_end(code: int, reason: str, mask: bytes) -> None:
    frame = encode_close(Closed(code, reason))
    (heard,) = in_pieces(masked(frame, mask), [])
    if code in SENDABLE:
        assert isinstance(heard, Closed)
        assert heard.code == code
        assert reason.startswith(heard.reason)
        assert len(frame) <= 127
    else:
        assert heard == Closed(1005)
        with pytest.raises(FrameError) as refused:
            in_pieces(masked(encode_frame(8, struct.pack(">H", code)), mask), [])
        assert refused.value.code == 1002


@given(data=st.binary(max_size=300))
def test_nonsense_is_an_error_or_waits_for_more(data: bytes) -> None:
    assert code_of(100, data) in {0, 1002, 1007, 1009}


def code_of(limit: int, *pieces: bytes) -> int:
    """0 where all of it could be read."""
    parser = FrameParser(limit)
    try:
        for piece in pieces:
            parser.feed(piece)
            while parser.next() is not None:
                pass
    except FrameError as error:
        return error.code
    return 0


@pytest.mark.parametrize("sizes", [[101], [60, 41], [100, 1], [1 << 40]])
def test_a_message_over_the_bound_is_refused_before_it_comes(sizes: list[int]) -> None:
    *whole, last = [
        struct.pack(">BBQ", 0 if at else 2, 0xFF, size) + b"\0\0\0\0" for at, size in enumerate(sizes)
    ]
    before = [head + b"x" * size for head, size in zip(whole, sizes, strict=False)]
    assert code_of(100, *before) == 0
    assert code_of(100, *before, last) == 1009


def test_a_message_in_tiny_fragments_costs_about_its_bytes() -> None:
    fragment = masked(bytes((0x00, 2)) + b"ab", b"\x01\x02\x03\x04")
    parser = FrameParser(1 << 20)
    tracemalloc.start()
    parser.feed(masked(bytes((0x02, 2)) + b"ab", b"\x01\x02\x03\x04"))
    for _ in range(100):
        parser.feed(fragment * 1000)
        assert parser.next() is None
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert parser.held == 200_002
    assert held < 4 * parser.held
