//! What goes out on the stream of a connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;

use super::super::shared::{Phase, Shared};
use crate::codec::protobuf::messages::ProxyToAgent;

/// The messages that are queued, until the connection closes.
pub(super) struct Outflow(pub(super) Arc<Shared>);

impl Stream for Outflow {
    type Item = ProxyToAgent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ProxyToAgent>> {
        let mut state = self.0.lock();
        if let Some(message) = state.outbound.next_message() {
            return Poll::Ready(Some(message));
        }
        if matches!(state.phase, Phase::Closing | Phase::Closed(_)) {
            return Poll::Ready(None);
        }
        match &mut state.writer {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.writer = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}
