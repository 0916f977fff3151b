"""Decisions: what an agent answers."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Dict, List, Optional, Tuple, Union

from .guardrail import GuardrailResult

#: The longest that a verdict may hold: a day. A proxy takes more for that.
MAX_VERDICT_TTL = timedelta(days=1)


class KeyPart(enum.Enum):
    """Something of a request that a verdict which is kept depends on, unless
    its agent says that it does not."""

    AUTHORIZATION = "authorization"
    COOKIE = "cookie"
    #: What follows the path behind ``?``.
    QUERY = "query"
    #: Who the client is in TLS.
    CLIENT_CERTIFICATE = "client-certificate"
    #: The headers that some agent owns, as agents before this one set them.
    OWNED_HEADERS = "owned-headers"
    #: The other headers that filters before the agent changed.
    EARLIER_CHANGES = "earlier-changes"


@dataclass
class Allow:
    """The request may go on."""


@dataclass
class Block:
    """The request may not go on; the client gets this answer."""

    status: int
    #: ``None`` leaves the body to the proxy.
    body: Optional[bytes] = None
    #: Header fields of the answer, in order.
    headers: List[Tuple[str, str]] = field(default_factory=list)


@dataclass
class Redirect:
    """The client is sent elsewhere."""

    url: str
    status: int = 302


@dataclass
class Challenge:
    """The client has to prove something first."""

    #: The kind of the challenge, as in ``captcha``.
    challenge_type: str
    #: Parameters of the challenge, in order.
    params: List[Tuple[str, str]] = field(default_factory=list)


Verdict = Union[Allow, Block, Redirect, Challenge]


@dataclass
class HeaderOp:
    """One change of one header field; ``kind`` is ``set``, ``add`` or
    ``remove``, which alone has no value."""

    kind: str
    name: str
    value: Optional[str] = None


@dataclass
class DropFrame:
    """The frame does not go on."""


@dataclass
class ReplaceFrame:
    """The frame goes on with this payload, which may be empty."""

    data: bytes


@dataclass
class CloseWebSocket:
    """The frame does not go on, and the WebSocket is closed on both sides."""

    code: int
    reason: str = ""


FrameDecision = Union[DropFrame, ReplaceFrame, CloseWebSocket]


@dataclass
class Audit:
    """Why an agent decided as it did, for logs and metrics."""

    tags: List[str] = field(default_factory=list)
    rule_ids: List[str] = field(default_factory=list)
    confidence: Optional[float] = None
    reason_codes: List[str] = field(default_factory=list)
    custom: Dict[str, Any] = field(default_factory=dict)


@dataclass
class VerdictTtl:
    """For how long a verdict holds, and what it does not depend on."""

    ttl: timedelta
    vary_ignores: List[KeyPart] = field(default_factory=list)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} is a str, not {type(value).__name__}")
    return value


def _bytes(value: object, what: str) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{what} is bytes, not {type(value).__name__}")


def _u16(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} is an int, not {type(value).__name__}")
    if not 0 <= value <= 0xFFFF:
        raise ValueError(f"{value} is no {what}")
    return int(value)


@dataclass
class Decision:
    """The answer to an event: a verdict, and what goes with it.

    Begin with :meth:`allow`, :meth:`block`, :meth:`redirect` or
    :meth:`challenge`; the other methods change the decision and return it, so
    that they can be written one behind the other. A decision is made for one
    event: do not keep one and change it again.

    What a proxy does not accept (a status out of range, a header that no agent
    may set) makes the whole answer a failure, never an allow.
    """

    verdict: Verdict
    #: Changes of the request's head before it goes to the upstream, in order.
    request_headers: List[HeaderOp] = field(default_factory=list)
    #: Changes of the response's head before it goes to the client, in order.
    response_headers: List[HeaderOp] = field(default_factory=list)
    audit: Audit = field(default_factory=Audit)
    #: The verdict is provisional: the agent wants to see more of the message.
    needs_more: bool = False
    #: What takes the place of the piece of the request's body that was asked
    #: about; ``None`` leaves it as it is, and no bytes drop it.
    request_body: Optional[bytes] = None
    #: The same for a piece of the response's body.
    response_body: Optional[bytes] = None
    #: What becomes of the frame that was asked about; ``None`` lets it pass.
    websocket: Optional[FrameDecision] = None
    #: ``None`` when the verdict holds for its own request alone.
    ttl: Optional[VerdictTtl] = None
    #: What a guardrail says of the text that was asked about.
    guardrail_result: Optional[GuardrailResult] = None

    @classmethod
    def allow(cls) -> "Decision":
        """The request may go on."""
        return cls(Allow())

    @classmethod
    def block(cls, status: int = 403) -> "Decision":
        """The request may not go on; the client gets this status (200 to
        599)."""
        return cls(Block(_u16(status, "status")))

    @classmethod
    def redirect(cls, url: str, status: int = 302) -> "Decision":
        """The client is sent to this URL: http, https or relative. The status
        is 300 to 303, 307 or 308."""
        return cls(Redirect(_text(url, "a URL"), _u16(status, "status")))

    @classmethod
    def challenge(cls, challenge_type: str, **params: str) -> "Decision":
        """The client has to pass a challenge of this kind first, as in
        ``captcha``."""
        decision = cls(Challenge(_text(challenge_type, "the type of a challenge")))
        for name, value in params.items():
            decision.with_param(name, value)
        return decision

    @property
    def is_allow(self) -> bool:
        """Whether the request may go on."""
        return isinstance(self.verdict, Allow)

    def with_body(self, content: Union[str, bytes]) -> "Decision":
        """Gives a block its body; text becomes UTF-8. Only of a block."""
        if not isinstance(self.verdict, Block):
            raise ValueError("only a block has a body")
        self.verdict.body = (
            content.encode() if isinstance(content, str) else _bytes(content, "a body")
        )
        return self

    def with_header(self, name: str, value: str) -> "Decision":
        """Adds a header to what the client gets: to the answer of a block, to
        the response otherwise."""
        if isinstance(self.verdict, Block):
            pair = _text(name, "a header's name"), _text(value, "a header's value")
            self.verdict.headers.append(pair)
            return self
        return self.add_response_header(name, value)

    def with_param(self, name: str, value: str) -> "Decision":
        """Adds a parameter to a challenge. Only of a challenge."""
        if not isinstance(self.verdict, Challenge):
            raise ValueError("only a challenge has parameters")
        self.verdict.params.append((_text(name, "a parameter's name"), _text(value, "a parameter")))
        return self

    def set_request_header(self, name: str, value: str) -> "Decision":
        """Replaces a header of the request."""
        self.request_headers.append(_change("set", name, value))
        return self

    def add_request_header(self, name: str, value: str) -> "Decision":
        """Adds a header to the request."""
        self.request_headers.append(_change("add", name, value))
        return self

    def remove_request_header(self, name: str) -> "Decision":
        """Removes a header from the request."""
        self.request_headers.append(HeaderOp("remove", _text(name, "a header's name")))
        return self

    def set_response_header(self, name: str, value: str) -> "Decision":
        """Replaces a header of the response."""
        self.response_headers.append(_change("set", name, value))
        return self

    def add_response_header(self, name: str, value: str) -> "Decision":
        """Adds a header to the response."""
        self.response_headers.append(_change("add", name, value))
        return self

    def remove_response_header(self, name: str) -> "Decision":
        """Removes a header from the response."""
        self.response_headers.append(HeaderOp("remove", _text(name, "a header's name")))
        return self

    def replace_request_body(self, data: bytes) -> "Decision":
        """Replaces the piece of the request's body that was asked about; no
        bytes drop it."""
        self.request_body = _bytes(data, "a body")
        return self

    def replace_response_body(self, data: bytes) -> "Decision":
        """Replaces the piece of the response's body that was asked about; no
        bytes drop it."""
        self.response_body = _bytes(data, "a body")
        return self

    def drop_frame(self) -> "Decision":
        """Lets the frame that was asked about not go on."""
        self.websocket = DropFrame()
        return self

    def replace_frame(self, data: bytes) -> "Decision":
        """Replaces the payload of the frame that was asked about. A proxy that
        does not know ``event-id`` cannot do that: it is told that the agent
        failed."""
        self.websocket = ReplaceFrame(_bytes(data, "a payload"))
        return self

    def close_websocket(self, code: int = 1008, reason: str = "") -> "Decision":
        """Closes the WebSocket with this code (1000 to 1003, 1007 to 1014,
        3000 to 4999) and this reason, at most 123 bytes of UTF-8."""
        self.websocket = CloseWebSocket(_u16(code, "code of a close"), _text(reason, "a reason"))
        return self

    def hold_for(self, ttl: Union[timedelta, float]) -> "Decision":
        """Says that the verdict holds for this long, a number being seconds,
        for other requests too that are the same in what it depends on. Zero
        takes that back. It goes over the wire in whole milliseconds, rounded
        down, and at most a day counts."""
        if not isinstance(ttl, timedelta):
            ttl = timedelta(seconds=ttl)
        if ttl < timedelta():
            raise ValueError("a verdict cannot hold for less than no time")
        ignored = self.ttl.vary_ignores if self.ttl else []
        self.ttl = VerdictTtl(min(ttl, MAX_VERDICT_TTL), ignored) if ttl else None
        return self

    def whatever_the(self, part: KeyPart) -> "Decision":
        """Says that a verdict which holds for a while does not depend on this
        part of a request; to be called behind :meth:`hold_for`."""
        if self.ttl is None:
            raise ValueError("say first for how long the verdict holds: hold_for(…)")
        part = KeyPart(part)
        if part not in self.ttl.vary_ignores:
            self.ttl.vary_ignores.append(part)
        return self

    def guardrail(self, result: GuardrailResult) -> "Decision":
        """Says what was found in the text of a guardrail."""
        if not isinstance(result, GuardrailResult):
            raise TypeError(f"a GuardrailResult is wanted, not {type(result).__name__}")
        self.guardrail_result = result
        return self

    def tag(self, tag: str) -> "Decision":
        """Adds a label to the audit data."""
        self.audit.tags.append(_text(tag, "a tag"))
        return self

    def rule_id(self, rule_id: str) -> "Decision":
        """Adds the id of a rule that matched to the audit data."""
        self.audit.rule_ids.append(_text(rule_id, "the id of a rule"))
        return self

    def reason(self, reason_code: str) -> "Decision":
        """Adds a reason code to the audit data."""
        self.audit.reason_codes.append(_text(reason_code, "a reason code"))
        return self

    def confidence(self, confidence: float) -> "Decision":
        """Says how sure the agent is, from 0 to 1."""
        if not (math.isfinite(confidence) and 0 <= confidence <= 1):
            raise ValueError("a confidence is between 0 and 1")
        self.audit.confidence = confidence
        return self

    def custom(self, key: str, value: Any) -> "Decision":
        """Adds anything else to the audit data, as far as JSON can say it.
        ``correlation_id`` belongs to the protocol."""
        if _text(key, "a key") == "correlation_id":
            raise ValueError("correlation_id belongs to the protocol")
        self.audit.custom[key] = value
        return self

    def provisional(self) -> "Decision":
        """Marks the verdict as provisional: the agent wants to see more."""
        self.needs_more = True
        return self


def _change(kind: str, name: str, value: str) -> HeaderOp:
    return HeaderOp(kind, _text(name, "a header's name"), _text(value, "a header's value"))


@dataclass
class Failed:
    """There is no decision: the agent failed."""

    message: str


@dataclass
class NotNow:
    """There is no decision: the agent has too much to do. It may say after how
    long to ask again."""

    retry_after: Optional[timedelta] = None


#: What an event ends with.
Answer = Union[Decision, Failed, NotNow]
