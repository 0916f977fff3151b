//! Medians with honest intervals, and a histogram of latencies.
//!
//! The interval of a median is made of order statistics: of n values in order, the median of the population lies between
//! the k-th smallest and the k-th largest with the probability that a fair coin, thrown n times, shows heads at least k
//! and at most n - k times. This holds for every distribution, needs no random numbers, and gives the same answer each time.
//! Its coverage is at least what was asked for; with fewer than six values 95 % cannot be had, and the whole range is given
//! with the coverage that it has.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A median and where the true one lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Estimate {
    /// The median of the values.
    pub(crate) median: f64,
    /// The lower end of its interval.
    pub(crate) low: f64,
    /// The upper end of its interval.
    pub(crate) high: f64,
    /// The probability that the interval holds the true median, 0 to 1.
    pub(crate) coverage: f64,
}

impl Estimate {
    /// The probability that an interval shall have at least.
    pub(crate) const CONFIDENCE: f64 = 0.95;

    /// The median of `values` with its interval. None without values, or if one is not a number.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| value.is_nan()) {
            return None;
        }
        let mut ordered = values.to_vec();
        ordered.sort_by(f64::total_cmp);
        let (rank, coverage) = interval_rank(ordered.len(), Self::CONFIDENCE);
        Some(Self {
            median: median_of_ordered(&ordered),
            low: ordered[rank - 1],
            high: ordered[ordered.len() - rank],
            coverage,
        })
    }
}

/// The median; 0 without values.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut ordered = values.to_vec();
    ordered.sort_by(f64::total_cmp);
    median_of_ordered(&ordered)
}

fn median_of_ordered(ordered: &[f64]) -> f64 {
    let middle = ordered.len() / 2;
    match ordered.len() {
        0 => 0.0,
        count if count % 2 == 1 => ordered[middle],
        _ => f64::midpoint(ordered[middle - 1], ordered[middle]),
    }
}

/// The largest k for which the k-th smallest and the k-th largest of `count` values enclose the median with at least
/// `confidence`, and the coverage of that interval; 1 if there is none.
fn interval_rank(count: usize, confidence: f64) -> (usize, f64) {
    let mut rank = 1;
    let mut best = coverage(count, 1);
    while 2 * (rank + 1) <= count + 1 && coverage(count, rank + 1) >= confidence {
        rank += 1;
        best = coverage(count, rank);
    }
    (rank, best)
}

/// P(rank <= heads <= count - rank) for `count` throws of a fair coin.
fn coverage(count: usize, rank: usize) -> f64 {
    // The binomial weights, each made of the one before; 0.5^count is a normal number up to a thousand throws.
    let mut weight = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut below = 0.0;
    for heads in 0..rank {
        below += weight;
        weight *= (count - heads) as f64 / (heads + 1) as f64;
    }
    (1.0 - 2.0 * below).max(0.0)
}

/// Buckets in one power of two: a value is kept with an error below 1/64.
const SUB_BUCKET_BITS: u32 = 6;
const SUB_BUCKETS: u64 = 1 << SUB_BUCKET_BITS;

/// Counts of durations in nanoseconds, in buckets that grow with the value: exact below 64 ns, within 1.6 % above.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    total_ns: u128,
    max_ns: u64,
}

/// What is reported of a histogram, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
pub(crate) struct Latency {
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

impl Histogram {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let last = bucket_of(u64::MAX);
        Self {
            buckets: vec![0; last + 1],
            count: 0,
            total_ns: 0,
            max_ns: 0,
        }
    }

    /// Counts one duration.
    pub(crate) fn record(&mut self, duration: Duration) {
        let value_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(value_ns)] += 1;
        self.count += 1;
        self.total_ns += u128::from(value_ns);
        self.max_ns = self.max_ns.max(value_ns);
    }

    /// The duration in nanoseconds below or at which `share` (0 to 1) of the values lie; 0 when it is empty.
    pub(crate) fn quantile_ns(&self, share: f64) -> u64 {
        let wanted = ((share * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return highest_of(bucket).min(self.max_ns);
            }
        }
        0
    }

    /// The figures for a report.
    pub(crate) fn summary(&self) -> Latency {
        let micros = |share| self.quantile_ns(share) as f64 / 1_000.0;
        Latency {
            mean_us: self.total_ns as f64 / (self.count.max(1) as f64) / 1_000.0,
            p50_us: micros(0.5),
            p90_us: micros(0.9),
            p99_us: micros(0.99),
            p999_us: micros(0.999),
            max_us: self.max_ns as f64 / 1_000.0,
        }
    }
}

