//! Warning: things that are defined and that nothing refers to.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedFilter},
    source::Span,
};
use std::collections::HashSet;

pub(super) fn unused(parsed: &Parsed, report: &Report) {
    let routes = parsed.routes.iter().map(|route| &route.filters);
    let in_chains = parsed.chains.iter().map(|chain| &chain.filters);
    let (mut agents, mut chains) = (HashSet::new(), HashSet::new());
    for filter in routes.chain(in_chains).flatten() {
        match filter {
            ParsedFilter::Agent(one) => {
                agents.insert(one.agent.value.as_str());
            }
            ParsedFilter::Parallel(several) => {
                agents.extend(several.iter().map(|one| one.agent.value.as_str()))
            }
            ParsedFilter::Guardrail(guardrail) => {
                agents.insert(guardrail.used.agent.value.as_str());
            }
            ParsedFilter::Use(name) => {
                chains.insert(name.value.as_str());
            }
            ParsedFilter::Own(_) | ParsedFilter::Broken => {}
        }
    }
    let actions = parsed.routes.iter().flat_map(|route| &route.actions);
    let mirrors = parsed
        .routes
        .iter()
        .filter_map(|route| route.mirror.as_ref());
    let upstreams: HashSet<&str> = actions
        .flat_map(|action| action.value.upstreams())
        .chain(mirrors.map(|mirror| &mirror.upstream))
        .map(|id| id.value.as_str())
        .collect();
    warn(
        "agent",
        parsed
            .agents
            .iter()
            .map(|item| (&*item.id.value, item.span)),
        &agents,
        report,
    );
    warn(
        "chain",
        parsed
            .chains
            .iter()
            .map(|item| (&*item.id.value, item.span)),
        &chains,
        report,
    );
    warn(
        "upstream",
        parsed
            .upstreams
            .iter()
            .map(|item| (&*item.id.value, item.span)),
        &upstreams,
        report,
    );
}

fn warn<'a>(
    kind: &str,
    items: impl Iterator<Item = (&'a str, Span)>,
    used: &HashSet<&str>,
    report: &Report,
) {
    for (id, span) in items.filter(|(id, _)| !used.contains(id)) {
        report.add(
            Diagnostic::warning(
                code::UNUSED,
                span,
                format!("the {kind} `{id}` is used by no route"),
            )
            .help("remove it, or use it"),
        );
    }
}
