//! What agents share, and what the settings of one say together.

use super::uses::{Chains, Uses};
use crate::{
    diagnostic::{Diagnostic, Report, code},
    header_pattern,
    kdl::{Parsed, ParsedAgent, PartialPool},
    model::{AgentReverse, AgentTransport, Pool, ReversePlace},
    source::Span,
};
use std::collections::HashMap;

/// A header belongs to one agent: of two, the one could speak for the other.
pub(super) fn owned_headers(parsed: &Parsed, report: &Report) {
    let patterns: Vec<_> = parsed
        .agents
        .iter()
        .enumerate()
        .flat_map(|(owner, agent)| {
            agent
                .owns_headers
                .iter()
                .map(move |pattern| (owner, &agent.id.value, pattern))
        })
        .collect();
    let written = patterns
        .iter()
        .map(|(owner, _, pattern)| (*owner, pattern.value.as_str()));
    for (one, other) in header_pattern::overlaps(written) {
        // In the order of the text, whichever includes the other.
        let (first, second) = (one.min(other), one.max(other));
        let ((_, earlier, first), (_, later, second)) = (patterns[first], patterns[second]);
        report.add(
            Diagnostic::error(
                code::CONTRADICTION,
                second.span,
                format!(
                    "`{}` of the agent `{later}` and `{}` of `{earlier}` fit the same headers",
                    second.value, first.value
                ),
            )
            .label(format!("`{later}` owns them"))
            .also(first.span, format!("`{earlier}` owns them"))
            .help("a header is owned by one agent: take it from one of the two"),
        );
    }
}

/// Agents that dial the same place find one mode or one certificate there.
pub(super) fn reverse_places(parsed: &Parsed, report: &Report) {
    let mut places: HashMap<String, (&AgentReverse, Span)> = HashMap::new();
    for agent in &parsed.agents {
        let Some(AgentTransport::Reverse(reverse)) = &agent.transport else {
            continue;
        };
        let (name, setting) = match &reverse.place {
            ReversePlace::Socket { path, .. } => (path.display().to_string(), "mode"),
            ReversePlace::Tls { address, .. } => (address.to_string(), "tls"),
        };
        let entry = places.entry(name.clone());
        let (other, first) = *entry.or_insert((reverse, agent.span));
        let contradiction = |message: String| {
            Diagnostic::error(code::CONTRADICTION, agent.span, message)
                .also(first, "this agent dials it too")
        };
        if other.registering != reverse.registering {
            let message =
                format!("at {name} cannot be two bounds for those who are about to register");
            report.add(contradiction(message).help(
                "write the same `registering` and `registering-per-client` for both, or let each dial a place of its own",
            ));
        }
        let (message, help) = match (&other.place, &reverse.place) {
            (ReversePlace::Socket { mode: one, .. }, ReversePlace::Socket { mode, .. })
                if one != mode =>
            {
                (
                    format!("the socket {name} cannot have two modes"),
                    "give each a socket of its own",
                )
            }
            (ReversePlace::Tls { files: one, .. }, ReversePlace::Tls { files, .. })
                if one != files =>
            {
                (
                    format!(
                        "at {name} cannot be two kinds of TLS: who dials it has not yet said who it is"
                    ),
                    "give each an address of its own",
                )
            }
            _ => continue,
        };
        let help = format!("write the same `{setting}` for both, or {help}");
        report.add(contradiction(message).help(help));
    }
}

/// What the settings of a pool say together, which can come from three places.
pub(super) fn pools(parsed: &Parsed, report: &Report) {
    let shared = parsed
        .defaults
        .as_ref()
        .map(|defaults| defaults.value.agent.pool)
        .unwrap_or_default();
    pool(PartialPool::default(), shared, report);
    for agent in &parsed.agents {
        pool(shared, agent.policy.pool, report);
        useless_settings(shared, agent, report);
    }
}

