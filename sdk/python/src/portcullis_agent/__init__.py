"""Agents for portcullis, and for other proxies of agent protocol version 2.

.. code-block:: python

    from portcullis_agent import Agent, Decision, serve


    class NoTrace(Agent):
        name = "no-trace"

        def request_headers(self, event):
            if event.method == "TRACE":
                return Decision.block(405).reason("method:trace")
            return Decision.allow()


    serve(NoTrace())
"""

from .agent import Agent
from .capabilities import Extensions
from .codec.control import HealthState
from .config import read_config
from .decision import Decision, KeyPart
from .errors import AgentError, ConfigError, Overloaded, ProtocolError
from .events import (
    BodyChunk,
    CancelReason,
    EventKind,
    FrameOpcode,
    Headers,
    RequestComplete,
    RequestHeaders,
    RequestMetadata,
    ResponseHeaders,
    WebSocketFrame,
)
from .guardrail import (
    Detection,
    GuardrailInspect,
    GuardrailResult,
    InspectionType,
    Severity,
    byte_span,
)
from .host import Counters, ServeOptions
from .metrics import Metrics
from .per_request import PerRequest
from .reporter import Reporter
from .server import serve, serve_async, serve_reverse, serve_reverse_async
from .sockets import SOCKET_VARIABLE, bind_socket, socket_from_env
from .tls import Tls

__version__ = "0.1.0"

__all__ = [
    "SOCKET_VARIABLE",
    "Agent",
    "AgentError",
    "BodyChunk",
    "CancelReason",
    "ConfigError",
    "Counters",
    "Decision",
    "Detection",
    "EventKind",
    "Extensions",
    "FrameOpcode",
    "GuardrailInspect",
    "GuardrailResult",
    "Headers",
    "HealthState",
    "InspectionType",
    "KeyPart",
    "Metrics",
    "Overloaded",
    "PerRequest",
    "ProtocolError",
    "Reporter",
    "RequestComplete",
    "RequestHeaders",
    "RequestMetadata",
    "ResponseHeaders",
    "ServeOptions",
    "Severity",
    "Tls",
    "WebSocketFrame",
    "bind_socket",
    "byte_span",
    "read_config",
    "serve",
    "serve_async",
    "serve_reverse",
    "serve_reverse_async",
    "socket_from_env",
]
