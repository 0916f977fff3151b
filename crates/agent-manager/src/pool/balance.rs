//! Which of several connections an event takes. Pure: what is known of them, and a number that is another one each time, go in;
//! a position comes out.
//!
//! Whatever the strategy, connections that can be hoped to give an answer soon go first: those of replicas that have not
//! failed of late, and among them those of agents that are well. One that has as many unanswered events as it may have is no
//! candidate at all.

use portcullis_config::PoolBalance;
use std::time::Duration;

/// What is known of a connection that could take an event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    /// Which replica it leads to.
    pub(super) replica: usize,
    pub(super) standing: Standing,
    /// Events that the agent has not answered on it.
    pub(super) unanswered: usize,
    /// How long its calls took of late; nothing when it is new or was not used for long, and where the strategy does not
    /// [need it](PoolBalance::needs_pace).
    pub(super) average: Duration,
    /// How many events the agent says that it works on at once on it; 0 when it does not say.
    pub(super) capacity: u32,
}

/// How much is to be hoped for: the first is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    Well,
    /// The agent says that not all is well.
    Degraded,
    /// The last calls to the replica failed.
    Failing,
}

/// The position of the candidate that is to take an event; `None` when there is none. `turn` yields numbers, each call another
/// one; it is asked only where it matters.
pub(super) fn choose(
    balance: PoolBalance,
    candidates: &[Candidate],
    turn: impl FnOnce() -> u64,
) -> Option<usize> {
    if candidates.len() < 2 {
        return (!candidates.is_empty()).then_some(0);
    }
    let best = candidates.iter().map(|it| it.standing).min()?;
    let eligible = || {
        let all = candidates.iter().enumerate();
        all.filter(move |(_, candidate)| candidate.standing == best)
    };
    let nth = |nth: u64| eligible().nth(usize::try_from(nth).ok()?).map(position);
    let count = eligible().count() as u64;
    match balance {
        PoolBalance::LeastInFlight => least_in_flight(eligible, turn),
        PoolBalance::RoundRobin => nth(turn() % count),
        PoolBalance::Random => nth(scaled(mixed(turn()), count)),
        PoolBalance::Fastest => eligible()
            .min_by_key(|(_, candidate)| cost(candidate))
            .map(position),
        PoolBalance::Weighted => weighted(eligible, turn()),
    }
}

fn position<T>((position, _): (usize, T)) -> usize {
    position
}

