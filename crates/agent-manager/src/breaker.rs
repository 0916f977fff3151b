//! The circuit breaker of an agent: a pure state machine, and the shared form in which all workers use it.
//!
//! ```text
//!             failures in a row                      a probe fails
//!   closed ──────────────────────► open ◄──────────────────────────────┐
//!     ▲                             │  after open-for; lost connections │
//!     │                             │  as soon as the agent can be      │
//!     │ successes in a row          │  reached again                    │
//!     └──────────────── half-open ◄─┘ ──────────────────────────────────┘
//! ```
//!
//! A call that was admitted before the state changed no longer counts: each state has a number, and what a call reports goes
//! only to the state that admitted it.
//!
//! Failures are in a row when the agent has answered nobody in between. A call that is not answered in time, or badly, while
//! others are answered does not count while the breaker is closed: many calls at once that all take too long come from an
//! agent that has too much to do and works it off, and whoever can send much at once could else shut it off for everybody. Nor do
//! failures open it that all began before the first of them was known: they are one crowd, and one more call has to fail behind
//! them.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// When a breaker opens and closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row that open it; at least 1.
    pub failures: u32,
    /// Successes in a row of probes that close it; at least 1.
    pub successes: u32,
    /// How long it stays open after failures other than lost connections.
    pub open_for: Duration,
    /// How many probes may run at once while it is half-open; at least 1.
    pub probes: u32,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            successes: 2,
            open_for: Duration::from_secs(30),
            probes: 1,
        }
    }
}

/// The state, for metrics and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Calls are made.
    Closed,
    /// No calls are made.
    Open,
    /// Some calls are made, to find out whether the agent is well.
    HalfOpen,
}

impl BreakerState {
    /// Every state, for metrics.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// How a call ended, as far as the breaker is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The agent gave a verdict, whatever it was.
    Success,
    /// The agent cannot be reached, or its connection was lost.
    Lost,
    /// No answer in time, or not a valid one.
    Failed,
    /// Says nothing about the agent: saturation, a budget used up, a caller that went away.
    Neutral,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
        /// When the first of them was known.
        since: Option<Instant>,
    },
    Open {
        since: Instant,
        lost: bool,
    },
    HalfOpen {
        probing: u32,
        successes: u32,
    },
}

/// Admits a call; to be given back with the call's outcome. The number of the state, and when the call began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admission(u64, Instant);

/// Nothing has failed since the last answer.
const WELL: State = State::Closed {
    failures: 0,
    since: None,
};

/// The state machine. Time is an argument.
#[derive(Debug)]
struct Breaker {
    settings: BreakerSettings,
    state: State,
    number: u64,
}