/// What is written in the block of an agent and changes nothing about this pool.
fn useless_settings(shared: PartialPool, agent: &ParsedAgent, report: &Report) {
    let own = agent.policy.pool;
    let Some(transport) = agent.transport.as_ref().filter(|_| own.span.is_some()) else {
        return;
    };
    let pool = own.or(shared).into_model();
    let useless = |span, name: &str, why: &str, help: &str| {
        report.add(
            Diagnostic::error(
                code::CONTRADICTION,
                span,
                format!("`{name}` has no effect on a pool that {why}"),
            )
            .help(format!("remove it, or {help}")),
        );
    };
    if let Some(idle) = own.idle.filter(|_| pool.min == pool.max) {
        let why = "keeps as many connections as it may have";
        useless(idle.span, "idle", why, "let `max` be more than `min`");
    }
    if let Some(balance) = own
        .balance
        .filter(|_| pool.max == 1 && !transport.has_replicas())
    {
        let why = "has one connection to one replica";
        useless(balance.span, "balance", why, "write `max=2` or more");
    }
    if let Some(warm_up) = own
        .warm_up
        .filter(|warm_up| !warm_up.value && pool.min == 1)
    {
        let why = "keeps one connection";
        useless(warm_up.span, "warm-up=#false", why, "write `min=2` or more");
    }
}

/// `own` is looked at when it says something about the pool; else there is a better place to complain about it.
fn pool(shared: PartialPool, own: PartialPool, report: &Report) {
    let Some(span) = own.span else { return };
    let together = own.or(shared);
    let Pool { min, max, .. } = together.into_model();
    if min <= max {
        return;
    }
    let whence = if together.max.is_some() {
        ""
    } else {
        ", the default"
    };
    let mut diagnostic = Diagnostic::error(
        code::CONTRADICTION,
        span,
        format!("this pool keeps {min} connections and has {max} at most{whence}"),
    )
    .help(if own.max.is_some() {
        format!("write `max={min}` or more, or a `min` of {max} or less")
    } else {
        format!("write `max={min}` or more here too, or a `min` of {max} or less")
    });
    let from_defaults =
        (own.min.is_none() && shared.min.is_some()) || (own.max.is_none() && shared.max.is_some());
    if let (Some(defaults), true) = (shared.span, from_defaults) {
        diagnostic = diagnostic.also(defaults, "the other number is from here");
    }
    report.add(diagnostic);
}

/// A budget on a route that waits for nobody.
pub(super) fn useless_budgets(parsed: &Parsed, report: &Report) {
    let chains = Chains::new(parsed);
    let waits: HashMap<&str, bool> = parsed
        .agents
        .iter()
        .map(|agent| {
            let phases = agent.inspect.into_model().phases();
            (agent.id.value.as_str(), phases > 0)
        })
        .collect();
    for route in &parsed.routes {
        let Some(budget) = &route.agent_budget else {
            continue;
        };
        let Uses {
            agents,
            guardrails,
            in_doubt,
            ..
        } = chains.uses(&route.filters);
        // One that does not exist was meant to be asked.
        let mut deciding = agents.iter().filter(|used| used.may_decide()).peekable();
        let shadows_only = deciding.peek().is_none();
        let mut waits = deciding.map(|used| *waits.get(used.agent.value.as_str()).unwrap_or(&true));
        if in_doubt || !guardrails.is_empty() || waits.any(|waits| waits) {
            continue;
        }
        let why = if agents.is_empty() {
            "this route asks no agent"
        } else if shadows_only {
            "this route waits for no agent: all of them are asked in the shadow alone"
        } else {
            "this route waits for no agent: all of them inspect `request-complete` alone"
        };
        report.add(
            Diagnostic::error(
                code::CONTRADICTION,
                budget.span,
                "`agent-budget` has no effect on this route",
            )
            .also(route.span, why)
            .help("remove it, or add a line such as `agent \"waf\"` to the route's `filters`"),
        );
    }
}
