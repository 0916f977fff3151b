//! One connection of a proxy to an agent.
//!
//! A session is one task. Each event becomes a future that decodes it, asks
//! the agent and yields the answer; it is polled at once, because most agents
//! answer without waiting, and only kept when it has to wait. Answers are
//! gathered and written together.

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::{Agent, AgentError, ServeOptions};
use crate::codec::frame::{self, MessageType};
use crate::codec::handshake::{self, HandshakeRequest, HandshakeResponse};
use crate::codec::{Answer, BadMessage, EventId, binary, json};
use crate::transport::{Inbound, Outbound};
use crate::{Capabilities, Decision, EventKind, Extensions, ProtocolError};

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
    #[error("a message cannot be written: {0}")]
    Unwritable(String),
}

/// An event that is being worked on. An event whose id cannot be read has no
/// answer, and ends the session.
type Handling = Pin<Box<dyn Future<Output = Result<(EventId, Answer), ProtocolError>> + Send>>;

pub(super) struct Session<A: ?Sized> {
    agent: Arc<A>,
    stream: UnixStream,
    options: Arc<ServeOptions>,
    stop: watch::Receiver<bool>,
    inbound: Inbound,
    outbound: Outbound,
    extensions: Extensions,
    wants_request_headers: bool,
    handling: FuturesUnordered<Handling>,
}

