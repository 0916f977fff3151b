"""What an agent says about itself in the handshake."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Dict, FrozenSet, Iterable, List

from .events import EventKind


@dataclass(frozen=True)
class Extensions:
    """What goes beyond the protocol that other proxies speak: offered by the
    proxy, chosen by the agent."""

    #: ``event-id``: a number per event, so that several events of one request
    #: can be under way and late answers are recognised.
    event_id: bool = False
    #: ``binary``: an encoding for events and answers; includes ``event-id``.
    binary: bool = False
    #: ``error``: the agent can answer that it failed.
    error: bool = False
    #: ``overloaded``: the agent can answer that it has too much to do.
    overloaded: bool = False
    #: ``verdict-ttl``: the agent can say for how long a verdict holds, and
    #: that none of its verdicts holds any longer.
    verdict_ttl: bool = False

    @classmethod
    def all(cls) -> "Extensions":
        """Everything that this library can do."""
        return cls(True, True, True, True, True)

    @classmethod
    def none(cls) -> "Extensions":
        """The protocol of other proxies and nothing else."""
        return cls()

    @property
    def names(self) -> List[str]:
        """The names as they are in the handshake."""
        return [_wire(it.name) for it in fields(self) if getattr(self, it.name)]

    def chosen_of(self, offered: Iterable[str]) -> "Extensions":
        """Those of these names that are in here too. Names that are not known
        are passed over."""
        names = frozenset(offered)
        if "binary" in names:
            names |= {"event-id"}
        return self._within(names)

    def without_binary(self) -> "Extensions":
        """The same, but in JSON."""
        return Extensions(self.event_id, False, self.error, self.overloaded, self.verdict_ttl)

    def _within(self, names: FrozenSet[str]) -> "Extensions":
        has = {it.name: getattr(self, it.name) and _wire(it.name) in names for it in fields(self)}
        # Binary frames have no other id than the number.
        has["event_id"] = has["event_id"] or has["binary"]
        return Extensions(**has)


def _wire(name: str) -> str:
    return name.replace("_", "-")


@dataclass
class Capabilities:
    """What an agent wants, can do and can bear, in the order of the
    handshake."""

    #: The id and the name of the agent, as in ``denylist``.
    name: str
    #: The version of the agent.
    version: str
    #: The events that it wants.
    events: List[EventKind] = field(default_factory=lambda: [EventKind.REQUEST_HEADERS])
    metrics_export: bool = False
    #: It understands that an event was cancelled.
    cancellation: bool = True
    #: How many events it works on at once, on one connection.
    concurrent_requests: int = 100
    #: The same, on all of them.
    max_concurrency: int = 100
    #: The largest body that it takes, in bytes.
    max_body_size: int = 10 << 20
    #: The size of a piece of a body that suits it, in bytes.
    preferred_chunk_size: int = 256 << 10

    def message(self) -> Dict[str, Any]:
        """As it is in the handshake: every member, since other proxies have
        no defaults."""
        bodies = {EventKind.REQUEST_BODY_CHUNK, EventKind.RESPONSE_BODY_CHUNK}
        return {
            "agent_id": self.name,
            "name": self.name,
            "version": self.version,
            "supported_events": [int(kind) for kind in self.events],
            "features": {
                "streaming_body": not bodies.isdisjoint(self.events),
                "websocket": EventKind.WEBSOCKET_FRAME in self.events,
                "guardrails": EventKind.GUARDRAIL_INSPECT in self.events,
                "config_push": True,
                "metrics_export": self.metrics_export,
                "concurrent_requests": self.concurrent_requests,
                "cancellation": self.cancellation,
                "flow_control": True,
                "health_reporting": True,
            },
            "limits": {
                "max_body_size": self.max_body_size,
                "max_concurrency": self.max_concurrency,
                "preferred_chunk_size": self.preferred_chunk_size,
            },
        }
