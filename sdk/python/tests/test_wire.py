"""Conversations over a real socket."""

import asyncio
import contextlib
import json
import logging
import random
import socket
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address
from typing import List

import pytest

from portcullis_agent import (
    Agent,
    AgentError,
    ConfigError,
    Counters,
    Decision,
    Detection,
    EventKind,
    Extensions,
    FrameOpcode,
    GuardrailInspect,
    GuardrailResult,
    HealthState,
    InspectionType,
    Metrics,
    Overloaded,
    Reporter,
    RequestComplete,
    ServeOptions,
    Severity,
    WebSocketFrame,
    byte_span,
)
from portcullis_agent.codec import control
from portcullis_agent.codec.frame import MessageType
from portcullis_agent.testing import (
    Proxy,
    body_chunks,
    request_headers,
    response_headers,
    running,
    served,
)

LEGACY = Extensions.none()
JSON = Extensions.all().without_binary()
BINARY = Extensions.all()
ENCODINGS = pytest.mark.parametrize(
    "extensions", [LEGACY, JSON, BINARY], ids=["legacy", "json", "binary"]
)


class Everything(Agent):
    """Says what it was asked, one half with ``def`` and one with ``async``."""

    def request_headers(self, event):
        return (
            Decision.block(403).with_body(event.path)
            if event.path == "/admin"
            else Decision.allow().set_request_header("x-query", event.query)
        )

    async def request_body_chunk(self, event):
        await asyncio.sleep(0)
        return Decision.allow().replace_request_body(event.data.upper())

    def response_headers(self, event):
        return Decision.allow().set_response_header("x-status", str(event.status))

    async def response_body_chunk(self, event):
        return Decision.allow().replace_response_body(b"")

    def websocket_frame(self, event):
        return Decision.allow().close_websocket(1008, event.data.decode())

    def request_complete(self, event):
        self.completed = event


@ENCODINGS
def test_every_phase_is_asked(extensions):
    agent = Everything()
    with running(agent, extensions=extensions) as proxy:
        assert proxy.extensions == extensions
        assert proxy.ask(request_headers("/admin?a=1")) == Decision.block(403).with_body("/admin")
        answer = proxy.ask(request_headers("/?a=1"))
        assert answer == Decision.allow().set_request_header("x-query", "a=1")
        for chunk in body_chunks(b"hello ", b"world"):
            assert proxy.ask(chunk).request_body == chunk.data.upper()
            dropped = proxy.ask(chunk, EventKind.RESPONSE_BODY_CHUNK)
            assert dropped.response_body == b""
        answer = proxy.ask(response_headers(418))
        assert answer == Decision.allow().set_response_header("x-status", "418")
        frame = WebSocketFrame(
            "c-1", FrameOpcode.TEXT, b"no", True, 0, True, ip_address("::1"), "ws"
        )
        assert proxy.ask(frame) == Decision.allow().close_websocket(1008, "no")
        complete = RequestComplete("c-1", 200, timedelta(milliseconds=3), error="why")
        assert proxy.ask(complete) == Decision.allow()
        assert agent.completed == complete


class Wrong(Agent):
    """Does what must never be an allow."""

    def request_headers(self, event):
        path = event.path
        if path == "/raises":
            raise RuntimeError("no idea")
        if path == "/exits":
            raise SystemExit(1)
        if path == "/stops":
            raise StopIteration
        if path == "/none":
            return None
        if path == "/text":
            return "allow"
        if path == "/unwritable":
            return Decision.allow().custom("x", object())
        if path == "/surrogate":
            return Decision.allow().tag("\ud800")
        if path == "/large":
            return Decision.block(403).with_body("x" * (17 << 20))
        if path == "/status":
            decision = Decision.block(403)
            decision.verdict.status = 1 << 20
            return decision
        return Decision.allow()


class WrongAsync(Wrong):
    async def request_headers(self, event):
        if event.path == "/cancels":
            raise asyncio.CancelledError
        return super().request_headers(event)


WRONG = ["/raises", "/exits", "/stops", "/none", "/text", "/unwritable", "/surrogate", "/large"]


