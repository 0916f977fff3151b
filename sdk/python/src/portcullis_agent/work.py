"""The events of one connection: some are worked on, the rest wait.

When as many are worked on as may be, the next ones are taken off the socket
all the same and wait here, so that a Cancel or a ping behind them is heard.
Both kinds are found again by the id of the event, and dropped when it is
cancelled. A handler in a thread cannot be dropped: it keeps its place until it
returns, and then is not answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Callable, Coroutine, Deque, Dict, List, Optional, Set

from .errors import EventId

#: While the events that wait have this many bytes, no more are taken.
_WAITING_BYTES = 4 << 20


class Job:
    """An event that waits or is worked on."""

    __slots__ = ("event_id", "start", "size", "task", "cancelled")

    def __init__(
        self,
        event_id: Optional[EventId],
        start: Callable[["Job"], Coroutine[Any, Any, None]],
        size: int,
    ) -> None:
        #: By which it can be cancelled; ``None`` when it cannot be.
        self.event_id = event_id
        self.start = start
        self.size = size
        self.task: Optional["asyncio.Task[None]"] = None
        self.cancelled = False


class Work:
    """Works on ``concurrency`` events at once and lets ``backlog`` more
    wait."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        concurrency: int,
        backlog: int,
        on_done: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._concurrency, self._backlog = concurrency, backlog
        self._on_done = on_done
        self._running: Set[Job] = set()
        self._waiting: Deque[Job] = deque()
        self._waiting_bytes = 0
        # One legacy id may name several.
        self._by_id: Dict[EventId, List[Job]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to do."""
        return not self._running and not self._waiting

    @property
    def takes_more(self) -> bool:
        """Whether another event may be added."""
        if not self._waiting and len(self._running) < self._concurrency:
            return True
        return len(self._waiting) < self._backlog and self._waiting_bytes < _WAITING_BYTES

    def add(self, job: Job) -> None:
        """Begins a job, or lets it wait."""
        if job.event_id is not None:
            self._by_id.setdefault(job.event_id, []).append(job)
        self._waiting.append(job)
        self._waiting_bytes += job.size
        self.begin_next()

    def begin_next(self) -> None:
        """Begins as many of those that wait as there is room for."""
        while self._waiting and len(self._running) < self._concurrency:
            job = self._waiting.popleft()
            self._waiting_bytes -= job.size
            self._running.add(job)
            job.task = self._loop.create_task(self._run(job))

    async def _run(self, job: Job) -> None:
        try:
            await job.start(job)
        except asyncio.CancelledError:
            if not job.cancelled:
                raise
        finally:
            self._running.discard(job)
            self._forget(job)
            self._on_done()

    def cancel(self, event_id: EventId) -> int:
        """Drops the events with this id, and says how many there were."""
        jobs = self._by_id.pop(event_id, [])
        for job in jobs:
            self._cancel(job)
        return len(jobs)

    def cancel_all(self) -> None:
        """Drops everything."""
        for job in [*self._waiting, *self._running]:
            self._cancel(job)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._by_id.clear()

    def _cancel(self, job: Job) -> None:
        job.cancelled = True
        if job.task is not None:
            job.task.cancel()
            return
        self._waiting.remove(job)
        self._waiting_bytes -= job.size

    def _forget(self, job: Job) -> None:
        jobs = self._by_id.get(job.event_id) if job.event_id is not None else None
        if jobs and job in jobs:
            jobs.remove(job)
            if not jobs and job.event_id is not None:
                del self._by_id[job.event_id]
