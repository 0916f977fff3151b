"""Texts of messages: what a guardrail is shown of them, and what it finds."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Dict, List, Optional, Tuple


class InspectionType(enum.Enum):
    """What a guardrail is to look for."""

    #: Text that would make a model do something else than it is meant to.
    PROMPT_INJECTION = "prompt_injection"
    #: What belongs to a person: names, numbers, addresses.
    PII_DETECTION = "pii_detection"


class Severity(enum.Enum):
    """How bad something is that was found."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass
class GuardrailInspect:
    """A text out of the body of a request or of a response, before that goes
    on. A body with several of them is asked about several times."""

    #: The id that all events of the request have.
    correlation_id: str
    inspection_type: InspectionType
    content: str = field(repr=False)
    #: The model that the text is for or from, when that is known.
    model: Optional[str] = None
    #: What of it is of interest, as in ``email``; empty for everything.
    categories: List[str] = field(default_factory=list)
    #: The route that the request took.
    route_id: Optional[str] = None
    #: Whether the text is from a response.
    is_response: bool = False
    #: What else there is to know.
    metadata: Dict[str, str] = field(default_factory=dict)
    #: As in :class:`RequestHeaders`.
    budget_left: Optional[timedelta] = None


@dataclass
class Detection:
    """Something that a guardrail found in a text."""

    #: Its kind, as in ``credit_card``.
    category: str
    #: For people.
    description: str = ""
    severity: Severity = Severity.MEDIUM
    #: How sure the guardrail is of it, from 0 to 1.
    confidence: Optional[float] = None
    #: Where it is, in bytes of the text's UTF-8: see :func:`byte_span`.
    span: Optional[Tuple[int, int]] = None


@dataclass
class GuardrailResult:
    """What a guardrail says of a text."""

    detected: bool = False
    #: From 0 to 1.
    confidence: float = 0.0
    detections: List[Detection] = field(default_factory=list)
    #: The text without what was found; ``None`` when there is none.
    redacted_content: Optional[str] = None

    @classmethod
    def found(
        cls, *detections: Detection, redacted_content: Optional[str] = None
    ) -> "GuardrailResult":
        """These were found, for certain."""
        return cls(True, 1.0, list(detections), redacted_content)


def byte_span(text: str, start: int, end: int) -> Tuple[int, int]:
    """The span of a detection that is ``text[start:end]``."""
    before = len(text[:start].encode())
    return before, before + len(text[start:end].encode())