@ENCODINGS
@pytest.mark.parametrize("kind", [Wrong, WrongAsync])
def test_d08_what_fails_is_never_an_allow(extensions, kind, caplog):
    caplog.set_level(logging.CRITICAL, "asyncio")
    counters = Counters()
    with running(kind(), extensions=extensions, options=ServeOptions(counters=counters)) as proxy:
        paths = WRONG + (["/cancels"] if kind is WrongAsync else [])
        if extensions.binary:
            # JSON has room for any number, and the proxy refuses it.
            paths = [*paths, "/status"]
        for path in paths:
            if extensions.error:
                with pytest.raises(AgentError):
                    proxy.ask(request_headers(path))
            else:
                answer = proxy.ask(request_headers(path))
                assert answer.verdict.status == 500, path
                assert answer.verdict.body is None
                assert answer.audit.reason_codes == ["agent_error"]
                assert answer.audit.custom["error"]
            assert proxy.ask(request_headers("/")) == Decision.allow()
        assert counters.failed == len(paths)


@ENCODINGS
def test_d08_an_event_that_cannot_be_read_is_never_an_allow(extensions):
    with running(Agent(), extensions=extensions) as proxy:
        event_id = proxy.begin(request_headers("/"))
        assert proxy.answer() == (event_id, Decision.allow())
        if extensions.binary:
            bad = (7).to_bytes(8, "big") + b"\x02\0\0"
        else:
            bad = json.dumps({"correlation_id": "c-1", "event_id": 7, "method": 1}).encode()
        # Unreadable, and of a kind that was not announced.
        for kind in (MessageType.REQUEST_HEADERS, MessageType.REQUEST_BODY_CHUNK):
            proxy.send(kind, bad)
            answered, answer = proxy.answer()
            assert answered == (7 if extensions.event_id else "c-1")
            if extensions.error:
                assert not isinstance(answer, Decision)
            else:
                assert answer.verdict.status == 500
        # Nothing to answer to: the end.
        proxy.send(MessageType.REQUEST_HEADERS, b"{}" if not extensions.binary else b"\0")
        with pytest.raises(ConnectionError):
            proxy.receive_any()


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (MessageType.AGENT_RESPONSE, b"{}"),
        (MessageType.HANDSHAKE_REQUEST, b'{"supported_versions":[2]}'),
        (MessageType.PING, b"{}"),
        (MessageType.CANCEL, b"{}"),
        (MessageType.CONFIGURE, b"{}"),
        (MessageType.CONFIGURE, b'{"config":{}}'),
    ],
)
def test_what_is_not_the_protocol_ends_the_connection(kind, payload):
    with running(Agent(), extensions=JSON) as proxy:
        proxy.send(kind, payload)
        with pytest.raises(ConnectionError):
            proxy.receive_any()


def test_handshakes_that_are_refused():
    with served(Agent()) as path:
        for request, expected in (
            ({"supported_versions": [1]}, "only protocol version 2 is spoken"),
            (
                {"supported_versions": [2], "supported_encodings": ["msgpack"]},
                "only the encoding json is spoken",
            ),
        ):
            with _raw(path) as proxy:
                proxy.send(MessageType.HANDSHAKE_REQUEST, json.dumps(request).encode())
                response = json.loads(proxy.receive(MessageType.HANDSHAKE_RESPONSE))
                assert (response["success"], response["error"]) == (False, expected)
                with pytest.raises(ConnectionError):
                    proxy.receive_any()
        for kind, payload in (
            (MessageType.HANDSHAKE_REQUEST, b"{}"),
            (MessageType.HANDSHAKE_REQUEST, b'{"supported_versions":["2"]}'),
            (MessageType.REQUEST_HEADERS, b"{}"),
        ):
            with _raw(path) as proxy:
                proxy.send(kind, payload)
                with pytest.raises(ConnectionError):
                    proxy.receive_any()


