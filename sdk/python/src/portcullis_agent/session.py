"""One connection with a proxy, from its first message to its end."""

from __future__ import annotations

import asyncio
import enum
import os
from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple

from .capabilities import Extensions
from .codec import binary, control, json_events, text
from .codec.binary_answers import encode_answer as encode_binary_answer
from .codec.control import HealthState, now_ms
from .codec.frame import EVENT_KINDS, MessageType, encode, peek, take
from .codec.json_answers import encode_answer as encode_json_answer
from .decision import Answer, Decision, Failed, NotNow
from .errors import AgentError, BadMessage, EventId, Overloaded, ProtocolError
from .events import BodyChunk, EventKind
from .host import Host, Stop, logger
from .reporter import Report
from .work import Job, Work

#: While this much waits to be written, nothing more is read.
_OUTBOUND_BYTES = 1 << 20
#: Seconds that a peer may take to read what is left when a connection closes.
_LINGER = 5.0


class _Phase(enum.Enum):
    OPENING = 1
    SERVING = 2
    CLOSED = 3


class Session(asyncio.Protocol):
    """A proxy that has connected."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._phase = _Phase.OPENING
        self._inbound = bytearray()
        self._transport: Any = None
        self._congested = False
        self._extensions = Extensions.none()
        # What was asked for before concerns those who were there then.
        self._told = Report(reloads=host.options.reporter.present.reloads)
        self._timer: Optional[asyncio.TimerHandle] = None
        options = host.options
        self._work = Work(
            host.loop,
            host.capabilities.concurrent_requests,
            0 if options.is_legacy else options.backlog,
            self._pump,
        )
        #: Done when the connection is gone.
        self.ended: "asyncio.Future[None]" = host.loop.create_future()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(high=_OUTBOUND_BYTES)
        host = self._host
        if host.stop is not Stop.NOT:
            self._transport.abort()
            return
        if len(host.sessions) >= host.options.max_connections:
            logger.warning("%d connections are there already", host.options.max_connections)
            self._transport.abort()
            return
        host.sessions.add(self)
        self._timer = host.loop.call_later(host.options.handshake_timeout, self._too_late)
        self._open()

    def data_received(self, data: bytes) -> None:
        self._inbound += data
        self._pump()

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False
        self.report()
        self._pump()

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._phase = _Phase.CLOSED
        if self._timer is not None:
            self._timer.cancel()
        self._work.cancel_all()
        self._inbound.clear()
        self._host.sessions.discard(self)
        if not self.ended.done():
            self.ended.set_result(None)

    # What the host calls.

    def stopping(self) -> None:
        """Takes note of a shutdown."""
        if self._phase is _Phase.OPENING:
            self._transport.abort()
            return
        self.report()
        self._pump()

    def abort(self) -> None:
        """Ends at once."""
        self._phase = _Phase.CLOSED
        self._work.cancel_all()
        self._transport.abort()

    def report(self) -> None:
        """Tells the proxy what it does not know yet. While it does not read, it
        is told nothing, and then the last."""
        if self._phase is not _Phase.SERVING or self._congested:
            return
        present, told = self._host.options.reporter.present, self._told
        agent_id = self._host.capabilities.name
        # What is wrong by now goes first.
        if present.purges != told.purges and self._extensions.verdict_ttl:
            self._send(MessageType.VERDICT_PURGE, control.encode_purge(agent_id, now_ms()))
        health = present.health if self._host.stop is Stop.NOT else HealthState.DRAINING
        if health != told.health:
            self._send(MessageType.HEALTH_STATUS, control.encode_health(agent_id, health, now_ms()))
        if present.paused != told.paused:
            self._send(MessageType.FLOW_CONTROL, control.encode_flow(present.paused, now_ms()))
        if present.reloads != told.reloads:
            # The same on all connections, for those who hear it on several.
            request_id = f"{agent_id}-{os.getpid()}-{present.reloads}"
            reload = control.encode_reload_request(request_id, now_ms())
            self._send(MessageType.CONFIG_UPDATE_REQUEST, reload)
        self._told = replace(present, health=health)

    # The opening.

    def _open(self) -> None:
        """A proxy that has connected speaks first."""

    def _on_opening(self, message_type: MessageType, payload: bytes) -> None:
        if message_type is not MessageType.HANDSHAKE_REQUEST:
            raise ProtocolError(f"{message_type.name} comes before the handshake")
        request = control.decode_handshake_request(payload)
        refusal = request.refusal()
        self._extensions = self._host.options.extensions.chosen_of(request.extensions)
        response = control.encode_handshake_response(
            self._host.capabilities, self._extensions, refusal
        )
        self._send(MessageType.HANDSHAKE_RESPONSE, response)
        if refusal is not None:
            logger.warning("a handshake was refused: %s", refusal)
            self._close()
            return
        self._serve()

    def _serve(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._phase = _Phase.SERVING
        self.report()
        if self._host.options.metrics is not None:
            self._report_metrics()

    def _too_late(self) -> None:
        logger.warning("a proxy did not begin the conversation in time")
        self._transport.abort()

    def _report_metrics(self) -> None:
        metrics, interval = self._host.options.metrics, self._host.options.metrics_interval
        if metrics is None or self._phase is not _Phase.SERVING:
            return
        if not self._congested:
            agent_id = self._host.capabilities.name
            report = metrics.report(agent_id, now_ms(), int(interval * 1000))
            try:
                self._send(MessageType.METRICS_REPORT, text.dumps(report).encode())
            except ValueError as error:
                logger.error("the metrics cannot be reported: %s", error)
        self._timer = self._host.loop.call_later(interval, self._report_metrics)

    # What comes in.

    def _pump(self) -> None:
        """Handles what is there as far as there is room for it, and reads on
        when there is."""
        if self._is_closed:
            return
        try:
            is_blocked = self._take_frames()
        except ProtocolError as error:
            logger.warning("a connection of a proxy is closed: %s", error)
            self._close()
            return
        if self._is_closed:
            return
        if not self._congested:
            self._work.begin_next()
        stopped = self._host.stop is Stop.NOW
        if stopped and self._work.is_empty:
            self._close()
        elif is_blocked:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    @property
    def _is_closed(self) -> bool:
        return self._phase is _Phase.CLOSED

    def _take_frames(self) -> bool:
        """Whether what follows has to wait."""
        limit = self._host.options.max_frame_bytes
        while not self._is_closed:
            if self._congested or self._host.stop is Stop.NOW:
                return True
            head = peek(self._inbound, limit)
            if head is None:
                return False
            message_type, whole = head
            # What is not an event needs no room among them.
            if self._is_work(message_type) and not self._work.takes_more:
                return True
            payload = take(self._inbound, whole)
            if payload is None:
                return False
            if self._phase is _Phase.OPENING:
                self._on_opening(message_type, payload)
            else:
                self._on_message(message_type, payload)
        return False

    def _is_work(self, message_type: MessageType) -> bool:
        kind = EVENT_KINDS.get(message_type)
        return kind is EventKind.CONFIGURE or kind in self._host.supported

    def _on_message(self, message_type: MessageType, payload: bytes) -> None:
        kind = EVENT_KINDS.get(message_type)
        if kind is not None:
            self._on_event(kind, payload)
        elif message_type is MessageType.PING:
            sequence, timestamp_ms = control.decode_ping(payload)
            self._send(MessageType.PONG, control.encode_ping(sequence, timestamp_ms))
        elif message_type is not MessageType.CANCEL:
            # What only agents send, and a second handshake.
            raise ProtocolError(f"{message_type.name} is not for an agent")
        elif not self._host.options.is_legacy:
            event_id, reason = control.decode_cancel(payload, self._extensions.event_id)
            count = self._work.cancel(event_id)
            logger.debug("event %s was cancelled: %s", event_id, reason)
            counters = self._host.options.counters
            counters.cancelled += count
            counters.idle_cancels += count == 0

    def _on_event(self, kind: EventKind, payload: bytes) -> None:
        if kind is EventKind.CONFIGURE:
            message = control.decode_configure(payload, self._extensions.event_id)
            configure = self._work_on_configure
            self._work.add(Job(None, lambda _: configure(message), len(payload)))
            return
        if kind not in self._host.supported:
            # Never allowed without a look.
            event_id = self._find_event_id(payload)
            if event_id is None:
                raise ProtocolError(f"a {kind.name.lower()} has no id")
            self._answer(event_id, Failed(f"the agent does not support {kind.name.lower()}"))
            return
        try:
            event_id, event = self._decode(kind, payload)
        except BadMessage as error:
            if error.event_id is None:
                raise
            logger.warning("%s", error)
            self._answer(error.event_id, Failed(str(error)))
            return
        work_on = self._work_on
        self._work.add(Job(event_id, lambda job: work_on(job, kind, event_id, event), len(payload)))

    def _find_event_id(self, payload: bytes) -> Optional[EventId]:
        if self._extensions.binary:
            return binary.event_number(payload)
        return text.find_event_id(payload, self._extensions.event_id)

    def _decode(self, kind: EventKind, payload: bytes) -> Tuple[EventId, Any]:
        if self._extensions.binary:
            return binary.decode_event(kind, payload)
        return json_events.decode_event(kind, payload, self._extensions.event_id)

    # What goes out.

    async def _work_on(self, job: Job, kind: EventKind, event_id: EventId, event: Any) -> None:
        answer: Answer
        try:
            result = await self._host.ask(kind, event)
            if kind is EventKind.REQUEST_COMPLETE:
                result = Decision.allow()
            if not isinstance(result, Decision):
                raise TypeError(f"it returned {type(result).__name__} and no Decision")
            answer = result
        except Overloaded as overloaded:
            answer = NotNow(overloaded.retry_after)
        except AgentError as error:
            logger.warning("%s failed: %s", kind.name.lower(), error)
            answer = Failed(str(error) or type(error).__name__)
        except (asyncio.CancelledError, SystemExit, Exception) as error:
            if job.cancelled:
                raise
            # What the agent did not mean to raise: where it comes from.
            logger.warning("%s failed", kind.name.lower(), exc_info=error)
            answer = Failed(f"{type(error).__name__}: {error}")
        if not job.cancelled:
            chunk_index = event.index if isinstance(event, BodyChunk) else 0
            self._answer(event_id, answer, chunk_index)

    async def _work_on_configure(self, message: control.Configure) -> None:
        answer: Answer = Decision.allow()
        try:
            await self._host.configure(message.config)
        except (SystemExit, Exception) as error:
            answer = Failed(str(error) or type(error).__name__)
            logger.warning("a configuration is refused: %s", error)
        self._answer(message.event_id, answer)

    def _answer(self, event_id: EventId, answer: Answer, chunk_index: int = 0) -> None:
        counters = self._host.options.counters
        counters.answered += 1
        counters.failed += isinstance(answer, Failed)
        try:
            self._send(MessageType.AGENT_RESPONSE, self._encode(event_id, answer, chunk_index))
        except Exception as error:
            logger.error("an answer cannot be sent: %s", error)
            counters.failed += 1
            failed = Failed("the agent's answer cannot be sent")
            try:
                self._send(MessageType.AGENT_RESPONSE, self._encode(event_id, failed, 0))
            except Exception:
                # An id that cannot be written, for one.
                self._close()

    def _encode(self, event_id: EventId, answer: Answer, chunk_index: int) -> bytes:
        if self._extensions.binary and isinstance(event_id, int):
            return encode_binary_answer(event_id, answer, self._extensions)
        return encode_json_answer(event_id, chunk_index, answer, self._extensions)

    def _send(self, message_type: MessageType, payload: bytes) -> None:
        frame = encode(message_type, payload, self._host.options.max_frame_bytes)
        if not self._transport.is_closing():
            self._transport.write(frame)

    def _close(self) -> None:
        """Ends when what was said has gone out."""
        self._phase = _Phase.CLOSED
        self._work.cancel_all()
        self._transport.close()
        self._host.loop.call_later(_LINGER, self._transport.abort)


class ReverseSession(Session):
    """A proxy that the agent has dialled."""

    def __init__(
        self,
        host: Host,
        agent_id: str,
        token: Optional[str],
        metadata: Optional[Dict[str, Any]],
    ) -> None:
        super().__init__(host)
        self._agent_id, self._token, self._metadata = agent_id, token, metadata
        #: Why the proxy does not want the agent.
        self.refusal: Optional[str] = None
        self.accepted = False

    def _open(self) -> None:
        host = self._host
        registration = control.encode_registration(
            self._agent_id, host.capabilities, host.options.extensions, self._token, self._metadata
        )
        self._send(MessageType.HANDSHAKE_REQUEST, registration)

    def _on_opening(self, message_type: MessageType, payload: bytes) -> None:
        if message_type is not MessageType.HANDSHAKE_RESPONSE:
            raise ProtocolError(f"{message_type.name} comes before the handshake")
        self.refusal, names, connection = control.decode_registration_answer(payload)
        if self.refusal is not None:
            self._close()
            return
        chosen = self._host.options.extensions.chosen_of(names)
        unknown: List[str] = sorted(set(names) - set(chosen.names))
        if unknown:
            raise ProtocolError(f"the proxy chose what was not offered: {', '.join(unknown)}")
        self._extensions = chosen
        self.accepted = True
        logger.info("registered as %s", connection or self._agent_id)
        self._serve()
