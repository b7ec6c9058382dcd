"""Large JSON that is read in pieces says what it would say read at once, and is refused when it would be."""

from __future__ import annotations

import json
import random

import msgspec
import pytest

from edge.reading import AT_ONCE, NotJson, decode

LETTERS = ["a", '"', "\\", "é", "🪣", "\n", "\x01", "/", "u", "d83d", "long " * 4000]


class Documents:
    """Made-up JSON, the same at every run."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self, depth: int = 0) -> object:
        match self.random.randrange(8 if depth < 4 else 4):
            case 0:
                return self.random.choice([None, True, False, 0, -1, 1.5e10, 2**63 - 1, -(2**63)])
            case 1 | 2:
                return "".join(self.random.choices(LETTERS, k=self.random.randrange(20)))
            case 3:
                return [self.random.randrange(-5, 1000) for _ in range(self.random.randrange(40_000))]
            case 4 | 5:
                return [self.value(depth + 1) for _ in range(self.random.randrange(8))]
        return {"".join(self.random.choices(LETTERS, k=3)): self.value(depth + 1) for _ in range(5)}

    def text(self) -> bytes:
        is_ascii, indent = self.random.random() < 0.5, self.random.choice([None, 1])
        return json.dumps(self.value(), ensure_ascii=is_ascii, indent=indent).encode()

    def broken(self, text: bytes) -> bytes:
        """One byte lost, another one, or one more."""
        at, byte = self.random.randrange(len(text)), self.random.choice(b'",:[]{}\\u0x \x80')
        kept = self.random.choice([b"", bytes([byte]), text[at : at + 1] + bytes([byte])])
        return text[:at] + kept + text[at + 1 :]


@pytest.mark.parametrize("seed", range(40))
def test_what_is_read_in_pieces_is_what_is_read_at_once(seed: int):
    documents = Documents(seed)
    text = documents.text()
    assert decode(text) == msgspec.json.decode(text)
    text = documents.broken(text)
    try:
        expected = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        with pytest.raises(NotJson):
            decode(text)
    else:
        assert decode(text) == expected


@pytest.mark.parametrize("shift", range(12))
def test_a_text_is_cut_neither_in_a_character_nor_in_an_escape(shift: int):
    for letter in ("é", "🪣", "\\ud83e\\udea3", "\\u00e9", '\\"', "\\\\"):
        text = f'"{"x" * shift}{letter * AT_ONCE}"'.encode()
        assert decode(text) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 1_000_000,
        b"[" + b",".join([b"{}"] * 300_000) + b"]",
        b" " * 1_000_000,
        b'["' + b"x" * 1_000_000,
        b"[" + b"1," * 100_000 + b"]",
        b"1" * 1_000_000,
        b'"\\ud83e' + b"x" * 100_000 + b'"',
    ],
)
def test_what_nobody_needs_is_refused(text: bytes):
    with pytest.raises(NotJson):
        decode(text)
