//! The targets of an upstream at one moment, with everything that choosing among them needs. A set never changes: it is
//! replaced by another that takes over the state of the targets that both have.

use super::{
    attempts::Tried,
    balance::{Balancer, Field},
    retry::Why,
    sticky::Tag,
    target::{FoundTarget, Target, TargetState},
};
use pingora::upstreams::peer::HttpPeer;
use portcullis_config::{Balance, Share};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// See the module.
#[derive(Debug)]
pub(super) struct TargetSet {
    /// Those that requests go to as a rule.
    main: Tier,
    /// Those that stand in for them.
    backup: Tier,
    slow_start: Option<Duration>,
    /// Whether anybody finds out that a target is not in order.
    is_watched: bool,
    /// Less than this part of the targets in order is as good as none.
    panic_threshold: Share,
}

/// Targets that requests are balanced over.
#[derive(Debug)]
struct Tier {
    targets: Box<[Arc<Target>]>,
    balancer: Balancer,
}

/// Some of the targets of a tier.
type Step<'a, 'b> = (&'a Tier, &'b dyn Fn(&Target) -> bool);

/// What a set is made with beside its targets.
pub(super) struct Making<'a> {
    pub(super) balance: &'a Balance,
    pub(super) slow_start: Option<Duration>,
    /// Whether anybody finds out that a target is not in order.
    pub(super) is_watched: bool,
    pub(super) panic_threshold: Share,
    /// Completes where a target is to how it is connected to.
    pub(super) configured: &'a dyn Fn(HttpPeer) -> HttpPeer,
    /// What a sticky cookie says instead of an address.
    pub(super) tag: &'a dyn Fn(&str) -> Option<Tag>,
    /// The set before, where there is one: targets that it has not just come.
    pub(super) previous: Option<&'a TargetSet>,
    pub(super) now: Instant,
}

/// What a request brings that decides who gets it.
#[derive(Debug, Default)]
pub(super) struct Choice<'a> {
    /// What a hash is made of, where one decides.
    pub(super) key: Option<u64>,
    /// The target that the client was with before.
    pub(super) tag: Option<Tag>,
    /// Those that had the request already.
    pub(super) tried: &'a [Tried],
}

/// A target that was taken.
#[derive(Debug)]
pub(super) struct Picked<'a> {
    pub(super) target: &'a Arc<Target>,
    /// Too few are in order, so whether this one is was not asked.
    pub(super) in_panic: bool,
}

impl TargetSet {
    /// A set without targets, for as long as it takes to make one.
    pub(super) fn empty() -> Self {
        let tier = || Tier {
            targets: Box::default(),
            balancer: Balancer::LeastRequests,
        };
        Self {
            main: tier(),
            backup: tier(),
            slow_start: None,
            is_watched: false,
            panic_threshold: Share::of_hundredths(0),
        }
    }

    pub(super) fn new(found: Vec<FoundTarget>, making: &Making<'_>) -> Self {
        let mut merged: Vec<FoundTarget> = Vec::with_capacity(found.len());
        for target in found {
            match merged.iter_mut().find(|it| it.address == target.address) {
                Some(same) => {
                    same.weight = same.weight.saturating_add(target.weight);
                    same.is_backup &= target.is_backup;
                }
                None => merged.push(target),
            }
        }
        let (backup, main) = merged.into_iter().partition(|target| target.is_backup);
        Self {
            main: Tier::new(main, making),
            backup: Tier::new(backup, making),
            slow_start: making.slow_start,
            is_watched: making.is_watched,
            panic_threshold: making.panic_threshold,
        }
    }

