"""Answers in JSON."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, Dict, List, Optional, Tuple

from ..capabilities import Extensions
from ..decision import (
    MAX_VERDICT_TTL,
    Allow,
    Answer,
    Audit,
    Block,
    Challenge,
    CloseWebSocket,
    Decision,
    DropFrame,
    Failed,
    FrameDecision,
    HeaderOp,
    KeyPart,
    NotNow,
    Redirect,
    ReplaceFrame,
    VerdictTtl,
)
from ..errors import BadMessage, EventId
from ..guardrail import GuardrailResult
from . import guardrail, text
from .answers import in_words_of
from .text import Malformed, dumps

_MAX_RETRY_AFTER = timedelta(hours=1)


def encode_answer(
    event_id: EventId, chunk_index: int, answer: Answer, extensions: Extensions
) -> bytes:
    """Writes the payload of an answer. For other proxies the id is in
    ``audit.custom``, where they look for it. What takes the place of a piece
    of a body names the piece by ``chunk_index``. Raises ValueError or
    TypeError when JSON cannot say it."""
    answer = in_words_of(extensions, answer)
    decision = answer if isinstance(answer, Decision) else Decision.allow()
    by_number = isinstance(event_id, int)
    audit = decision.audit
    custom = dict(audit.custom)
    custom.pop("correlation_id", None)
    if not by_number:
        custom["correlation_id"] = event_id
    # By hand, because a header of a block may come several times.
    parts = [
        '{"version":2',
        f',"event_id":{event_id}' if by_number else "",
        f',"decision":{_write_verdict(answer)}',
        f',"request_headers":{_write_ops(decision.request_headers)}',
        f',"response_headers":{_write_ops(decision.response_headers)}',
        f',"routing_metadata":{_write_routing(decision)}',
        f',"audit":{{"tags":{dumps(audit.tags)},"rule_ids":{dumps(audit.rule_ids)}',
        f',"confidence":{dumps(audit.confidence)},"reason_codes":{dumps(audit.reason_codes)}',
        f',"custom":{dumps(custom)}}}',
        f',"needs_more":{dumps(decision.needs_more)}',
        f',"request_body_mutation":{_write_mutation(decision.request_body, chunk_index)}',
        f',"response_body_mutation":{_write_mutation(decision.response_body, chunk_index)}',
        f',"websocket_decision":{_write_frame(decision.websocket)}',
        _write_ttl(decision.ttl) if extensions.verdict_ttl else "",
        "}",
    ]
    return "".join(parts).encode()


def _write_verdict(answer: Answer) -> str:
    if isinstance(answer, Failed):
        return f'{{"error":{{"message":{dumps(answer.message)}}}}}'
    if isinstance(answer, NotNow):
        wait = answer.retry_after
        milliseconds = None if wait is None else text.milliseconds_up(wait)
        return f'{{"overloaded":{{"retry_after_ms":{dumps(milliseconds)}}}}}'
    verdict = answer.verdict
    if isinstance(verdict, Allow):
        return '"allow"'
    if isinstance(verdict, Block):
        # JSON has no other way for bytes that are no text.
        body = None if verdict.body is None else verdict.body.decode("utf-8", "replace")
        headers = _write_pairs(verdict.headers)
        return f'{{"block":{{"status":{verdict.status},"body":{dumps(body)},"headers":{headers}}}}}'
    if isinstance(verdict, Redirect):
        return f'{{"redirect":{{"url":{dumps(verdict.url)},"status":{verdict.status}}}}}'
    if isinstance(verdict, Challenge):
        kind, params = dumps(verdict.challenge_type), _write_pairs(verdict.params)
        return f'{{"challenge":{{"challenge_type":{kind},"params":{params}}}}}'
    raise TypeError(f"{type(verdict).__name__} is no verdict")


def _write_pairs(pairs: List[Tuple[str, str]]) -> str:
    return "{" + ",".join(f"{dumps(name)}:{dumps(value)}" for name, value in pairs) + "}"


def _write_ops(ops: List[HeaderOp]) -> str:
    if not ops:
        return "[]"
    written = []
    for op in ops:
        fields = {"name": op.name}
        if op.kind != "remove":
            if not isinstance(op.value, str):
                raise TypeError("a header's value is text")
            fields["value"] = op.value
        written.append({op.kind: fields})
    return dumps(written)


def _write_routing(decision: Decision) -> str:
    result = decision.guardrail_result
    if result is None:
        return "{}"
    # A text that holds JSON, because routing metadata are texts.
    return dumps({"guardrail_response": guardrail.write_result(result)})


def _write_mutation(body: Optional[bytes], chunk_index: int) -> str:
    if body is None:
        return "null"
    return f'{{"data":{text.base64_text(body)},"chunk_index":{chunk_index}}}'


def _write_frame(frame: Optional[FrameDecision]) -> str:
    if frame is None:
        return "null"
    if isinstance(frame, DropFrame):
        return '"drop"'
    if isinstance(frame, ReplaceFrame):
        return f'{{"replace":{{"data":{text.base64_text(frame.data)}}}}}'
    return f'{{"close":{{"code":{frame.code},"reason":{dumps(frame.reason)}}}}}'


def _write_ttl(ttl: Optional[VerdictTtl]) -> str:
    milliseconds = ttl_milliseconds(ttl)
    if ttl is None or not milliseconds:
        return ""
    ignored = dumps([part.value for part in ttl.vary_ignores])
    return f',"ttl_ms":{milliseconds}' + (f',"vary_ignores":{ignored}' if ttl.vary_ignores else "")


def ttl_milliseconds(ttl: Optional[VerdictTtl]) -> int:
    """How long a verdict holds on the wire: rounded down, at most a day."""
    return 0 if ttl is None else min(ttl.ttl, MAX_VERDICT_TTL) // timedelta(milliseconds=1)


def read_ttl(milliseconds: int, names: List[str]) -> Optional[VerdictTtl]:
    """What a reader makes of it. Names that are not known are passed over."""
    known = {part.value: part for part in KeyPart}
    ignored = list(dict.fromkeys(known[name] for name in names if name in known))
    ttl = timedelta(milliseconds=min(milliseconds, 86_400_000))
    return VerdictTtl(ttl, ignored) if ttl else None


def read_retry_after(milliseconds: Optional[int]) -> NotNow:
    """What a reader makes of the time of an agent that is overloaded."""
    if milliseconds is None:
        return NotNow()
    return NotNow(min(timedelta(milliseconds=min(milliseconds, 1 << 40)), _MAX_RETRY_AFTER))


class _Object(Dict[str, Any]):
    """An object that remembers members which come several times."""

    def __init__(self, pairs: List[Tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def decode_answer(payload: bytes, extensions: Extensions) -> Tuple[EventId, Answer]:
    """Reads the payload of an answer, as a proxy does. Raises BadMessage, with
    the id of the event when that can be read."""
    try:
        message = json.loads(payload.decode(), object_pairs_hook=_Object)
        return _read_answer(_as_object(message), extensions)
    except (ValueError, RecursionError) as error:
        event_id = text.find_event_id(payload, extensions.event_id)
        raise BadMessage(event_id, f"malformed answer: {error}") from None


def _read_answer(message: _Object, extensions: Extensions) -> Tuple[EventId, Answer]:
    if text.number(message, "version", 32) not in (1, 2):
        raise Malformed("the version is neither 1 nor 2")
    audit = _as_object(message.get("audit") or _Object([]))
    custom = dict(_as_object(audit.get("custom") or _Object([])))
    in_custom = custom.pop("correlation_id", None)
    event_id: Any = message.get("correlation_id") or in_custom
    if extensions.event_id:
        event_id = text.number(message, "event_id", 64)
    elif not isinstance(event_id, str):
        raise Malformed("it does not say which event it answers")
    verdict = _read_verdict(message.get("decision"), extensions)
    if isinstance(verdict, (Failed, NotNow)):
        return event_id, verdict
    confidence = audit.get("confidence")
    if confidence is not None and not isinstance(confidence, (int, float)):
        raise Malformed("confidence is not a number")
    ttl = text.optional_number(message, "ttl_ms", 64) if extensions.verdict_ttl else None
    decision = Decision(
        verdict,
        request_headers=[_read_op(op) for op in message.get("request_headers") or []],
        response_headers=[_read_op(op) for op in message.get("response_headers") or []],
        audit=Audit(
            tags=_texts(audit, "tags"),
            rule_ids=_texts(audit, "rule_ids"),
            confidence=confidence,
            reason_codes=_texts(audit, "reason_codes"),
            custom=custom,
        ),
        needs_more=bool(message.get("needs_more")),
        request_body=_read_mutation(message, "request_body_mutation"),
        response_body=_read_mutation(message, "response_body_mutation"),
        websocket=_read_frame(message.get("websocket_decision"), extensions),
        ttl=read_ttl(ttl or 0, _texts(message, "vary_ignores")),
        guardrail_result=_read_guardrail(message.get("routing_metadata")),
    )
    return event_id, decision


def _as_object(value: Any) -> _Object:
    if not isinstance(value, _Object):
        raise Malformed("it is not an object")
    return value


def _texts(message: _Object, name: str) -> List[str]:
    values = message.get(name) or []
    if not isinstance(values, list) or not all(isinstance(it, str) for it in values):
        raise Malformed(f"{name} is not a list of text")
    return values


def _read_verdict(wire: Any, extensions: Extensions) -> Any:
    if wire == "allow":
        return Allow()
    if not isinstance(wire, _Object) or len(wire) != 1:
        raise Malformed("the decision is not known")
    ((kind, fields),) = wire.items()
    fields = _as_object(fields)
    if kind == "block":
        body = text.optional_text(fields, "body")
        status = text.number(fields, "status", 16)
        return Block(status, None if body is None else body.encode(), _pairs(fields, "headers"))
    if kind == "redirect":
        return Redirect(text.text(fields, "url"), text.number(fields, "status", 16, 302))
    if kind == "challenge":
        return Challenge(text.text(fields, "challenge_type"), _pairs(fields, "params"))
    if kind == "error" and extensions.error:
        return Failed(text.text(fields, "message"))
    if kind == "overloaded" and extensions.overloaded:
        return read_retry_after(text.optional_number(fields, "retry_after_ms", 64))
    raise Malformed("the decision is not known, or was not negotiated")


def _pairs(fields: _Object, name: str) -> List[Tuple[str, str]]:
    pairs = _as_object(fields.get(name) or _Object([])).pairs
    if not all(isinstance(value, str) for _, value in pairs):
        raise Malformed(f"{name} is not an object of text")
    return pairs


def _read_op(wire: Any) -> HeaderOp:
    if not isinstance(wire, _Object) or len(wire) != 1:
        raise Malformed("a header operation is not known")
    ((kind, fields),) = wire.items()
    if kind not in ("set", "add", "remove"):
        raise Malformed("a header operation is not known")
    name = text.text(_as_object(fields), "name")
    return HeaderOp(kind, name, None if kind == "remove" else text.text(fields, "value"))


def _read_mutation(message: _Object, name: str) -> Optional[bytes]:
    mutation = message.get(name)
    data = None if mutation is None else _as_object(mutation).get("data")
    return None if data is None else text.base64_bytes(data, name)


def _read_frame(wire: Any, extensions: Extensions) -> Optional[FrameDecision]:
    if wire is None or wire == "allow":
        return None
    if wire == "drop":
        return DropFrame()
    if isinstance(wire, _Object) and len(wire) == 1:
        ((kind, fields),) = wire.items()
        if kind == "close":
            fields = _as_object(fields)
            return CloseWebSocket(
                text.number(fields, "code", 16), text.optional_text(fields, "reason") or ""
            )
        if kind == "replace" and extensions.event_id:
            return ReplaceFrame(text.base64_bytes(_as_object(fields).get("data"), "data"))
    raise Malformed("the decision about the frame is not known, or was not negotiated")


def _read_guardrail(routing: Any) -> Optional[GuardrailResult]:
    written = routing.get("guardrail_response") if isinstance(routing, dict) else None
    if written is None:
        return None
    if not isinstance(written, str):
        raise Malformed("guardrail_response is no text")
    return guardrail.read_result(written)