impl<A: Agent + ?Sized> Session<A> {
    pub(super) fn new(
        agent: Arc<A>,
        stream: UnixStream,
        options: Arc<ServeOptions>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            agent,
            stream,
            options,
            stop,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            extensions: Extensions::NONE,
            wants_request_headers: false,
            handling: FuturesUnordered::new(),
        }
    }

    /// Serves the connection until either side ends it.
    pub(super) async fn run(mut self) {
        match self.converse().await {
            Ok(()) => tracing::debug!("a proxy has disconnected"),
            Err(error) => tracing::warn!(%error, "a connection of a proxy has ended"),
        }
    }

    async fn converse(&mut self) -> Result<(), SessionError> {
        let mut stop = self.stop.clone();
        // An error means that the whole server is gone: stop then as well.
        let mut stopping = std::pin::pin!(stop.wait_for(|stop| *stop).map(drop).fuse());
        let timeout = self.options.handshake_timeout;
        let shaken = tokio::select! {
            () = &mut stopping => return Ok(()),
            shaken = tokio::time::timeout(timeout, self.shake_hands()) => shaken,
        };
        match shaken {
            Ok(Ok(())) => {}
            Ok(Err(SessionError::Io(error))) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(());
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(SessionError::HandshakeTimeout),
        }
        let mut stopped = false;
        std::future::poll_fn(|cx| {
            stopped = stopped || stopping.as_mut().poll(cx).is_ready();
            self.poll_serve(cx, stopped)
        })
        .await
    }

    async fn shake_hands(&mut self) -> Result<(), SessionError> {
        let (kind, payload) = loop {
            match frame::take(&mut self.inbound.bytes, self.options.max_frame_bytes)? {
                Some(frame) => break frame,
                None => self.inbound.read(&mut self.stream).await?,
            }
        };
        if kind != MessageType::HandshakeRequest {
            return Err(ProtocolError::UnexpectedMessage(kind).into());
        }
        let request = handshake::decode_request(&payload)?;
        let refusal = refusal(&request);
        let offered = request.extensions.iter().map(AsRef::as_ref);
        self.extensions = Extensions::from_known_names(offered).and(self.options.extensions);
        let capabilities = self.capabilities();
        self.wants_request_headers = capabilities.supports(EventKind::RequestHeaders);
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
        self.outbound.flush(&mut self.stream).await?;
        refusal.map_or(Ok(()), |reason| Err(SessionError::Refused(reason)))
    }

    fn concurrency(&self) -> usize {
        match self.options.extensions {
            Extensions::NONE => 1,
            _ => self.options.concurrency.max(1),
        }
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.agent.capabilities();
        let concurrency = u32::try_from(self.concurrency()).unwrap_or(u32::MAX);
        capabilities.features.concurrent_requests = concurrency;
        capabilities.limits.max_concurrency = concurrency;
        capabilities
    }

    // Ready when the connection has ended, or has nothing left to do after
    // the server was stopped.
    fn poll_serve(
        &mut self,
        cx: &mut Context<'_>,
        stopped: bool,
    ) -> Poll<Result<(), SessionError>> {
        loop {
            while let Poll::Ready(Some(done)) = self.handling.poll_next_unpin(cx) {
                self.answer(done?)?;
            }
            let mut blocked = stopped;
            while !blocked {
                let limit = self.options.max_frame_bytes;
                match frame::take(&mut self.inbound.bytes, limit)? {
                    Some((kind, payload)) => self.on_frame(cx, kind, payload)?,
                    None => break,
                }
                blocked = self.is_busy();
            }
            let flushed = self.outbound.poll_flush(&mut self.stream, cx)?;
            if stopped && flushed.is_ready() && self.handling.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if stopped || self.is_busy() {
                return Poll::Pending;
            }
            // Writing has made room for frames that are already here.
            if blocked {
                continue;
            }
            if ready!(self.inbound.poll_read(&mut self.stream, cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.handling.len() >= self.concurrency()
            || self.outbound.remaining() >= OUTBOUND_HIGH_BYTES
    }

    fn on_frame(
        &mut self,
        cx: &mut Context<'_>,
        kind: MessageType,
        payload: Bytes,
    ) -> Result<(), SessionError> {
        let agent = Arc::clone(&self.agent);
        match kind {
            MessageType::RequestHeaders if self.wants_request_headers => self.handle(
                cx,
                Box::pin(request_headers(agent, payload, self.extensions)),
            ),
            MessageType::Configure => {
                self.handle(cx, Box::pin(configure(agent, payload, self.extensions)))
            }
            MessageType::RequestHeaders
            | MessageType::RequestBodyChunk
            | MessageType::ResponseHeaders
            | MessageType::ResponseBodyChunk
            | MessageType::RequestComplete
            | MessageType::WebSocketFrame
            | MessageType::GuardrailInspect => {
                self.answer(unsupported(kind, &payload, self.extensions)?)
            }
            MessageType::Ping => {
                let (sequence, timestamp_ms) = json::decode_ping(&payload)?;
                self.queue(MessageType::Pong, |out| {
                    json::encode_pong(out, sequence, timestamp_ms);
                    Ok(())
                })
            }
            // We do not announce cancellation: the answer comes all the same.
            MessageType::Cancel => Ok(()),
            MessageType::HandshakeRequest
            | MessageType::HandshakeResponse
            | MessageType::AgentResponse
            | MessageType::HealthStatus
            | MessageType::MetricsReport
            | MessageType::ConfigUpdateRequest
            | MessageType::FlowControl
            | MessageType::Pong => Err(ProtocolError::UnexpectedMessage(kind).into()),
        }
    }

    fn handle(&mut self, cx: &mut Context<'_>, mut event: Handling) -> Result<(), SessionError> {
        match event.as_mut().poll(cx) {
            Poll::Ready(done) => self.answer(done?),
            Poll::Pending => {
                self.handling.push(event);
                Ok(())
            }
        }
    }

    fn answer(&mut self, (id, answer): (EventId, Answer)) -> Result<(), SessionError> {
        let extensions = self.extensions;
        let encode = |out: &mut Vec<u8>, answer: &Answer| match &id {
            EventId::Number(number) if extensions.binary => {
                binary::encode_answer(out, *number, answer)
            }
            id => json::encode_answer(out, id, answer, extensions),
        };
        match self.queue(MessageType::AgentResponse, |out| encode(out, &answer)) {
            Err(SessionError::Unwritable(detail)) => {
                tracing::error!(detail, "an answer cannot be sent");
                let failed = Err("the agent's answer cannot be sent".to_owned());
                self.queue(MessageType::AgentResponse, |out| encode(out, &failed))
            }
            queued => queued,
        }
    }

    fn queue(
        &mut self,
        kind: MessageType,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), serde_json::Error>,
    ) -> Result<(), SessionError> {
        let start = self.outbound.bytes.len();
        let mut written = Ok(());
        let limit = self.options.max_frame_bytes;
        let framed = frame::append(&mut self.outbound.bytes, kind, limit, |out| {
            written = write(out);
        });
        if let Err(error) = written {
            self.outbound.bytes.truncate(start);
            return Err(SessionError::Unwritable(error.to_string()));
        }
        framed.map_err(|bytes| SessionError::Unwritable(format!("{bytes} bytes are too many")))
    }
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

// A phase that the agent does not have is never allowed without a look.
fn unsupported(
    kind: MessageType,
    payload: &[u8],
    extensions: Extensions,
) -> Result<(EventId, Answer), ProtocolError> {
    let id = match extensions.binary {
        true => binary::event_id(payload),
        false => json::find_event_id(payload, extensions.event_id),
    };
    let id = id.ok_or_else(|| ProtocolError::malformed("event", "it has no id"))?;
    Ok((id, Err(format!("the agent does not support {kind:?}"))))
}

async fn request_headers<A: Agent + ?Sized>(
    agent: Arc<A>,
    payload: Bytes,
    extensions: Extensions,
) -> Result<(EventId, Answer), ProtocolError> {
    let decoded = match extensions.binary {
        true => binary::decode_request_headers(&payload),
        false => json::decode_request_headers(&payload, extensions.event_id),
    };
    let (id, event) = match decoded {
        Ok(decoded) => decoded,
        Err(BadMessage {
            id: Some(id),
            error,
        }) => return Ok((id, Err(error.to_string()))),
        Err(BadMessage { id: None, error }) => return Err(error),
    };
    let view = event.view();
    let answer = guarded(async { agent.request_headers(&view).await }).await;
    Ok((id, answer))
}

async fn configure<A: Agent + ?Sized>(
    agent: Arc<A>,
    payload: Bytes,
    extensions: Extensions,
) -> Result<(EventId, Answer), ProtocolError> {
    let message = handshake::decode_configure(&payload)?;
    let id = match (extensions.event_id, message.event_id) {
        (true, Some(number)) => EventId::Number(number),
        (true, None) => return Err(ProtocolError::malformed("configure", "event_id is missing")),
        (false, _) => EventId::Correlation(message.correlation_id.into_owned()),
    };
    let configured = async {
        agent
            .configure(&message.config)
            .await
            .map_err(AgentError::new)?;
        Ok(Decision::allow())
    };
    let answer = guarded(configured).await;
    Ok((id, answer))
}

// A panic of the agent is the failure of one event.
async fn guarded(decide: impl Future<Output = Result<Decision, AgentError>>) -> Answer {
    match AssertUnwindSafe(decide).catch_unwind().await {
        Ok(Ok(decision)) => Ok(decision),
        Ok(Err(error)) => Err(error.message().to_owned()),
        Err(_) => Err("the agent panicked".to_owned()),
    }
}
