"""Reading and writing JSON: what all messages need of it."""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from typing import Any, Dict, List, Optional

from ..errors import EventId
from ..events import Headers, IpAddress

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_BAD_VALUE = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))\Z",
    re.ASCII,
)
_MISSING: Any = object()


class Malformed(ValueError):
    """What is wrong with a message."""


def dumps(value: Any) -> str:
    """JSON without blanks. Raises ValueError or TypeError for what JSON cannot
    say."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def load(payload: bytes) -> Dict[str, Any]:
    """A JSON object. Raises Malformed for anything else."""
    try:
        value = json.loads(payload.decode("utf-8"), parse_constant=_no_constant)
        # Half of a character outside of the basic plane is no text, but
        # Python takes it for some and could not write it again.
        if b"\\u" in payload:
            dumps(value).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Malformed("it is not an object")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def text(message: Dict[str, Any], name: str, default: str = _MISSING) -> str:
    """A member that is text."""
    value = message.get(name, _MISSING)
    if isinstance(value, str):
        return value
    if value is _MISSING and default is not _MISSING:
        return default
    raise _wrong(name, value, "text")


def optional_text(message: Dict[str, Any], name: str) -> Optional[str]:
    """A member that is text, null or missing."""
    return None if message.get(name) is None else text(message, name)


def boolean(message: Dict[str, Any], name: str, default: bool = _MISSING) -> bool:
    """A member that is true or false."""
    value = message.get(name, _MISSING)
    if isinstance(value, bool):
        return value
    if value is _MISSING and default is not _MISSING:
        return default
    raise _wrong(name, value, "true or false")


def number(message: Dict[str, Any], name: str, bits: int, default: int = _MISSING) -> int:
    """A member that is a whole number of so many bits, without a sign."""
    value = message.get(name, _MISSING)
    if is_number(value, bits):
        return int(value)
    if value is _MISSING and default is not _MISSING:
        return default
    raise _wrong(name, value, f"a number of {bits} bits")


def optional_number(message: Dict[str, Any], name: str, bits: int) -> Optional[int]:
    """The same, null or missing."""
    return None if message.get(name) is None else number(message, name, bits)


def is_number(value: Any, bits: int = 64) -> bool:
    """Whether it is a whole number of so many bits, without a sign."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << bits


def _wrong(name: str, value: Any, wanted: str) -> Malformed:
    return Malformed(f"{name} is missing" if value is _MISSING else f"{name} is not {wanted}")


def base64_bytes(value: Any, name: str) -> bytes:
    """Standard base64 with padding. What is not is never taken for the bytes
    themselves."""
    try:
        if isinstance(value, str):
            data = base64.b64decode(value.encode("ascii"), validate=True)
            # Python passes over bits behind the last byte; two spellings of
            # the same bytes are one too many.
            if len(value) % 4 == 0 and _ends_well(value, data):
                return data
    except (ValueError, binascii.Error):
        pass
    raise Malformed(f"{name} is not base64")


def _ends_well(value: str, data: bytes) -> bool:
    if not value.endswith("="):
        return True
    tail = len(data) % 3
    return base64.b64encode(data[-tail:]).decode() == value[-4:] if tail else False


def base64_text(data: bytes) -> str:
    """The same, written, in quotes."""
    return f'"{base64.b64encode(data).decode()}"'


def headers(value: Any, name: str = "headers") -> Headers:
    """Header fields: an object from name to a list of values."""
    if not isinstance(value, dict):
        raise Malformed(f"{name} is not an object")
    fields: Dict[str, List[str]] = {}
    for field, values in value.items():
        if not isinstance(values, list):
            raise Malformed(f"a field in {name} is not a list")
        add_field(fields, field, values)
    return Headers._of(fields)


def add_field(fields: Dict[str, List[str]], name: str, values: List[Any]) -> None:
    """Adds values to the field of this name, if they may be in a header."""
    if not _NAME.match(name):
        raise Malformed("a header name is invalid")
    if not values:
        return
    for value in values:
        if not isinstance(value, str) or _BAD_VALUE.search(value):
            raise Malformed("a header value is invalid")
    fields.setdefault(name.lower(), []).extend(values)


def address(value: Any, name: str) -> IpAddress:
    """An IP address, without a zone."""
    try:
        if isinstance(value, str) and "%" not in value:
            return ip_address(value)
    except ValueError:
        pass
    raise Malformed(f"{name} is not an address")


def timestamp(value: str) -> datetime:
    """RFC 3339 with any offset, as UTC and to the microsecond."""
    match = _TIME.match(value)
    if not match:
        raise Malformed("timestamp is not RFC 3339")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, _, sign, offset_hours, offset_minutes = match.groups()[6:]
    offset = timedelta()
    if sign:
        if int(offset_hours) > 23 or int(offset_minutes) > 59:
            raise Malformed("timestamp is not RFC 3339")
        offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
        offset = -offset if sign == "-" else offset
    try:
        # 60 is a leap second, which this calendar does not know: the next one.
        leap = timedelta(seconds=1 if second == 60 else 0)
        time = datetime(
            year,
            month,
            day,
            hour,
            minute,
            min(second, 59) if leap else second,
            int((fraction or "0")[:6].ljust(6, "0")),
            timezone.utc,
        )
        return time + leap - offset
    except (ValueError, OverflowError):
        raise Malformed("timestamp is out of range") from None


def timestamp_text(time: datetime) -> str:
    """The same, written: as much of the second's fraction as there is."""
    time = time.astimezone(timezone.utc)
    digits = "" if not time.microsecond else f".{time.microsecond:06}"
    if digits.endswith("000"):
        digits = digits[:-3]
    return f"{time:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + digits + "Z"


def find_event_id(payload: bytes, by_number: bool) -> Optional[EventId]:
    """Looks for the id of an event or an answer in any JSON object, when the
    whole cannot be read or is not needed yet."""
    try:
        message = load(payload)
    except Malformed:
        return None
    if by_number:
        event_id = message.get("event_id")
        return event_id if is_number(event_id) else None
    for path in (
        ("correlation_id",),
        ("metadata", "correlation_id"),
        ("audit", "custom", "correlation_id"),
    ):
        value: Any = message
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str):
            return value
    return None


def microseconds(duration: timedelta) -> int:
    """Whole microseconds; less than none is none."""
    return max(duration // timedelta(microseconds=1), 0)


def milliseconds_up(duration: timedelta) -> int:
    """Whole milliseconds, rounded up."""
    return max(-(-duration // timedelta(milliseconds=1)), 0)