impl Breaker {
    const fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            state: WELL,
            number: 0,
        }
    }

    const fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    fn admit(&mut self, now: Instant) -> Option<Admission> {
        // An agent that can be reached again is noticed sooner, see `reachable`; this is for when that goes unnoticed.
        if let State::Open { since, .. } = self.state
            && now.duration_since(since) >= self.settings.open_for
        {
            self.half_open();
        }
        match &mut self.state {
            State::Closed { .. } => {}
            State::Open { .. } => return None,
            State::HalfOpen { probing, .. } if *probing >= self.settings.probes => return None,
            State::HalfOpen { probing, .. } => *probing += 1,
        }
        Some(Admission(self.number, now))
    }

    fn record(&mut self, admission: Admission, outcome: Outcome, now: Instant) {
        if admission.0 != self.number {
            return;
        }
        match (&mut self.state, outcome) {
            (State::Closed { .. }, Outcome::Success) => self.state = WELL,
            (State::Closed { failures, since }, Outcome::Lost | Outcome::Failed) => {
                *failures = failures.saturating_add(1);
                let since = *since.get_or_insert(now);
                let is_crowd = outcome == Outcome::Failed && admission.1 < since;
                let is_enough = *failures >= self.settings.failures;
                if is_enough && (!is_crowd || self.settings.failures == 1) {
                    self.open(outcome, now);
                }
            }
            (State::HalfOpen { probing, successes }, Outcome::Success) => {
                *probing -= 1;
                *successes += 1;
                if *successes >= self.settings.successes {
                    self.enter(WELL);
                }
            }
            (State::HalfOpen { .. }, Outcome::Lost | Outcome::Failed) => self.open(outcome, now),
            (State::HalfOpen { probing, .. }, Outcome::Neutral) => *probing -= 1,
            (State::Closed { .. }, Outcome::Neutral) | (State::Open { .. }, _) => {}
        }
    }

    /// The agent has shaken hands and answered a ping.
    fn reachable(&mut self) {
        if let State::Open { lost: true, .. } = self.state {
            self.half_open();
        }
    }

    /// Whether a call would not be admitted.
    fn refuses(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => false,
            State::Open { since, .. } => now.duration_since(since) < self.settings.open_for,
            State::HalfOpen { probing, .. } => probing >= self.settings.probes,
        }
    }

    fn open(&mut self, outcome: Outcome, now: Instant) {
        self.enter(State::Open {
            since: now,
            lost: outcome == Outcome::Lost,
        });
    }

    fn half_open(&mut self) {
        self.enter(State::HalfOpen {
            probing: 0,
            successes: 0,
        });
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.number += 1;
    }

    /// Closed, and the last call was a success.
    fn is_quiet(&self) -> bool {
        self.state == WELL
    }
}

/// A breaker that all workers use. While it is closed and nothing fails, a call costs two loads and no lock.
#[derive(Debug)]
pub(crate) struct SharedBreaker {
    /// The number of the state while it is quiet, else [`NOT_QUIET`].
    quiet: AtomicU64,
    breaker: Mutex<Breaker>,
    /// What `answered` counts from.
    made: Instant,
    /// When the last answer came, in whole milliseconds.
    answered: AtomicU64,
}

const NOT_QUIET: u64 = u64::MAX;

impl SharedBreaker {
    pub(crate) fn new(settings: BreakerSettings) -> Self {
        Self {
            quiet: AtomicU64::new(0),
            breaker: Mutex::new(Breaker::new(settings)),
            made: Instant::now(),
            answered: AtomicU64::new(0),
        }
    }

    /// Admits a call; `None` while the breaker is open or all places for probes are taken. The guard reports a neutral
    /// outcome when it is dropped without another.
    pub(crate) fn admit(&self, now: Instant) -> Option<Admitted<'_>> {
        let admission = match self.quiet.load(Relaxed) {
            NOT_QUIET => self.change(|breaker| breaker.admit(now))?,
            number => Admission(number, now),
        };
        Some(Admitted {
            breaker: self,
            admission: Some(admission),
        })
    }

    /// See [`Breaker::reachable`].
    pub(crate) fn reachable(&self) {
        if self.quiet.load(Relaxed) == NOT_QUIET {
            self.change(Breaker::reachable);
        }
    }

    /// Whether [`admit`](Self::admit) would refuse; changes nothing.
    pub(crate) fn refuses(&self, now: Instant) -> bool {
        self.quiet.load(Relaxed) == NOT_QUIET && self.lock().refuses(now)
    }

    pub(crate) fn state(&self) -> BreakerState {
        self.lock().state()
    }

    fn record(&self, admission: Admission, outcome: Outcome, now: Instant) {
        if outcome == Outcome::Success {
            let now = self.milliseconds(now);
            // Most calls end in the same millisecond as another, and only read.
            if self.answered.load(Relaxed) < now {
                self.answered.fetch_max(now, Relaxed);
            }
        }
        let nothing_new = matches!(outcome, Outcome::Success | Outcome::Neutral);
        if nothing_new && self.quiet.load(Relaxed) == admission.0 {
            return;
        }
        let answers_others = outcome == Outcome::Failed
            && self.answered.load(Relaxed) > self.milliseconds(admission.1);
        self.change(|breaker| {
            if !answers_others || breaker.state() != BreakerState::Closed {
                breaker.record(admission, outcome, now);
            }
        });
    }

    fn milliseconds(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.made).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.lock();
        let result = change(&mut breaker);
        let quiet = if breaker.is_quiet() {
            breaker.number
        } else {
            NOT_QUIET
        };
        self.quiet.store(quiet, Relaxed);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        // Every change leaves a whole state, so a poisoned lock loses nothing.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that the breaker let through.
