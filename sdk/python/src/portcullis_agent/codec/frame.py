"""Frames: ``[u32 big-endian N][u8 type][N-1 bytes of payload]``."""

from __future__ import annotations

import enum
import struct
from typing import Optional, Tuple

from ..errors import ProtocolError
from ..events import EventKind

#: The largest that a frame may say it is: its type and its payload.
MAX_FRAME_BYTES = 16 << 20

_HEADER = struct.Struct(">IB")
_LENGTH_BYTES = 4


class MessageType(enum.IntEnum):
    """The second part of a frame: what its payload is."""

    HANDSHAKE_REQUEST = 0x01
    HANDSHAKE_RESPONSE = 0x02
    REQUEST_HEADERS = 0x10
    REQUEST_BODY_CHUNK = 0x11
    RESPONSE_HEADERS = 0x12
    RESPONSE_BODY_CHUNK = 0x13
    REQUEST_COMPLETE = 0x14
    WEBSOCKET_FRAME = 0x15
    GUARDRAIL_INSPECT = 0x16
    CONFIGURE = 0x17
    AGENT_RESPONSE = 0x20
    HEALTH_STATUS = 0x30
    METRICS_REPORT = 0x31
    CONFIG_UPDATE_REQUEST = 0x32
    FLOW_CONTROL = 0x33
    VERDICT_PURGE = 0x34
    CANCEL = 0x40
    PING = 0x41
    PONG = 0x42


EVENT_KINDS = {
    MessageType.REQUEST_HEADERS: EventKind.REQUEST_HEADERS,
    MessageType.REQUEST_BODY_CHUNK: EventKind.REQUEST_BODY_CHUNK,
    MessageType.RESPONSE_HEADERS: EventKind.RESPONSE_HEADERS,
    MessageType.RESPONSE_BODY_CHUNK: EventKind.RESPONSE_BODY_CHUNK,
    MessageType.REQUEST_COMPLETE: EventKind.REQUEST_COMPLETE,
    MessageType.WEBSOCKET_FRAME: EventKind.WEBSOCKET_FRAME,
    MessageType.GUARDRAIL_INSPECT: EventKind.GUARDRAIL_INSPECT,
    MessageType.CONFIGURE: EventKind.CONFIGURE,
}

MESSAGE_TYPES = {kind: message_type for message_type, kind in EVENT_KINDS.items()}

_TYPES = {int(message_type): message_type for message_type in MessageType}


def encode(message_type: MessageType, payload: bytes, limit: int = MAX_FRAME_BYTES) -> bytes:
    """A whole frame. Raises ValueError when it would be larger than the
    limit."""
    length = len(payload) + 1
    if length > limit:
        raise ValueError(f"{length} bytes are more than the {limit} of a frame")
    return _HEADER.pack(length, message_type) + payload


def peek(buffer: bytearray, limit: int = MAX_FRAME_BYTES) -> Optional[Tuple[MessageType, int]]:
    """The type of the frame that the buffer begins with and the length of all
    of it, as soon as its head is there. Raises ProtocolError when the length
    is out of range or the type is not known, before the payload is there."""
    if len(buffer) < _HEADER.size:
        if len(buffer) >= _LENGTH_BYTES:
            _check_length(int.from_bytes(buffer[:_LENGTH_BYTES], "big"), limit)
        return None
    length, number = _HEADER.unpack_from(buffer)
    _check_length(length, limit)
    message_type = _TYPES.get(number)
    if message_type is None:
        raise ProtocolError(f"the type 0x{number:02x} is not known")
    return message_type, _LENGTH_BYTES + length


def take(buffer: bytearray, whole: int) -> Optional[bytes]:
    """Takes a frame of this length off the buffer and returns its payload;
    ``None`` when not all of it is there."""
    if len(buffer) < whole:
        return None
    payload = bytes(memoryview(buffer)[_HEADER.size : whole])
    del buffer[:whole]
    return payload


def _check_length(length: int, limit: int) -> None:
    if not 1 <= length <= limit:
        raise ProtocolError(f"a frame of {length} bytes is not within 1 and {limit}")
