//! Agents that speak version 1: what that dialect does not have.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::Parsed,
    model::Dialect,
};

/// What is written about words that no agent of this dialect can say.
pub(super) fn useless_settings(parsed: &Parsed, report: &Report) {
    let old = parsed.agents.iter();
    for agent in old.filter(|agent| agent.dialect == Dialect::V1) {
        let name = &agent.id.value;
        let useless = |span, setting: &str, why: &str| {
            let message = format!("`{setting}` has no effect: the agent `{name}` speaks `v1`");
            report.add(
                Diagnostic::error(code::CONTRADICTION, span, message)
                    .label(format!("it cannot say {why}"))
                    .help("remove it, or use an agent that speaks \"v2\""),
            );
        };
        if let Some(cache) = &agent.verdict_cache {
            useless(cache.span, "verdict-cache", "for how long a verdict holds");
        }
        if agent.policy.overload.is_written() {
            useless(agent.span, "overload", "that it has too much to do");
        }
    }
}
