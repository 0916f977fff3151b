"""For tests of agents: serves one in this process, and asks it as a proxy does.

.. code-block:: python

    from portcullis_agent.testing import request_headers, running


    def test_admin_is_blocked():
        with running(Denylist(), config={"paths": ["/admin"]}) as proxy:
            assert not proxy.ask(request_headers("/admin")).is_allow
            assert proxy.ask(request_headers("/")).is_allow
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import threading
from datetime import datetime, timezone
from ipaddress import ip_address
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple, Union

from .agent import Agent
from .capabilities import Extensions
from .codec import binary, control, json_events
from .codec.binary_answers import decode_answer as decode_binary_answer
from .codec.frame import MESSAGE_TYPES, MessageType, encode, peek, take
from .codec.json_answers import decode_answer as decode_json_answer
from .codec.text import load
from .decision import Answer, Decision, Failed, NotNow
from .errors import AgentError, EventId, Overloaded, ProtocolError
from .events import (
    BodyChunk,
    Event,
    EventKind,
    Headers,
    RequestComplete,
    RequestHeaders,
    RequestMetadata,
    ResponseHeaders,
    WebSocketFrame,
)
from .guardrail import GuardrailInspect
from .host import ServeOptions
from .server import serve_async
from .sockets import StrPath

_HeaderValues = Mapping[str, Union[str, List[str]]]


def request_headers(
    uri: str = "/",
    method: str = "GET",
    headers: Optional[_HeaderValues] = None,
    correlation_id: str = "c-1",
    client_ip: str = "203.0.113.7",
    **metadata: Any,
) -> RequestHeaders:
    """The head of a request, of which only what matters has to be said."""
    known: Dict[str, Any] = {
        "request_id": "r-1",
        "client_port": 51234,
        "protocol": "HTTP/1.1",
        "timestamp": datetime(2026, 7, 1, 12, tzinfo=timezone.utc),
        "route_id": "api",
        "upstream_id": "backend",
    }
    about = RequestMetadata(
        correlation_id=correlation_id, client_ip=ip_address(client_ip), **{**known, **metadata}
    )
    return RequestHeaders(about, method, uri, Headers(headers or {"host": "example.com"}))


def response_headers(
    status: int = 200, headers: Optional[_HeaderValues] = None, correlation_id: str = "c-1"
) -> ResponseHeaders:
    """The head of a response."""
    return ResponseHeaders(correlation_id, status, Headers(headers or {}))


def body_chunks(*pieces: bytes, correlation_id: str = "c-1") -> List[BodyChunk]:
    """A body in these pieces."""
    total, so_far, chunks = sum(map(len, pieces)), 0, []
    for index, data in enumerate(pieces):
        so_far += len(data)
        is_last = index == len(pieces) - 1
        chunks.append(BodyChunk(correlation_id, index, data, is_last, total, so_far))
    return chunks


class Proxy:
    """A proxy's end of a connection to an agent, whose methods wait for
    answers."""

    def __init__(self, connection: socket.socket, extensions: Extensions) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._numbers = 0
        #: What is agreed on.
        self.extensions = extensions

    @classmethod
    def connect(
        cls,
        path: StrPath,
        extensions: Optional[Extensions] = None,
        config: Any = None,
        timeout: float = 10.0,
    ) -> "Proxy":
        """Connects, shakes hands, and hands over a configuration if there is
        one.

        :param extensions: what is offered; all by default.
        :param timeout: seconds that each answer may take.
        :raises AgentError: when the agent refuses.
        """
        offered = Extensions.all() if extensions is None else extensions
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(os.fspath(path))
            proxy = cls(connection, Extensions.none())
            opening = control.encode_handshake_request(config, offered)
            proxy.send(MessageType.HANDSHAKE_REQUEST, opening)
            response = load(proxy.receive(MessageType.HANDSHAKE_RESPONSE))
            if response["success"] is not True:
                raise AgentError(response["error"])
            proxy.extensions = offered.chosen_of(response.get("extensions", []))
            if config is not None:
                proxy.configure(config)
            return proxy
        except BaseException:
            connection.close()
            raise

    def configure(self, config: Any) -> None:
        """Hands over a configuration.

        :raises AgentError: when the agent refuses it.
        """
        number = self._next_number()
        message = control.encode_configure(config, None, "configure-test-1", number)
        self.send(MessageType.CONFIGURE, message)
        answer = self.answer()[1]
        if not isinstance(answer, Decision):
            raise _error(answer)
        if not answer.is_allow:
            raise AgentError(str(answer.audit.custom.get("error", "the agent refuses it")))

    def ask(self, event: Event, kind: Optional[EventKind] = None) -> Decision:
        """Asks, and waits for the decision.

        :param kind: wanted for a piece of a body: of a request by default, or
            of a response.
        :raises AgentError: when the agent fails.
        :raises Overloaded: when the agent says "not now".
        """
        event_id = self.begin(event, kind)
        answered, answer = self.answer()
        if answered != event_id:
            raise ProtocolError(f"{answered!r} was answered, not {event_id!r}")
        if not isinstance(answer, Decision):
            raise _error(answer)
        return answer

    def begin(self, event: Event, kind: Optional[EventKind] = None) -> EventId:
        """Asks and does not wait. Returns the id that the answer will have."""
        kind = kind or _kind_of(event)
        number = self._next_number()
        if self.extensions.binary and number is not None:
            payload = binary.encode_event(event, number)
        else:
            payload = json_events.encode_event(kind, event, number)
        self.send(MESSAGE_TYPES[kind], payload)
        return event.correlation_id if number is None else number

    def answer(self) -> Tuple[EventId, Answer]:
        """The next answer, and the id of its event."""
        return self.decode_answer(self.receive(MessageType.AGENT_RESPONSE))

    def decode_answer(self, payload: bytes) -> Tuple[EventId, Answer]:
        """Reads the payload of an answer."""
        decode = decode_binary_answer if self.extensions.binary else decode_json_answer
        return decode(payload, self.extensions)

    def send(self, message_type: MessageType, payload: bytes) -> None:
        """Sends any message."""
        self._socket.sendall(encode(message_type, payload))

    def receive(self, wanted: Optional[MessageType] = None) -> bytes:
        """The payload of the next message, which has to be of this type if one
        is given."""
        message_type, payload = self.receive_any()
        if wanted is not None and message_type is not wanted:
            raise ProtocolError(f"{message_type.name} came, not {wanted.name}")
        return payload

    def receive_any(self) -> Tuple[MessageType, bytes]:
        """The next message.

        :raises ConnectionError: when the agent has closed.
        """
        while True:
            head = peek(self._buffer)
            payload = take(self._buffer, head[1]) if head else None
            if head is not None and payload is not None:
                return head[0], payload
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("the agent has closed the connection")
            self._buffer += data

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next_number(self) -> Optional[int]:
        if not self.extensions.event_id:
            return None
        self._numbers += 1
        return self._numbers


def _error(answer: Union[Failed, NotNow]) -> AgentError:
    if isinstance(answer, NotNow):
        return Overloaded(answer.retry_after)
    return AgentError(answer.message)


def _kind_of(event: Event) -> EventKind:
    kinds = {
        RequestHeaders: EventKind.REQUEST_HEADERS,
        BodyChunk: EventKind.REQUEST_BODY_CHUNK,
        ResponseHeaders: EventKind.RESPONSE_HEADERS,
        RequestComplete: EventKind.REQUEST_COMPLETE,
        WebSocketFrame: EventKind.WEBSOCKET_FRAME,
        GuardrailInspect: EventKind.GUARDRAIL_INSPECT,
    }
    return kinds[type(event)]


@contextlib.contextmanager
def served(agent: Agent, options: Optional[ServeOptions] = None) -> Iterator[str]:
    """Serves an agent in a thread, at the path of a socket that this gives."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "agent.sock")
        ready = threading.Event()
        failure: List[BaseException] = []
        control_of: Dict[str, Any] = {}

        async def serve() -> None:
            stop = asyncio.Event()
            control_of.update(loop=asyncio.get_running_loop(), stop=stop)
            await serve_async(agent, path, options=options, stop=stop, ready=ready.set)

        def run() -> None:
            try:
                asyncio.run(serve())
            except BaseException as error:
                failure.append(error)
            finally:
                ready.set()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        ready.wait()
        try:
            if failure:
                raise failure[0]
            yield path
        finally:
            if thread.is_alive():
                control_of["loop"].call_soon_threadsafe(control_of["stop"].set)
            thread.join(10)


@contextlib.contextmanager
def running(
    agent: Agent,
    config: Any = None,
    extensions: Optional[Extensions] = None,
    options: Optional[ServeOptions] = None,
) -> Iterator[Proxy]:
    """Serves an agent in a thread, and connects to it."""
    with served(agent, options) as path:
        with Proxy.connect(path, extensions, config) as proxy:
            yield proxy