/// The bucket of a value: its power of two and the six bits after the highest one.
fn bucket_of(value: u64) -> usize {
    if value < SUB_BUCKETS {
        return value as usize;
    }
    let shift = value.ilog2() - SUB_BUCKET_BITS;
    (u64::from(shift) * SUB_BUCKETS + (value >> shift)) as usize
}

/// The highest value of a bucket.
fn highest_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * SUB_BUCKETS {
        return bucket;
    }
    let shift = bucket / SUB_BUCKETS - 1;
    let lowest = (bucket - shift * SUB_BUCKETS) << shift;
    lowest + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_values() {
        for (values, expected) in [
            (vec![], 0.0),
            (vec![3.0], 3.0),
            (vec![4.0, 1.0], 2.5),
            (vec![9.0, 1.0, 5.0], 5.0),
            (vec![4.0, 3.0, 2.0, 1.0], 2.5),
        ] {
            assert_eq!(median(&values), expected, "{values:?}");
        }
    }

    #[test]
    fn ranks_and_coverage_are_those_of_the_tables() {
        // n, k and the coverage in per mille, as printed in tables of the sign test.
        for (count, rank, per_mille) in [
            (1, 1, 0),
            (2, 1, 500),
            (5, 1, 938),
            (6, 1, 969),
            (8, 1, 992),
            (9, 2, 961),
            (10, 2, 979),
            (11, 2, 988),
            (12, 3, 961),
            (15, 4, 965),
            (20, 6, 959),
            (30, 10, 957),
        ] {
            let (found, coverage) = interval_rank(count, 0.95);
            assert_eq!(found, rank, "rank of {count}");
            assert_eq!(
                (coverage * 1000.0).round(),
                f64::from(per_mille),
                "coverage of {count}"
            );
        }
    }

    #[test]
    fn an_estimate_takes_the_second_smallest_and_largest_of_ten() {
        let values = [1.9, 1.0, 1.1, 1.8, 1.2, 1.7, 1.3, 1.6, 1.4, 1.5];
        let estimate = Estimate::of(&values).unwrap();
        assert!((estimate.median - 1.45).abs() < 1e-12);
        assert_eq!((estimate.low, estimate.high), (1.1, 1.8));
        assert!(estimate.coverage >= Estimate::CONFIDENCE);
    }

    #[test]
    fn an_estimate_of_too_few_values_is_their_range_and_says_so() {
        let estimate = Estimate::of(&[2.0, 1.0, 4.0]).unwrap();
        assert_eq!(
            (estimate.low, estimate.median, estimate.high),
            (1.0, 2.0, 4.0)
        );
        assert_eq!(estimate.coverage, 0.75);
        assert_eq!(Estimate::of(&[]), None);
        assert_eq!(Estimate::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn every_value_lies_in_its_bucket() {
        let mut values: Vec<u64> = (0..1000).collect();
        values.extend((6..64).flat_map(|power| {
            let base = 1_u64 << power;
            [base - 1, base, base + 1, base + base / 3]
        }));
        values.push(u64::MAX);
        for value in values {
            let bucket = bucket_of(value);
            assert!(highest_of(bucket) >= value, "{value}");
            assert!(bucket == 0 || highest_of(bucket - 1) < value, "{value}");
            let error = (highest_of(bucket) - value) as f64 / (value.max(1) as f64);
            assert!(error < 1.0 / 63.0, "{value}: {error}");
        }
    }

    #[test]
    fn quantiles_of_a_known_set() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile_ns(0.5), 0);
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        let latency = histogram.summary();
        for (found, expected) in [
            (latency.p50_us, 500.0),
            (latency.p90_us, 900.0),
            (latency.p99_us, 990.0),
            (latency.p999_us, 999.0),
        ] {
            assert!(
                (found / expected - 1.0).abs() < 0.016,
                "{found} for {expected}"
            );
        }
        assert_eq!(latency.max_us, 1000.0);
        assert_eq!(latency.mean_us, 500.5);
    }
}
