"""What is malformed is refused, and keeps its id when that can be read."""

import json
import random
from datetime import datetime, timedelta, timezone

import pytest
from test_vectors import BINARY_EVENTS, BY_NUMBER, JSON_EVENTS, PAGE, on_the_page

from portcullis_agent import Decision, EventKind, Extensions, Headers, KeyPart
from portcullis_agent.codec import binary, control, frame, json_answers, json_events, text
from portcullis_agent.codec.answers import in_words_of
from portcullis_agent.decision import Audit, Failed, NotNow, VerdictTtl
from portcullis_agent.errors import BadMessage, ProtocolError
from portcullis_agent.testing import request_headers


def utc(*parts):
    return datetime(*parts, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-07-01T12:00:00Z", utc(2026, 7, 1, 12)),
        ("2026-07-01T14:00:00+02:00", utc(2026, 7, 1, 12)),
        ("2026-07-01 06:30:00-05:30", utc(2026, 7, 1, 12)),
        ("2026-07-01t11:59:60z", utc(2026, 7, 1, 12)),
        ("2026-07-01T12:00:00.1234567891Z", utc(2026, 7, 1, 12, 0, 0, 123456)),
        ("2026-07-01T12:00:00.5Z", utc(2026, 7, 1, 12, 0, 0, 500000)),
        ("", None),
        ("2026-07-01", None),
        ("2026-07-01T12:00:00", None),
        ("2026-02-29T12:00:00Z", None),
        ("2026-01-01T24:00:00Z", None),
        ("2026-01-01T12:00:61Z", None),
        ("2026-01-01T12:00:00Zjunk", None),
        ("2026-01-01T12:00:00+0200", None),
        ("0000-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+01:00", None),
        ("\u0662026-01-01T12:00:00Z", None),
    ],
)
def test_times(value, expected):
    if expected is None:
        with pytest.raises(text.Malformed):
            text.timestamp(value)
    else:
        assert text.timestamp(value) == expected
        assert text.timestamp(text.timestamp_text(expected)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", b""),
        ("aGVsbG8=", b"hello"),
        ("+/+/", b"\xfb\xff\xbf"),
        ("aGVsbG8", None),
        ("aGVsbG8==", None),
        ("aGVsbG9=", None),
        ("aGVsbA=", None),
        ("-_-_", None),
        ("hello, world", None),
        ("aGVs\nbG8=", None),
        ("aGVsbG8=aGVsbG8=", None),
        ("====", None),
        ("\u00e9GVs", None),
        (None, None),
        ([104], None),
    ],
)
def test_base64(value, expected):
    if expected is None:
        with pytest.raises(text.Malformed):
            text.base64_bytes(value, "data")
    else:
        assert text.base64_bytes(value, "data") == expected


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("metadata", "client_ip"), "nowhere"),
        (("metadata", "client_ip"), "fe80::1%eth0"),
        (("metadata", "client_ip"), 3405803783),
        (("metadata", "client_port"), 65536),
        (("metadata", "client_port"), True),
        (("metadata", "timestamp"), "yesterday"),
        (("metadata",), None),
        (("headers",), {"bad name": ["v"]}),
        (("headers",), {"": ["v"]}),
        (("headers",), {"name": ["line\nbreak"]}),
        (("headers",), {"name": "no list"}),
        (("headers",), {"name": [1]}),
        (("headers",), []),
        (("method",), 1),
        (("uri",), None),
        (("budget_left_us",), 1 << 64),
    ],
)
def test_bad_members_spoil_an_event_and_not_its_id(place, value):
    for by_number, expected in ((False, "c-1"), (True, 7)):
        message = json.loads(
            json_events.encode_event(
                EventKind.REQUEST_HEADERS, request_headers(), 7 if by_number else None
            )
        )
        if place == ("budget_left_us",) and not by_number:
            continue
        inside = message
        for name in place[:-1]:
            inside = inside[name]
        inside[place[-1]] = value
        payload = json.dumps(message).encode()
        with pytest.raises(BadMessage) as raised:
            json_events.decode_event(EventKind.REQUEST_HEADERS, payload, by_number)
        assert raised.value.event_id == expected


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b'"allow"',
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"correlation_id":"c-1","x":NaN}',
        b'{"correlation_id":"\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"{}",
        b'{"correlation_id":7}',
    ],
)
def test_what_is_no_event_has_no_id(payload):
    for kind in JSON_KINDS:
        with pytest.raises(BadMessage) as raised:
            json_events.decode_event(kind, payload, False)
        assert raised.value.event_id is None


