"""What can go wrong."""

from __future__ import annotations

from datetime import timedelta
from typing import Optional, Union

#: The id of an event: its number between peers that know ``event-id``, else
#: the correlation id.
EventId = Union[int, str]


class AgentError(Exception):
    """Raised by a handler that cannot decide. The message goes to the proxy's
    log. Any other exception of a handler means the same."""


class Overloaded(AgentError):
    """Raised by a handler that says "not now": the agent has too much to do to
    look at the event. It may say when to ask again, in seconds or as a
    timedelta; a proxy takes more than an hour for an hour. A proxy that does
    not know the extension ``overloaded`` is told that the agent failed."""

    def __init__(self, retry_after: Union[timedelta, float, None] = None) -> None:
        super().__init__("the agent is overloaded")
        if retry_after is not None and not isinstance(retry_after, timedelta):
            retry_after = timedelta(seconds=retry_after)
        if retry_after is not None and retry_after < timedelta():
            raise ValueError("a time in the past")
        self.retry_after: Optional[timedelta] = retry_after


class ConfigError(ValueError):
    """The configuration is wrong; the message says where and what to write
    instead. Raised by ``configure`` it keeps the proxy from using it."""


class ProtocolError(Exception):
    """What a peer sent is not the protocol. The connection closes."""


class BadMessage(ProtocolError):
    """An event or an answer that cannot be read. When its id can be, only this
    event fails."""

    def __init__(self, event_id: Optional[EventId], detail: str) -> None:
        super().__init__(detail)
        self.event_id = event_id
