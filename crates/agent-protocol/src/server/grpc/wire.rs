//! One stream of a proxy: messages of protobuf, in both directions.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use futures::task::AtomicWaker;
use prost::Message;
use serde_json::Value;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use super::super::wire::{Payload, Unsent, Wire};
use crate::codec::frame::MessageType;
use crate::codec::handshake::{self, Configure, HandshakeResponse};
use crate::codec::protobuf::messages::{AgentToProxy, FromAgent, FromProxy, ProxyToAgent};
use crate::codec::protobuf::{self, EXTENSIONS};
use crate::codec::{Answer, EventId, json};
use crate::grpc::describe;
use crate::{CancelReason, Extensions, ProtocolError};

/// The session's end of a stream.
pub(super) struct MessageWire {
    inbound: Streaming<Bytes>,
    /// What has been read and not been taken.
    next: Option<(MessageType, Payload)>,
    outbound: mpsc::UnboundedSender<Item>,
    unwritten: Arc<Unwritten>,
}

/// A message, or with what the stream ends; and how many bytes it has.
type Item = (Result<AgentToProxy, Status>, usize);

/// How much of what was queued the connection has not taken yet. The session
/// reads nothing while it is too much, which bounds the queue.
#[derive(Default)]
struct Unwritten {
    bytes: AtomicUsize,
    session: AtomicWaker,
}

/// What goes out on the stream.
pub(super) struct Outflow {
    queue: mpsc::UnboundedReceiver<Item>,
    unwritten: Arc<Unwritten>,
}

impl MessageWire {
    pub(super) fn new(inbound: Streaming<Bytes>) -> (Self, Outflow) {
        let (outbound, queue) = mpsc::unbounded_channel();
        let unwritten = Arc::<Unwritten>::default();
        let wire = Self {
            inbound,
            next: None,
            outbound,
            unwritten: Arc::clone(&unwritten),
        };
        (wire, Outflow { queue, unwritten })
    }

    fn send(&self, message: FromAgent, limit: usize) -> Result<(), Unsent> {
        let message = AgentToProxy {
            message: Some(message),
        };
        let bytes = message.encoded_len();
        if bytes > limit {
            return Err(Unsent::Unwritable(format!("{bytes} bytes are too many")));
        }
        self.unwritten.bytes.fetch_add(bytes, Ordering::SeqCst);
        // When nobody takes it any longer, reading says that it is over.
        drop(self.outbound.send((Ok(message), bytes)));
        Ok(())
    }
}

impl Stream for Outflow {
    type Item = Result<AgentToProxy, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some((message, bytes)) = ready!(self.queue.poll_recv(cx)) else {
            return Poll::Ready(None);
        };
        self.unwritten.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.unwritten.session.wake();
        Poll::Ready(Some(message))
    }
}

impl Wire for MessageWire {
    const EXTENSIONS: Extensions = EXTENSIONS;

    fn peek(&self, _limit: usize) -> Result<Option<MessageType>, ProtocolError> {
        Ok(self.next.as_ref().map(|(kind, _)| *kind))
    }

