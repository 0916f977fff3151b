//! Guardrails: whether the bodies that they see can be had, and agents that are asked by nothing else.

use super::{
    inspect::{self, Known},
    uses::Chains,
};
use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedFilter, ParsedGuardrail, ParsedInspect},
    model::{BodyEncoding, Dialect, SendHeaders},
};
use std::collections::HashSet;

/// A body that is larger than the memory for all of them could never be held.
pub(super) fn limits(parsed: &Parsed, report: &Report) {
    for guardrail in written(parsed) {
        for (_, body) in guardrail.bodies() {
            let agent = &guardrail.used.agent.value;
            inspect::limit(parsed, report, agent, &body.value.body, body.span);
        }
    }
}

/// An agent of a dialect without texts would be `unavailable` for ever.
pub(super) fn dialects(parsed: &Parsed, report: &Report) {
    for guardrail in written(parsed) {
        let asked = &guardrail.used.agent;
        let mut agents = parsed.agents.iter();
        let Some(agent) = agents.find(|agent| agent.id.value == asked.value) else {
            continue;
        };
        if matches!(agent.dialect, Dialect::V2 | Dialect::V1) {
            continue;
        }
        let (name, dialect) = (&asked.value, agent.dialect.name());
        report.add(
            Diagnostic::error(
                code::CONTRADICTION,
                asked.span,
                format!(
                    "the agent `{name}` cannot be shown texts: `{dialect}` has nothing like it"
                ),
            )
            .help("ask an agent that speaks \"v2\" or \"v1\""),
        );
    }
}

/// The guardrails of routes and chains.
fn written(parsed: &Parsed) -> impl Iterator<Item = &ParsedGuardrail> {
    let routes = parsed.routes.iter().map(|route| &route.filters);
    let chains = parsed.chains.iter().map(|chain| &chain.filters);
    routes
        .chain(chains)
        .flatten()
        .filter_map(|filter| match filter {
            ParsedFilter::Guardrail(guardrail) => Some(guardrail.as_ref()),
            _ => None,
        })
}

/// A body is shown to all of a route in one form, and a guardrail sees what is in it.
pub(super) fn encodings(parsed: &Parsed, report: &Report) {
    let known = Known::new(parsed);
    for route in &parsed.routes {
        let uses = known.uses(route);
        let guarded = uses.guardrails.iter().flat_map(|guardrail| {
            let bodies = guardrail.bodies();
            bodies.map(|(direction, body)| (direction, body.span, &guardrail.used.agent.value))
        });
        for (direction, span, guardrail) in guarded {
            let raw = known.agents(&uses).find_map(|agent| {
                let mut bodies = agent.inspect.bodies();
                let (_, body) = bodies.find(|(theirs, body)| {
                    *theirs == direction && body.value.encoding == BodyEncoding::Raw
                })?;
                Some((&agent.id.value, body.span))
            });
            if let Some((agent, raw)) = raw {
                report.add(
                    Diagnostic::error(
                        code::CONTRADICTION,
                        span,
                        format!("the guardrail and `{agent}` see different forms of the same `{direction}`"),
                    )
                    .label(format!("`{guardrail}` is shown what is in it"))
                    .also(raw, format!("for `{agent}` it is `encoded=\"raw\"`"))
                    .help("put them on different routes, or let the agent inspect what is decoded: a route shows a body in one form"),
                );
            }
        }
    }
}

/// What an agent says that is asked by guardrails alone, and that nobody would look at.
pub(super) fn useless_settings(parsed: &Parsed, report: &Report) {
    let chains = Chains::new(parsed);
    let (mut guardrails, mut others) = (HashSet::new(), HashSet::new());
    for route in &parsed.routes {
        let uses = chains.uses(&route.filters);
        let names = uses.guardrails.iter();
        guardrails.extend(names.map(|guardrail| guardrail.used.agent.value.as_str()));
        others.extend(uses.agents.iter().map(|used| used.agent.value.as_str()));
    }
    for agent in &parsed.agents {
        let name = agent.id.value.as_str();
        if !guardrails.contains(name) || others.contains(name) {
            continue;
        }
        let useless = [
            (agent.inspect != ParsedInspect::default()).then_some("inspect"),
            agent.verdict_cache.is_some().then_some("verdict-cache"),
            (agent.send_headers != SendHeaders::All).then_some("send-headers"),
        ];
        for setting in useless.into_iter().flatten() {
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    agent.span,
                    format!("`{setting}` of the agent `{name}` has no effect: guardrails alone ask it"),
                )
                .help("remove it, or ask the agent with a line such as `agent` in the `filters` of a route"),
            );
        }
    }
}
