//! How an agent is called: what both its block and `defaults { agent { … } }` can say.

use super::{
    agent_pool::{PartialPool, pool},
    cursor::{Block, Node},
    filter,
};
use crate::{
    diagnostic::code,
    model::{CircuitBreaker, FailureMode, Overload},
};
use std::time::Duration;

/// What was written; `None` is decided elsewhere: by `defaults`, then by the program.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AgentPolicy {
    pub(crate) timeout: Option<Duration>,
    pub(crate) failure_mode: Option<FailureMode>,
    pub(crate) max_concurrent_calls: Option<usize>,
    pub(crate) queue: Option<usize>,
    pub(crate) circuit_breaker: PartialBreaker,
    pub(crate) pool: PartialPool,
    pub(crate) overload: PartialOverload,
}

/// What is done about an agent that has too much to do, of which some may be written elsewhere.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PartialOverload {
    retries: Option<u32>,
    backoff: Option<Duration>,
    quota_key: Option<String>,
}

impl PartialOverload {
    /// Whether anything of it is written.
    pub(crate) fn is_written(&self) -> bool {
        *self != Self::default()
    }
}

/// A circuit breaker of which some may be written elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct PartialBreaker {
    failures: Option<u32>,
    successes: Option<u32>,
    open_for: Option<Duration>,
    probes: Option<u32>,
}

impl AgentPolicy {
    /// What holds when `shared` decides what this leaves open.
    pub(crate) fn or(self, shared: &Self) -> Self {
        Self {
            timeout: self.timeout.or(shared.timeout),
            failure_mode: self.failure_mode.or(shared.failure_mode),
            max_concurrent_calls: self.max_concurrent_calls.or(shared.max_concurrent_calls),
            queue: self.queue.or(shared.queue),
            circuit_breaker: self.circuit_breaker.or(shared.circuit_breaker),
            pool: self.pool.or(shared.pool),
            overload: self.overload.or(&shared.overload),
        }
    }
}

impl PartialOverload {
    fn or(self, shared: &Self) -> Self {
        Self {
            retries: self.retries.or(shared.retries),
            backoff: self.backoff.or(shared.backoff),
            quota_key: self.quota_key.or_else(|| shared.quota_key.clone()),
        }
    }

    /// With the program's defaults for what nobody has written.
    pub(crate) fn into_model(self) -> Overload {
        let program = Overload::default();
        Overload {
            retries: self.retries.unwrap_or(program.retries),
            backoff: self.backoff.unwrap_or(program.backoff),
            quota_key: self.quota_key,
        }
    }
}

impl PartialBreaker {
    fn or(self, shared: Self) -> Self {
        Self {
            failures: self.failures.or(shared.failures),
            successes: self.successes.or(shared.successes),
            open_for: self.open_for.or(shared.open_for),
            probes: self.probes.or(shared.probes),
        }
    }

    /// With the program's defaults for what nobody has written.
    pub(crate) fn into_model(self) -> CircuitBreaker {
        let program = CircuitBreaker::default();
        CircuitBreaker {
            failures: self.failures.unwrap_or(program.failures),
            successes: self.successes.unwrap_or(program.successes),
            open_for: self.open_for.unwrap_or(program.open_for),
            probes: self.probes.unwrap_or(program.probes),
        }
    }
}

/// The most calls that one agent may have under way or waiting.
const MOST_CALLS: u32 = 1_000_000;
/// The most that a counter of the circuit breaker goes up to.
const MOST_COUNT: u32 = 1_000_000;
/// More retries of one call would only keep an agent busy that has said to be busy.
const MOST_RETRIES: u32 = 10;
pub(super) fn policy(block: &mut Block<'_>) -> AgentPolicy {
    let timeout = block.one("timeout", |node| {
        node.argument("a duration, such as \"50ms\"")?.timeout()
    });
    let failure_mode = block.one("failure-mode", |node| {
        filter::failure_mode(node.argument("\"open\" or \"closed\"")?)
    });
    let calls = block.one("max-concurrent-calls", |node| Some(calls(node)));
    let (max_concurrent_calls, queue) = calls.unwrap_or_default();
    AgentPolicy {
        timeout,
        failure_mode,
        max_concurrent_calls,
        queue,
        circuit_breaker: block
            .one("circuit-breaker", |node| Some(circuit_breaker(node)))
            .unwrap_or_default(),
        pool: block.one("pool", pool).unwrap_or_default(),
        overload: block
            .one("overload", |node| Some(overload(node)))
            .unwrap_or_default(),
    }
}

fn overload(node: &mut Node<'_>) -> PartialOverload {
    refuse_bare(node, "retries=1 backoff=\"2s\"");
    PartialOverload {
        retries: node
            .property("retries")
            .and_then(|value| value.integer(0..=MOST_RETRIES)),
        backoff: node.property("backoff").and_then(|value| value.timeout()),
        quota_key: node
            .property("quota-key")
            .and_then(|value| value.nonempty_text()),
    }
}

fn calls(node: &mut Node<'_>) -> (Option<usize>, Option<usize>) {
    let most = node
        .argument("how many calls may be under way at once, such as 100")
        .and_then(|value| value.count(1..=MOST_CALLS));
    let queue = node
        .property("queue")
        .and_then(|value| value.count(0..=MOST_CALLS));
    (most, queue)
}

fn circuit_breaker(node: &mut Node<'_>) -> PartialBreaker {
    refuse_bare(node, "failures=5 open-for=\"30s\"");
    let mut count = |name| {
        node.property(name)
            .and_then(|value| value.integer(1..=MOST_COUNT))
    };
    PartialBreaker {
        failures: count("failures"),
        successes: count("successes"),
        probes: count("probes"),
        open_for: node.property("open-for").and_then(|value| value.timeout()),
    }
}

/// A node that only carries properties and has none would be accepted and do nothing.
pub(super) fn refuse_bare(node: &Node<'_>, such_as: &str) {
    if node.is_bare() {
        let name = node.name();
        node.report(
            node.error(code::MISSING, format!("this `{name}` says nothing"))
                .label("has no properties")
                .help(format!("write such as `{name} {such_as}`, or remove it")),
        );
    }
}
