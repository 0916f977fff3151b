"""Answers in the binary encoding."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

from ..capabilities import Extensions
from ..decision import (
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
    NotNow,
    Redirect,
    ReplaceFrame,
)
from ..errors import BadMessage
from . import guardrail, text
from .answers import in_words_of
from .binary import event_number
from .json_answers import read_retry_after, read_ttl, ttl_milliseconds
from .primitives import Reader, Writer
from .text import Malformed

_DETAILS, _REQUEST_OPS, _RESPONSE_OPS, _AUDIT = 1, 2, 3, 4
_REQUEST_BODY, _RESPONSE_BODY, _FRAME, _TTL, _GUARDRAIL = 5, 6, 7, 8, 9
_OPS = {"set": 1, "add": 2, "remove": 3}
_OP_NAMES = {number: name for name, number in _OPS.items()}


def encode_answer(number: int, answer: Answer, extensions: Extensions) -> bytes:
    """Writes the payload of an answer. Raises what struct and JSON raise for
    what cannot be written."""
    answer = in_words_of(extensions, answer)
    out = Writer().u64(number)
    if isinstance(answer, Failed):
        return out.raw(b"\4\0").section(_DETAILS, Writer().string(answer.message)).done()
    if isinstance(answer, NotNow):
        wait = answer.retry_after
        milliseconds = None if wait is None else text.milliseconds_up(wait)
        return out.raw(b"\5\0").section(_DETAILS, Writer().present_u64(milliseconds)).done()
    _write_verdict(out, answer)
    for tag, ops in (
        (_REQUEST_OPS, answer.request_headers),
        (_RESPONSE_OPS, answer.response_headers),
    ):
        if ops:
            out.section(tag, Writer().many(ops, _write_op))
    if answer.audit != Audit():
        out.section(_AUDIT, _audit(answer.audit))
    for tag, body in ((_REQUEST_BODY, answer.request_body), (_RESPONSE_BODY, answer.response_body)):
        if body is not None:
            out.section(tag, Writer().blob(body))
    if answer.websocket is not None:
        out.section(_FRAME, _frame(answer.websocket))
    milliseconds = ttl_milliseconds(answer.ttl) if extensions.verdict_ttl else 0
    if answer.ttl is not None and milliseconds:
        ignored = [part.value for part in answer.ttl.vary_ignores]
        out.section(_TTL, Writer().u64(milliseconds).strings(ignored))
    if answer.guardrail_result is not None:
        out.section(_GUARDRAIL, guardrail.pack_result(answer.guardrail_result))
    return out.done()


def _write_verdict(out: Writer, decision: Decision) -> None:
    verdict, flags = decision.verdict, int(bool(decision.needs_more))
    if isinstance(verdict, Allow):
        out.u8(0).u8(flags)
    elif isinstance(verdict, Block):
        details = Writer().u16(verdict.status)
        if verdict.body is None:
            details.u8(0)
        else:
            details.u8(1).blob(verdict.body)
        out.u8(1).u8(flags).section(_DETAILS, details.pairs(verdict.headers))
    elif isinstance(verdict, Redirect):
        details = Writer().u16(verdict.status).string(verdict.url)
        out.u8(2).u8(flags).section(_DETAILS, details)
    elif isinstance(verdict, Challenge):
        details = Writer().string(verdict.challenge_type).pairs(verdict.params)
        out.u8(3).u8(flags).section(_DETAILS, details)
    else:
        raise TypeError(f"{type(verdict).__name__} is no verdict")


def _write_op(out: Writer, op: HeaderOp) -> None:
    out.u8(_OPS[op.kind]).string(op.name)
    if op.kind != "remove":
        if op.value is None:
            raise TypeError("a header's value is text")
        out.string(op.value)


def _audit(audit: Audit) -> Writer:
    out = Writer().strings(audit.tags).strings(audit.rule_ids).strings(audit.reason_codes)
    out.present_f32(audit.confidence)
    custom = {name: value for name, value in audit.custom.items() if name != "correlation_id"}
    return out.string(text.dumps(custom) if custom else "")


def _frame(frame: FrameDecision) -> Writer:
    if isinstance(frame, DropFrame):
        return Writer().u8(1)
    if isinstance(frame, ReplaceFrame):
        return Writer().u8(2).blob(frame.data)
    return Writer().u8(3).u16(frame.code).string(frame.reason)


def decode_answer(payload: bytes, extensions: Extensions) -> Tuple[int, Answer]:
    """Reads the payload of an answer, as a proxy does. Raises BadMessage, with
    the number of the event when that can be read."""
    try:
        reader = Reader(payload)
        return reader.u64(), _read(reader, extensions)
    except ValueError as error:
        raise BadMessage(event_number(payload), f"malformed answer: {error}") from None


def _read(reader: Reader, extensions: Extensions) -> Answer:
    kind, flags = reader.u8(), reader.u8()
    sections = reader.sections()
    if kind != 0 and _DETAILS not in sections:
        raise Malformed("the details of the verdict are missing")
    verdict: Any = Allow()
    if kind != 0:
        verdict = _read_verdict(kind, sections[_DETAILS], extensions)
    if isinstance(verdict, (Failed, NotNow)):
        return verdict
    decision = Decision(verdict, needs_more=flags & 1 != 0)
    decision.request_headers = _read_ops(sections.get(_REQUEST_OPS))
    decision.response_headers = _read_ops(sections.get(_RESPONSE_OPS))
    if _AUDIT in sections:
        decision.audit = _read_audit(sections[_AUDIT])
    if _REQUEST_BODY in sections:
        decision.request_body = sections[_REQUEST_BODY].blob()
    if _RESPONSE_BODY in sections:
        decision.response_body = sections[_RESPONSE_BODY].blob()
    if _FRAME in sections:
        decision.websocket = _read_frame(sections[_FRAME])
    if _TTL in sections and extensions.verdict_ttl:
        decision.ttl = read_ttl(sections[_TTL].u64(), sections[_TTL].strings())
    if _GUARDRAIL in sections:
        decision.guardrail_result = guardrail.unpack_result(sections[_GUARDRAIL])
    return decision


def _read_verdict(kind: int, details: Reader, extensions: Extensions) -> Any:
    if kind == 1:
        status = details.u16()
        return Block(status, details.blob() if details.present() else None, details.pairs())
    if kind == 2:
        status = details.u16()
        return Redirect(details.string(), status)
    if kind == 3:
        return Challenge(details.string(), details.pairs())
    if kind == 4 and extensions.error:
        return Failed(details.string())
    if kind == 5 and extensions.overloaded:
        return read_retry_after(details.u64() if details.present() else None)
    raise Malformed("the verdict is not known, or was not negotiated")


def _read_ops(reader: Optional[Reader]) -> List[HeaderOp]:
    return [] if reader is None else reader.many(5, _read_op)


def _read_op(reader: Reader) -> HeaderOp:
    kind, name = _OP_NAMES.get(reader.u8()), reader.string()
    if kind is None:
        raise Malformed("a header operation is of an unknown kind")
    return HeaderOp(kind, name, None if kind == "remove" else reader.string())


def _read_audit(reader: Reader) -> Audit:
    audit = Audit(reader.strings(), reader.strings(), None, reader.strings())
    audit.confidence = reader.present_f32()
    custom = reader.string()
    audit.custom = text.load(custom.encode()) if custom else {}
    return audit


def _read_frame(reader: Reader) -> FrameDecision:
    kind = reader.u8()
    if kind == 1:
        return DropFrame()
    if kind == 2:
        return ReplaceFrame(reader.blob())
    if kind == 3:
        return CloseWebSocket(reader.u16(), reader.string())
    raise Malformed("the decision about the frame is of an unknown kind")