JSON_KINDS = [kind for kind in EventKind if kind is not EventKind.CONFIGURE]


@pytest.mark.parametrize(
    ("payload", "number", "correlation_id"),
    [
        ('{"event_id":7}', 7, None),
        ('{"event_id":7.0,"correlation_id":"c"}', None, "c"),
        ('{"event_id":-7,"correlation_id":7}', None, None),
        ('{"event_id":true}', None, None),
        ('{"metadata":{"correlation_id":"c"}}', None, "c"),
        ('{"correlation_id":null,"audit":{"custom":{"correlation_id":"c"}}}', None, "c"),
        ('{"audit":{"correlation_id":"d"},"custom":{"correlation_id":"e"}}', None, None),
        ('{"x":1e999,"event_id":3}', 3, None),
    ],
)
def test_ids_are_found_where_they_may_be(payload, number, correlation_id):
    assert text.find_event_id(payload.encode(), True) == number
    assert text.find_event_id(payload.encode(), False) == correlation_id


def test_header_names_are_in_any_case_and_values_are_kept():
    headers = text.headers({"Cookie": ["a=1"], "cookie": ["b=2"], "x": []})
    assert headers.get_all("COOKIE") == ["a=1", "b=2"]
    assert list(headers) == ["cookie"]
    assert "x" not in headers
    assert repr(headers) == "Headers('cookie')"


def test_bytes_of_headers_are_text_in_both_encodings():
    out = binary.Writer().u32(2)
    out.string("a").blob(b"\xe9").string("A").blob("\u00e9".encode())
    headers = binary.Reader(out.done()).headers()
    assert headers.get_all("a") == ["\u00e9", "\u00e9"]


def test_claimed_lengths_are_checked_against_what_is_there():
    for payload in (b"\xff\xff\xff\xfeabc", b"\xff\xff\xff\xff\0\0\0\0", b"\0\0\0\2\0\0\0\0"):
        with pytest.raises(text.Malformed):
            binary.Reader(payload).strings()


def test_unknown_sections_are_passed_over_and_known_ones_come_once():
    name = "binary-response-headers"
    kind, event = BINARY_EVENTS[name]
    for _ in range(2):
        # Twice, and none of it is known.
        payload = PAGE[name] + b"\x63\0\0\0\2zz" * 2
        assert binary.decode_event(kind, payload)[1] == event
    with pytest.raises(BadMessage) as raised:
        binary.decode_event(kind, PAGE[name] + b"\2\0\0\0\2\0\xc8")
    assert raised.value.event_id == 1048576


@pytest.mark.parametrize("name", on_the_page({**JSON_EVENTS, **BINARY_EVENTS}))
def test_whatever_comes_is_an_event_or_a_bad_message(name):
    kind, _ = {**JSON_EVENTS, **BINARY_EVENTS}[name]
    chance = random.Random(name)
    for _ in range(400):
        payload = bytearray(PAGE[name])
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(payload))
            action = chance.randrange(3)
            if action == 0:
                payload[at] = chance.randrange(256)
            elif action == 1:
                del payload[at : at + chance.randrange(1, 9)]
            else:
                payload[at:at] = chance.choice([b'"', b"{", b"\0\0\0\0", b"\xff" * 4, b"9" * 30])
            if not payload:
                break
        try:
            if name.startswith("binary"):
                binary.decode_event(kind, bytes(payload))
            else:
                json_events.decode_event(kind, bytes(payload), name.endswith("event-id"))
        except BadMessage:
            pass


