//! What is remembered of a socket, for the line of the access log.

use crate::{filter::FrameDirection, websocket::close};
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// A socket whose frames go through agents.
#[derive(Debug, Default)]
pub(crate) struct SocketRun {
    from_client: AtomicU64,
    from_upstream: AtomicU64,
    end: Mutex<SocketEnd>,
}

/// How a socket ended.
#[derive(Debug, Clone, Copy, Default)]
struct SocketEnd {
    code: Option<u16>,
    reason: Option<&'static str>,
}

impl SocketRun {
    pub(super) fn count(&self, direction: FrameDirection) {
        let counter = match direction {
            FrameDirection::ClientToServer => &self.from_client,
            FrameDirection::ServerToClient => &self.from_upstream,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// The proxy ends it, for this reason.
    pub(super) fn ended_by_us(&self, reason: &'static str) {
        self.end().reason = Some(reason);
    }

    /// With this code in the close frame, if there was one.
    pub(super) fn closed(&self, code: Option<u16>) {
        self.end().code = code;
    }

    /// Frames that came from the client.
    pub(crate) fn frames_in(&self) -> u64 {
        self.from_client.load(Relaxed)
    }

    /// Frames that came from the upstream.
    pub(crate) fn frames_out(&self) -> u64 {
        self.from_upstream.load(Relaxed)
    }

    /// The close code; 1006 when the connection ended without a close frame.
    pub(crate) fn close_code(&self) -> u16 {
        self.end().code.unwrap_or(close::ABNORMAL)
    }

    /// Why the proxy ended it, as a fixed name for the log.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        self.end().reason
    }

    fn end(&self) -> MutexGuard<'_, SocketEnd> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
