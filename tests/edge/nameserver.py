"""A name server on this machine for tests: it answers what it is told, and to some names nothing at all."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections import Counter
from types import TracebackType

HEADER = struct.Struct("!6H")
A_RECORD, AAAA_RECORD, IN, NO_SUCH_NAME, ANSWER = 1, 28, 1, 3, 0x8180


class NameServer:
    """`addresses` by name (any other name does not exist), to be kept for `ttl_s`; names that end in `silent` get no answer
    while `is_silent`."""

    def __init__(
        self, addresses: dict[str, list[str]], *, silent: str = ".slow.example", ttl_s: int = 60
    ) -> None:
        self._ttl_s = ttl_s
        self.addresses = addresses
        self.is_silent = True
        self.asked: Counter[str] = Counter()
        self._silent = silent
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def unanswered(self) -> set[str]:
        return {name for name in self.asked if name.endswith(self._silent)}

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            if not query:
                return
            name, end = _question(query)
            self.asked[name] += 1
            if not (self.is_silent and name.endswith(self._silent)):
                self._socket.sendto(self._answer(query, name, end), client)

    def _answer(self, query: bytes, name: str, end: int) -> bytes:
        (kind,) = struct.unpack_from("!H", query, end - 4)
        addresses = self.addresses.get(name)
        code = NO_SUCH_NAME if addresses is None else 0
        found = [
            address
            for address in map(ipaddress.ip_address, addresses or ())
            if kind == (A_RECORD if address.version == 4 else AAAA_RECORD)
        ]
        records = [
            struct.pack("!HHHIH", 0xC00C, kind, IN, self._ttl_s, len(address.packed)) + address.packed
            for address in found
        ]
        (number,) = struct.unpack_from("!H", query)
        return HEADER.pack(number, ANSWER | code, 1, len(records), 0, 0) + query[12:end] + b"".join(records)


def _question(query: bytes) -> tuple[str, int]:
    """The name asked for, and where the question ends."""
    labels, at = [], HEADER.size
    while (length := query[at]) != 0:
        labels.append(query[at + 1 : at + 1 + length].decode().lower())
        at += 1 + length
    return ".".join(labels), at + 5
