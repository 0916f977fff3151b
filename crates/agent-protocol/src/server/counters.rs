//! What a server counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What has happened on all connections of a server since its start.
#[derive(Debug, Default)]
pub struct ServeCounters {
    cancelled_events: AtomicU64,
    idle_cancels: AtomicU64,
}

impl ServeCounters {
    /// How many events were cancelled before they were answered. Their
    /// handlers were dropped, and they have no answer.
    #[must_use]
    pub fn cancelled_events(&self) -> u64 {
        self.cancelled_events.load(Ordering::Relaxed)
    }

    /// How many times an event was cancelled that had been answered already,
    /// or was never there.
    #[must_use]
    pub fn idle_cancels(&self) -> u64 {
        self.idle_cancels.load(Ordering::Relaxed)
    }

    /// Counts a Cancel that ended this many events.
    pub(super) fn count_cancel(&self, events: usize) {
        match events {
            0 => self.idle_cancels.fetch_add(1, Ordering::Relaxed),
            _ => self
                .cancelled_events
                .fetch_add(events as u64, Ordering::Relaxed),
        };
    }
}