/// Of one replica the first of those that have the least to do, so that others can become idle and go; of several replicas
/// each in its turn, so that none is forgotten while there is little to do.
fn least_in_flight<'a, I>(eligible: impl Fn() -> I, turn: impl FnOnce() -> u64) -> Option<usize>
where
    I: Iterator<Item = (usize, &'a Candidate)>,
{
    let least = eligible()
        .map(|(_, candidate)| candidate.unanswered)
        .min()?;
    let idlest = || eligible().filter(move |(_, candidate)| candidate.unanswered == least);
    // Candidates stand in the order of their replicas.
    let firsts = || {
        let mut last = None;
        idlest().filter(move |(_, candidate)| {
            last.replace(candidate.replica) != Some(candidate.replica)
        })
    };
    match firsts().count() as u64 {
        1 => firsts().next().map(position),
        several => firsts()
            .nth(usize::try_from(turn() % several).ok()?)
            .map(position),
    }
}

/// What a call would cost: how long one takes, for each that is under way and for this one.
fn cost(candidate: &Candidate) -> u128 {
    // One of which nothing is known is tried, but not with everything at once.
    let average = candidate.average.as_nanos().max(1);
    average * (candidate.unanswered as u128 + 1)
}

/// Each in proportion to its capacity, one that says nothing like one that says 1. Turns are spread evenly, not in bursts: they
/// go around in steps of the golden ratio, which never come close to where they were before.
fn weighted<'a, I>(eligible: impl Fn() -> I, turn: u64) -> Option<usize>
where
    I: Iterator<Item = (usize, &'a Candidate)>,
{
    /// 2^64 divided by the golden ratio.
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
    let weight = |candidate: &Candidate| u64::from(candidate.capacity.max(1));
    let total: u64 = eligible().map(|(_, candidate)| weight(candidate)).sum();
    let mut left = scaled(turn.wrapping_mul(STEP), total);
    for (position, candidate) in eligible() {
        match left.checked_sub(weight(candidate)) {
            Some(rest) => left = rest,
            None => return Some(position),
        }
    }
    None
}

/// From a number out of all that there are to one below `count`.
fn scaled(number: u64, count: u64) -> u64 {
    ((u128::from(number) * u128::from(count)) >> 64) as u64
}

/// Numbers that follow each other become such that do not (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>).
fn mixed(number: u64) -> u64 {
    let mut number = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use PoolBalance::{Fastest, LeastInFlight, Random, RoundRobin, Weighted};
    use Standing::{Degraded, Failing, Well};

    /// With so many unanswered events.
    fn busy(unanswered: usize) -> Candidate {
        Candidate {
            replica: 0,
            standing: Well,
            unanswered,
            average: Duration::ZERO,
            capacity: 0,
        }
    }

    fn of(replica: usize, unanswered: usize) -> Candidate {
        Candidate {
            replica,
            ..busy(unanswered)
        }
    }

    fn standing(standing: Standing, unanswered: usize) -> Candidate {
        Candidate {
            standing,
            ..busy(unanswered)
        }
    }

    fn taking(millis: u64, unanswered: usize) -> Candidate {
        Candidate {
            average: Duration::from_millis(millis),
            ..busy(unanswered)
        }
    }

    fn bearing(capacity: u32) -> Candidate {
        Candidate {
            capacity,
            ..busy(0)
        }
    }

    /// How often each is chosen in so many turns, from turn 0 on.
    fn shares(balance: PoolBalance, candidates: &[Candidate], turns: u64) -> Vec<u64> {
        let mut shares = vec![0; candidates.len()];
        for turn in 0..turns {
            shares[choose(balance, candidates, || turn).unwrap()] += 1;
        }
        shares
    }

    fn turns(balance: PoolBalance, candidates: &[Candidate], turns: u64) -> Vec<usize> {
        let chosen = (0..turns).map(|turn| choose(balance, candidates, || turn).unwrap());
        chosen.collect()
    }

    #[test]
    fn there_has_to_be_one() {
        for balance in PoolBalance::ALL {
            assert_eq!(choose(balance, &[], || 0), None);
            // With one there is nothing to choose, however it is.
            let only = [standing(Failing, 1000)];
            let no_turn = || panic!("asked for a turn");
            assert_eq!(choose(balance, &only, no_turn), Some(0));
        }
    }

    #[test]
    fn whatever_the_strategy_those_that_are_well_go_first() {
        let cases: [(&[Candidate], &[u64]); 4] = [
            (
                &[
                    standing(Degraded, 0),
                    standing(Well, 60),
                    standing(Failing, 0),
                ],
                &[0, 10, 0],
            ),
            (&[standing(Failing, 0), standing(Degraded, 60)], &[0, 10]),
            (&[standing(Failing, 0), standing(Well, 60)], &[0, 10]),
            (&[standing(Degraded, 3), standing(Failing, 0)], &[10, 0]),
        ];
        for (candidates, expected) in cases {
            for balance in PoolBalance::ALL {
                assert_eq!(shares(balance, candidates, 10), expected, "{balance:?}");
            }
        }
    }

    #[test]
    fn least_in_flight_takes_the_idlest() {
        let cases: [(&[Candidate], &[usize]); 6] = [
            (&[busy(2), busy(1), busy(3)], &[1, 1]),
            // The others of the replica become idle.
            (&[busy(1), busy(1), busy(1)], &[0, 0]),
            (&[of(0, 1), of(0, 0), of(1, 0), of(1, 0)], &[1, 2, 1, 2]),
            (&[of(0, 0), of(1, 0), of(2, 0)], &[0, 1, 2, 0]),
            (&[of(0, 1), of(1, 0), of(2, 1)], &[1, 1, 1]),
            (&[of(0, 5), of(1, 9), of(2, 5)], &[0, 2, 0]),
        ];
        for (candidates, expected) in cases {
            let turns = turns(LeastInFlight, candidates, expected.len() as u64);
            assert_eq!(turns, expected, "{candidates:?}");
        }
    }

    #[test]
    fn round_robin_goes_around_whatever_they_have_to_do() {
        let candidates = [busy(9), busy(0), busy(4)];
        assert_eq!(turns(RoundRobin, &candidates, 6), [0, 1, 2, 0, 1, 2]);
        let candidates = [busy(9), standing(Failing, 0), busy(4)];
        assert_eq!(turns(RoundRobin, &candidates, 4), [0, 2, 0, 2]);
    }

    #[test]
    fn random_takes_each_about_as_often_and_in_no_order() {
        let candidates = [busy(0), busy(7), busy(1), busy(2)];
        for share in shares(Random, &candidates, 4000) {
            assert!((900..1100).contains(&share), "{share}");
        }
        let turns = turns(Random, &candidates, 400);
        let follows = turns.windows(2).filter(|pair| pair[1] == (pair[0] + 1) % 4);
        assert!(follows.count() < 150);
    }

    #[test]
    fn fastest_weighs_time_with_what_there_is_to_do() {
        let cases: [(&[Candidate], usize); 6] = [
            (&[taking(5, 0), taking(2, 0), taking(9, 0)], 1),
            // Three times two are less than seven.
            (&[taking(7, 0), taking(2, 2)], 1),
            (&[taking(7, 0), taking(2, 3)], 0),
            // Of one nothing is known.
            (&[taking(1, 0), taking(0, 0)], 1),
            (&[taking(3, 1), taking(3, 1)], 0),
            (&[taking(3, 1), taking(3, 0)], 1),
        ];
        for (candidates, expected) in cases {
            assert_eq!(
                turns(Fastest, candidates, 2),
                [expected; 2],
                "{candidates:?}"
            );
        }
    }

    #[test]
    fn weighted_keeps_to_what_is_announced() {
        let cases: [(&[u32], &[u64]); 5] = [
            (&[1, 3], &[250, 750]),
            (&[10, 10, 20], &[250, 250, 500]),
            // Who says nothing counts as one.
            (&[0, 4], &[200, 800]),
            (&[0, 0], &[500, 500]),
            (&[u32::MAX, u32::MAX], &[500, 500]),
        ];
        for (capacities, expected) in cases {
            let candidates: Vec<_> = capacities.iter().copied().map(bearing).collect();
            let shares = shares(Weighted, &candidates, 1000);
            for (share, expected) in shares.iter().zip(expected) {
                assert!(share.abs_diff(*expected) <= 3, "{capacities:?}: {shares:?}");
            }
        }
        // Not in bursts.
        let candidates = [bearing(1), bearing(3)];
        for eight in turns(Weighted, &candidates, 400).windows(8) {
            let small = eight.iter().filter(|chosen| **chosen == 0).count();
            assert!((1..=3).contains(&small), "{eight:?}");
        }
    }
}
