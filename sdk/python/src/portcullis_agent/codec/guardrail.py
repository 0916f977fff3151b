"""Texts for guardrails and what these found, in both encodings."""

from __future__ import annotations

from typing import Any, Dict, List

from ..guardrail import Detection, GuardrailInspect, GuardrailResult, InspectionType, Severity
from . import text
from .primitives import Reader, Writer
from .text import Malformed, dumps

#: The member of the metadata that says whose text it is.
_DIRECTION = "direction"
_NUMBERS = {InspectionType.PROMPT_INJECTION: 1, InspectionType.PII_DETECTION: 2}
_TYPES = {number: kind for kind, number in _NUMBERS.items()}
_NAMES = {kind.value: kind for kind in InspectionType}
_SEVERITIES = {severity.value: severity for severity in Severity}
#: Three texts and two bytes.
_SMALLEST_DETECTION = 14


def read_event(message: Dict[str, Any]) -> GuardrailInspect:
    """From JSON."""
    categories = message.get("categories", [])
    metadata = message.get("metadata", {})
    if not isinstance(categories, list) or not all(isinstance(it, str) for it in categories):
        raise Malformed("categories is not a list of text")
    if not isinstance(metadata, dict) or not all(isinstance(it, str) for it in metadata.values()):
        raise Malformed("metadata is not an object of text")
    kind = _NAMES.get(text.text(message, "inspection_type"))
    if kind is None:
        raise Malformed("the inspection type is not known")
    return GuardrailInspect(
        correlation_id=text.text(message, "correlation_id"),
        inspection_type=kind,
        content=text.text(message, "content"),
        model=text.optional_text(message, "model"),
        categories=categories,
        route_id=text.optional_text(message, "route_id"),
        is_response=metadata.pop(_DIRECTION, None) == "response",
        metadata=metadata,
    )


def write_event(message: Dict[str, Any], event: GuardrailInspect) -> None:
    """Into JSON."""
    message.update(inspection_type=event.inspection_type.value, content=event.content)
    if event.model is not None:
        message["model"] = event.model
    message["categories"] = event.categories
    if event.route_id is not None:
        message["route_id"] = event.route_id
    direction = "response" if event.is_response else "request"
    message["metadata"] = {_DIRECTION: direction, **event.metadata}


def read_result(written: str) -> GuardrailResult:
    """From the JSON in a text."""
    message = text.load(written.encode())
    detections = message.get("detections", [])
    if not isinstance(detections, list) or not all(isinstance(it, dict) for it in detections):
        raise Malformed("detections is not a list of objects")
    return GuardrailResult(
        detected=text.boolean(message, "detected"),
        confidence=_confidence(message) or 0.0,
        detections=[_read_detection(it) for it in detections],
        redacted_content=text.optional_text(message, "redacted_content"),
    )


def _read_detection(message: Dict[str, Any]) -> Detection:
    wire, span = message.get("span"), None
    if wire is not None:
        if not isinstance(wire, dict):
            raise Malformed("span is not an object")
        span = text.number(wire, "start", 64), text.number(wire, "end", 64)
    return Detection(
        category=text.text(message, "category"),
        description=text.text(message, "description", ""),
        severity=_SEVERITIES.get(text.text(message, "severity", ""), Severity.MEDIUM),
        confidence=_confidence(message),
        span=span,
    )


def _confidence(message: Dict[str, Any]) -> Any:
    confidence = message.get("confidence")
    if confidence is not None and not isinstance(confidence, (int, float)):
        raise Malformed("confidence is not a number")
    return None if confidence is None else float(confidence)


def write_result(result: GuardrailResult) -> str:
    """Into the JSON in a text."""
    detections: List[Dict[str, Any]] = []
    for found in result.detections:
        wire: Dict[str, Any] = {
            "category": found.category,
            "description": found.description,
            "severity": Severity(found.severity).value,
        }
        if found.confidence is not None:
            wire["confidence"] = float(found.confidence)
        if found.span is not None:
            start, end = found.span
            wire["span"] = {"start": start, "end": end}
        detections.append(wire)
    return dumps(
        {
            "detected": result.detected,
            "confidence": float(result.confidence),
            "detections": detections,
            "redacted_content": result.redacted_content,
        }
    )


def unpack_event(correlation_id: str, reader: Reader) -> GuardrailInspect:
    """From the binary encoding."""
    kind = _TYPES.get(reader.u8())
    if kind is None:
        raise Malformed("the inspection type is not known")
    flags = reader.u8()
    model, route_id = reader.optional(), reader.optional()
    categories, metadata = reader.strings(), dict(reader.pairs())
    return GuardrailInspect(
        correlation_id,
        kind,
        reader.string(),
        model,
        categories,
        route_id,
        flags & 1 != 0,
        metadata,
    )


def pack_event(event: GuardrailInspect) -> Writer:
    """Into the binary encoding."""
    out = Writer().u8(_NUMBERS[event.inspection_type]).u8(int(event.is_response))
    out.optional(event.model).optional(event.route_id).strings(event.categories)
    return out.pairs(list(event.metadata.items())).string(event.content)


def unpack_result(reader: Reader) -> GuardrailResult:
    """From the binary encoding."""
    detected, confidence = reader.present(), reader.present_f32()
    redacted_content = reader.optional()
    detections = reader.many(_SMALLEST_DETECTION, _unpack_detection)
    return GuardrailResult(detected, confidence or 0.0, detections, redacted_content)


def _unpack_detection(reader: Reader) -> Detection:
    category, description = reader.string(), reader.string()
    severity = _SEVERITIES.get(reader.string(), Severity.MEDIUM)
    confidence = reader.present_f32()
    span = (reader.u64(), reader.u64()) if reader.present() else None
    return Detection(category, description, severity, confidence, span)


def pack_result(result: GuardrailResult) -> Writer:
    """Into the binary encoding."""
    out = Writer().u8(int(result.detected)).present_f32(result.confidence)
    return out.optional(result.redacted_content).many(result.detections, _pack_detection)


def _pack_detection(out: Writer, found: Detection) -> None:
    out.string(found.category).string(found.description).string(Severity(found.severity).value)
    out.present_f32(found.confidence)
    if found.span is None:
        out.u8(0)
    else:
        start, end = found.span
        out.u8(1).u64(start).u64(end)
