"""The binary encoding of events and answers. docs/protocol.md has its layout:
integers are big-endian, everything stands in sections that have a tag and a
length, and a reader passes over what it does not know."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Callable, Dict, Optional, Tuple

from ..errors import BadMessage
from ..events import (
    BodyChunk,
    Event,
    EventKind,
    FrameOpcode,
    RequestComplete,
    RequestHeaders,
    RequestMetadata,
    ResponseHeaders,
    WebSocketFrame,
)
from ..guardrail import GuardrailInspect
from . import guardrail, text
from .primitives import Reader, Writer
from .text import Malformed

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def event_number(payload: bytes) -> Optional[int]:
    """The number at the beginning of every payload."""
    return int.from_bytes(payload[:8], "big") if len(payload) >= 8 else None


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


def _guardrail_inspect(sections: _Sections) -> GuardrailInspect:
    it = _section(sections, 2, "text")
    return guardrail.unpack_event(_correlation_id(sections), it)


_READERS: Dict[EventKind, Callable[[_Sections], Event]] = {
    EventKind.REQUEST_HEADERS: _request_headers,
    EventKind.REQUEST_BODY_CHUNK: _body_chunk,
    EventKind.RESPONSE_HEADERS: _response_headers,
    EventKind.RESPONSE_BODY_CHUNK: _body_chunk,
    EventKind.REQUEST_COMPLETE: _request_complete,
    EventKind.WEBSOCKET_FRAME: _websocket_frame,
    EventKind.GUARDRAIL_INSPECT: _guardrail_inspect,
}


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
    return _budget(out, event.budget_left).section(2, guardrail.pack_event(event)).done()


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
