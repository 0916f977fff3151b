"""What all connections of an agent have in common."""

from __future__ import annotations

import asyncio
import enum
import inspect
import logging
import os
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Optional, Set

from .agent import HANDLERS, Agent
from .capabilities import Capabilities, Extensions
from .codec.frame import MAX_FRAME_BYTES
from .errors import AgentError
from .events import EventKind
from .metrics import Metrics
from .reporter import Reporter
from .threads import Threads

logger = logging.getLogger("portcullis_agent")


@dataclass
class Counters:
    """What has happened on all connections since the start."""

    #: Events that were answered.
    answered: int = 0
    #: Of these, how many with a failure.
    failed: int = 0
    #: Events that were cancelled before they were answered.
    cancelled: int = 0
    #: Cancels of events that had been answered already, or never were there.
    idle_cancels: int = 0


@dataclass
class ServeOptions:
    """How an agent is served."""

    #: The largest frame that is accepted or sent; at most 16 MiB.
    max_frame_bytes: int = MAX_FRAME_BYTES
    #: How many events of one connection are worked on at once. Always 1
    #: without extensions.
    concurrency: int = 100
    #: How many further events of one connection are read and wait, and at most
    #: 4 MiB of them. Beyond that the next event is left unread with all that
    #: follows it. Always 0 without extensions.
    backlog: int = 1024
    #: How many connections there may be. One more is closed.
    max_connections: int = 1024
    #: How many threads run the methods that are ``def``.
    threads: int = field(default_factory=lambda: min(32, (os.cpu_count() or 1) * 4))
    #: What may be chosen beyond the protocol that other proxies speak. With
    #: ``Extensions.none()`` the agent behaves like a legacy one, which does not
    #: understand that an event was cancelled.
    extensions: Extensions = field(default_factory=Extensions.all)
    #: Seconds that a proxy may take to begin the conversation.
    handshake_timeout: float = 10.0
    #: Seconds that events may go on after the shutdown began.
    drain_timeout: float = 5.0
    #: Seconds of these in which further events are taken, because they were on
    #: their way when the proxy was told that the agent drains.
    drain_notice: float = 0.1
    #: With what the agent says how it is.
    reporter: Reporter = field(default_factory=Reporter)
    #: What proxies are told at regular times; ``None`` for nothing.
    metrics: Optional[Metrics] = None
    #: Seconds between two of these reports.
    metrics_interval: float = 10.0
    #: What is counted.
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        if not 1 <= self.max_frame_bytes <= MAX_FRAME_BYTES:
            raise ValueError(f"max_frame_bytes is not within 1 and {MAX_FRAME_BYTES}")
        for name in ("concurrency", "max_connections", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} has to be at least 1")
        for name in ("backlog", "drain_notice", "drain_timeout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} cannot be negative")
        for name in ("handshake_timeout", "metrics_interval"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} has to be more than nothing")

    @property
    def is_legacy(self) -> bool:
        """Whether the agent is to behave like a legacy one."""
        return self.extensions == Extensions.none()


class Stop(enum.IntEnum):
    """How far a shutdown is."""

    NOT = 0
    #: Proxies are told, and what is on its way is taken.
    ANNOUNCED = 1
    #: Nothing more is read.
    NOW = 2


class Host:
    """An agent, how it is served, and the sessions that it has. To be used on
    its loop."""

    def __init__(self, agent: Agent, options: ServeOptions) -> None:
        self.agent = agent
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.threads = Threads(self.loop, options.threads)
        self.stop = Stop.NOT
        self.sessions: Set[Any] = set()
        self.capabilities = _capabilities(agent, options)
        self.supported = frozenset(self.capabilities.events)
        self.handlers: Dict[EventKind, Callable[[Any], Any]] = {
            kind: getattr(agent, name) for kind, name in HANDLERS.items()
        }
        self.is_async = {
            kind: inspect.iscoroutinefunction(handler) for kind, handler in self.handlers.items()
        }
        #: Why there is no configuration yet that the agent needs.
        self.unconfigured: Optional[str] = None
        self._unlisten = options.reporter._listen(self._changed)

    async def begin(self) -> None:
        """Gives the agent the configuration that has a default for
        everything, if there is one."""
        if self.agent.config_type is None:
            if not hasattr(self.agent, "config"):
                self.agent.config = None
            return
        try:
            await self.configure(None)
        except Exception as error:
            self.unconfigured = str(error)

    async def configure(self, value: Any) -> None:
        """Hands a configuration to the agent, or raises why it is refused."""
        agent = self.agent
        config = value if agent.config_type is None else agent._read_config(value)
        if inspect.iscoroutinefunction(agent.configure):
            result = agent.configure(config)
        else:
            result = await self.threads.run(agent.configure, config)
        if inspect.isawaitable(result):
            await result
        self.unconfigured = None

    async def ask(self, kind: EventKind, event: Any) -> Any:
        """What the agent makes of an event; raises what it raises."""
        if self.unconfigured is not None:
            raise AgentError(f"the agent has no configuration: {self.unconfigured}")
        handler = self.handlers[kind]
        if self.is_async[kind]:
            return await handler(event)
        result = await self.threads.run(handler, event)
        return await result if inspect.isawaitable(result) else result

    def _changed(self) -> None:
        # From any thread.
        try:
            self.loop.call_soon_threadsafe(self.report)
        except RuntimeError:
            # The loop is closed.
            pass

    def report(self) -> None:
        """Has all sessions say what is new."""
        for session in list(self.sessions):
            session.report()

    def set_stop(self, stop: Stop) -> None:
        """Tells all sessions."""
        self.stop = stop
        for session in list(self.sessions):
            session.stopping()

    async def drain(self) -> None:
        """Ends all sessions: says that the agent drains, finishes the events at
        hand, and closes."""
        options = self.options
        self.set_stop(Stop.ANNOUNCED)
        if not await self._ended(options.drain_notice):
            self.set_stop(Stop.NOW)
            if not await self._ended(max(options.drain_timeout - options.drain_notice, 0)):
                logger.warning("some events did not finish before the end of the shutdown")
        self.threads.close()
        for session in list(self.sessions):
            session.abort()
        self._unlisten()

    async def _ended(self, seconds: float) -> bool:
        waiting = [session.ended for session in self.sessions]
        if not waiting:
            return True
        _, left = await asyncio.wait(waiting, timeout=seconds)
        return not left


def _capabilities(agent: Agent, options: ServeOptions) -> Capabilities:
    concurrency = 1 if options.is_legacy else options.concurrency
    return Capabilities(
        name=agent.agent_name,
        version=agent.version,
        events=agent.wanted_events(),
        metrics_export=options.metrics is not None,
        cancellation=not options.is_legacy,
        concurrent_requests=concurrency,
        max_concurrency=options.concurrency,
        max_body_size=agent.max_body_size,
        preferred_chunk_size=agent.preferred_chunk_size,
    )
