//! The targets of an upstream at one moment, with everything that choosing among them needs. A set never changes: it is
//! replaced by another that takes over the state of the targets that both have.

use super::{
    schedule::Schedule,
    target::{FoundTarget, Target, TargetState},
};
use pingora::upstreams::peer::HttpPeer;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(super) struct TargetSet {
    targets: Box<[Arc<Target>]>,
    /// Without a target there are no turns.
    schedule: Option<Schedule>,
}

impl TargetSet {
    /// A set of these targets. `configured` completes where they are to how they are connected to; `known` has the state of
    /// those that are known by their address.
    pub(super) fn new(
        found: Vec<FoundTarget>,
        configured: impl Fn(HttpPeer) -> HttpPeer,
        known: impl Fn(Option<&str>) -> Option<Arc<TargetState>>,
    ) -> Self {
        let mut merged: Vec<FoundTarget> = Vec::with_capacity(found.len());
        for target in found {
            match merged.iter_mut().find(|it| it.address == target.address) {
                Some(same) => same.weight = same.weight.saturating_add(target.weight),
                None => merged.push(target),
            }
        }
        let weights: Vec<u32> = merged.iter().map(|target| target.weight).collect();
        let targets = merged.into_iter().map(|target| {
            let state = known(target.address.as_deref()).unwrap_or_default();
            Arc::new(Target {
                peer: configured(target.peer),
                address: target.address,
                weight: target.weight,
                state,
            })
        });
        Self {
            targets: targets.collect(),
            schedule: (!weights.is_empty()).then(|| Schedule::new(&weights)),
        }
    }

    pub(super) fn targets(&self) -> &[Arc<Target>] {
        &self.targets
    }

    /// The state of the target with this address.
    pub(super) fn state(&self, address: Option<&str>) -> Option<Arc<TargetState>> {
        let mut targets = self.targets.iter();
        let known = targets.find(|target| target.address.as_deref() == address)?;
        Some(known.state.clone())
    }

    /// The target whose turn it is; `None` when there is none at all.
    pub(super) fn pick(&self) -> Option<&Arc<Target>> {
        self.targets.get(self.schedule.as_ref()?.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(address: &str, weight: u32) -> FoundTarget {
        FoundTarget {
            address: Some(address.into()),
            peer: HttpPeer::new("127.0.0.1:1", false, String::new()),
            weight,
        }
    }

    fn set(found: Vec<FoundTarget>, known: Option<&TargetSet>) -> TargetSet {
        TargetSet::new(
            found,
            |peer| peer,
            |address| known.and_then(|known| known.state(address)),
        )
    }

    #[test]
    fn what_stays_keeps_its_state() {
        let old = set(vec![found("a", 1), found("b", 1)], None);
        let new = set(vec![found("b", 5), found("c", 1)], Some(&old));
        let states = |set: &TargetSet| -> Vec<_> {
            let states = set.targets.iter().map(|target| Arc::as_ptr(&target.state));
            states.collect()
        };
        assert_eq!(states(&new)[0], states(&old)[1]);
        assert!(!states(&old).contains(&states(&new)[1]));
        assert_eq!(new.targets[0].weight, 5);
    }

    #[test]
    fn one_address_is_one_target() {
        let both = set(vec![found("a", 1), found("b", 1), found("a", 2)], None);
        let weights: Vec<_> = both.targets.iter().map(|target| target.weight).collect();
        assert_eq!(weights, [3, 1]);
    }

    #[test]
    fn nobody_is_taken_where_nobody_is() {
        assert!(set(Vec::new(), None).pick().is_none());
    }
}
