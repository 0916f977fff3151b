//! A target: a server of an upstream, and what the process knows about how it is doing.

use pingora::upstreams::peer::HttpPeer;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A target as it is written down or found out.
#[derive(Debug, Clone)]
pub(crate) struct FoundTarget {
    /// What it is called in logs, and what its state is kept by as long as it is among the targets. Two of one address are one
    /// target with the weight of both. The origin inside the binary has none.
    pub(crate) address: Option<Arc<str>>,
    /// Where it is. What the upstream's configuration says about connections is put in later.
    pub(crate) peer: HttpPeer,
    /// Its share against the others, at least 1.
    pub(crate) weight: u32,
}

/// A target, ready to be taken.
#[derive(Debug)]
pub(crate) struct Target {
    pub(super) address: Option<Arc<str>>,
    pub(super) weight: u32,
    /// What every connection to the target starts from; requests get copies.
    pub(super) peer: HttpPeer,
    pub(super) state: Arc<TargetState>,
}

/// How a target is doing. There is one for the process, whatever the worker, and it stays when a configuration or a set of
/// targets is replaced by one that has the target too.
#[derive(Debug, Default)]
pub(crate) struct TargetState {
    /// Requests that it was given and that are not over.
    in_flight: AtomicU32,
}

impl TargetState {
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }
}

/// A request in the hands of a target, until it is over or another target has it.
#[derive(Debug)]
pub(crate) struct Attempt {
    target: Arc<Target>,
    began: Instant,
    /// Until the head of the response.
    took: Option<Duration>,
}

impl Attempt {
    pub(super) fn begin(target: Arc<Target>, now: Instant) -> Self {
        target.state.in_flight.fetch_add(1, Relaxed);
        Self {
            target,
            began: now,
            took: None,
        }
    }

    /// What the log calls the target.
    pub(crate) fn address(&self) -> Option<&Arc<str>> {
        self.target.address.as_ref()
    }

    /// The head of the response has come.
    pub(super) fn answered(&mut self, now: Instant) {
        self.took.get_or_insert(now - self.began);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.target.state.in_flight.fetch_sub(1, Relaxed);
    }
}
