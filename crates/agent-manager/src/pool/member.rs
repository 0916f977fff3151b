//! A connection that is offered to calls, with what is counted on it.

use super::{
    balance::{Candidate, Standing},
    line::Line,
    pace::Pace,
};
use portcullis_agent_protocol::{AnyConnection, Capabilities, HealthState};
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// With this many unanswered events on every connection another one is made, if the pool may grow. A legacy agent handles one
/// message at a time, so for it every event counts.
const CROWDED: usize = 64;
const CROWDED_LEGACY: usize = 1;

/// A connection of a pool.
pub(crate) struct Member<L: Line = AnyConnection> {
    pub(crate) line: L,
    /// Which of the agent's replicas it leads to.
    pub(crate) replica: usize,
    /// The agent takes all events that it is needed for.
    pub(super) is_fit: bool,
    /// Calls that took it at once, and such that had to wait for one.
    pub(super) at_once: AtomicU64,
    pub(super) after_wait: AtomicU64,
    pace: Pace,
}

/// What decides about an offer beside the connection itself.
pub(super) struct Asked {
    /// For an event of a request that the replica knows already.
    pub(super) is_bound: bool,
    /// The last calls to the replica failed.
    pub(super) is_failing: bool,
    /// So many events may be unanswered on one connection.
    pub(super) most: usize,
    /// When it matters how long calls take.
    pub(super) now: Option<Instant>,
}

/// What a connection is for a call that looks for one.
pub(super) enum Offer {
    Candidate(Candidate),
    /// It has as many unanswered events as it may have.
    Full,
    /// The agent wants no events on it for now.
    Paused,
    /// The agent says that it does not work or takes its leave.
    Refused(HealthState),
}

impl<L: Line> std::fmt::Debug for Member<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

impl<L: Line> Member<L> {
    pub(super) fn new(line: L, replica: usize, is_fit: bool) -> Self {
        Self {
            line,
            replica,
            is_fit,
            at_once: AtomicU64::new(0),
            after_wait: AtomicU64::new(0),
            pace: Pace::new(Instant::now()),
        }
    }

    pub(crate) fn capabilities(&self) -> &Capabilities {
        self.line.capabilities()
    }

    /// A call that took it has ended.
    pub(crate) fn answered(&self, took: Duration, now: Instant) {
        self.pace.observe(took, now);
    }

    /// Calls that took it so far.
    pub(super) fn calls(&self) -> u64 {
        self.at_once.load(Relaxed) + self.after_wait.load(Relaxed)
    }

    pub(super) fn average(&self) -> Option<Duration> {
        self.pace.average()
    }

    /// An open connection as it is now.
    pub(super) fn offer(&self, asked: &Asked) -> Offer {
        let condition = self.line.condition();
        let standing = match condition.health {
            // What it has begun it may end.
            HealthState::Draining if asked.is_bound => Standing::Well,
            HealthState::Draining | HealthState::Unhealthy => {
                return Offer::Refused(condition.health);
            }
            _ if condition.paused => return Offer::Paused,
            _ if asked.is_failing => Standing::Failing,
            HealthState::Degraded => Standing::Degraded,
            HealthState::Healthy | HealthState::Unknown => Standing::Well,
        };
        let unanswered = self.line.unanswered();
        if unanswered >= asked.most.min(self.line.most_in_flight()) {
            return Offer::Full;
        }
        Offer::Candidate(Candidate {
            replica: self.replica,
            standing,
            unanswered,
            average: asked
                .now
                .map_or(Duration::ZERO, |now| self.pace.expected(now)),
            capacity: self.capabilities().features.concurrent_requests,
        })
    }

    /// Whether so many unanswered events make it good to have another connection.
    pub(super) fn is_crowded(&self, unanswered: usize) -> bool {
        let most = match self.line.numbers_events() {
            true => CROWDED.min(self.line.most_in_flight()),
            false => CROWDED_LEGACY,
        };
        unanswered >= most
    }
}
