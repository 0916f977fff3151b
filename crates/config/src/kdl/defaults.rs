//! `defaults { … }`: what every block of a kind starts from.

use super::{
    agent::{self, AgentPolicy},
    cursor::{Later, Node},
    upstream::{self, PartialTimeouts},
};

/// What was written; `None` is the program's own default.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Defaults {
    pub(crate) agent: AgentPolicy,
    pub(crate) upstream: PartialTimeouts,
}

const LATER: &[Later] = &[Later::new("listener"), Later::new("route")];

pub(super) fn defaults(node: &mut Node<'_>) -> Defaults {
    node.block(|block| {
        block.later(LATER);
        Defaults {
            agent: block
                .one("agent", |node| {
                    Some(node.block(|block| {
                        block.later(agent::LATER);
                        agent::policy(block)
                    }))
                })
                .unwrap_or_default(),
            upstream: block
                .one("upstream", |node| {
                    Some(node.block(|block| {
                        block.later(upstream::LATER);
                        block
                            .one("timeouts", |node| Some(upstream::timeouts(node)))
                            .unwrap_or_default()
                    }))
                })
                .unwrap_or_default(),
        }
    })
}
