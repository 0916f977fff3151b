//! One connection of a proxy to an agent.
//!
//! A session is one task. It reads frames, makes a future of each event and
//! hands it to [`Work`], and gathers the answers to write them together.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use tokio::sync::watch;

use super::dial::DialOptions;
use super::events::{self, Answered, Done, event_id};
use super::report::{News, Signals, Stop};
use super::wire::{Payload, Unsent, Wire};
use super::work::{Handling, Work};
use super::{Agent, ServeOptions};
use crate::codec::frame::MessageType;
use crate::codec::handshake::{self, HandshakeRequest, HandshakeResponse};
use crate::codec::json;
use crate::codec::registration::{self, Registration};
use crate::transport::now_ms;
use crate::{Capabilities, EventKind, Extensions, ProtocolError};

/// While this much waits to be written, nothing more is read.
const OUTBOUND_HIGH_BYTES: usize = 1 << 20;

/// How a session ends before its peer closes.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("the proxy did not begin the conversation in time")]
    HandshakeTimeout,
    #[error("the handshake was refused: {0}")]
    Refused(String),
    /// There was no other way to say it.
    #[error("{0}")]
    Ends(String),
    #[error("a message cannot be written: {0}")]
    Unwritable(String),
}

/// What there is to be done with what has come in.
enum Next {
    Frame(MessageType, Payload),
    /// More has to be read.
    Incomplete,
    /// Answers have to be written first.
    OutboundFull,
    /// An event has to end first, or all of them.
    WorkFull,
}

pub(super) struct Session<A: ?Sized, W> {
    agent: Arc<A>,
    wire: W,
    options: Arc<ServeOptions>,
    stop: watch::Receiver<Stop>,
    signals: Signals,
    agent_id: Arc<str>,
    extensions: Extensions,
    /// The numbers of the events that the agent has announced.
    supported_events: Vec<u32>,
    work: Work,
    /// How many configurations are being taken.
    configuring: usize,
    /// The agent begins the conversation, with this.
    registers: Option<DialOptions>,
}

impl<A: Agent + ?Sized, W: Wire> Session<A, W> {
    pub(super) fn new(
        agent: Arc<A>,
        wire: W,
        options: Arc<ServeOptions>,
        stop: watch::Receiver<Stop>,
    ) -> Self {
        let work = match is_legacy(&options) {
            true => Work::new(1, 0),
            false => Work::new(options.concurrency.max(1), options.backlog),
        };
        Self {
            agent,
            wire,
            signals: Signals::new(stop.clone(), &options.reporter),
            options,
            stop,
            agent_id: Arc::default(),
            extensions: Extensions::NONE,
            supported_events: Vec::new(),
            work,
            configuring: 0,
            registers: None,
        }
    }

    /// The same on a connection that the agent has dialled.
    pub(super) fn registering(mut self, proxy: DialOptions) -> Self {
        self.registers = Some(proxy);
        self
    }

    /// Serves the connection until either side ends it.
    pub(super) async fn run(mut self) {
        let ended = self.converse().await;
        match &ended {
            Ok(()) => tracing::debug!("a proxy has disconnected"),
            Err(error) => tracing::warn!(%error, "a connection of a proxy has ended"),
        }
        self.wire.end(ended.err().map(|error| error.to_string()));
    }

    async fn converse(&mut self) -> Result<(), SessionError> {
        let mut stop = self.stop.clone();
        // An error means that the whole server is gone: stop then as well.
        let stopping = stop.wait_for(|stop| *stop != Stop::Not).map(drop);
        let timeout = self.options.handshake_timeout;
        let shaken = tokio::select! {
            () = stopping => return Ok(()),
            shaken = tokio::time::timeout(timeout, self.begin()) => shaken,
        };
        match shaken {
            Ok(Ok(())) => {}
            Ok(Err(SessionError::Io(error))) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(());
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(SessionError::HandshakeTimeout),
        }
        std::future::poll_fn(|cx| self.poll_serve(cx)).await
    }

    async fn begin(&mut self) -> Result<(), SessionError> {
        match self.registers.take() {
            Some(proxy) => self.register(&proxy).await,
            None => self.shake_hands().await,
        }
    }

