//! A target: a server of an upstream, and what the process knows about how it is doing.

use super::{
    outlier::{Ejection, Whereabouts},
    sticky::Tag,
};
use pingora::upstreams::peer::HttpPeer;
use portcullis_config::Outlier;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
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
    /// Whether it only stands in for the others.
    pub(crate) is_backup: bool,
}

/// A target, ready to be taken.
#[derive(Debug)]
pub(crate) struct Target {
    pub(super) address: Option<Arc<str>>,
    pub(super) weight: u32,
    pub(super) is_backup: bool,
    /// What every connection to the target starts from; requests get copies.
    pub(super) peer: HttpPeer,
    /// What a sticky cookie says instead of its address.
    pub(super) tag: Option<Tag>,
    /// How fast the average of its answers forgets, where somebody wants to know it.
    pub(super) decay: Option<Duration>,
    pub(super) state: Arc<TargetState>,
}

/// How a target is doing. There is one for the process, whatever the worker, and it stays when a configuration or a set of
/// targets is replaced by one that has the target too.
#[derive(Debug)]
pub(crate) struct TargetState {
    /// Moments are counted from it.
    born: Instant,
    /// Requests that it was given and that are not over.
    in_flight: AtomicU32,
    /// How long answers took of late, in seconds, as the bits of an `f64`; see `latency`.
    latency: AtomicU64,
    /// When that was, in nanoseconds. 0 is never.
    observed: AtomicU64,
    /// When it came and had to be spared at first, in nanoseconds. 0 is never.
    came: AtomicU64,
    /// What health checks say, see `health`.
    health: AtomicU8,
    pub(super) ejection: Ejection,
    checks: Checks,
}

/// What came of the checks of a target's health.
#[derive(Debug, Default)]
struct Checks {
    passed: AtomicU64,
    failed: AtomicU64,
    /// What was wrong the last time that something was.
    problem: Mutex<Option<Box<str>>>,
}

const UNKNOWN: u8 = 0;
const HEALTHY: u8 = 1;
const UNHEALTHY: u8 = 2;

impl TargetState {
    /// A target that comes late comes to others that are used to their work.
    pub(super) fn new(now: Instant, is_late: bool) -> Self {
        Self {
            born: now,
            in_flight: AtomicU32::new(0),
            latency: AtomicU64::new(0),
            observed: AtomicU64::new(0),
            came: AtomicU64::new(is_late.into()),
            health: AtomicU8::new(UNKNOWN),
            ejection: Ejection::default(),
            checks: Checks::default(),
        }
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Whether it should be given requests.
    pub(super) fn is_in_order(&self, now: Instant) -> bool {
        self.health.load(Relaxed) != UNHEALTHY && !self.is_ejected(now)
    }

    /// Whether it gets nothing because of its answers.
    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        match self.ejection.whereabouts(self.nanos(now)) {
            Whereabouts::In => false,
            Whereabouts::Out => true,
            Whereabouts::Back => {
                self.comes(now);
                false
            }
        }
    }

