//! How long calls take of late: an average in which a call counts for less the longer ago it was.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// After this time a call counts for about a third of what it did.
const MEMORY: Duration = Duration::from_secs(10);

/// The average of one connection. Written by the worker that the connection belongs to and read by everybody, so plain loads
/// and stores do: nothing has to be added up in one step.
#[derive(Debug)]
pub(super) struct Pace {
    began: Instant,
    /// In nanoseconds; 0 before the first call.
    average: AtomicU64,
    /// When it was brought up to date last, in nanoseconds after `began`.
    at: AtomicU64,
}

impl Pace {
    pub(super) const fn new(began: Instant) -> Self {
        Self {
            began,
            average: AtomicU64::new(0),
            at: AtomicU64::new(0),
        }
    }

    /// A call has ended.
    pub(super) fn observe(&self, took: Duration, now: Instant) {
        let before = self.average.load(Relaxed);
        let average = match before {
            0 => nanoseconds(took),
            _ => mixed(before, took, self.since(now)),
        };
        // 0 would mean that nothing is known.
        self.average.store(average.max(1), Relaxed);
        let at = now.saturating_duration_since(self.began);
        self.at.store(nanoseconds(at), Relaxed);
    }

    /// What to expect of the next call. What was slow and is not used is forgotten, so that it is tried again.
    pub(super) fn expected(&self, now: Instant) -> Duration {
        let average = self.average.load(Relaxed) as f64;
        Duration::from_nanos((average * kept(self.since(now))) as u64)
    }

    /// The average as it was after the last call; `None` before the first.
    pub(super) fn average(&self) -> Option<Duration> {
        let average = self.average.load(Relaxed);
        (average > 0).then(|| Duration::from_nanos(average))
    }

    fn since(&self, now: Instant) -> Duration {
        let at = self.began + Duration::from_nanos(self.at.load(Relaxed));
        now.saturating_duration_since(at)
    }
}

/// The share of an average that is left after this time.
fn kept(time: Duration) -> f64 {
    (-time.as_secs_f64() / MEMORY.as_secs_f64()).exp()
}

fn mixed(average: u64, took: Duration, since: Duration) -> u64 {
    /// So much a call counts at least, however soon it comes after another.
    const LEAST: f64 = 0.02;
    let kept = kept(since).min(1.0 - LEAST);
    (average as f64 * kept + nanoseconds(took) as f64 * (1.0 - kept)) as u64
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn near(one: Duration, other: Duration) -> bool {
        one.abs_diff(other) < other / 50 + MS / 100
    }

    #[test]
    fn an_average_follows_what_calls_take_and_forgets() {
        let began = Instant::now();
        let pace = Pace::new(began);
        assert_eq!(
            (pace.average(), pace.expected(began)),
            (None, Duration::ZERO)
        );
        pace.observe(10 * MS, began);
        assert_eq!(pace.average(), Some(10 * MS));
        // Long after, the earlier call counts for nothing.
        let later = began + 20 * MEMORY;
        pace.observe(2 * MS, later);
        assert!(near(pace.average().unwrap(), 2 * MS), "{pace:?}");
        // Soon after, it counts for nearly all.
        pace.observe(100 * MS, later);
        let average = pace.average().unwrap();
        assert!(near(average, 2 * MS + 98 * MS / 50), "{average:?}");
        for _ in 0..500 {
            pace.observe(100 * MS, later);
        }
        assert!(near(pace.average().unwrap(), 100 * MS), "{pace:?}");
        // One that is not used comes back into play, and what is shown of it stays.
        assert!(pace.expected(later + 5 * MEMORY) < MS);
        assert!(near(pace.average().unwrap(), 100 * MS), "{pace:?}");
    }
}
