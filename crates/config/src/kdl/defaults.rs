//! `defaults { … }`: what every block of a kind starts from.

use super::{
    agent,
    agent_policy::{self, AgentPolicy},
    cursor::Node,
    upstream::{self, PartialTimeouts},
};

/// What was written; `None` is the program's own default.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Defaults {
    pub(crate) agent: AgentPolicy,
    pub(crate) upstream: PartialTimeouts,
}

pub(super) fn defaults(node: &mut Node<'_>) -> Defaults {
    node.block(|block| Defaults {
        agent: block
            .one("agent", |node| {
                Some(node.block(|block| {
                    block.later(agent::LATER);
                    agent_policy::policy(block)
                }))
            })
            .unwrap_or_default(),
        upstream: block
            .one("upstream", |node| {
                Some(node.block(|block| {
                    block
                        .one("timeouts", |node| Some(upstream::timeouts(node)))
                        .unwrap_or_default()
                }))
            })
            .unwrap_or_default(),
    })
}
