"""Events: what an agent is told.

The events of one request come in the order request headers, request body,
response headers, response body, WebSocket frames, request complete; the
pieces of the two bodies may overlap, and so may the frames of the two
directions of a WebSocket. An agent gets the kinds that it has announced, and
has at most one event of a request to answer at a time.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, Union

from .guardrail import GuardrailInspect

IpAddress = Union[IPv4Address, IPv6Address]


class EventKind(enum.IntEnum):
    """A kind of event that an agent can be asked about, by its number in the
    handshake."""

    REQUEST_HEADERS = 1
    REQUEST_BODY_CHUNK = 2
    RESPONSE_HEADERS = 3
    RESPONSE_BODY_CHUNK = 4
    REQUEST_COMPLETE = 5
    WEBSOCKET_FRAME = 6
    GUARDRAIL_INSPECT = 7
    CONFIGURE = 8


class CancelReason(enum.IntEnum):
    """Why the answer to an event is no longer wanted."""

    CLIENT_DISCONNECT = 0
    TIMEOUT = 1
    BLOCKED_BY_AGENT = 2
    UPSTREAM_ERROR = 3
    PROXY_SHUTDOWN = 4
    MANUAL = 5


class FrameOpcode(enum.IntEnum):
    """The kind of a WebSocket frame (RFC 6455, section 5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA

    @property
    def is_control(self) -> bool:
        """Whether it may stand between the fragments of a message, and is
        never itself a fragment."""
        return self >= 0x8


class Headers:
    """Header fields: names in any case, each with one value or several.

    The order of the values of one name is kept, that of different names is
    not. Values are text; bytes that are not UTF-8 come as if they were
    Latin-1, one character for each byte. Its ``repr`` shows names alone, since
    values are often secrets.
    """

    __slots__ = ("_values",)

    def __init__(
        self,
        fields: Union[Mapping[str, Union[str, Iterable[str]]], Iterable[Tuple[str, str]]] = (),
    ) -> None:
        self._values: Dict[str, List[str]] = {}
        for name, value in fields.items() if isinstance(fields, Mapping) else fields:
            values = [value] if isinstance(value, str) else list(value)
            self._values.setdefault(name.lower(), []).extend(values)

    @classmethod
    def _of(cls, values: Dict[str, List[str]]) -> "Headers":
        """Takes over names in lower case."""
        headers = cls.__new__(cls)
        headers._values = values
        return headers

    def get(self, name: str, default: Optional[str] = None) -> Optional[str]:
        """The first value. A check that must not be evaded by a second one
        looks at :meth:`get_all`."""
        values = self._values.get(name.lower())
        return values[0] if values else default

    def get_all(self, name: str) -> List[str]:
        """All values, in order; empty when the field is missing."""
        return list(self._values.get(name.lower(), ()))

    def pairs(self) -> Iterator[Tuple[str, str]]:
        """Every name, in lower case, with every value."""
        for name, values in self._values.items():
            for value in values:
                yield name, value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        """The names, in lower case, each once."""
        return iter(self._values)

    def __len__(self) -> int:
        """The number of names."""
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._values == other._values

    def __repr__(self) -> str:
        return f"Headers({', '.join(map(repr, self._values))})"


@dataclass
class RequestMetadata:
    """What is known about a request in every phase."""

    #: The same for all events of one request.
    correlation_id: str
    #: The id of the request that its client and the logs see.
    request_id: str
    #: The address of the client, after trusted proxies were looked through.
    client_ip: IpAddress
    #: The port of the client; 0 when it is not known.
    client_port: int
    #: The protocol of the client's connection, as in ``HTTP/1.1``.
    protocol: str
    #: When the request began; in UTC, to the microsecond.
    timestamp: datetime
    #: The name that the client asked for in TLS; ``None`` without TLS.
    server_name: Optional[str] = None
    #: The version of TLS, as in ``TLSv1.3``; ``None`` without TLS.
    tls_version: Optional[str] = None
    #: The name of the cipher suite; ``None`` without TLS.
    tls_cipher: Optional[str] = None
    #: The route that the request took.
    route_id: Optional[str] = None
    #: The upstream that the request would go to.
    upstream_id: Optional[str] = None
    #: The W3C trace context of the request.
    traceparent: Optional[str] = None


@dataclass
class RequestHeaders:
    """The head of a request, before anything of it went to an upstream."""

    metadata: RequestMetadata
    #: The method, as in ``GET``.
    method: str
    #: Path and query, as in ``/a?b=1``.
    uri: str
    headers: Headers
    #: What was left of the time that all agents together may take for this
    #: request when the event was sent; ``None`` when the proxy does not say.
    budget_left: Optional[timedelta] = None

    @property
    def correlation_id(self) -> str:
        """The id that all events of the request have."""
        return self.metadata.correlation_id

    @property
    def path(self) -> str:
        """What comes before the query in :attr:`uri`."""
        return self.uri.partition("?")[0]

    @property
    def query(self) -> str:
        """What comes behind ``?`` in :attr:`uri`; empty without one."""
        return self.uri.partition("?")[2]


@dataclass
class BodyChunk:
    """A piece of a body, of a request or of a response."""

    #: The id that all events of the request have.
    correlation_id: str
    #: The number of the piece, from 0, in the body of the request and in that
    #: of the response.
    index: int
    data: bytes = field(repr=False)
    #: Whether it is the last piece. It may be empty.
    is_last: bool
    #: The size of the whole body in bytes; ``None`` when it is not known.
    total_size: Optional[int] = None
    #: How many bytes of the body there have been, this piece included.
    transferred: int = 0
    #: The body goes on, but the agent is shown only its beginning, which ends
    #: with this piece.
    truncated: bool = False
    #: The trailer fields behind the body, with the last piece alone; ``None``
    #: when there are none or the proxy does not say.
    trailers: Optional[Headers] = None
    #: As in :class:`RequestHeaders`.
    budget_left: Optional[timedelta] = None


@dataclass
class ResponseHeaders:
    """The head of a response, before anything of it went to the client."""

    #: The id that all events of the request have.
    correlation_id: str
    status: int
    headers: Headers
    #: As in :class:`RequestHeaders`.
    budget_left: Optional[timedelta] = None


@dataclass
class RequestComplete:
    """The end of a request: nothing can be decided any more."""

    #: The id that all events of the request had.
    correlation_id: str
    #: The status that the client got; 0 when it got none.
    status: int
    #: How long the request took. JSON has whole milliseconds.
    duration: timedelta = timedelta()
    #: How many bytes the body of the request had.
    request_body_size: int = 0
    #: How many bytes the body of the response had.
    response_body_size: int = 0
    #: How often a server was tried; 0 when the request never went to one.
    upstream_attempts: int = 0
    #: Why the request failed, for people; ``None`` when it did not.
    error: Optional[str] = None


@dataclass
class WebSocketFrame:
    """A frame of a WebSocket, in either direction, before it goes on."""

    #: The id that all events of the request have that became the WebSocket.
    correlation_id: str
    opcode: FrameOpcode
    #: The payload, unmasked and inflated. The text of a message may be cut
    #: within a character when the message has several frames.
    data: bytes = field(repr=False)
    #: Whether it goes from the client to the server.
    client_to_server: bool
    #: The number of the frame in its direction, from 0.
    index: int
    #: Whether it is the last frame of its message.
    fin: bool
    #: The address of the client, after trusted proxies were looked through.
    client_ip: IpAddress
    #: The route that the request took.
    route_id: Optional[str] = None
    #: As in :class:`RequestHeaders`.
    budget_left: Optional[timedelta] = None


Event = Union[
    RequestHeaders,
    BodyChunk,
    ResponseHeaders,
    RequestComplete,
    WebSocketFrame,
    GuardrailInspect,
]
