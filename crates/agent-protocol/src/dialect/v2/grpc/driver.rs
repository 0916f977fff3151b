//! The driver: the one task that reads the stream.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::super::calls::{Ended, Outcome};
use super::super::shared::{Phase, Shared};
use super::super::{CloseReason, MOST_AT_ONCE};
use crate::codec::protobuf::messages::{AgentToProxy, FromAgent};
use crate::codec::protobuf::{self, Control};
use crate::codec::{BadMessage, EventId};
use crate::grpc::describe;
use crate::{CallError, ControlMessage, LogEntry, LogLevel, ProtocolError};

/// Reads and hands out answers; to be spawned on the runtime that the
/// connection was made on. It ends when the connection ends, and says why.
/// Dropping it closes the connection.
#[must_use = "without its driver a connection does nothing"]
pub(crate) struct GrpcDriver {
    shared: Arc<Shared>,
    inbound: Streaming<Bytes>,
    /// The connection of HTTP/2 ends when nobody has this any longer.
    _client: Grpc<Channel>,
    // Kept for their memory; empty between polls.
    answers: Vec<(EventId, Outcome)>,
    ended: Vec<Ended>,
}

impl GrpcDriver {
    pub(super) fn new(
        shared: Arc<Shared>,
        inbound: Streaming<Bytes>,
        client: Grpc<Channel>,
    ) -> Self {
        Self {
            shared,
            inbound,
            _client: client,
            answers: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let mut state = self.shared.lock();
        if state.phase == Phase::Closing {
            return Poll::Ready(CloseReason::Local);
        }
        match &mut state.reader {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.reader = Some(cx.waker().clone()),
        }
        drop(state);
        let read = self.poll_batch(cx);
        // Those before an error are handed over.
        let delivered = self.shared.deliver(&mut self.answers, &mut self.ended);
        if let Poll::Ready(Some(reason)) = read {
            return Poll::Ready(reason);
        }
        match delivered {
            Ok(false) => {}
            Ok(true) => return Poll::Ready(CloseReason::Local),
            Err(error) => return Poll::Ready(error.into()),
        }
        if read.is_ready() {
            // There may be more. It is this task's turn again when all others have had theirs.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    // Reads what is there, but not too much of it; pending when that is all.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<CloseReason>> {
        for _ in 0..MOST_AT_ONCE {
            let end = match ready!(Pin::new(&mut self.inbound).poll_next(cx)) {
                Some(Ok(bytes)) => match self.take(bytes) {
                    Ok(()) => continue,
                    Err(error) => error.into(),
                },
                Some(Err(status)) => CloseReason::Status(describe(&status)),
                None => CloseReason::Peer,
            };
            return Poll::Ready(Some(end));
        }
        Poll::Ready(None)
    }

    fn take(&mut self, bytes: Bytes) -> Result<(), ProtocolError> {
        self.shared.note_heard();
        match read(bytes)? {
            Some(FromAgent::Response(response)) => {
                let decoded = protobuf::decode_answer(*response, self.shared.extensions);
                let answer = match decoded {
                    Ok((id, answer)) => (id, answer.map_err(CallError::from)),
                    Err(BadMessage {
                        id: Some(id),
                        error,
                    }) => (id, Err(error.into())),
                    Err(BadMessage { id: None, error }) => return Err(error),
                };
                self.answers.push(answer);
                Ok(())
            }
            Some(message) => on_message(&self.shared, message),
            // Of a kind that is not known here.
            None => Ok(()),
        }
    }
}

/// Reads a message of the agent; `None` when it is of an unknown kind.
pub(super) fn read(bytes: Bytes) -> Result<Option<FromAgent>, ProtocolError> {
    let decoded = AgentToProxy::decode(bytes);
    let message = decoded.map_err(|error| ProtocolError::malformed("message", error))?;
    Ok(message.message)
}

/// Takes note of a message that is not an answer.
pub(super) fn on_message(shared: &Shared, message: FromAgent) -> Result<(), ProtocolError> {
    match protobuf::decode_control(message) {
        Control::Json(kind, payload) => shared.on_message(kind, &payload),
        Control::Log(entry) => {
            let level = match entry.level {
                1 => LogLevel::Debug,
                3 => LogLevel::Warn,
                4 => LogLevel::Error,
                _ => LogLevel::Info,
            };
            shared.on_control(&ControlMessage::Log(LogEntry {
                level,
                message: entry.message,
                fields: entry.fields.into_iter().collect(),
            }));
            Ok(())
        }
        Control::Other => Err(ProtocolError::malformed(
            "message",
            "it does not belong here",
        )),
    }
}

/// What the end of a stream says while the connection opens.
pub(super) fn end(status: Option<&Status>) -> String {
    status.map_or_else(|| "the agent ended the stream".to_owned(), describe)
}

impl Future for GrpcDriver {
    type Output = CloseReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let reason = ready!(self.poll_drive(cx));
        self.shared.finish(&reason);
        Poll::Ready(reason)
    }
}

impl Drop for GrpcDriver {
    fn drop(&mut self) {
        // Does nothing when the driver came to its end.
        self.shared.finish(&CloseReason::Local);
    }
}

impl fmt::Debug for GrpcDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcDriver").finish_non_exhaustive()
    }
}