def test_frames_are_refused_before_they_are_there():
    for head in (b"\0\0\0\0", b"\1\0\0\1", b"\0\0\0\5\x99"):
        with pytest.raises(ProtocolError):
            frame.peek(bytearray(head))
    assert frame.peek(bytearray(b"\1\0\0")) is None
    assert frame.peek(bytearray(b"\1\0\0\0\x10")) == (
        frame.MessageType.REQUEST_HEADERS,
        (1 << 24) + 4,
    )
    with pytest.raises(ValueError, match="more than the 10"):
        frame.encode(frame.MessageType.PING, b"x" * 10, 10)


def test_what_a_peer_does_not_know_is_said_in_other_words():
    none = Extensions.none()
    only_error, only_overloaded = Extensions(error=True), Extensions(overloaded=True)

    def block(why):
        decision = Decision.block(500).reason("agent_error")
        decision.audit = Audit(reason_codes=["agent_error"], custom={"error": why})
        return decision

    replacing = Decision.allow().replace_frame(b"x")
    table = [
        (only_error, Failed("no"), Failed("no")),
        (only_overloaded, Failed("no"), block("no")),
        (only_overloaded, NotNow(), NotNow()),
        (only_error, NotNow(), Failed("the agent is overloaded")),
        (none, NotNow(), block("the agent is overloaded")),
        (none, Decision.allow(), Decision.allow()),
        (none, replacing, block("the proxy cannot replace a frame")),
        (only_error, replacing, Failed("the proxy cannot replace a frame")),
        (BY_NUMBER, replacing, replacing),
    ]
    for extensions, answer, expected in table:
        assert in_words_of(extensions, answer) == expected


def test_repeated_headers_of_a_block_are_kept():
    block = Decision.block(403).with_header("set-cookie", "a=1").with_header("set-cookie", "b=2")
    payload = json_answers.encode_answer("c", 0, block, Extensions.none())
    assert payload.count(b"set-cookie") == 2
    assert json_answers.decode_answer(payload, Extensions.none()) == ("c", block)


def test_times_of_verdicts_are_rounded_down_and_bounded():
    def milliseconds(ttl):
        return json_answers.ttl_milliseconds(VerdictTtl(ttl))

    assert milliseconds(timedelta(microseconds=999)) == 0
    assert milliseconds(timedelta(microseconds=1999)) == 1
    assert milliseconds(timedelta(days=400)) == 86_400_000
    read = json_answers.read_ttl(1 << 63, ["cookie", "host", "", "cookie", "Query", "query"])
    assert read == VerdictTtl(timedelta(days=1), [KeyPart.COOKIE, KeyPart.QUERY])
    assert json_answers.read_ttl(0, []) is None


def test_what_json_cannot_say_is_not_written():
    for spoil in (
        lambda it: it.custom("x", object()),
        lambda it: it.custom("x", float("nan")),
        lambda it: it.tag("\ud800"),
    ):
        answer = Decision.allow()
        spoil(answer)
        with pytest.raises((ValueError, TypeError)):
            json_answers.encode_answer("c", 0, answer, Extensions.none())


def test_extensions_are_those_of_both():
    offered = ["event-id", "telepathy", "error"]
    chosen = Extensions.all().chosen_of(offered)
    assert chosen.names == ["event-id", "error"]
    assert Extensions.all().chosen_of(["binary"]).names == ["event-id", "binary"]
    assert Extensions.all().without_binary().chosen_of(["binary"]).names == ["event-id"]
    assert Extensions.none().chosen_of(offered).names == []


def test_a_cancel_names_an_event():
    for payload in (b"{}", b"[]", b"", b'{"event_id":-1}', b'{"correlation_id":"c"}'):
        with pytest.raises(ProtocolError):
            control.decode_cancel(payload, True)
    assert control.decode_cancel(b'{"event_id":7,"reason":99}', True) == (7, None)


def test_headers_are_equal_when_their_fields_are():
    assert Headers({"A": "1"}) == Headers([("a", "1")])
    assert Headers({"a": ["1", "2"]}) != Headers({"a": ["2", "1"]})
