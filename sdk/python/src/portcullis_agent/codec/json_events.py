"""Events in JSON."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Callable, Dict, Optional, Tuple

from ..errors import BadMessage, EventId
from ..events import (
    BodyChunk,
    Event,
    EventKind,
    FrameOpcode,
    Headers,
    RequestComplete,
    RequestHeaders,
    RequestMetadata,
    ResponseHeaders,
    WebSocketFrame,
)
from . import guardrail, text
from .text import Malformed

_OPCODES = {opcode.name.lower(): opcode for opcode in FrameOpcode}

_Message = Dict[str, Any]


def decode_event(kind: EventKind, payload: bytes, by_number: bool) -> Tuple[EventId, Event]:
    """Reads the payload of an event of this kind. Raises BadMessage, with the
    id of the event when that can be read."""
    try:
        message = text.load(payload)
        event = _READERS[kind](message)
        budget = text.optional_number(message, "budget_left_us", 64) if by_number else None
        if budget is not None and not isinstance(event, RequestComplete):
            event.budget_left = timedelta(microseconds=budget)
        if isinstance(event, BodyChunk):
            trailers = message.get("trailers") if by_number and event.is_last else None
            event.trailers = text.headers(trailers, "trailers") if trailers else None
        if not by_number:
            return event.correlation_id, event
        return text.number(message, "event_id", 64), event
    except (Malformed, OverflowError) as error:
        event_id = text.find_event_id(payload, by_number)
        raise BadMessage(event_id, f"malformed {kind.name.lower()}: {error}") from None


def _request_headers(message: _Message) -> RequestHeaders:
    metadata = message.get("metadata")
    if not isinstance(metadata, dict):
        raise Malformed("metadata is missing")
    correlation_id = text.text(metadata, "correlation_id", "")
    return RequestHeaders(
        RequestMetadata(
            correlation_id=text.optional_text(message, "correlation_id") or correlation_id,
            request_id=text.text(metadata, "request_id", ""),
            client_ip=text.address(metadata.get("client_ip"), "client_ip"),
            client_port=text.number(metadata, "client_port", 16, 0),
            protocol=text.text(metadata, "protocol", ""),
            timestamp=text.timestamp(text.text(metadata, "timestamp")),
            server_name=text.optional_text(metadata, "server_name"),
            tls_version=text.optional_text(metadata, "tls_version"),
            tls_cipher=text.optional_text(metadata, "tls_cipher"),
            route_id=text.optional_text(metadata, "route_id"),
            upstream_id=text.optional_text(metadata, "upstream_id"),
            traceparent=text.optional_text(metadata, "traceparent"),
        ),
        method=text.text(message, "method"),
        uri=text.text(message, "uri"),
        headers=text.headers(message.get("headers")),
    )


def _body_chunk(message: _Message) -> BodyChunk:
    # A piece has the one or the other.
    transferred = "bytes_received" if "bytes_received" in message else "bytes_sent"
    return BodyChunk(
        correlation_id=text.text(message, "correlation_id"),
        index=text.number(message, "chunk_index", 32, 0),
        data=text.base64_bytes(message.get("data"), "data"),
        is_last=text.boolean(message, "is_last"),
        total_size=text.optional_number(message, "total_size", 64),
        transferred=text.number(message, transferred, 64, 0),
        truncated=text.boolean(message, "truncated", False),
    )


def _response_headers(message: _Message) -> ResponseHeaders:
    return ResponseHeaders(
        correlation_id=text.text(message, "correlation_id"),
        status=text.number(message, "status", 16),
        headers=text.headers(message.get("headers")),
    )


def _request_complete(message: _Message) -> RequestComplete:
    return RequestComplete(
        correlation_id=text.text(message, "correlation_id"),
        status=text.number(message, "status", 16),
        duration=timedelta(milliseconds=text.number(message, "duration_ms", 64, 0)),
        request_body_size=text.number(message, "request_body_size", 64, 0),
        response_body_size=text.number(message, "response_body_size", 64, 0),
        upstream_attempts=text.number(message, "upstream_attempts", 32, 0),
        error=text.optional_text(message, "error"),
    )


def _websocket_frame(message: _Message) -> WebSocketFrame:
    opcode = _OPCODES.get(text.text(message, "opcode"))
    if opcode is None:
        raise Malformed("the opcode is not known")
    return WebSocketFrame(
        correlation_id=text.text(message, "correlation_id"),
        opcode=opcode,
        data=text.base64_bytes(message.get("data"), "data"),
        client_to_server=text.boolean(message, "client_to_server"),
        index=text.number(message, "frame_index", 64, 0),
        fin=text.boolean(message, "fin"),
        client_ip=text.address(message.get("client_ip"), "client_ip"),
        route_id=text.optional_text(message, "route_id"),
    )


_READERS: Dict[EventKind, Callable[[_Message], Event]] = {
    EventKind.REQUEST_HEADERS: _request_headers,
    EventKind.REQUEST_BODY_CHUNK: _body_chunk,
    EventKind.RESPONSE_HEADERS: _response_headers,
    EventKind.RESPONSE_BODY_CHUNK: _body_chunk,
    EventKind.REQUEST_COMPLETE: _request_complete,
    EventKind.WEBSOCKET_FRAME: _websocket_frame,
    EventKind.GUARDRAIL_INSPECT: guardrail.read_event,
}


def encode_event(kind: EventKind, event: Event, number: Optional[int]) -> bytes:
    """Writes the payload of an event, as a proxy does. The number is given for
    peers that know ``event-id``; it, the time left and trailers are written
    for them alone."""
    message: _Message = {"correlation_id": event.correlation_id}
    if number is not None:
        message["event_id"] = number
        budget = None if isinstance(event, RequestComplete) else event.budget_left
        if budget is not None:
            message["budget_left_us"] = text.microseconds(budget)
    if isinstance(event, RequestHeaders):
        message["metadata"] = _metadata(event.metadata)
        message.update(method=event.method, uri=event.uri, headers=_fields(event.headers))
    elif isinstance(event, BodyChunk):
        _write_chunk(message, kind, event, number is not None)
    elif isinstance(event, ResponseHeaders):
        message.update(status=event.status, headers=_fields(event.headers))
    elif isinstance(event, RequestComplete):
        message.update(
            status=event.status,
            duration_ms=event.duration // timedelta(milliseconds=1),
            request_body_size=event.request_body_size,
            response_body_size=event.response_body_size,
            upstream_attempts=event.upstream_attempts,
            error=event.error,
        )
    elif isinstance(event, WebSocketFrame):
        message.update(
            opcode=event.opcode.name.lower(),
            data=text.base64_text(event.data)[1:-1],
            client_to_server=event.client_to_server,
            frame_index=event.index,
            fin=event.fin,
            route_id=event.route_id,
            client_ip=str(event.client_ip),
        )
    else:
        guardrail.write_event(message, event)
    return text.dumps(message).encode()


def _metadata(metadata: RequestMetadata) -> _Message:
    message: _Message = {
        "correlation_id": metadata.correlation_id,
        "request_id": metadata.request_id,
        "client_ip": str(metadata.client_ip),
        "client_port": metadata.client_port,
        "server_name": metadata.server_name,
        "protocol": metadata.protocol,
        "tls_version": metadata.tls_version,
        "tls_cipher": metadata.tls_cipher,
        "route_id": metadata.route_id,
        "upstream_id": metadata.upstream_id,
        "timestamp": text.timestamp_text(metadata.timestamp),
    }
    if metadata.traceparent is not None:
        message["traceparent"] = metadata.traceparent
    return message


def _write_chunk(message: _Message, kind: EventKind, event: BodyChunk, by_number: bool) -> None:
    is_request = kind is EventKind.REQUEST_BODY_CHUNK
    message.update(
        data=text.base64_text(event.data)[1:-1],
        is_last=event.is_last,
        total_size=event.total_size,
        chunk_index=event.index,
    )
    message["bytes_received" if is_request else "bytes_sent"] = event.transferred
    if event.truncated:
        message["truncated"] = True
    if by_number and event.is_last and event.trailers:
        message["trailers"] = _fields(event.trailers)


def _fields(headers: Headers) -> Dict[str, Any]:
    return {name: headers.get_all(name) for name in headers}