    async fn receive(&mut self) -> Result<(MessageType, Payload), SessionError> {
        loop {
            if let Some(frame) = self.wire.take(self.options.max_frame_bytes)? {
                return Ok(frame);
            }
            let read = std::future::poll_fn(|cx| self.wire.poll_read(cx));
            if read.await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    async fn register(&mut self, proxy: &DialOptions) -> Result<(), SessionError> {
        let offered = self.options.extensions.and(W::EXTENSIONS);
        let capabilities = self.capabilities();
        self.introduce(&capabilities);
        let registration = Registration {
            protocol_version: handshake::PROTOCOL_VERSION,
            agent_id: proxy.agent_id.as_str().into(),
            capabilities,
            auth_token: proxy.token.as_deref().map(Into::into),
            metadata: serde_json::Value::Null,
            extensions: offered.names().into_iter().map(Into::into).collect(),
        };
        self.queue(MessageType::HandshakeRequest, |out| {
            handshake::encode(out, &registration)
        })?;
        std::future::poll_fn(|cx| self.wire.poll_flush(cx)).await?;
        let (kind, payload) = self.receive().await?;
        if kind != MessageType::HandshakeResponse {
            return Err(ProtocolError::UnexpectedMessage(kind).into());
        }
        let chosen = registration::decode_reply(payload.json(), offered)?;
        self.extensions = chosen.map_err(SessionError::Refused)?;
        tracing::debug!(agent = proxy.agent_id, "registered at the proxy");
        Ok(())
    }

    // What is remembered of what the proxy is told.
    fn introduce(&mut self, capabilities: &Capabilities) {
        self.agent_id = Arc::from(&*capabilities.agent_id);
        self.supported_events
            .clone_from(&capabilities.supported_events);
    }

    async fn shake_hands(&mut self) -> Result<(), SessionError> {
        let (kind, payload) = self.receive().await?;
        if kind != MessageType::HandshakeRequest {
            return Err(ProtocolError::UnexpectedMessage(kind).into());
        }
        let request = handshake::decode_request(payload.json())?;
        let refusal = refusal(&request);
        let offered = request.extensions.iter().map(AsRef::as_ref);
        self.extensions = Extensions::from_known_names(offered)
            .and(self.options.extensions)
            .and(W::EXTENSIONS);
        let capabilities = self.capabilities();
        self.introduce(&capabilities);
        let response = HandshakeResponse {
            protocol_version: handshake::PROTOCOL_VERSION,
            capabilities,
            success: refusal.is_none(),
            error: refusal.clone(),
            encoding: Some(handshake::JSON.to_owned()),
            extensions: self
                .extensions
                .names()
                .into_iter()
                .map(str::to_owned)
                .collect(),
        };
        self.queue(MessageType::HandshakeResponse, |out| {
            handshake::encode(out, &response)
        })?;
        std::future::poll_fn(|cx| self.wire.poll_flush(cx)).await?;
        refusal.map_or(Ok(()), |reason| Err(SessionError::Refused(reason)))
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.agent.capabilities();
        capabilities.features.concurrent_requests = announced(self.work.concurrency());
        capabilities.features.cancellation = !is_legacy(&self.options);
        capabilities.features.config_push = true;
        capabilities.features.health_reporting = true;
        capabilities.features.flow_control = true;
        capabilities.features.streaming_body |= capabilities.supports(EventKind::RequestBodyChunk)
            || capabilities.supports(EventKind::ResponseBodyChunk);
        capabilities.features.websocket |= capabilities.supports(EventKind::WebSocketFrame);
        capabilities.features.guardrails |= capabilities.supports(EventKind::GuardrailInspect);
        let max_concurrency = &mut capabilities.limits.max_concurrency;
        // There is always a number, because legacy proxies may take 0 for one.
        if *max_concurrency == 0 {
            *max_concurrency = announced(self.options.concurrency);
        }
        capabilities
    }

    // Ready when the connection has ended, or has nothing left to do after
    // the server was stopped.
    fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        let stopped = self.signals.poll(cx) == Stop::Now;
        loop {
            self.report()?;
            while let Poll::Ready(done) = self.poll_done(cx) {
                self.answer(done?)?;
            }
            let next = loop {
                match self.next_frame(stopped)? {
                    Next::Frame(kind, payload) => self.on_frame(cx, kind, payload)?,
                    other => break other,
                }
            };
            let flushed = self.wire.poll_flush(cx)?;
            if stopped && flushed.is_ready() && self.work.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if self.work.is_due(!self.is_outbound_full()) {
                continue;
            }
            match next {
                // Writing has made room for frames that are already here.
                Next::OutboundFull if !self.is_outbound_full() => continue,
                Next::OutboundFull | Next::WorkFull => return Poll::Pending,
                Next::Frame(..) | Next::Incomplete => {}
            }
            if ready!(self.wire.poll_read(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    // Tells the proxy what it does not know yet. While it does not read, it
    // is told nothing, and then the last.
    fn report(&mut self) -> Result<(), SessionError> {
        while !self.is_outbound_full() {
            let Some(news) = self.signals.news() else {
                break;
            };
            if news == News::Purge && !self.extensions.verdict_ttl {
                continue;
            }
            tracing::debug!(?news, "the proxy is told");
            let agent_id = Arc::clone(&self.agent_id);
            let queued = match news {
                News::Purge => self.queue(MessageType::VerdictPurge, |out| {
                    json::encode_purge(out, &agent_id, now_ms());
                    Ok(())
                }),
                News::Health(health) => self.queue(MessageType::HealthStatus, |out| {
                    json::encode_health(out, &agent_id, health, now_ms());
                    Ok(())
                }),
                News::Flow(action) => self.queue(MessageType::FlowControl, |out| {
                    json::encode_flow(out, action, now_ms());
                    Ok(())
                }),
                News::Reload(number) => self.queue(MessageType::ConfigUpdateRequest, |out| {
                    // The same on all connections of this process, for those
                    // who hear it on several.
                    let id = format!("{agent_id}-{}-{number}", std::process::id());
                    json::encode_reload_request(out, &id, now_ms())
                }),
                News::Metrics(report) => self.queue(MessageType::MetricsReport, |out| {
                    json::encode_metrics(out, &agent_id, &report, now_ms())
                }),
            };
            match queued {
                // Of all that is told, only metrics have any length.
                Err(SessionError::Unwritable(detail)) => {
                    tracing::error!(
                        detail,
                        "something that the proxy is to be told cannot be sent"
                    );
                }
                queued => queued?,
            }
        }
        Ok(())
    }

    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        let may_begin = !self.is_outbound_full();
        self.work.poll_done(cx, may_begin)
    }

    // What is not an event needs no room among them.
    fn next_frame(&mut self, stopped: bool) -> Result<Next, ProtocolError> {
        if stopped {
            return Ok(Next::WorkFull);
        }
        if self.is_outbound_full() {
            return Ok(Next::OutboundFull);
        }
        // A peer that gets no answer to its configuration takes that to what
        // comes behind it for a yes.
        if self.configuring > 0 && !self.extensions.event_id {
            return Ok(Next::WorkFull);
        }
        let limit = self.options.max_frame_bytes;
        let event = self.wire.peek(limit)?.and_then(MessageType::event_kind);
        if event.is_some_and(|kind| self.takes(kind)) && !self.work.takes_more() {
            return Ok(Next::WorkFull);
        }
        Ok(match self.wire.take(limit)? {
            Some((kind, payload)) => Next::Frame(kind, payload),
            None => Next::Incomplete,
        })
    }

    // Whether it is an event that is worked on.
    fn takes(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Configure => true,
            EventKind::RequestHeaders
            | EventKind::RequestBodyChunk
            | EventKind::ResponseHeaders
            | EventKind::ResponseBodyChunk
            | EventKind::WebSocketFrame
            | EventKind::GuardrailInspect
            | EventKind::RequestComplete => self.supported_events.contains(&(kind as u32)),
        }
    }

    fn is_outbound_full(&self) -> bool {
        self.wire.unwritten() >= OUTBOUND_HIGH_BYTES
    }

    fn on_frame(
        &mut self,
        cx: &mut Context<'_>,
        kind: MessageType,
        payload: Payload,
    ) -> Result<(), SessionError> {
        if let Some(event) = kind.event_kind() {
            return self.on_event(cx, event, payload);
        }
        match kind {
            MessageType::Ping => {
                let (sequence, timestamp_ms) = json::decode_ping(payload.json())?;
                self.queue(MessageType::Pong, |out| {
                    json::encode_pong(out, sequence, timestamp_ms);
                    Ok(())
                })
            }
            // The answer comes all the same where nothing else was announced.
            MessageType::Cancel if is_legacy(&self.options) => Ok(()),
            MessageType::Cancel => self.cancel(payload.json()),
            // What only agents send, and a second handshake.
            _ => Err(ProtocolError::UnexpectedMessage(kind).into()),
        }
    }

    fn on_event(
        &mut self,
        cx: &mut Context<'_>,
        kind: EventKind,
        payload: Payload,
    ) -> Result<(), SessionError> {
        let agent = Arc::clone(&self.agent);
        let extensions = self.extensions;
        let event: Handling = match kind {
            EventKind::Configure => Box::pin(events::configure(agent, payload.clone(), extensions)),
            kind if self.takes(kind) => {
                Box::pin(events::event(agent, kind, payload.clone(), extensions))
            }
            kind => return self.answer(events::unsupported(kind, &payload, extensions)?),
        };
        // By its id it can be cancelled, which a configuration cannot be.
        let id = || match kind {
            EventKind::Configure => None,
            kind => event_id(kind, &payload, extensions),
        };
        self.configuring += usize::from(kind == EventKind::Configure);
        match self.work.add(cx, event, payload.len(), id) {
            Some(done) => self.answer(done?),
            None => Ok(()),
        }
    }

    fn cancel(&mut self, payload: &[u8]) -> Result<(), SessionError> {
        let (id, reason) = json::decode_cancel(payload, self.extensions.event_id)?;
        let cancelled = self.work.cancel(&id);
        tracing::debug!(?id, ?reason, cancelled, "the proxy has cancelled an event");
        self.options.counters.count_cancel(cancelled);
        Ok(())
    }

    fn answer(&mut self, answered: Answered) -> Result<(), SessionError> {
        let Answered {
            id,
            chunk_index,
            is_configuration,
            answer,
        } = answered;
        self.configuring -= usize::from(is_configuration);
        let limit = self.options.max_frame_bytes;
        let extensions = self.extensions;
        let queued = self
            .wire
            .answer(&id, chunk_index, &answer, extensions, limit);
        let queued = match queued {
            Err(Unsent::Unwritable(detail)) => {
                tracing::error!(detail, "an answer cannot be sent");
                let failed = events::failure("the agent's answer cannot be sent");
                self.wire
                    .answer(&id, chunk_index, &failed, extensions, limit)
            }
            queued => queued,
        };
        queued.map_err(SessionError::from)
    }

    fn queue(
        &mut self,
        kind: MessageType,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), serde_json::Error>,
    ) -> Result<(), SessionError> {
        let limit = self.options.max_frame_bytes;
        Ok(self.wire.queue(kind, limit, write)?)
    }
}

impl From<Unsent> for SessionError {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Unwritable(detail) => Self::Unwritable(detail),
            Unsent::Ends(reason) => Self::Ends(reason),
        }
    }
}

fn announced(count: usize) -> u32 {
    u32::try_from(count.max(1)).unwrap_or(u32::MAX)
}

// Why the conversation cannot begin.
fn refusal(request: &HandshakeRequest<'_>) -> Option<String> {
    if !request
        .supported_versions
        .contains(&handshake::PROTOCOL_VERSION)
    {
        return Some(format!(
            "only protocol version {} is spoken",
            handshake::PROTOCOL_VERSION
        ));
    }
    let encodings = &request.supported_encodings;
    let speaks_json = encodings.is_empty() || encodings.iter().any(|name| name == handshake::JSON);
    (!speaks_json).then(|| "only the encoding json is spoken".to_owned())
}

// Whether the agent is to behave like a legacy one.
fn is_legacy(options: &ServeOptions) -> bool {
    options.extensions == Extensions::NONE
}
