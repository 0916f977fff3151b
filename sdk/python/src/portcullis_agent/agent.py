"""What an agent is: one method per phase."""

from __future__ import annotations

from typing import Any, Awaitable, ClassVar, List, Optional, Sequence, Union

from .config import read_config
from .decision import Decision
from .errors import ConfigError
from .events import (
    BodyChunk,
    EventKind,
    RequestComplete,
    RequestHeaders,
    ResponseHeaders,
    WebSocketFrame,
)
from .guardrail import GuardrailInspect

Result = Union[Decision, Awaitable[Decision]]

#: The method for each kind of event.
HANDLERS = {
    EventKind.REQUEST_HEADERS: "request_headers",
    EventKind.REQUEST_BODY_CHUNK: "request_body_chunk",
    EventKind.RESPONSE_HEADERS: "response_headers",
    EventKind.RESPONSE_BODY_CHUNK: "response_body_chunk",
    EventKind.REQUEST_COMPLETE: "request_complete",
    EventKind.WEBSOCKET_FRAME: "websocket_frame",
    EventKind.GUARDRAIL_INSPECT: "guardrail_inspect",
}


class Agent:
    """An agent: it is asked about requests and decides.

    Inherit from it and write the methods of the phases that it wants to be
    asked about: what is overridden is announced, and nothing else is asked.

    A method may be ``def`` or ``async def``. ``async def`` runs on the event
    loop and must not block it. ``def`` runs in a thread of a pool and may
    block; several run at the same time. When the proxy no longer wants the
    answer, an ``async def`` is cancelled where it waits, and a ``def`` goes on
    to its end, but its answer is thrown away.

    A method that raises, that returns anything but a Decision, or whose answer
    cannot be written is a failed call: what happens then is the proxy's
    policy. It is never an allow.
    """

    #: The name of the agent, as in ``denylist``; without one the name of the
    #: class in lower case.
    name: ClassVar[str] = ""
    #: The version of the agent.
    version: ClassVar[str] = "0.1.0"
    #: A dataclass that the configuration is read into, see
    #: :func:`portcullis_agent.read_config`.
    config_type: ClassVar[Optional[type]] = None
    #: The events that it wants; ``None`` for those whose methods it has.
    events: ClassVar[Optional[Sequence[EventKind]]] = None
    #: The largest body that it takes, in bytes.
    max_body_size: ClassVar[int] = 10 << 20
    #: The size of a piece of a body that suits it, in bytes.
    preferred_chunk_size: ClassVar[int] = 256 << 10

    #: The configuration: a ``config_type`` if there is one.
    config: Any

    def configure(self, config: Any) -> Union[None, Awaitable[None]]:
        """Takes over the configuration that a proxy has for the agent: a
        ``config_type``, or without one what the operator wrote as JSON.

        Each connection configures anew: a proxy has several, with the same
        configuration, and reconnects. It may also hand over another one at any
        time, while events are worked on. Raise ConfigError, or anything, to
        refuse it: a new connection is not used then, and an old one goes on
        with what it had.

        A proxy that has none for the agent sends none. So it is called once at
        the start with a ``config_type`` of defaults, when there is a default
        for everything; else events are failures until one comes.

        The default keeps it in :attr:`config`, and refuses one that is not
        empty when there is no ``config_type``, since it would have no effect.
        """
        if self.config_type is None and config:
            raise ConfigError(f"the agent {self.agent_name} takes no configuration")
        self.config = config
        return None

    def request_headers(self, event: RequestHeaders) -> Result:
        """Decides about the head of a request."""
        return Decision.allow()

    def request_body_chunk(self, event: BodyChunk) -> Result:
        """Decides about a piece of a request's body, and may replace it. The
        pieces of a body come in order, each when the one before has been
        answered. What is kept between them fits into PerRequest."""
        return Decision.allow()

    def response_headers(self, event: ResponseHeaders) -> Result:
        """Decides about the head of a response."""
        return Decision.allow()

    def response_body_chunk(self, event: BodyChunk) -> Result:
        """Decides about a piece of a response's body, as
        :meth:`request_body_chunk` does about one of a request's."""
        return Decision.allow()

    def websocket_frame(self, event: WebSocketFrame) -> Result:
        """Decides about a frame of a WebSocket, in either direction: lets it
        pass, drops or replaces it, or closes the WebSocket."""
        return Decision.allow()

    def guardrail_inspect(self, event: GuardrailInspect) -> Result:
        """Looks into a text, and says what it found with
        :meth:`Decision.guardrail`."""
        return Decision.allow()

    def request_complete(self, event: RequestComplete) -> Union[None, Awaitable[None]]:
        """Is told that a request has ended. There is nothing to decide. It may
        be missing, when the connection was lost, so nothing may rely on it
        alone."""
        return None

    @property
    def agent_name(self) -> str:
        """:attr:`name`, or what stands for it."""
        return self.name or type(self).__name__.lower()

    def wanted_events(self) -> List[EventKind]:
        """The events that are announced."""
        if self.events is not None:
            return [EventKind(kind) for kind in self.events]
        wanted = [
            kind
            for kind, method in HANDLERS.items()
            if getattr(type(self), method) is not getattr(Agent, method)
        ]
        return wanted or [EventKind.REQUEST_HEADERS]

    def _read_config(self, value: Any) -> Any:
        return value if self.config_type is None else read_config(self.config_type, value)