def _raw(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(path)
    return Proxy(connection, LEGACY)


def test_who_says_nothing_is_not_waited_for():
    with served(Agent(), ServeOptions(handshake_timeout=0.05)) as path:
        with _raw(path) as proxy, pytest.raises(ConnectionError):
            proxy.receive_any()


def test_one_connection_too_many_is_closed():
    with served(Agent(), ServeOptions(max_connections=1)) as path:
        with Proxy.connect(path) as first:
            with _raw(path) as second, pytest.raises(ConnectionError):
                second.receive_any()
            assert first.ask(request_headers("/")).is_allow


@dataclass
class Config:
    paths: List[str]
    status: int = field(default=403)


class Configured(Agent):
    config_type = Config

    def request_headers(self, event):
        blocked = event.path in self.config.paths
        return Decision.block(self.config.status) if blocked else Decision.allow()


@ENCODINGS
def test_a_configuration_is_taken_over_and_a_bad_one_changes_nothing(extensions):
    with running(Configured(), {"paths": "/a"}, extensions) as proxy:
        assert proxy.ask(request_headers("/a")) == Decision.block(403)
        with pytest.raises(AgentError, match="config.path is not known"):
            proxy.configure({"path": "/b"})
        assert proxy.ask(request_headers("/a")) == Decision.block(403)
        proxy.configure({"paths": ["/b", "/c"], "status": 451})
        assert proxy.ask(request_headers("/a")).is_allow
        assert proxy.ask(request_headers("/c")) == Decision.block(451)


def test_d08_an_agent_that_needs_a_configuration_fails_without_one():
    with running(Configured()) as proxy:
        with pytest.raises(AgentError, match="config.paths is missing"):
            proxy.ask(request_headers("/"))
        proxy.configure({"paths": []})
        assert proxy.ask(request_headers("/")).is_allow


def test_a_configuration_without_effect_is_refused():
    with served(Agent()) as path:
        with pytest.raises(AgentError, match="takes no configuration"):
            Proxy.connect(path, config={"a": 1})
        Proxy.connect(path, config={}).close()


def test_configure_may_wait_and_refuse():
    class Slow(Agent):
        async def configure(self, config):
            await asyncio.sleep(0)
            if config.get("bad"):
                raise ConfigError("it is bad")
            self.config = config

        def request_headers(self, event):
            return Decision.allow().tag(self.config["tag"])

    with running(Slow(), {"tag": "t"}) as proxy:
        assert proxy.ask(request_headers("/")) == Decision.allow().tag("t")
        with pytest.raises(AgentError, match="it is bad"):
            proxy.configure({"bad": True})


class Held(Agent):
    """Waits at ``/wait`` until it is let go, in a thread or on the loop."""

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.dropped = threading.Event()

    def request_headers(self, event):
        if event.path == "/wait":
            self.entered.release()
            self.go.wait(10)
        return Decision.allow().tag(event.path)


class HeldAsync(Held):
    async def request_headers(self, event):
        if event.path == "/wait":
            self.entered.release()
            try:
                while not self.go.is_set():
                    await asyncio.sleep(0.002)
            except asyncio.CancelledError:
                self.dropped.set()
                raise
        return Decision.allow().tag(event.path)


HOLDING = pytest.mark.parametrize("kind", [Held, HeldAsync])


@HOLDING
def test_a_ping_and_other_events_are_answered_while_one_is_busy(kind):
    agent = kind()
    with running(agent) as proxy:
        first = proxy.begin(request_headers("/wait"))
        assert agent.entered.acquire(timeout=10)
        proxy.send(MessageType.PING, b'{"sequence":5,"timestamp_ms":6}')
        assert json.loads(proxy.receive(MessageType.PONG)) == {"sequence": 5, "timestamp_ms": 6}
        second = proxy.begin(request_headers("/other"))
        assert proxy.answer() == (second, Decision.allow().tag("/other"))
        agent.go.set()
        assert proxy.answer() == (first, Decision.allow().tag("/wait"))


def test_as_many_are_worked_on_as_may_be_and_the_rest_wait():
    agent = HeldAsync()
    options = ServeOptions(concurrency=2, backlog=3)
    with running(agent, options=options) as proxy:
        numbers = [proxy.begin(request_headers("/wait")) for _ in range(8)]
        for _ in range(2):
            assert agent.entered.acquire(timeout=10)
        assert not agent.entered.acquire(timeout=0.05)
        agent.go.set()
        answered = [proxy.answer() for _ in numbers]
        assert sorted(number for number, _ in answered) == numbers


@HOLDING
def test_what_was_cancelled_is_not_answered(kind, eventually):
    agent = kind()
    counters = Counters()
    options = ServeOptions(concurrency=1, counters=counters)
    with running(agent, options=options) as proxy:
        running_event = proxy.begin(request_headers("/wait"))
        assert agent.entered.acquire(timeout=10)
        # One that waits, one that is worked on, one that never was.
        waiting = proxy.begin(request_headers("/waiting"))
        last = proxy.begin(request_headers("/last"))
        for number in (waiting, running_event, 99):
            payload = json.dumps({"correlation_id": "c-1", "event_id": number, "reason": 2})
            proxy.send(MessageType.CANCEL, payload.encode())
        eventually(lambda: (counters.cancelled, counters.idle_cancels) == (2, 1))
        if kind is HeldAsync:
            assert agent.dropped.wait(10)
        agent.go.set()
        assert proxy.answer() == (last, Decision.allow().tag("/last"))
        proxy.send(MessageType.PING, b'{"sequence":1}')
        assert proxy.receive_any()[0] is MessageType.PONG


def test_a_legacy_cancel_names_all_events_of_a_request():
    agent = HeldAsync()
    with running(agent, extensions=LEGACY) as proxy:
        proxy.begin(request_headers("/wait"))
        assert agent.entered.acquire(timeout=10)
        payload = control.encode_cancel("c-1", None, control.CancelReason.TIMEOUT, 1)
        proxy.send(MessageType.CANCEL, payload)
        assert agent.dropped.wait(10)
        assert proxy.ask(request_headers("/next", correlation_id="c-2")).is_allow


@HOLDING
def test_an_agent_without_extensions_is_a_legacy_one(kind):
    agent = kind()
    with running(agent, options=ServeOptions(extensions=LEGACY)) as proxy:
        assert proxy.extensions == LEGACY
        proxy.begin(request_headers("/wait"))
        assert agent.entered.acquire(timeout=10)
        proxy.begin(request_headers("/next", correlation_id="c-2"))
        proxy.send(MessageType.CANCEL, b'{"correlation_id":"c-1","reason":0}')
        agent.go.set()
        assert [proxy.answer()[0] for _ in range(2)] == ["c-1", "c-2"]


def test_not_now():
    class Busy(Agent):
        async def request_headers(self, event):
            raise Overloaded(1.5)

    with running(Busy()) as proxy, pytest.raises(Overloaded) as raised:
        proxy.ask(request_headers("/"))
    assert raised.value.retry_after == timedelta(milliseconds=1500)
    with running(Busy(), extensions=Extensions(error=True, event_id=True)) as proxy:
        with pytest.raises(AgentError, match="the agent is overloaded"):
            proxy.ask(request_headers("/"))


def test_proxies_are_told_how_the_agent_is():
    reporter = Reporter()
    reporter.purge_verdicts()
    options = ServeOptions(reporter=reporter)
    with served(Agent(), options) as path:
        with Proxy.connect(path) as proxy:
            # The proxy may have kept what it heard on an earlier connection.
            assert proxy.receive_any()[0] is MessageType.VERDICT_PURGE
            reporter.health(HealthState.DEGRADED)
            health = json.loads(proxy.receive(MessageType.HEALTH_STATUS))
            assert (health["agent_id"], health["state"]) == ("agent", 2)
            reporter.pause()
            assert json.loads(proxy.receive(MessageType.FLOW_CONTROL))["action"] == 1
            reporter.resume()
            assert json.loads(proxy.receive(MessageType.FLOW_CONTROL))["action"] == 2
            reporter.request_reload()
            update = json.loads(proxy.receive(MessageType.CONFIG_UPDATE_REQUEST))
            assert update["update_type"] == {"type": "request_reload"}
            reporter.purge_verdicts()
            assert proxy.receive_any()[0] is MessageType.VERDICT_PURGE
        # One that comes later is told the present state, and no old wish.
        with Proxy.connect(path, LEGACY) as proxy:
            assert json.loads(proxy.receive(MessageType.HEALTH_STATUS))["state"] == 2
            assert proxy.ask(request_headers("/")).is_allow


def test_metrics_are_reported():
    metrics = Metrics()
    metrics.counter("asked_total").increment(3)
    options = ServeOptions(metrics=metrics, metrics_interval=0.01)
    with running(Agent(), options=options) as proxy:
        for _ in range(2):
            report = json.loads(proxy.receive(MessageType.METRICS_REPORT))
            assert report["agent_id"] == "agent"
            assert report["interval_ms"] == 10
            assert report["counters"][0]["value"] == 3


def test_metrics_that_cannot_be_written_harm_nothing(caplog, eventually):
    metrics = Metrics()
    metrics.gauge("broken").set(float("nan"))
    options = ServeOptions(metrics=metrics, metrics_interval=0.01)
    with running(Agent(), options=options) as proxy:
        eventually(lambda: caplog.text.count("cannot be reported") >= 2)
        assert proxy.ask(request_headers("/")).is_allow


@ENCODINGS
def test_a_guardrail_says_what_it_found(extensions):
    class Guard(Agent):
        def guardrail_inspect(self, event):
            seen.append(event)
            at = event.content.find("@")
            if at < 0:
                return Decision.allow().guardrail(GuardrailResult())
            span = byte_span(event.content, at - 1, at + 2)
            found = Detection("email", "an address", Severity.HIGH, 0.5, span)
            return Decision.allow().guardrail(
                GuardrailResult.found(found, Detection("other"), redacted_content="\u00e9 [email]")
            )

    seen = []
    with running(Guard(), extensions=extensions) as proxy:
        event = GuardrailInspect(
            "c-1",
            InspectionType.PII_DETECTION,
            "\u00e9 a@b",
            "gpt",
            ["email"],
            "llm",
            True,
            {"a": "b"},
        )
        detections = [
            Detection("email", "an address", Severity.HIGH, 0.5, (3, 6)),
            Detection("other"),
        ]
        expected = GuardrailResult(True, 1.0, detections, "\u00e9 [email]")
        assert proxy.ask(event) == Decision.allow().guardrail(expected)
        other = GuardrailInspect("c-1", InspectionType.PROMPT_INJECTION, "nothing")
        assert proxy.ask(other) == Decision.allow().guardrail(GuardrailResult())
        assert seen == [event, other]


def test_the_trailers_and_the_time_left_arrive():
    seen = []

    class Seeing(Agent):
        def response_body_chunk(self, event):
            seen.append((event.trailers, event.budget_left, event.truncated))
            return Decision.allow()

    (chunk,) = body_chunks(b"x")
    chunk.trailers = response_headers(200, {"grpc-status": "0"}).headers
    chunk.budget_left = timedelta(milliseconds=20)
    chunk.truncated = True
    for extensions in (LEGACY, JSON, BINARY):
        with running(Seeing(), extensions=extensions) as proxy:
            proxy.ask(chunk, EventKind.RESPONSE_BODY_CHUNK)
    told = (chunk.trailers, chunk.budget_left, True)
    assert seen == [(None, None, True), told, told]


@ENCODINGS
def test_d08_whatever_comes_an_agent_that_blocks_everything_never_allows(extensions):
    class Closed(Agent):
        async def request_headers(self, event):
            return Decision.block(403)

        def response_body_chunk(self, event):
            return Decision.block(403)

    chance = random.Random(8)
    (chunk,) = body_chunks(b"some bytes")
    answers = 0
    with served(Closed()) as path:
        for _ in range(200):
            with Proxy.connect(path, extensions) as proxy:
                frames = []
                proxy.send = lambda *frame, frames=frames: frames.append(frame)
                for _ in range(5):
                    proxy.begin(request_headers("/a?b", headers={"x": "y"}))
                    proxy.begin(chunk, EventKind.RESPONSE_BODY_CHUNK)
                del proxy.send
                # Each has one answer, or is the end of the connection.
                with contextlib.suppress(ConnectionError):
                    for message_type, payload in frames:
                        spoilt = bytearray(payload)
                        at = chance.randrange(len(spoilt))
                        spoilt[at : at + chance.randrange(2)] = bytes([chance.randrange(128)])
                        proxy.send(message_type, bytes(spoilt))
                        _, answer = proxy.answer()
                        assert not (isinstance(answer, Decision) and answer.is_allow)
                        answers += 1
    assert answers > 50


def test_a_proxy_that_does_not_read_is_not_read_from(eventually):
    body = b"x" * (1 << 20)

    class Large(Agent):
        async def request_headers(self, event):
            return Decision.block(403).with_body(body)

    counters = Counters()
    with running(Large(), options=ServeOptions(counters=counters, concurrency=4)) as proxy:
        sent = 200
        sender = threading.Thread(
            target=lambda: [proxy.begin(request_headers("/")) for _ in range(sent)]
        )
        sender.start()
        eventually(lambda: counters.answered > 0)
        # What waits to be written is bounded: the rest is not even begun.
        threading.Event().wait(0.2)
        assert counters.answered < 20
        for _ in range(sent):
            assert proxy.answer()[1].verdict.body == body
        sender.join(10)
