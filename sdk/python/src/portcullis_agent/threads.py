"""Threads for handlers that may block.

Unlike those of ``concurrent.futures`` they do not keep the process alive: a
handler that never returns must not keep an agent from ending.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Any, Callable, Optional, Tuple


class Call:
    """A function that is called in a thread. Once it is ``unwanted`` it is not
    begun any more; what has begun goes on."""

    __slots__ = ("future", "function", "arguments", "unwanted")

    def __init__(
        self,
        future: "asyncio.Future[Any]",
        function: Callable[..., Any],
        arguments: Tuple[Any, ...],
    ) -> None:
        self.future = future
        self.function = function
        self.arguments = arguments
        self.unwanted = False


class Threads:
    """A pool of at most so many threads, which begin when they are needed. To
    be used on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        self._loop = loop
        self._most = most
        self._calls: "queue.SimpleQueue[Optional[Call]]" = queue.SimpleQueue()
        self._started = 0
        self._busy = 0
        self._closed = False

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls the function in a thread and returns what it returns. When
        this is cancelled, it goes on until the function has returned, so that
        whoever counts what is under way counts threads too."""
        call = self._begin(function, arguments)
        try:
            return await asyncio.shield(call.future)
        except asyncio.CancelledError:
            call.unwanted = True
            # A handler that never returns must not hold up the end.
            if not self._closed:
                await asyncio.wait([call.future])
            raise

    def _begin(self, function: Callable[..., Any], arguments: Tuple[Any, ...]) -> Call:
        call = Call(self._loop.create_future(), function, arguments)
        self._busy += 1
        if self._busy > self._started and self._started < self._most:
            self._started += 1
            name = f"portcullis-agent-{self._started}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        self._calls.put(call)
        return call

    def close(self) -> None:
        """Ends the threads, each when it has returned."""
        self._closed = True
        for _ in range(self._started):
            self._calls.put(None)

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            if call is None:
                return
            result: Any = None
            error: Optional[BaseException] = None
            if not call.unwanted:
                try:
                    result = call.function(*call.arguments)
                except BaseException as raised:
                    # A thread that ended would be missed.
                    error = raised
            try:
                self._loop.call_soon_threadsafe(self._end, call.future, result, error)
            except RuntimeError:
                # The loop is closed, and nobody waits any longer.
                return
            # What it was about must not be kept until the next call.
            del call, result, error

    def _end(
        self, future: "asyncio.Future[Any]", result: Any, error: Optional[BaseException]
    ) -> None:
        self._busy -= 1
        if future.done():
            return
        if error is None:
            future.set_result(result)
            return
        if not isinstance(error, Exception) or isinstance(error, StopIteration):
            error = RuntimeError(f"{type(error).__name__}: {error}")
        future.set_exception(error)
        # Nobody may be there to look at it.
        future.exception()
