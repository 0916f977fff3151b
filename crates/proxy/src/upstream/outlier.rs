//! Targets whose answers are failures get nothing for a while. Who fails as soon as it is back stays away longer each time.
//!
//! Moments are nanoseconds of the target's own clock, and 0 is none.

use portcullis_config::{FailureStatuses, Outlier, Share};
use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// What is known of a target in this respect.
#[derive(Debug, Default)]
pub(super) struct Ejection {
    /// Failures in a row.
    failures: AtomicU32,
    /// Until when it gets nothing.
    until: AtomicU64,
    /// When it was back the last time.
    back: AtomicU64,
    /// Times that it was ejected shortly after it was back.
    times: AtomicU32,
    /// Times in all.
    total: AtomicU64,
}

/// Whether a target is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whereabouts {
    In,
    Out,
    /// It is in, and nobody has noticed yet.
    Back,
}

impl Ejection {
    /// A request ended well.
    pub(super) fn went_well(&self) {
        // Nearly always there is nothing to write, and then no other processor has to read it again.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// A request failed. Returns whether this is one too many.
    pub(super) fn failed(&self, settings: &Outlier) -> bool {
        self.failures.fetch_add(1, Relaxed) + 1 >= settings.failures
    }

    /// Ejects the target, and says for how long.
    pub(super) fn eject(&self, settings: &Outlier, now: u64) -> Duration {
        let before = self.lasts(settings, self.times.load(Relaxed));
        let back = self.back.load(Relaxed);
        let well_for = Duration::from_nanos(now.saturating_sub(back));
        if back == 0 || well_for > before {
            self.times.store(0, Relaxed);
        }
        let times = self.times.fetch_add(1, Relaxed).saturating_add(1);
        let lasts = self.lasts(settings, times);
        let nanos = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
        self.until.store(now.saturating_add(nanos).max(1), Relaxed);
        self.failures.store(0, Relaxed);
        self.total.fetch_add(1, Relaxed);
        lasts
    }

    fn lasts(&self, settings: &Outlier, times: u32) -> Duration {
        settings.eject.saturating_mul(times).min(settings.max_eject)
    }

    pub(super) fn whereabouts(&self, now: u64) -> Whereabouts {
        let until = self.until.load(Relaxed);
        if until == 0 {
            return Whereabouts::In;
        }
        if now < until {
            return Whereabouts::Out;
        }
        let is_first = self
            .until
            .compare_exchange(until, 0, Relaxed, Relaxed)
            .is_ok();
        if is_first {
            self.back.store(until, Relaxed);
            return Whereabouts::Back;
        }
        Whereabouts::In
    }

    pub(super) fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }
}

/// Whether one more of so many targets may be ejected.
pub(super) fn may_eject(most: Share, all: usize, out: usize) -> bool {
    let share = all * usize::from(most.hundredths()) / usize::from(Share::WHOLE);
    all > 1 && out < share.max(1)
}

/// Whether this status is a failure of the target.
pub(super) const fn is_failure(statuses: FailureStatuses, status: u16) -> bool {
    match statuses {
        FailureStatuses::Gateway => matches!(status, 502..=504),
        FailureStatuses::ServerErrors => status >= 500,
        FailureStatuses::None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Outlier = Outlier {
        failures: 3,
        statuses: FailureStatuses::Gateway,
        eject: Duration::from_secs(30),
        max_eject: Duration::from_secs(70),
        max_ejected: Share::of_hundredths(5_000),
    };

    const fn at(seconds: u64) -> u64 {
        seconds * 1_000_000_000
    }

    #[test]
    fn only_failures_in_a_row_are_too_many() {
        let target = Ejection::default();
        assert!(!target.failed(&SETTINGS));
        assert!(!target.failed(&SETTINGS));
        target.went_well();
        assert!(!target.failed(&SETTINGS));
        assert!(!target.failed(&SETTINGS));
        assert!(target.failed(&SETTINGS));
    }

    #[test]
    fn who_fails_again_stays_away_longer() {
        let target = Ejection::default();
        let lasts = |now| target.eject(&SETTINGS, at(now)).as_secs();
        assert_eq!(lasts(100), 30);
        assert_eq!(target.whereabouts(at(129)), Whereabouts::Out);
        assert_eq!(target.whereabouts(at(130)), Whereabouts::Back);
        assert_eq!(target.whereabouts(at(130)), Whereabouts::In);
        // Back at 130, 190, 250.
        assert_eq!(lasts(131), 60);
        assert_eq!(target.whereabouts(at(191)), Whereabouts::Back);
        assert_eq!(lasts(192), 70);
        assert_eq!(target.whereabouts(at(262)), Whereabouts::Back);
        // For longer in order than it was away.
        assert_eq!(lasts(333), 30);
        assert_eq!(target.total(), 4);
    }

    #[test]
    fn some_always_stay() {
        for (percent, all, out, may) in [
            (50, 1, 0, false),
            (50, 2, 0, true),
            (50, 2, 1, false),
            (50, 4, 1, true),
            (50, 4, 2, false),
            (10, 3, 0, true),
            (10, 3, 1, false),
            (100, 3, 2, true),
            (100, 3, 3, false),
        ] {
            let most = Share::of_hundredths(percent * 100);
            assert_eq!(may_eject(most, all, out), may, "{percent} {all} {out}");
        }
    }

    #[test]
    fn statuses_that_are_failures() {
        for (statuses, failures) in [
            (FailureStatuses::Gateway, &[502, 503, 504][..]),
            (
                FailureStatuses::ServerErrors,
                &[500, 501, 502, 503, 504, 599],
            ),
            (FailureStatuses::None, &[]),
        ] {
            for status in [101, 200, 404, 429, 499, 500, 501, 502, 503, 504, 599] {
                let is = is_failure(statuses, status);
                assert_eq!(is, failures.contains(&status), "{statuses:?} {status}");
            }
        }
    }
}
