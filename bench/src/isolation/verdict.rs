//! From pairs to a verdict.

use super::scene::Measured;
use crate::statistics::median;
use std::{collections::BTreeMap, fmt};

/// The bar: at most this many times as long, or at most so much longer. Whichever is more, because the one is too strict for
/// latencies that are short, and the other for those that are long.
const RATIO: f64 = 1.5;
const DIFFERENCE_US: f64 = 2_000.0;

/// With more than this share of the machine in use, latencies are those of the machine.
const BUSY: f64 = 0.5;

/// The two halves of a round.
pub(super) struct Pair {
    pub(super) well: Measured,
    pub(super) ill: Measured,
}

impl Pair {
    fn ratio(&self) -> f64 {
        self.ill.p99_us() / self.well.p99_us()
    }

    fn difference_us(&self) -> f64 {
        self.ill.p99_us() - self.well.p99_us()
    }
}

impl Measured {
    fn p99_us(&self) -> f64 {
        self.free.latency.p99_us
    }

    /// The share of one processor that the proxy has used, 0 to 1.
    fn proxy_busy(&self) -> f64 {
        let used_ns = self.free.usage.first().map_or(0, |usage| usage.cpu_ns);
        used_ns as f64 / 1e9 / self.free.seconds
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let half = |half: &Measured| {
            format!(
                "{:.0} us (proxy {:.0} %, machine {:.0} % busy)",
                half.p99_us(),
                half.proxy_busy() * 100.0,
                half.busy * 100.0
            )
        };
        write!(f, "p99 well {}, ill {}", half(&self.well), half(&self.ill))
    }
}

/// What the pairs of a trouble say.
pub(super) struct Verdict<'a> {
    pairs: &'a [Pair],
    /// Medians of the pairs.
    ratio: f64,
    difference_us: f64,
}

impl<'a> Verdict<'a> {
    pub(super) fn of(pairs: &'a [Pair]) -> Self {
        let of_pairs =
            |figure: fn(&Pair) -> f64| median(&pairs.iter().map(figure).collect::<Vec<_>>());
        Self {
            pairs,
            ratio: of_pairs(Pair::ratio),
            difference_us: of_pairs(Pair::difference_us),
        }
    }

    /// Whether the route that asks nobody is as quick as it was, and never failed, on a machine that can tell.
    pub(super) fn is_met(&self) -> bool {
        is_quick(self.ratio, self.difference_us) && self.errors() == 0 && !self.is_too_busy()
    }

    fn is_too_busy(&self) -> bool {
        self.halves().any(|half| half.busy > BUSY)
    }

    fn halves(&self) -> impl Iterator<Item = &Measured> {
        self.pairs.iter().flat_map(|pair| [&pair.well, &pair.ill])
    }

    fn errors(&self) -> u64 {
        self.halves().map(|half| half.free.errors).sum()
    }

    /// One half of all rounds: what both clients saw, and what the proxy and the machine did.
    fn line(
        &self,
        f: &mut fmt::Formatter<'_>,
        name: &str,
        half: fn(&Pair) -> &Measured,
    ) -> fmt::Result {
        let halves: Vec<&Measured> = self.pairs.iter().map(half).collect();
        let (Some(first), Some(last)) = (halves.first(), halves.last()) else {
            return Ok(());
        };
        let of_halves = |figure: fn(&Measured) -> f64| {
            median(&halves.iter().map(|half| figure(half)).collect::<Vec<_>>())
        };
        let mut statuses = BTreeMap::<u16, u64>::new();
        for (status, count) in halves.iter().flat_map(|half| &half.asked.statuses) {
            *statuses.entry(*status).or_default() += count;
        }
        let broken_off: u64 = halves.iter().map(|half| half.asked.errors).sum();
        writeln!(
            f,
            "  {name:<4}  free: p50 {:.0} us, p99 {:.0} us   asked: p99 {:.0} us, {statuses:?}, {broken_off} broken off",
            of_halves(|half| half.free.latency.p50_us),
            of_halves(Measured::p99_us),
            of_halves(|half| half.asked.latency.p99_us),
        )?;
        let busiest = halves.iter().map(|half| half.busy).fold(0.0, f64::max);
        writeln!(
            f,
            "        RSS: {} at the start, {} after the first round, {} after the last, {} at most   machine: at most {:.0} % busy",
            mebibytes(first.before.resident_bytes),
            mebibytes(first.after.resident_bytes),
            mebibytes(last.after.resident_bytes),
            mebibytes(last.after.peak_bytes),
            busiest * 100.0,
        )
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.line(f, "well", |pair| &pair.well)?;
        self.line(f, "ill", |pair| &pair.ill)?;
        let verdict = match self.is_met() {
            true => "met",
            false if self.is_too_busy() => "the machine was too busy to tell",
            false => "NOT met",
        };
        writeln!(
            f,
            "  ill = {:.2} x well, {:+.0} us (medians of {} pairs), {} failed  bar: at most {RATIO} x or {DIFFERENCE_US:+} us: {verdict}",
            self.ratio,
            self.difference_us,
            self.pairs.len(),
            self.errors(),
        )
    }
}

fn is_quick(ratio: f64, difference_us: f64) -> bool {
    ratio <= RATIO || difference_us <= DIFFERENCE_US
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_the_more_generous_one() {
        for (ratio, difference_us, met) in [
            (1.0, 0.0, true),
            (0.9, -100.0, true),
            (5.0, 1_900.0, true),
            (1.4, 20_000.0, true),
            (1.6, 2_100.0, false),
        ] {
            assert_eq!(
                is_quick(ratio, difference_us),
                met,
                "{ratio} {difference_us}"
            );
        }
    }
}