    fn take(&mut self, _limit: usize) -> Result<Option<(MessageType, Payload)>, ProtocolError> {
        Ok(self.next.take())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            let bytes = match ready!(Pin::new(&mut self.inbound).poll_next(cx)) {
                None => return Poll::Ready(Ok(0)),
                Some(Ok(bytes)) => bytes,
                Some(Err(status)) if status.code() == Code::OutOfRange => {
                    return Poll::Ready(Err(io::Error::other(describe(&status))));
                }
                // This is how a stream ends whose proxy goes away.
                Some(Err(status)) => {
                    tracing::debug!(status = describe(&status), "a stream has ended");
                    return Poll::Ready(Ok(0));
                }
            };
            let size = bytes.len().max(1);
            if let Some(next) = read(bytes)? {
                self.next = Some(next);
                return Poll::Ready(Ok(size));
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unwritten.session.register(cx.waker());
        if self.unwritten.bytes.load(Ordering::SeqCst) == 0 {
            return Poll::Ready(Ok(()));
        }
        match self.outbound.is_closed() {
            true => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            false => Poll::Pending,
        }
    }

    fn unwritten(&self) -> usize {
        self.unwritten.bytes.load(Ordering::SeqCst)
    }

    fn queue(
        &mut self,
        kind: MessageType,
        limit: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), serde_json::Error>,
    ) -> Result<(), Unsent> {
        let mut payload = Vec::new();
        let written = write(&mut payload).and_then(|()| match kind {
            MessageType::HandshakeResponse => {
                let response: HandshakeResponse = serde_json::from_slice(&payload)?;
                let response = protobuf::encode_handshake_response(response);
                Ok(FromAgent::Handshake(response))
            }
            kind => protobuf::encode_control(kind, &payload),
        });
        let message = written.map_err(|error| Unsent::Unwritable(error.to_string()))?;
        self.send(message, limit)
    }

    fn answer(
        &mut self,
        id: &EventId,
        _chunk_index: u32,
        answer: &Answer,
        extensions: Extensions,
        limit: usize,
    ) -> Result<(), Unsent> {
        // Published proxies give no id to a configuration and expect no
        // answer: the stream ends when it is refused.
        if matches!(id, EventId::Correlation(id) if id.is_empty()) {
            return match answer {
                Ok(decision) if decision.is_allow() => Ok(()),
                Ok(_) => Err(Unsent::Ends("the configuration was refused".to_owned())),
                Err(reason) => Err(Unsent::Ends(reason.to_string())),
            };
        }
        let response = protobuf::encode_answer(id, answer, extensions);
        self.send(FromAgent::Response(Box::new(response)), limit)
    }

    fn end(&mut self, problem: Option<String>) {
        if let Some(problem) = problem {
            let status = Status::failed_precondition(problem);
            drop(self.outbound.send((Err(status), 0)));
        }
    }
}

// A message of the proxy as sessions know them; `None` for one of an unknown
// kind.
fn read(bytes: Bytes) -> io::Result<Option<(MessageType, Payload)>> {
    let size = bytes.len();
    let message = ProxyToAgent::decode(bytes).map_err(malformed)?;
    if let Some(kind) = protobuf::kind(&message)
        && !matches!(message.message, Some(FromProxy::Configure(_)))
    {
        let payload = Payload::Message(Arc::new(message), size);
        return Ok(Some((kind.into(), payload)));
    }
    let event_id = message.event_id;
    let mut out = Vec::new();
    let kind = match message.message {
        Some(FromProxy::Handshake(request)) => {
            let request = protobuf::decode_handshake_request(request).map_err(malformed)?;
            handshake::encode(&mut out, &request)?;
            MessageType::HandshakeRequest
        }
        Some(FromProxy::Configure(event)) => {
            let config: Value = serde_json::from_str(&event.config_json)?;
            let message = Configure {
                config: std::borrow::Cow::Owned(config),
                config_version: event.config_version.map(Into::into),
                correlation_id: "".into(),
                event_id,
            };
            handshake::encode(&mut out, &message)?;
            MessageType::Configure
        }
        Some(FromProxy::Cancel(cancel)) => {
            let number = u64::try_from(cancel.reason.saturating_sub(1)).ok();
            let reason = number.and_then(CancelReason::from_number);
            let reason = reason.unwrap_or(CancelReason::ClientDisconnect);
            let (id, at) = (&cancel.correlation_id, cancel.timestamp_ms);
            json::encode_cancel(&mut out, event_id, id, reason, at);
            MessageType::Cancel
        }
        Some(FromProxy::Ping(ping)) => {
            json::encode_ping(&mut out, ping.sequence, ping.timestamp_ms);
            MessageType::Ping
        }
        _ => return Ok(None),
    };
    Ok(Some((kind, Payload::Encoded(out.into()))))
}

fn malformed(error: impl std::error::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