    /// In one word, for people.
    pub(super) fn word(&self, now: Instant) -> &'static str {
        if self.is_in_order(now) {
            "up"
        } else if self.health() == Some(false) {
            "unhealthy"
        } else {
            "ejected"
        }
    }

    /// What health checks say; `None`: nothing, and it counts as healthy.
    pub(super) fn health(&self) -> Option<bool> {
        match self.health.load(Relaxed) {
            UNKNOWN => None,
            health => Some(health == HEALTHY),
        }
    }

    /// Health checks say something else than before.
    pub(super) fn set_health(&self, is_healthy: bool, now: Instant) {
        let health = if is_healthy { HEALTHY } else { UNHEALTHY };
        if self.health.swap(health, Relaxed) == UNHEALTHY {
            self.comes(now);
        }
    }

    /// Nobody asks any longer.
    pub(super) fn forget_health(&self) {
        self.health.store(UNKNOWN, Relaxed);
    }

    /// A health check ended, with this problem or none.
    pub(super) fn checked(&self, problem: Option<&str>) {
        match problem {
            None => self.checks.passed.fetch_add(1, Relaxed),
            Some(_) => self.checks.failed.fetch_add(1, Relaxed),
        };
        if let Some(problem) = problem {
            *self.problem_slot() = Some(problem.into());
        }
    }

    /// Checks that it passed and that it failed.
    pub(super) fn checks(&self) -> (u64, u64) {
        let Checks { passed, failed, .. } = &self.checks;
        (passed.load(Relaxed), failed.load(Relaxed))
    }

    /// What was wrong the last time that something was.
    pub(super) fn problem(&self) -> Option<Box<str>> {
        self.problem_slot().clone()
    }

    fn problem_slot(&self) -> std::sync::MutexGuard<'_, Option<Box<str>>> {
        // Every change is whole, so a poisoned lock loses nothing.
        let lock = self.checks.problem.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// It is not used to its work.
    fn comes(&self, now: Instant) {
        self.came.store(self.nanos(now).max(1), Relaxed);
    }

    /// Ejects it, and says for how long.
    pub(super) fn eject(&self, settings: &Outlier, now: Instant) -> Duration {
        self.ejection.eject(settings, self.nanos(now))
    }

    /// What part of its share it gets when one that has come needs so long to warm up.
    pub(super) fn warmth(&self, takes: Duration, now: Instant) -> f64 {
        /// So much of its share at least, or it would never get warm.
        const LEAST: f64 = 0.1;
        let came = self.came.load(Relaxed);
        if came == 0 {
            return 1.0;
        }
        let since = Duration::from_nanos(self.nanos(now).saturating_sub(came));
        if since >= takes {
            // Most that ask will ask after that.
            self.came.store(0, Relaxed);
            return 1.0;
        }
        (since.as_secs_f64() / takes.as_secs_f64()).max(LEAST)
    }

    /// How long answers took of late, as far as that is still known. `None`: there was none.
    pub(super) fn latency(&self, decay: Duration, now: Instant) -> Option<Duration> {
        let observed = self.observed.load(Relaxed);
        if observed == 0 {
            return None;
        }
        let average = f64::from_bits(self.latency.load(Relaxed));
        let left = self.left(observed, decay, now);
        Some(Duration::try_from_secs_f64(average * left).unwrap_or_default())
    }

    /// An answer took so long. Two of them at the same time may count as one.
    pub(super) fn observe(&self, took: Duration, decay: Duration, now: Instant) {
        let took = took.as_secs_f64();
        let observed = self.observed.load(Relaxed);
        let average = f64::from_bits(self.latency.load(Relaxed));
        let left = self.left(observed, decay, now);
        let average = if observed == 0 || took >= average {
            took
        } else {
            average.mul_add(left, took * (1.0 - left))
        };
        self.latency.store(average.to_bits(), Relaxed);
        self.observed.store(self.nanos(now).max(1), Relaxed);
    }

    /// What is left of something that was observed then.
    fn left(&self, observed: u64, decay: Duration, now: Instant) -> f64 {
        let since = Duration::from_nanos(self.nanos(now).saturating_sub(observed));
        (-since.as_secs_f64() / decay.as_secs_f64()).exp()
    }

    fn nanos(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.born).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

/// A request in the hands of a target, until it is over or another target has it.
#[derive(Debug)]
pub(crate) struct Attempt {
    target: Arc<Target>,
    began: Instant,
    outcome: Outcome,
}

/// What a target has made of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Nobody knows yet. Whose client goes away before there is an answer stays so.
    Open,
    Well,
    Failed,
}

impl Attempt {
    pub(super) fn begin(target: Arc<Target>, now: Instant) -> Self {
        target.state.in_flight.fetch_add(1, Relaxed);
        Self {
            target,
            began: now,
            outcome: Outcome::Open,
        }
    }

    /// What the log calls the target.
    pub(crate) fn address(&self) -> Option<&Arc<str>> {
        self.target.address.as_ref()
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// The head of a response has come that is no failure.
    pub(super) fn answered(&mut self, now: Instant) {
        if self.outcome == Outcome::Open {
            self.outcome = Outcome::Well;
        }
        if let Some(decay) = self.target.decay {
            let took = now.saturating_duration_since(self.began);
            self.target.state.observe(took, decay, now);
        }
    }

    /// It did not answer, not to the end, or with a failure. Returns whether that is news.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        /// Who refuses at once is not fast.
        const AS_GOOD_AS: Duration = Duration::from_secs(1);
        let before = std::mem::replace(&mut self.outcome, Outcome::Failed);
        if before == Outcome::Failed {
            return false;
        }
        if let Some(decay) = self.target.decay {
            let took = now.saturating_duration_since(self.began);
            self.target.state.observe(took.max(AS_GOOD_AS), decay, now);
        }
        true
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let state = &self.target.state;
        state.in_flight.fetch_sub(1, Relaxed);
        if self.outcome == Outcome::Well {
            state.ejection.went_well();
        }
    }
}
