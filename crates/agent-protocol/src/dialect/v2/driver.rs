//! The driver: the one task that reads and writes the socket.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;

use super::calls::{Ended, Outcome};
use super::shared::{Phase, Shared};
use super::{CloseReason, MOST_AT_ONCE};
use crate::codec::frame::{self, HEADER_BYTES, MessageType};
use crate::codec::{Answer, BadMessage, EventId, binary, json};
use crate::transport::{Inbound, Outbound, Socket};
use crate::{CallError, Extensions, ProtocolError};

/// Bodies in answers from this size on stay where they were read. Smaller ones
/// are copied, so that they do not keep the whole buffer from its next use.
const SHARED_BYTES: usize = 4 << 10;

/// Reads, writes and hands out answers; to be spawned on the runtime that the
/// connection was made on. It ends when the connection ends, and says why.
/// Dropping it closes the connection.
#[must_use = "without its driver a connection does nothing"]
pub struct ConnectionDriver {
    shared: Arc<Shared>,
    stream: Socket,
    inbound: Inbound,
    outbound: Outbound,
    // Kept for their memory; empty between polls.
    answers: Vec<(EventId, Outcome)>,
    ended: Vec<Ended>,
}

impl ConnectionDriver {
    pub(super) fn new(shared: Arc<Shared>, stream: Socket, inbound: Inbound) -> Self {
        Self {
            shared,
            stream,
            inbound,
            outbound: Outbound::default(),
            answers: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        if let Poll::Ready(reason) = self.poll_write(cx) {
            return Poll::Ready(reason);
        }
        let mut left = MOST_AT_ONCE;
        loop {
            // Before the first read too: the handshake may have read ahead.
            let dispatched = self.dispatch(&mut left);
            let delivered = self.shared.deliver(&mut self.answers, &mut self.ended);
            match dispatched.and(delivered) {
                Ok(false) => {}
                Ok(true) => return self.poll_write(cx),
                Err(error) => return Poll::Ready(error.into()),
            }
            if left == 0 {
                // There may be more. It is this task's turn again when all others have had theirs.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match ready!(self.inbound.poll_read(&mut self.stream, cx)) {
                Ok(0) => return Poll::Ready(CloseReason::Peer),
                Ok(_) => {}
                Err(error) => return Poll::Ready(CloseReason::Lost(error.kind())),
            }
        }
    }

    // Writes all that is queued. Ready means that the connection is to end.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            let mut state = self.shared.lock();
            if state.phase == Phase::Closing {
                // A last Cancel is still written, as far as the socket takes
                // it without waiting.
                if let Some(queued) = state.outbound.frames() {
                    self.outbound.frames.append(queued);
                }
                drop(state);
                let written = self.outbound.poll_flush(&mut self.stream, cx);
                drop(written);
                return Poll::Ready(CloseReason::Local);
            }
            match &mut state.writer {
                // Costs nothing when it is the same waker, as it mostly is.
                Some(waker) => waker.clone_from(cx.waker()),
                None => state.writer = Some(cx.waker().clone()),
            }
            if self.outbound.remaining() == 0
                && let Some(queued) = state.outbound.frames()
            {
                std::mem::swap(&mut self.outbound.frames, queued);
            }
            state.unwritten_bytes = self.outbound.remaining();
            drop(state);
            if self.outbound.is_done() {
                return Poll::Pending;
            }
            if let Err(error) = ready!(self.outbound.poll_flush(&mut self.stream, cx)) {
                return Poll::Ready(CloseReason::Lost(error.kind()));
            }
        }
    }

    // Decodes complete frames, as many as are left to be. The answers before an
    // error are kept.
    fn dispatch(&mut self, left: &mut usize) -> Result<(), ProtocolError> {
        let limit = self.shared.limits.max_frame_bytes;
        let mut heard = false;
        while *left > 0
            && let Some((kind, total)) = frame::peek(&self.inbound.bytes, limit)?
        {
            *left -= 1;
            if !heard {
                self.shared.note_heard();
                heard = true;
            }
            if kind == MessageType::AgentResponse {
                let answer = self.take_answer(total)?;
                self.answers.push(answer);
            } else {
                let payload = &self.inbound.bytes[HEADER_BYTES..total];
                self.shared.on_message(kind, payload)?;
                self.inbound.bytes.advance(total);
            }
        }
        Ok(())
    }

    // Takes an answer of this many bytes off the buffer.
    fn take_answer(&mut self, total: usize) -> Result<(EventId, Outcome), ProtocolError> {
        let extensions = self.shared.extensions;
        let buffer = &mut self.inbound.bytes;
        let decoded = if extensions.binary && total >= SHARED_BYTES {
            let payload = buffer.split_to(total).freeze().split_off(HEADER_BYTES);
            binary::decode_shared_answer(&payload, extensions)
        } else {
            let decoded = decode_answer(&buffer[HEADER_BYTES..total], extensions);
            buffer.advance(total);
            decoded
        };
        match decoded {
            Ok((id, answer)) => Ok((id, answer.map_err(CallError::from))),
            Err(BadMessage {
                id: Some(id),
                error,
            }) => Ok((id, Err(error.into()))),
            Err(BadMessage { id: None, error }) => Err(error),
        }
    }
}

pub(super) fn decode_answer(
    payload: &[u8],
    extensions: Extensions,
) -> Result<(EventId, Answer), BadMessage> {
    if extensions.binary {
        binary::decode_answer(payload, extensions)
    } else {
        json::decode_answer(payload, extensions)
    }
}

impl Future for ConnectionDriver {
    type Output = CloseReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let reason = ready!(self.poll_drive(cx));
        self.shared.finish(&reason);
        Poll::Ready(reason)
    }
}

impl Drop for ConnectionDriver {
    fn drop(&mut self) {
        // Does nothing when the driver came to its end.
        self.shared.finish(&CloseReason::Local);
    }
}

impl fmt::Debug for ConnectionDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionDriver")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}
