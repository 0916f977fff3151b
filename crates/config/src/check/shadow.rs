//! Shadow agents: with whom they are compared.

use super::uses::Chains;
use crate::{
    diagnostic::{Diagnostic, Report, code, did_you_mean, list},
    kdl::{Parsed, ParsedAgentUse},
};
use std::collections::HashSet;

/// The agent that is compared with has to be one whose verdicts hold on the same route.
pub(super) fn compared(parsed: &Parsed, report: &Report) {
    let chains = Chains::new(parsed);
    let mut seen = HashSet::new();
    for route in &parsed.routes {
        let uses = chains.uses(&route.filters);
        if uses.in_doubt {
            continue;
        }
        let enforced: Vec<&str> = uses
            .agents
            .iter()
            .filter(|used| used.shadow.is_none())
            .map(|used| used.agent.value.as_str())
            .collect();
        for used in &uses.agents {
            let Some(name) = compare_with(used) else {
                continue;
            };
            let known = enforced.contains(&name.value.as_str());
            // A chain that several routes use is wrong once.
            if known || !seen.insert(name.span) {
                continue;
            }
            let help = did_you_mean(&name.value, enforced.iter().copied()).unwrap_or_else(|| {
                match enforced.is_empty() {
                    true => "remove `compare-with`: no agent of this route is enforced, so there is nothing to compare with".to_owned(),
                    false => format!("write {}", list(enforced.iter().copied(), "or")),
                }
            });
            report.add(
                Diagnostic::error(
                    code::DANGLING_REFERENCE,
                    name.span,
                    format!(
                        "no agent `{}` is enforced on the route `{}`",
                        name.value, route.id.value
                    ),
                )
                .label("compared with nothing")
                .also(route.span, "this route")
                .help(help),
            );
        }
    }
}

fn compare_with(used: &ParsedAgentUse) -> Option<&crate::source::Spanned<crate::model::AgentId>> {
    used.shadow.as_ref()?.compare_with.as_ref()
}
