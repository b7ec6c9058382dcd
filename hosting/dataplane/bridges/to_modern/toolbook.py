"""What this node has learnt of the tools behind it: which headers a call needs, and whose results are wrapped.

Learnt from every tools/list that goes by, of any caller: both say how to call a tool, not who may. Kept per Release, for as many as fit.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec

from hosting.dataplane.bridges.to_modern.asked import Fields, decode_or_none
from hosting.dataplane.bridges.to_modern.param_headers import (
    ANNOTATION,
    Annotated,
    InvalidAnnotation,
    annotated,
)
from hosting.dataplane.bridges.to_modern.wrapping import is_of_objects, wrapped_schema

MAX_BOOKS = 2000
MAX_BOOK_BYTES = 512 * 1024  # of names, of one Release; tools beyond are not remembered
TOOL_BYTES = 100  # what a tool costs besides its names
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Tool:
    """Of a tool that needs anything."""

    headers: tuple[Annotated, ...] = ()
    is_wrapped: bool = False


@dataclass(slots=True)
class Book:
    """The tools of one Release. `is_whole`: a tool that is not in it needs nothing."""

    tools: dict[str, Tool] = field(default_factory=dict)
    is_whole: bool = False
    size: int = 0

    def find(self, name: str) -> Tool:
        return self.tools.get(name, _PLAIN)


_PLAIN = Tool()


class Books:
    """One per process."""

    def __init__(self) -> None:
        self._books: OrderedDict[tuple[str, str], Book] = OrderedDict()

    def of(self, environment: str, release: str) -> Book:
        book = self._books.get((environment, release))
        if book is None:
            book = self._books[environment, release] = Book()
            if len(self._books) > MAX_BOOKS:
                self._books.popitem(last=False)
        self._books.move_to_end((environment, release))
        return book


def rewrite_list(result: Fields, book: Book) -> Fields:
    """A tools/list result for a legacy client; what is learnt of its tools goes into `book`.

    A tool whose header annotations are invalid is left out. Raises msgspec.MsgspecError for what is no list of tools.
    """
    kept = []
    for raw in _lists.decode(result["tools"]) if "tools" in result else []:
        tool = _tools.decode(raw)
        name = msgspec.json.decode(tool["name"], type=str) if "name" in tool else ""
        try:
            headers = _headers(tool.get("inputSchema"))
        except InvalidAnnotation:
            continue
        output = tool.get("outputSchema")
        is_wrapped = output is not None and not is_of_objects(output)
        if output is not None and is_wrapped:
            tool["outputSchema"] = msgspec.Raw(_encode(wrapped_schema(decode_or_none(output))))
            raw = msgspec.Raw(_encode(tool))
        _learn(book, name, Tool(headers, is_wrapped))
        kept.append(raw)
    return {**result, "tools": msgspec.Raw(_encode(kept))}


def _learn(book: Book, name: str, tool: Tool) -> None:
    known = book.tools.pop(name, None)
    if known is not None:
        book.size -= _size(name, known)
    size = _size(name, tool)
    if tool != _PLAIN and book.size + size <= MAX_BOOK_BYTES:
        book.tools[name] = tool
        book.size += size


def _size(name: str, tool: Tool) -> int:
    """In bytes, about."""
    names = (name, *(part for path, header in tool.headers for part in (*path, header)))
    return TOOL_BYTES + sum(map(len, names))


def _headers(schema: msgspec.Raw | None) -> tuple[Annotated, ...]:
    """Raises InvalidAnnotation."""
    if schema is None:
        return ()
    raw = bytes(schema)
    if ANNOTATION.encode() not in raw and b"\\u" not in raw:
        return ()
    return annotated(decode_or_none(raw))


_lists = msgspec.json.Decoder(list[msgspec.Raw])
_tools = msgspec.json.Decoder(Fields)
