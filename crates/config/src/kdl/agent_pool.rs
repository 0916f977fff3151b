//! `pool` of an agent, in its block and in `defaults { agent { … } }`.

use super::{agent_policy::refuse_bare, cursor::Node};
use crate::{
    model::{Pool, PoolBalance},
    source::{Span, Spanned},
};
use std::time::Duration;

/// A pool of which some may be written elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct PartialPool {
    pub(crate) min: Option<usize>,
    pub(crate) max: Option<usize>,
    /// The place is that of the value, here and below.
    pub(crate) idle: Option<Spanned<Duration>>,
    pub(crate) balance: Option<Spanned<PoolBalance>>,
    pub(crate) warm_up: Option<Spanned<bool>>,
    max_outstanding: Option<usize>,
    connect_timeout: Option<Duration>,
    maintenance: Option<Duration>,
    /// Where it is written, if it is and its sizes have no mistake of their own.
    pub(crate) span: Option<Span>,
}

impl PartialPool {
    pub(crate) fn or(self, shared: Self) -> Self {
        Self {
            min: self.min.or(shared.min),
            max: self.max.or(shared.max),
            idle: self.idle.or(shared.idle),
            balance: self.balance.or(shared.balance),
            warm_up: self.warm_up.or(shared.warm_up),
            max_outstanding: self.max_outstanding.or(shared.max_outstanding),
            connect_timeout: self.connect_timeout.or(shared.connect_timeout),
            maintenance: self.maintenance.or(shared.maintenance),
            span: self.span.or(shared.span),
        }
    }

    /// With the program's defaults for what nobody has written.
    pub(crate) fn into_model(self) -> Pool {
        /// What is written, without its place.
        fn value<T>(written: Option<Spanned<T>>, program: T) -> T {
            written.map_or(program, |written| written.value)
        }
        let program = Pool::default();
        Pool {
            min: self.min.unwrap_or(program.min),
            max: self.max.unwrap_or(program.max),
            idle: value(self.idle, program.idle),
            balance: value(self.balance, program.balance),
            warm_up: value(self.warm_up, program.warm_up),
            max_outstanding: self.max_outstanding.unwrap_or(program.max_outstanding),
            connect_timeout: self.connect_timeout.unwrap_or(program.connect_timeout),
            maintenance: self.maintenance.unwrap_or(program.maintenance),
        }
    }
}

/// The most connections of one worker to one replica of an agent.
const MOST_CONNECTIONS: u32 = 1024;
/// As many as the table of unanswered events of one connection has room for.
const MOST_OUTSTANDING: u32 = 1 << 16;

pub(super) fn pool(node: &mut Node<'_>) -> Option<PartialPool> {
    refuse_bare(node, "min=1 max=4");
    let mut size = |name| match node.property(name) {
        Some(value) => value.count(1..=MOST_CONNECTIONS).map(Some),
        None => Some(None),
    };
    let (min, max) = (size("min"), size("max"));
    let choices = PoolBalance::ALL.map(|balance| (balance.name(), balance));
    let sizes = min.zip(max);
    Some(PartialPool {
        min: min.flatten(),
        max: max.flatten(),
        idle: node
            .property("idle")
            .and_then(|value| Some(value.spanned(value.timeout()?))),
        balance: node
            .property("balance")
            .and_then(|value| Some(value.spanned(value.choice(&choices, &[])?))),
        warm_up: node
            .property("warm-up")
            .and_then(|value| Some(value.spanned(value.boolean()?))),
        max_outstanding: node
            .property("max-outstanding")
            .and_then(|value| value.count(1..=MOST_OUTSTANDING)),
        connect_timeout: node
            .property("connect-timeout")
            .and_then(|value| value.timeout()),
        maintenance: node
            .property("maintenance")
            .and_then(|value| value.timeout()),
        // Sizes of which one is wrong cannot be compared.
        span: sizes.map(|_| node.span()),
    })
}
