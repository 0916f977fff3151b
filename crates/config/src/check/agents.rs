//! What agents share, and what the settings of one say together.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    header_pattern,
    kdl::{Parsed, ParsedChain, ParsedFilter, PartialPool},
    model::Pool,
};
use std::collections::{HashMap, HashSet};

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

/// The two sizes of a pool, which can come from three places.
pub(super) fn pools(parsed: &Parsed, report: &Report) {
    let shared = parsed
        .defaults
        .as_ref()
        .map(|defaults| defaults.value.agent.pool)
        .unwrap_or_default();
    pool(PartialPool::default(), shared, report);
    for agent in &parsed.agents {
        pool(shared, agent.policy.pool, report);
    }
}

/// `own` is looked at when it says something about the pool; else there is a better place to complain about it.
fn pool(shared: PartialPool, own: PartialPool, report: &Report) {
    let Some(span) = own.span else { return };
    let together = own.or(shared);
    let Pool { min, max } = together.into_model();
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

/// A budget on a route that asks nobody.
pub(super) fn useless_budgets(parsed: &Parsed, report: &Report) {
    let chains: HashMap<&str, &ParsedChain> = parsed
        .chains
        .iter()
        .map(|chain| (chain.id.value.as_str(), chain))
        .collect();
    for route in &parsed.routes {
        let Some(budget) = &route.agent_budget else {
            continue;
        };
        if !asks(&route.filters, &chains, &mut HashSet::new()) {
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    budget.span,
                    "`agent-budget` has no effect on this route",
                )
                .also(route.span, "this route asks no agent")
                .help("remove it, or add a line such as `agent \"waf\"` to the route's `filters`"),
            );
        }
    }
}

/// Whether there is an agent, or something that was meant to be one. Each chain is looked at once, so circles end.
fn asks<'a>(
    filters: &'a [ParsedFilter],
    chains: &HashMap<&str, &'a ParsedChain>,
    seen: &mut HashSet<&'a str>,
) -> bool {
    filters.iter().any(|filter| match filter {
        ParsedFilter::Agent(_) | ParsedFilter::Parallel(_) | ParsedFilter::Broken => true,
        ParsedFilter::RequestHeaders(_) | ParsedFilter::ResponseHeaders(_) => false,
        ParsedFilter::Use(name) => match chains.get(name.value.as_str()) {
            Some(chain) => seen.insert(&name.value) && asks(&chain.filters, chains, seen),
            None => true,
        },
    })
}
