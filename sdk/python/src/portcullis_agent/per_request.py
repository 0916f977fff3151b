"""What an agent keeps between the events of one request.

None of the events of a request is sure to be the last: the proxy may go away,
or the connection to it. So there is no moment at which everything that belongs
to a request could be thrown away for certain, and what is kept is bounded by
number instead: when there is no room for one more, the request goes that was
heard of longest ago.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Callable, Generic, Optional, TypeVar

from .errors import AgentError

_T = TypeVar("_T")


class PerRequest(Generic[_T]):
    """State for each request, found by its correlation id.

    An agent that must see all of a body calls :meth:`begin` at the first piece
    and :meth:`find` at the others, which raises when the state is not there:
    the request was forgotten, or its first events went to another process. It
    must not begin in the middle.

    Events of one request come one after the other, as a rule, so its state
    needs no lock; those of different requests may come from several threads.

    :param make: makes the state of a request.
    :param max_entries: room for so many requests. What the state of one may
        grow to is for the agent to bound.
    """

    def __init__(self, make: Callable[[], _T], max_entries: int = 10_000) -> None:
        if max_entries < 1:
            raise ValueError("there has to be room for one request")
        self._make = make
        self._max_entries = max_entries
        self._entries: "OrderedDict[str, _T]" = OrderedDict()
        self._lock = threading.Lock()
        self._evicted = 0

    def begin(self, correlation_id: str) -> _T:
        """New state for a request; what there was of it is forgotten."""
        state = self._make()
        with self._lock:
            self._entries.pop(correlation_id, None)
            while len(self._entries) >= self._max_entries:
                self._entries.popitem(last=False)
                self._evicted += 1
            self._entries[correlation_id] = state
        return state

    def find(self, correlation_id: str) -> _T:
        """The state of a request.

        :raises AgentError: when there is none.
        """
        with self._lock:
            try:
                self._entries.move_to_end(correlation_id)
                return self._entries[correlation_id]
            except KeyError:
                raise AgentError("the beginning of the request is forgotten") from None

    def end(self, correlation_id: str) -> Optional[_T]:
        """Forgets a request, and returns what there was of it."""
        with self._lock:
            return self._entries.pop(correlation_id, None)

    @property
    def evicted(self) -> int:
        """How many requests had to go to make room for others."""
        return self._evicted

    def __len__(self) -> int:
        return len(self._entries)
