"""What an agent says without being asked: how it is, whether it wants events,
that what it said before holds no longer, and that the proxy should read its
configuration again."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Callable, List

from .codec.control import HealthState


@dataclass(frozen=True)
class Report:
    """How an agent is. A proxy that has been told nothing takes it for healthy
    and willing."""

    health: HealthState = HealthState.HEALTHY
    paused: bool = False
    #: How many times all verdicts were taken back.
    purges: int = 0
    #: How many times a reload was asked for.
    reloads: int = 0


class Reporter:
    """Tells all proxies how the agent is, on the connections that they have
    and on those that they will make. May be used from any thread.

    What is told is the present state: of several changes at once, or while a
    proxy does not read, it learns the last.
    """

    def __init__(self) -> None:
        self._present = Report()
        self._lock = threading.Lock()
        self._listeners: List[Callable[[], None]] = []

    def health(self, state: HealthState) -> None:
        """Says how the agent is. While it is being shut down, proxies are told
        that it drains, whatever is said here."""
        state = HealthState(state)
        self._change(lambda report: replace(report, health=state))

    def pause(self) -> None:
        """Asks for no more events. Those that come all the same are worked
        on."""
        self._change(lambda report: replace(report, paused=True))

    def resume(self) -> None:
        """Asks for events again."""
        self._change(lambda report: replace(report, paused=False))

    def purge_verdicts(self) -> None:
        """Takes back all verdicts that were to hold for a while: proxies that
        have kept any ask again. To be called when what they came from has
        changed already."""
        self._change(lambda report: replace(report, purges=report.purges + 1))

    def request_reload(self) -> None:
        """Asks the proxies that are connected now to read their configuration
        again. A proxy does so only where its configuration lets the agent;
        there is no answer."""
        self._change(lambda report: replace(report, reloads=report.reloads + 1))

    @property
    def present(self) -> Report:
        """What holds now."""
        return self._present

    def _change(self, change: Callable[[Report], Report]) -> None:
        with self._lock:
            self._present = change(self._present)
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def _listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls this after every change, until the result is called."""
        with self._lock:
            self._listeners.append(listener)

        def stop() -> None:
            with self._lock:
                self._listeners.remove(listener)

        return stop