    /// All targets, those in reserve at the end.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.main.targets.iter().chain(&self.backup.targets)
    }

    /// How many targets there are.
    pub(super) fn len(&self) -> usize {
        self.main.targets.len() + self.backup.targets.len()
    }

    /// The state of the target with this address.
    fn state(&self, address: Option<&str>) -> Option<Arc<TargetState>> {
        let mut targets = self.targets();
        let known = targets.find(|target| target.address.as_deref() == address)?;
        Some(known.state.clone())
    }

    /// The target that a request goes to; `None` when there is none at all. `draw` is a number below the given one.
    pub(super) fn pick(
        &self,
        choice: &Choice<'_>,
        now: Instant,
        draw: &mut dyn FnMut(u64) -> u64,
    ) -> Option<Picked<'_>> {
        let fresh = |target: &Target| {
            let mut tried = choice.tried.iter();
            // That a connection was closed says nothing about who was at its end.
            !tried.any(|it| Arc::ptr_eq(&it.state, &target.state) && it.why != Why::Stale)
        };
        let in_order = |target: &Target| fresh(target) && target.state.is_in_order(now);
        if let Some(tag) = choice.tag {
            let mut targets = self.targets();
            let kept = targets.find(|target| target.tag == Some(tag) && in_order(target));
            if let Some(target) = kept {
                return Some(Picked {
                    target,
                    in_panic: false,
                });
            }
        }
        let is_well = |target: &Target| target.state.is_in_order(now);
        let in_panic = self.is_in_panic(now);
        let anybody = |_: &Target| true;
        let (main, backup) = (&self.main, &self.backup);
        let in_order: [Step<'_, '_>; 3] = [
            (main, &in_order),
            (backup, &in_order),
            // Those that are well had it already.
            (main, &is_well),
        ];
        let whoever: [Step<'_, '_>; 4] = [
            (main, &fresh),
            (backup, &fresh),
            (main, &anybody),
            (backup, &anybody),
        ];
        let in_order = if in_panic {
            &in_order[1..2]
        } else {
            &in_order[..]
        };
        let in_order = in_order.iter().map(|step| (step, false));
        let mut steps = in_order.chain(whoever.iter().map(|step| (step, in_panic)));
        steps.find_map(|((tier, usable), in_panic)| {
            let target = self.from(tier, *usable, choice.key, now, draw)?;
            Some(Picked { target, in_panic })
        })
    }

    fn from<'a>(
        &self,
        tier: &'a Tier,
        usable: &dyn Fn(&Target) -> bool,
        key: Option<u64>,
        now: Instant,
        draw: &mut dyn FnMut(u64) -> u64,
    ) -> Option<&'a Arc<Target>> {
        let field = Field {
            targets: &tier.targets,
            usable,
            slow_start: self.slow_start,
            now,
        };
        let position = tier.balancer.pick(&field, key, draw)?;
        tier.targets.get(position)
    }

    /// Whether too few of the targets are in order for them to take everything.
    pub(super) fn is_in_panic(&self, now: Instant) -> bool {
        if !self.is_watched {
            return false;
        }
        let all = self.main.targets.len() as u64;
        let targets = self.main.targets.iter();
        let well = targets.filter(|target| target.state.is_in_order(now));
        let well = well.count() as u64;
        let (whole, least) = (Share::WHOLE, self.panic_threshold.hundredths());
        well < all && (well == 0 || well * u64::from(whole) < all * u64::from(least))
    }
}

