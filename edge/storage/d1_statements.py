"""Taking SQL apart into statements, as one request may carry several.

SQLite itself decides what a statement means; here only its end is found: a semicolon outside of quotes, comments and trigger bodies, by the
same rule as https://www.sqlite.org/c3ref/complete.html. Linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

TOKEN = re.compile(
    r"""
      (?P<skip>  \s+ | --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<end>   ; )
    | (?P<word>  [A-Za-z_]\w* )
    | (?P<other> '[^']*(?:'|\Z) | "[^"]*(?:"|\Z) | `[^`]*(?:`|\Z) | \[[^\]]*(?:\]|\Z) | . )
    """,
    re.VERBOSE | re.DOTALL,
)
LEADING_WORDS = 6


def split_statements(sql: str) -> Iterator[str]:
    """The statements of `sql`, in order, without their semicolons; comments alone are none."""
    start = 0
    words: list[str] = []
    before, last = "", ""
    for token in TOKEN.finditer(sql):
        kind = token.lastgroup
        if kind == "skip":
            continue
        text = token.group().upper() if kind == "word" else token.group()
        if kind == "end" and not (_is_trigger(words) and (before, last) != (";", "END")):
            if last:
                yield sql[start : token.start()].strip()
            start = token.end()
            words, before, last = [], "", ""
            continue
        if kind == "word" and len(words) < LEADING_WORDS:
            words.append(text)
        before, last = last, text
    if last:
        yield sql[start:].strip()


def _is_trigger(words: list[str]) -> bool:
    if words[:1] == ["EXPLAIN"]:
        words = words[3:] if words[1:3] == ["QUERY", "PLAN"] else words[1:]
    if words[:1] != ["CREATE"]:
        return False
    return words[1:2] == ["TRIGGER"] or (
        words[1:2] in (["TEMP"], ["TEMPORARY"]) and words[2:3] == ["TRIGGER"]
    )
