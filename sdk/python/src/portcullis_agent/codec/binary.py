"""The binary encoding of events and answers. docs/protocol.md has its layout:
integers are big-endian, everything stands in sections that have a tag and a
length, and a reader passes over what it does not know."""

from __future__ import annotations

import struct
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Callable, Dict, List, Optional, Tuple, TypeVar

from ..errors import BadMessage
from ..events import (
    BodyChunk,
    Event,
    EventKind,
    FrameOpcode,
    Headers,
    IpAddress,
    RequestComplete,
    RequestHeaders,
    RequestMetadata,
    ResponseHeaders,
    WebSocketFrame,
)
from . import text
from .text import Malformed

ABSENT = 0xFFFFFFFF
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

_U16, _U32, _U64 = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
_SECTION = struct.Struct(">BI")
_T = TypeVar("_T")


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
        return float(struct.unpack_from(">f", self._bytes, self._skip(4))[0])

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
            if tag in found and tag <= 8:
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


def event_number(payload: bytes) -> Optional[int]:
    """The number at the beginning of every payload."""
    return int(_U64.unpack_from(payload)[0]) if len(payload) >= _U64.size else None


def decode_event(kind: EventKind, payload: bytes) -> Tuple[int, Event]:
    """Reads the payload of an event of this kind. Raises BadMessage, with the
    number of the event when that can be read."""
    try:
        reader = Reader(payload)
        number = reader.u64()
        sections = reader.sections()
        event = _READERS[kind](sections)
        budget = sections.get(4)
        if budget and not isinstance(event, RequestComplete):
            event.budget_left = timedelta(microseconds=budget.u64())
        return number, event
    except (Malformed, OverflowError) as error:
        detail = f"malformed {kind.name.lower()}: {error}"
        raise BadMessage(event_number(payload), detail) from None


_Sections = Dict[int, Reader]


def _section(sections: _Sections, tag: int, what: str) -> Reader:
    section = sections.get(tag)
    if section is None:
        raise Malformed(f"the {what} is missing")
    return section


def _correlation_id(sections: _Sections) -> str:
    return _section(sections, 1, "request").string()


def _request_headers(sections: _Sections) -> RequestHeaders:
    it = _section(sections, 1, "part about the request")
    line = _section(sections, 2, "request line")
    correlation_id, request_id = it.string(), it.string()
    client_ip, client_port = it.address(), it.u16()
    timestamp = EPOCH + timedelta(microseconds=it.u64() // 1000)
    protocol, server_name = it.string(), it.optional()
    tls_version, tls_cipher = it.optional(), it.optional()
    route_id, upstream_id, traceparent = it.optional(), it.optional(), it.optional()
    metadata = RequestMetadata(
        correlation_id,
        request_id,
        client_ip,
        client_port,
        protocol,
        timestamp,
        server_name,
        tls_version,
        tls_cipher,
        route_id,
        upstream_id,
        traceparent,
    )
    method, uri = line.string(), line.string()
    return RequestHeaders(metadata, method, uri, _section(sections, 3, "list of headers").headers())


def _body_chunk(sections: _Sections) -> BodyChunk:
    it = _section(sections, 2, "piece")
    correlation_id = _correlation_id(sections)
    index, flags, transferred = it.u32(), it.u8(), it.u64()
    total_size = it.u64() if it.present() else None
    trailers = sections[3].headers() if 3 in sections else None
    is_last = flags & 1 != 0
    return BodyChunk(
        correlation_id,
        index,
        it.blob(),
        is_last,
        total_size,
        transferred,
        truncated=flags & 2 != 0,
        trailers=trailers if trailers and is_last else None,
    )


def _response_headers(sections: _Sections) -> ResponseHeaders:
    status = _section(sections, 2, "status").u16()
    headers = _section(sections, 3, "list of headers").headers()
    return ResponseHeaders(_correlation_id(sections), status, headers)


def _request_complete(sections: _Sections) -> RequestComplete:
    it = _section(sections, 2, "outcome")
    return RequestComplete(
        _correlation_id(sections),
        it.u16(),
        timedelta(microseconds=it.u64()),
        it.u64(),
        it.u64(),
        it.u32(),
        it.optional(),
    )


def _websocket_frame(sections: _Sections) -> WebSocketFrame:
    it = _section(sections, 2, "frame")
    number, flags = it.u8(), it.u8()
    try:
        opcode = FrameOpcode(number)
    except ValueError:
        raise Malformed("the opcode is not known") from None
    index, client_ip, route_id = it.u64(), it.address(), it.optional()
    return WebSocketFrame(
        _correlation_id(sections),
        opcode,
        it.blob(),
        flags & 1 != 0,
        index,
        flags & 2 != 0,
        client_ip,
        route_id,
    )


_READERS: Dict[EventKind, Callable[[_Sections], Event]] = {
    EventKind.REQUEST_HEADERS: _request_headers,
    EventKind.REQUEST_BODY_CHUNK: _body_chunk,
    EventKind.RESPONSE_HEADERS: _response_headers,
    EventKind.RESPONSE_BODY_CHUNK: _body_chunk,
    EventKind.REQUEST_COMPLETE: _request_complete,
    EventKind.WEBSOCKET_FRAME: _websocket_frame,
}


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


def encode_event(event: Event, number: int) -> bytes:
    """Writes the payload of an event, as a proxy does."""
    out = Writer().u64(number)
    if isinstance(event, RequestHeaders):
        out.section(1, _metadata(event.metadata))
        out.section(2, Writer().string(event.method).string(event.uri))
        out.section(3, Writer().headers(event.headers))
        return _budget(out, event.budget_left).done()
    out.section(1, Writer().string(event.correlation_id))
    if isinstance(event, BodyChunk):
        piece = Writer().u32(event.index).u8(event.is_last | event.truncated << 1)
        piece.u64(event.transferred).present_u64(event.total_size).blob(event.data)
        out.section(2, piece)
        if event.trailers and event.is_last:
            out.section(3, Writer().headers(event.trailers))
        return _budget(out, event.budget_left).done()
    if isinstance(event, ResponseHeaders):
        out.section(2, Writer().u16(event.status))
        out.section(3, Writer().headers(event.headers))
        return _budget(out, event.budget_left).done()
    if isinstance(event, RequestComplete):
        outcome = Writer().u16(event.status).u64(text.microseconds(event.duration))
        outcome.u64(event.request_body_size).u64(event.response_body_size)
        return out.section(2, outcome.u32(event.upstream_attempts).optional(event.error)).done()
    if isinstance(event, WebSocketFrame):
        frame = Writer().u8(event.opcode).u8(event.client_to_server | event.fin << 1)
        frame.u64(event.index).address(event.client_ip).optional(event.route_id)
        return _budget(out, event.budget_left).section(2, frame.blob(event.data)).done()
    raise TypeError(f"{type(event).__name__} is always JSON")


def _metadata(metadata: RequestMetadata) -> Writer:
    out = Writer().string(metadata.correlation_id).string(metadata.request_id)
    out.address(metadata.client_ip).u16(metadata.client_port)
    out.u64(text.microseconds(metadata.timestamp - EPOCH) * 1000).string(metadata.protocol)
    for value in (
        metadata.server_name,
        metadata.tls_version,
        metadata.tls_cipher,
        metadata.route_id,
        metadata.upstream_id,
        metadata.traceparent,
    ):
        out.optional(value)
    return out


def _budget(out: Writer, budget: Optional[timedelta]) -> Writer:
    return out if budget is None else out.section(4, Writer().u64(text.microseconds(budget)))
