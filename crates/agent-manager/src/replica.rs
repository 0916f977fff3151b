//! One of an agent's replicas as the process sees it: how it is doing, over all workers. An agent without replicas has one.

use crate::{
    breaker::{BreakerSettings, SharedBreaker},
    status::ReplicaStatus,
};
use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

/// A replica of an agent.
pub(crate) struct Replica {
    /// Where it is, for people.
    pub(crate) target: String,
    /// Which replica is asked where there is a choice. Whether the agent is asked at all says the agent's own.
    pub(crate) breaker: SharedBreaker,
    /// Those that are up.
    pub(crate) connections: AtomicUsize,
    /// How many calls it says that it bears at once; 0 when it does not say.
    pub(crate) bears: AtomicUsize,
    trouble: Mutex<Trouble>,
    /// What it was heard to say last, for the log.
    heard: Mutex<String>,
}

/// Why there is no connection.
#[derive(Debug, Default)]
struct Trouble {
    error: Option<String>,
    /// The agent does not want it to be otherwise: it refused what it is configured with or for.
    refused: bool,
}

impl Replica {
    pub(crate) fn new(target: String, breaker: BreakerSettings) -> Self {
        Self {
            target,
            breaker: SharedBreaker::new(breaker),
            connections: AtomicUsize::new(0),
            bears: AtomicUsize::new(0),
            trouble: Mutex::default(),
            heard: Mutex::default(),
        }
    }

    /// Whether another one is to be preferred, because calls to this one failed again and again and it is not yet time to try
    /// it once more.
    pub(crate) fn is_failing(&self, now: Instant) -> bool {
        self.breaker.refuses(now)
    }

    /// There is a connection.
    pub(crate) fn connected(&self) {
        *self.trouble() = Trouble::default();
    }

    /// Why there is no connection; `None` while there is.
    pub(crate) fn error(&self) -> Option<String> {
        self.trouble().error.clone()
    }

    /// The reason, if it refused.
    pub(crate) fn refusal(&self) -> Option<String> {
        let trouble = self.trouble();
        trouble.error.clone().filter(|_| trouble.refused)
    }

    /// Remembers why there is no connection, and whether the agent refused it. Returns whether this is news, so that the same
    /// error is logged once and not at every attempt of every worker.
    pub(crate) fn record_error(&self, error: &str, refused: bool) -> bool {
        let mut trouble = self.trouble();
        let news = trouble.error.as_deref() != Some(error);
        if news {
            trouble.error = Some(error.to_owned());
        }
        trouble.refused = refused;
        news
    }

    /// Whether it has said something else before, on whatever connection.
    pub(crate) fn is_news(&self, said: &str) -> bool {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *heard != said;
        if news {
            said.clone_into(&mut heard);
        }
        news
    }

    pub(crate) fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            target: self.target.clone(),
            connections: self.connections.load(Relaxed),
            breaker: self.breaker.state(),
            last_error: self.error(),
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        // What is in there is whole at every moment, so a poisoned lock loses nothing.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