#[derive(Debug)]
pub(crate) struct Admitted<'a> {
    breaker: &'a SharedBreaker,
    admission: Option<Admission>,
}

impl Admitted<'_> {
    /// Says how the call ended.
    pub(crate) fn record(mut self, outcome: Outcome, now: Instant) {
        if let Some(admission) = self.admission.take() {
            self.breaker.record(admission, outcome, now);
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.take() {
            self.breaker
                .record(admission, Outcome::Neutral, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETTINGS: BreakerSettings = BreakerSettings {
        failures: 3,
        successes: 2,
        open_for: Duration::from_secs(10),
        probes: 1,
    };

    fn call(breaker: &mut Breaker, outcome: Outcome, now: Instant) -> bool {
        match breaker.admit(now) {
            Some(admission) => {
                breaker.record(admission, outcome, now);
                true
            }
            None => false,
        }
    }

    fn opened(outcome: Outcome, now: Instant) -> Breaker {
        let mut breaker = Breaker::new(SETTINGS);
        for _ in 0..3 {
            assert!(call(&mut breaker, outcome, now));
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(SETTINGS);
        for outcome in [
            Outcome::Failed,
            Outcome::Lost,
            Outcome::Success,
            Outcome::Failed,
            Outcome::Neutral,
            Outcome::Failed,
        ] {
            assert!(call(&mut breaker, outcome, now));
            assert_eq!(breaker.state(), BreakerState::Closed);
        }
        assert!(call(&mut breaker, Outcome::Failed, now));
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[test]
    fn after_timeouts_it_waits_for_its_time_and_not_for_the_agent() {
        let start = Instant::now();
        let mut breaker = opened(Outcome::Failed, start);
        breaker.reachable();
        assert!(!call(
            &mut breaker,
            Outcome::Success,
            start + Duration::from_secs(9)
        ));
        let later = start + Duration::from_secs(10);
        assert!(call(&mut breaker, Outcome::Success, later));
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert!(call(&mut breaker, Outcome::Success, later));
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn after_lost_connections_it_waits_for_the_agent_and_at_most_its_time() {
        let start = Instant::now();
        let mut breaker = opened(Outcome::Lost, start);
        let later = start + Duration::from_secs(10);
        assert!(call(&mut breaker, Outcome::Lost, later));
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(!call(
            &mut breaker,
            Outcome::Success,
            later + Duration::from_secs(9)
        ));
        breaker.reachable();
        assert!(call(&mut breaker, Outcome::Success, start));
        assert!(call(&mut breaker, Outcome::Success, start));
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn d10_one_probe_at_a_time_and_a_dropped_one_gives_its_place_back() {
        let now = Instant::now();
        let mut breaker = opened(Outcome::Lost, now);
        breaker.reachable();
        let probe = breaker.admit(now).unwrap();
        assert_eq!(breaker.admit(now), None);
        breaker.record(probe, Outcome::Neutral, now);
        assert!(breaker.admit(now).is_some());
    }

    #[test]
    fn one_failed_probe_opens_it_again() {
        let now = Instant::now();
        let mut breaker = opened(Outcome::Lost, now);
        breaker.reachable();
        assert!(call(&mut breaker, Outcome::Success, now));
        assert!(call(&mut breaker, Outcome::Failed, now));
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[test]
    fn calls_of_an_earlier_state_do_not_count() {
        let now = Instant::now();
        let mut breaker = Breaker::new(SETTINGS);
        let old = breaker.admit(now).unwrap();
        for _ in 0..3 {
            call(&mut breaker, Outcome::Lost, now);
        }
        breaker.reachable();
        breaker.record(old, Outcome::Failed, now);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        let probe = breaker.admit(now).unwrap();
        breaker.record(old, Outcome::Success, now);
        assert_eq!(breaker.admit(now), None);
        breaker.record(probe, Outcome::Success, now);
    }

    #[test]
    fn failures_beside_answers_are_not_in_a_row() {
        let shared = SharedBreaker::new(SETTINGS);
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        // A crowd comes at once; some of it is answered, and the rest waits for too long.
        let mut crowd: Vec<_> = (0..20).map(|_| shared.admit(start).unwrap()).collect();
        for answered in crowd.drain(..5) {
            answered.record(Outcome::Success, after(49));
        }
        for late in crowd {
            late.record(Outcome::Failed, after(50));
        }
        assert_eq!(shared.state(), BreakerState::Closed);
        // From then on it answers nobody, neither a crowd nor whoever comes behind it.
        let crowd: Vec<_> = (0..20).map(|_| shared.admit(after(60)).unwrap()).collect();
        for late in crowd {
            late.record(Outcome::Failed, after(110));
        }
        assert_eq!(shared.state(), BreakerState::Closed);
        let call = shared.admit(after(111)).unwrap();
        call.record(Outcome::Failed, after(161));
        assert_eq!(shared.state(), BreakerState::Open);
        // Of probes each counts.
        let late = after(20_000);
        shared.admit(late).unwrap().record(Outcome::Success, late);
        let probe = shared.admit(late).unwrap();
        probe.record(Outcome::Failed, late);
        assert_eq!(shared.state(), BreakerState::Open);
    }

    #[test]
    fn d10_a_dropped_guard_is_neutral() {
        let shared = SharedBreaker::new(SETTINGS);
        let now = Instant::now();
        for _ in 0..3 {
            shared.admit(now).unwrap().record(Outcome::Lost, now);
        }
        assert!(shared.admit(now).is_none());
        shared.reachable();
        drop(shared.admit(now).unwrap());
        for _ in 0..2 {
            shared.admit(now).unwrap().record(Outcome::Success, now);
        }
        assert_eq!(shared.state(), BreakerState::Closed);
        assert!(shared.admit(now).is_some());
    }

    proptest! {
        /// Whatever happens in whatever order: never more probes than allowed, and once every call has ended and the agent
        /// is well again, calls are admitted again.
        #[test]
        fn never_too_many_probes_and_never_stuck(
            failures in 1u32..4, successes in 1u32..5, probes in 1u32..4,
            steps in proptest::collection::vec((0u8..7, 0usize..8), 0..200),
        ) {
            let settings = BreakerSettings { failures, successes, open_for: Duration::from_secs(5), probes };
            let mut breaker = Breaker::new(settings);
            let mut now = Instant::now();
            let mut running: Vec<Admission> = Vec::new();
            for (what, which) in steps {
                match what {
                    0 | 1 => running.extend(breaker.admit(now)),
                    2..=5 => if !running.is_empty() {
                        let admission = running.swap_remove(which % running.len());
                        let outcome = [Outcome::Success, Outcome::Lost, Outcome::Failed, Outcome::Neutral][usize::from(what - 2)];
                        breaker.record(admission, outcome, now);
                    },
                    _ => if which < 4 { breaker.reachable() } else { now += Duration::from_secs(2) },
                }
                if let State::HalfOpen { probing, .. } = breaker.state {
                    let current = running.iter().filter(|admission| admission.0 == breaker.number).count();
                    prop_assert_eq!(probing as usize, current);
                    prop_assert!(probing <= probes);
                }
            }
            for admission in running {
                breaker.record(admission, Outcome::Neutral, now);
            }
            breaker.reachable();
            now += Duration::from_secs(5);
            for _ in 0..successes {
                prop_assert!(call(&mut breaker, Outcome::Success, now));
            }
            prop_assert_eq!(breaker.state(), BreakerState::Closed);
        }
    }
}