impl Tier {
    fn new(found: Vec<FoundTarget>, making: &Making<'_>) -> Self {
        let decay = match making.balance {
            Balance::P2cEwma { decay } => Some(*decay),
            _ => None,
        };
        let targets = found.into_iter().map(|target| {
            let previous = making.previous;
            let known = previous.and_then(|set| set.state(target.address.as_deref()));
            let state = known.unwrap_or_else(|| {
                // At the start all are new alike.
                let is_late = previous.is_some_and(|set| set.len() > 0);
                Arc::new(TargetState::new(making.now, is_late))
            });
            let address = target.address.as_deref();
            Arc::new(Target {
                tag: address.and_then(making.tag),
                peer: (making.configured)(target.peer),
                address: target.address,
                weight: target.weight,
                is_backup: target.is_backup,
                decay,
                state,
            })
        });
        let targets: Box<[Arc<Target>]> = targets.collect();
        Self {
            balancer: Balancer::new(making.balance, &targets),
            targets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(address: &str, weight: u32, is_backup: bool) -> FoundTarget {
        FoundTarget {
            address: Some(address.into()),
            peer: HttpPeer::new("127.0.0.1:1", false, String::new()),
            weight,
            is_backup,
        }
    }

    fn set(found: Vec<FoundTarget>, previous: Option<&TargetSet>) -> TargetSet {
        let making = Making {
            balance: &Balance::LeastRequests,
            slow_start: None,
            is_watched: true,
            panic_threshold: Share::of_hundredths(5_000),
            configured: &|peer| peer,
            tag: &|address| {
                let mut tag = Tag::default();
                tag[0] = *address.as_bytes().last()?;
                Some(tag)
            },
            previous,
            now: Instant::now(),
        };
        TargetSet::new(found, &making)
    }

    /// The addresses that are taken one after the other by one request.
    fn order(set: &TargetSet, mut choice: Choice<'_>, picks: usize) -> Vec<String> {
        let now = Instant::now();
        let mut tried = Vec::new();
        for _ in 0..picks {
            choice.tried = &[];
            let choice = Choice {
                tried: &tried,
                ..choice
            };
            let picked = set.pick(&choice, now, &mut |_| 1).unwrap();
            tried.push(Tried {
                state: picked.target.state.clone(),
                address: picked.target.address.clone(),
                why: Why::Reset,
            });
        }
        let name = |tried: &Tried| tried.address.as_deref().unwrap().to_owned();
        tried.iter().map(name).collect()
    }

    #[test]
    fn what_stays_keeps_its_state() {
        let old = set(vec![found("a", 1, false), found("b", 1, true)], None);
        let new = set(vec![found("b", 5, false), found("c", 1, false)], Some(&old));
        let states = |set: &TargetSet| -> Vec<_> {
            let states = set.targets().map(|target| Arc::as_ptr(&target.state));
            states.collect()
        };
        assert_eq!(states(&new)[0], states(&old)[1]);
        assert!(!states(&old).contains(&states(&new)[1]));
        assert_eq!(new.main.targets[0].weight, 5);
        let takes = Duration::from_secs(10);
        let warmth = |of: usize| new.main.targets[of].state.warmth(takes, Instant::now());
        assert!(warmth(0) >= 1.0 && warmth(1) < 1.0);
    }

    #[test]
    fn one_address_is_one_target() {
        let both = set(
            vec![
                found("a", 1, true),
                found("b", 1, false),
                found("a", 2, false),
            ],
            None,
        );
        let weights: Vec<_> = both.main.targets.iter().map(|it| it.weight).collect();
        assert_eq!(weights, [3, 1]);
    }

    #[test]
    fn another_attempt_takes_another_target_while_there_is_one() {
        let set = set(
            vec![
                found("a", 2, false),
                found("b", 1, false),
                found("c", 1, true),
            ],
            None,
        );
        let choice = Choice::default();
        assert_eq!(order(&set, choice, 5), ["a", "b", "c", "a", "a"]);
    }

    #[test]
    fn who_is_sticky_goes_where_it_was() {
        let set = set(vec![found("a", 2, false), found("b", 1, false)], None);
        for (last, expected) in [(b'b', ["b", "a"]), (b'x', ["a", "b"])] {
            let mut tag = Tag::default();
            tag[0] = last;
            let choice = Choice {
                tag: Some(tag),
                ..Choice::default()
            };
            assert_eq!(order(&set, choice, 2), expected);
        }
    }

    #[test]
    fn who_is_not_in_order_gets_nothing_while_enough_are() {
        let now = Instant::now();
        let backup = |set: &TargetSet| set.backup.targets[0].state.clone();
        let set = set(
            vec![
                found("a", 8, false),
                found("b", 4, false),
                found("c", 2, false),
                found("d", 1, true),
            ],
            None,
        );
        let main = |position: usize| set.main.targets[position].state.clone();
        let first = |in_panic| {
            let picked = set.pick(&Choice::default(), now, &mut |_| 1).unwrap();
            assert_eq!(picked.in_panic, in_panic);
            picked.target.address.as_deref().unwrap().to_owned()
        };
        assert_eq!(first(false), "a");
        main(0).set_health(false, now);
        assert_eq!(first(false), "b");
        // A third is less than half.
        main(1).set_health(false, now);
        assert_eq!(first(false), "d");
        backup(&set).set_health(false, now);
        assert_eq!(first(true), "a");
        main(0).set_health(true, now);
        assert_eq!(first(false), "a");
        main(1).forget_health();
        assert_eq!(main(1).health(), None);
        assert_eq!(order(&set, Choice::default(), 3), ["a", "b", "c"]);
    }

    #[test]
    fn nobody_is_taken_where_nobody_is() {
        let set = set(Vec::new(), None);
        let picked = set.pick(&Choice::default(), Instant::now(), &mut |_| 0);
        assert!(picked.is_none());
    }
}
