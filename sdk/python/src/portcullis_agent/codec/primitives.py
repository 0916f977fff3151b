"""The primitives of the binary encoding, and its sections."""

from __future__ import annotations

import math
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Callable, Dict, List, Optional, Tuple, TypeVar

from ..events import Headers, IpAddress
from . import text
from .text import Malformed

ABSENT = 0xFFFFFFFF
_U16, _U32, _U64, _F32 = (struct.Struct(">" + code) for code in "HIQf")
_SECTION = struct.Struct(">BI")
_T = TypeVar("_T")
#: Of the sections that are known, the largest.
_LAST_SECTION = 9


class Reader:
    """A place in a payload, from which everything is taken off in order."""

    __slots__ = ("_bytes", "_at", "_end")

    def __init__(self, payload: bytes, at: int = 0, end: Optional[int] = None) -> None:
        self._bytes, self._at = payload, at
        self._end = len(payload) if end is None else end

    def _skip(self, length: int) -> int:
        start = self._at
        if length > self._end - start:
            raise Malformed("it ends too early")
        self._at = start + length
        return start

    def u8(self) -> int:
        return self._bytes[self._skip(1)]

    def u16(self) -> int:
        return int(_U16.unpack_from(self._bytes, self._skip(2))[0])

    def u32(self) -> int:
        return int(_U32.unpack_from(self._bytes, self._skip(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack_from(self._bytes, self._skip(8))[0])

    def f32(self) -> float:
        number = float(_F32.unpack_from(self._bytes, self._skip(4))[0])
        if not math.isfinite(number):
            raise Malformed("a confidence is out of range")
        return number

    def blob(self) -> bytes:
        length = self.u32()
        start = self._skip(length)
        return self._bytes[start : start + length]

    def string(self) -> str:
        return _utf8(self.blob())

    def optional(self) -> Optional[str]:
        length = self.u32()
        if length == ABSENT:
            return None
        start = self._skip(length)
        return _utf8(self._bytes[start : start + length])

    def present(self) -> bool:
        """A byte that says whether something follows."""
        byte = self.u8()
        if byte > 1:
            raise Malformed("a presence byte is neither 0 nor 1")
        return byte == 1

    def present_f32(self) -> Optional[float]:
        """A confidence that may be missing."""
        return self.f32() if self.present() else None

    def address(self) -> IpAddress:
        family = self.u8()
        if family == 4:
            return IPv4Address(self._bytes[self._skip(4) : self._at])
        if family == 6:
            return IPv6Address(self._bytes[self._skip(16) : self._at])
        raise Malformed("the client's address is of an unknown family")

    def many(self, smallest_entry: int, read: Callable[["Reader"], _T]) -> List[_T]:
        """A list, whose count must fit into what is left."""
        count = self.u32()
        if count > (self._end - self._at) // smallest_entry:
            raise Malformed("a list claims more entries than fit")
        return [read(self) for _ in range(count)]

    def strings(self) -> List[str]:
        return self.many(4, Reader.string)

    def pairs(self) -> List[Tuple[str, str]]:
        return self.many(8, lambda it: (it.string(), it.string()))

    def headers(self) -> Headers:
        fields: Dict[str, List[str]] = {}
        for name, value in self.many(8, lambda it: (it.blob(), it.blob())):
            text.add_field(fields, name.decode("latin-1"), [_header_text(value)])
        return Headers._of(fields)

    def sections(self) -> Dict[int, "Reader"]:
        """All sections to the end, by their tags. One that comes twice is
        malformed when it is known; none of the others is looked at."""
        found: Dict[int, Reader] = {}
        while self._at < self._end:
            tag, length = _SECTION.unpack_from(self._bytes, self._skip(5))
            start = self._skip(length)
            if tag in found and tag <= _LAST_SECTION:
                raise Malformed("a section appears twice")
            found[tag] = Reader(self._bytes, start, start + length)
        return found


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("a string is not UTF-8") from None


# As in JSON, so that an agent sees the same in both encodings.
def _header_text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


class Writer:
    """Collects the parts of a payload."""

    def __init__(self) -> None:
        self._parts: List[bytes] = []

    def raw(self, *parts: bytes) -> "Writer":
        self._parts.extend(parts)
        return self

    def u8(self, number: int) -> "Writer":
        return self.raw(bytes((number,)))

    def u16(self, number: int) -> "Writer":
        return self.raw(_U16.pack(number))

    def u32(self, number: int) -> "Writer":
        return self.raw(_U32.pack(number))

    def u64(self, number: int) -> "Writer":
        return self.raw(_U64.pack(number))

    def blob(self, data: bytes) -> "Writer":
        return self.raw(_U32.pack(len(data)), data)

    def string(self, value: str) -> "Writer":
        return self.blob(value.encode())

    def optional(self, value: Optional[str]) -> "Writer":
        return self.u32(ABSENT) if value is None else self.string(value)

    def present_u64(self, number: Optional[int]) -> "Writer":
        return self.u8(0) if number is None else self.u8(1).u64(number)

    def present_f32(self, number: Optional[float]) -> "Writer":
        return self.u8(0) if number is None else self.u8(1).raw(_F32.pack(number))

    def many(self, values: List[Any], write: Callable[["Writer", Any], object]) -> "Writer":
        self.u32(len(values))
        for value in values:
            write(self, value)
        return self

    def strings(self, values: List[str]) -> "Writer":
        return self.many(values, Writer.string)

    def pairs(self, values: List[Tuple[str, str]]) -> "Writer":
        return self.many(values, lambda it, pair: it.string(pair[0]).string(pair[1]))

    def headers(self, headers: Headers) -> "Writer":
        return self.pairs(list(headers.pairs()))

    def address(self, address: IpAddress) -> "Writer":
        return self.u8(address.version).raw(address.packed)

    def section(self, tag: int, content: "Writer") -> "Writer":
        data = content.done()
        return self.raw(_SECTION.pack(tag, len(data)), data)

    def done(self) -> bytes:
        return b"".join(self._parts)
