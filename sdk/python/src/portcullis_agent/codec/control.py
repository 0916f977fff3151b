"""The messages that are always JSON: opening, cancel, pings, and what an agent
says unasked."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from ..capabilities import Capabilities, Extensions
from ..errors import EventId, ProtocolError
from ..events import CancelReason
from . import text
from .text import Malformed, dumps

PROTOCOL_VERSION = 2

_REASONS = {str(int(reason)): reason for reason in CancelReason}


class HealthState(enum.IntEnum):
    """How an agent is."""

    HEALTHY = 1
    DEGRADED = 2
    #: About to stop: it finishes what it has.
    DRAINING = 3
    UNHEALTHY = 4


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


@dataclass
class HandshakeRequest:
    """What a proxy opens with."""

    supported_versions: List[int]
    supported_encodings: List[str]
    extensions: List[str]

    def refusal(self) -> Optional[str]:
        """Why the conversation cannot begin; ``None`` when it can."""
        if PROTOCOL_VERSION not in self.supported_versions:
            return f"only protocol version {PROTOCOL_VERSION} is spoken"
        if self.supported_encodings and "json" not in self.supported_encodings:
            return "only the encoding json is spoken"
        return None


def decode_handshake_request(payload: bytes) -> HandshakeRequest:
    """Raises ProtocolError."""
    message = _object(payload, "handshake request")
    versions = message.get("supported_versions")
    encodings = message.get("supported_encodings", ["json"])
    extensions = message.get("extensions", [])
    for value, kind in ((versions, int), (encodings, str), (extensions, str)):
        if not isinstance(value, list) or not all(isinstance(it, kind) for it in value):
            raise ProtocolError("malformed handshake request: a list is wrong")
    return HandshakeRequest(list(versions or ()), encodings, extensions)


def encode_handshake_request(config: Any, extensions: Extensions) -> bytes:
    """As a proxy writes it."""
    message = {
        "supported_versions": [PROTOCOL_VERSION],
        "proxy_id": "portcullis",
        "proxy_version": "0.1.0",
        "config": config,
        "supported_encodings": ["json"],
    }
    if extensions.names:
        message["extensions"] = extensions.names
    return dumps(message).encode()


def encode_handshake_response(
    capabilities: Capabilities, extensions: Extensions, error: Optional[str]
) -> bytes:
    """A refusal when there is an error."""
    message = {
        "protocol_version": PROTOCOL_VERSION,
        "capabilities": capabilities.message(),
        "success": error is None,
        "error": error,
        "encoding": "json",
    }
    if extensions.names:
        message["extensions"] = extensions.names
    return dumps(message).encode()


def encode_registration(
    agent_id: str,
    capabilities: Capabilities,
    extensions: Extensions,
    token: Optional[str],
    metadata: Optional[Dict[str, Any]],
) -> bytes:
    """What an agent opens with that dials the proxy."""
    message = {
        "protocol_version": PROTOCOL_VERSION,
        "agent_id": agent_id,
        "capabilities": capabilities.message(),
        "auth_token": token,
        "metadata": metadata,
    }
    if extensions.names:
        message["extensions"] = extensions.names
    return dumps(message).encode()


def decode_registration_answer(payload: bytes) -> Tuple[Optional[str], List[str], str]:
    """Why the proxy refuses, or ``None``; the extensions that it chose; the id
    of the connection. Raises ProtocolError."""
    message = _object(payload, "registration answer")
    extensions = message.get("extensions") or []
    if not isinstance(extensions, list) or not all(isinstance(it, str) for it in extensions):
        raise ProtocolError("malformed registration answer: extensions is not a list of text")
    connection = message.get("connection_id")
    refusal = None
    if message.get("success") is not True:
        error = message.get("error")
        refusal = error if isinstance(error, str) else "the proxy gave no reason"
    return refusal, extensions, connection if isinstance(connection, str) else ""


@dataclass
class Configure:
    """A configuration for the agent."""

    config: Any
    config_version: Optional[str]
    event_id: EventId


def decode_configure(payload: bytes, by_number: bool) -> Configure:
    """Raises ProtocolError, since without an id there is nothing to answer."""
    message = _object(payload, "configure")
    try:
        if "config" not in message:
            raise Malformed("config is missing")
        version = text.optional_text(message, "config_version")
        event_id: EventId = text.text(message, "correlation_id", "")
        if by_number:
            event_id = text.number(message, "event_id", 64)
    except Malformed as error:
        raise ProtocolError(f"malformed configure: {error}") from None
    return Configure(message["config"], version, event_id)


def encode_configure(
    config: Any, version: Optional[str], correlation_id: str, number: Optional[int]
) -> bytes:
    """As a proxy writes it."""
    message = {"config": config, "config_version": version, "correlation_id": correlation_id}
    if number is not None:
        message["event_id"] = number
    return dumps(message).encode()


def decode_cancel(payload: bytes, by_number: bool) -> Tuple[EventId, Optional[CancelReason]]:
    """Which event is no longer wanted, and why; a reason that is not known is
    ``None``. Raises ProtocolError when it names no event."""
    message = _object(payload, "cancel")
    try:
        event_id: EventId = (
            text.number(message, "event_id", 64)
            if by_number
            else text.text(message, "correlation_id")
        )
    except Malformed as error:
        raise ProtocolError(f"malformed cancel: {error}") from None
    return event_id, _REASONS.get(str(message.get("reason")))


def encode_cancel(
    correlation_id: str, number: Optional[int], reason: CancelReason, timestamp_ms: int
) -> bytes:
    """As a proxy writes it."""
    message: Dict[str, Any] = {"correlation_id": correlation_id}
    if number is not None:
        message["event_id"] = number
    message.update(reason=int(reason), timestamp_ms=timestamp_ms)
    return dumps(message).encode()


def decode_ping(payload: bytes) -> Tuple[int, int]:
    """Its number, and when it was sent in milliseconds. Raises
    ProtocolError."""
    message = _object(payload, "ping")
    try:
        sequence = text.number(message, "sequence", 64)
    except Malformed as error:
        raise ProtocolError(f"malformed ping: {error}") from None
    sent = message.get("timestamp_ms")
    return sequence, int(sent) if sent is not None and text.is_number(sent) else 0


def encode_ping(sequence: int, timestamp_ms: int) -> bytes:
    """A ping, or the pong that repeats it."""
    return dumps({"sequence": sequence, "timestamp_ms": timestamp_ms}).encode()


def encode_health(agent_id: str, state: HealthState, timestamp_ms: int) -> bytes:
    """How the agent is."""
    message = {
        "agent_id": agent_id,
        "state": int(state),
        "message": None,
        "timestamp_ms": timestamp_ms,
    }
    return dumps(message).encode()


def encode_flow(paused: bool, timestamp_ms: int) -> bytes:
    """Whether the agent wants no more events for now."""
    action = 1 if paused else 2
    message = {"correlation_id": None, "action": action, "timestamp_ms": timestamp_ms}
    return dumps(message).encode()


def encode_purge(agent_id: str, timestamp_ms: int) -> bytes:
    """That no verdict holds any longer."""
    return dumps({"agent_id": agent_id, "timestamp_ms": timestamp_ms}).encode()


def encode_reload_request(request_id: str, timestamp_ms: int) -> bytes:
    """That the proxy should read its configuration again."""
    message = {
        "update_type": {"type": "request_reload"},
        "request_id": request_id,
        "timestamp_ms": timestamp_ms,
    }
    return dumps(message).encode()


def _object(payload: bytes, what: str) -> Dict[str, Any]:
    try:
        return text.load(payload)
    except Malformed as error:
        raise ProtocolError(f"malformed {what}: {error}") from None
