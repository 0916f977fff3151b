//! Who among several targets is taken, a file for each way to decide. What they have in common: a target that must not be taken
//! is passed over, a larger weight is a larger share, and what is chosen at random is drawn by whoever asks.

mod least_requests;
mod maglev;
mod p2c_ewma;
mod random;
mod ring;
mod round_robin;
mod schedule;

use super::target::Target;
use maglev::Maglev;
use portcullis_config::{Balance, HashAlgorithm};
use random::Random;
use ring::Ring;
use round_robin::RoundRobin;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Those among whom one is chosen, at one moment.
pub(super) struct Field<'a> {
    pub(super) targets: &'a [Arc<Target>],
    /// Whether a target may be taken.
    pub(super) usable: &'a dyn Fn(&Target) -> bool,
    /// For so long a target that has just come gets less than its share.
    pub(super) slow_start: Option<Duration>,
    pub(super) now: Instant,
}

/// A number below the given one, all equally likely. The given one is not zero.
pub(super) type Draw<'a> = &'a mut dyn FnMut(u64) -> u64;

impl Field<'_> {
    fn is_usable(&self, position: usize) -> bool {
        self.targets
            .get(position)
            .is_some_and(|target| (self.usable)(target))
    }

    /// The positions of those that may be taken.
    fn usable(&self) -> impl Iterator<Item = usize> {
        (0..self.targets.len()).filter(|position| self.is_usable(*position))
    }

    /// What part of its share a target gets, more than 0 and at most 1.
    fn warmth(&self, position: usize) -> f64 {
        match (self.slow_start, self.targets.get(position)) {
            (Some(takes), Some(target)) => target.state.warmth(takes, self.now),
            _ => 1.0,
        }
    }

    /// The weight of a target as it counts now.
    fn weight(&self, position: usize) -> f64 {
        let weight = self.targets.get(position).map_or(1, |target| target.weight);
        f64::from(weight.max(1)) * self.warmth(position)
    }

    /// Whether a target that has just come takes a turn that is its.
    fn takes_turn(&self, position: usize, draw: Draw<'_>) -> bool {
        const STEPS: u64 = 1 << 20;
        let warmth = self.warmth(position);
        warmth >= 1.0 || (draw(STEPS) as f64) < warmth * STEPS as f64
    }
}

/// How one of several targets is chosen, with what was computed for it when the targets were known.
#[derive(Debug)]
pub(super) enum Balancer {
    RoundRobin(RoundRobin),
    LeastRequests,
    P2cEwma { decay: Duration },
    Random(Random),
    Ring(Ring),
    Maglev(Maglev),
}

impl Balancer {
    pub(super) fn new(balance: &Balance, targets: &[Arc<Target>]) -> Self {
        let weights: Vec<u32> = targets.iter().map(|target| target.weight.max(1)).collect();
        let names = || {
            let names = targets.iter().map(|target| target.address.as_deref());
            names
                .map(|name| stable_hash(name.unwrap_or_default().as_bytes()))
                .collect::<Vec<_>>()
        };
        match balance {
            Balance::RoundRobin => Self::RoundRobin(RoundRobin::new(&weights)),
            Balance::LeastRequests => Self::LeastRequests,
            Balance::P2cEwma { decay } => Self::P2cEwma { decay: *decay },
            Balance::Random => Self::Random(Random::new(&weights)),
            Balance::Hash(hash) => match hash.algorithm {
                HashAlgorithm::Ring => Self::Ring(Ring::new(&names(), &weights)),
                HashAlgorithm::Maglev => Self::Maglev(Maglev::new(&names(), &weights)),
            },
        }
    }

    /// The position of the target that is taken; `None` when none may be. A request without a key is spread at random where a
    /// key decides.
    pub(super) fn pick(
        &self,
        field: &Field<'_>,
        key: Option<u64>,
        draw: Draw<'_>,
    ) -> Option<usize> {
        match self {
            Self::RoundRobin(turns) => turns.pick(field, draw),
            Self::LeastRequests => least_requests::pick(field, draw),
            Self::P2cEwma { decay } => p2c_ewma::pick(field, *decay, draw),
            Self::Random(random) => random.pick(field, draw),
            Self::Ring(ring) => ring.pick(field, key.unwrap_or_else(|| draw(u64::MAX))),
            Self::Maglev(maglev) => maglev.pick(field, key.unwrap_or_else(|| draw(u64::MAX))),
        }
    }
}

/// A hash that is the same in every process and every release, so that replicas of the proxy agree: FNV-1a, and on top of it
/// the finalizer of MurmurHash3, which spreads texts that differ in one digit only.
pub(super) fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(hash)
}

/// Spreads every bit over all bits.
const fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Weights without what they have in common, and small enough for all together to be about `most`. Each is at least 1.
fn scaled(weights: &[u32], most: u64) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |divisor, &weight| {
        greatest_common_divisor(divisor, weight.max(1))
    });
    let weights: Vec<u64> = weights
        .iter()
        .map(|&weight| u64::from(weight.max(1) / divisor.max(1)))
        .collect();
    let total: u64 = weights.iter().sum();
    let shrink = total.div_ceil(most).max(1);
    weights
        .iter()
        .map(|weight| (weight / shrink).max(1))
        .collect()
}

const fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests;
