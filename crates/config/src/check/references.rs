//! Names that nothing has.

use crate::{
    diagnostic::{Diagnostic, Report, code, did_you_mean},
    kdl::{Parsed, ParsedAgentUse, ParsedFilter},
    source::Span,
};
use std::collections::HashSet;

/// In a file with more wrong names than this a block is missing rather than a letter wrong, and each search for
/// something similar goes over all names.
const MOST_HINTS: usize = 50;

pub(super) fn dangling(parsed: &Parsed, report: &Report) {
    let mut names = Names {
        agents: parsed
            .agents
            .iter()
            .map(|agent| agent.id.value.as_str())
            .collect(),
        chains: parsed
            .chains
            .iter()
            .map(|chain| chain.id.value.as_str())
            .collect(),
        upstreams: parsed
            .upstreams
            .iter()
            .map(|upstream| upstream.id.value.as_str())
            .collect(),
        hints: 0,
        parsed,
        report,
    };
    for route in &parsed.routes {
        names.filters(&route.filters);
        for action in &route.actions {
            for id in action.value.upstreams() {
                if !names.upstreams.contains(id.value.as_str()) {
                    names.dangling("upstream", &id.value, id.span);
                }
            }
        }
    }
    let mirrors = parsed
        .routes
        .iter()
        .filter_map(|route| route.mirror.as_ref());
    for mirror in mirrors {
        let id = &mirror.upstream;
        if !names.upstreams.contains(id.value.as_str()) {
            names.dangling("upstream", &id.value, id.span);
        }
    }
    for chain in &parsed.chains {
        names.filters(&chain.filters);
    }
}

struct Names<'a> {
    agents: HashSet<&'a str>,
    chains: HashSet<&'a str>,
    upstreams: HashSet<&'a str>,
    hints: usize,
    parsed: &'a Parsed,
    report: &'a Report,
}

impl Names<'_> {
    fn filters(&mut self, filters: &[ParsedFilter]) {
        for filter in filters {
            match filter {
                ParsedFilter::Agent(one) => self.agent(one),
                ParsedFilter::Parallel(several) => several.iter().for_each(|one| self.agent(one)),
                ParsedFilter::Guardrail(guardrail) => self.agent(&guardrail.used),
                ParsedFilter::Use(name) if !self.chains.contains(name.value.as_str()) => {
                    self.dangling("chain", &name.value, name.span);
                }
                ParsedFilter::Use(_) | ParsedFilter::Own(_) | ParsedFilter::Broken => {}
            }
        }
    }

    fn agent(&mut self, written: &ParsedAgentUse) {
        if !self.agents.contains(written.agent.value.as_str()) {
            self.dangling("agent", &written.agent.value, written.agent.span);
        }
    }

    fn dangling(&mut self, kind: &str, name: &str, span: Span) {
        self.hints += 1;
        // From the lists, whose order is that of the text, so that the hint is always the same.
        let known: Vec<&str> = match kind {
            _ if self.hints > MOST_HINTS => Vec::new(),
            "agent" => self
                .parsed
                .agents
                .iter()
                .map(|item| item.id.value.as_str())
                .collect(),
            "chain" => self
                .parsed
                .chains
                .iter()
                .map(|item| item.id.value.as_str())
                .collect(),
            _ => self
                .parsed
                .upstreams
                .iter()
                .map(|item| item.id.value.as_str())
                .collect(),
        };
        let place = match kind {
            "agent" => format!("define it in `agents {{ agent \"{name}\" {{ … }} }}`"),
            "chain" => format!("define it in `filters {{ chain \"{name}\" {{ … }} }}`"),
            _ => format!("define it in `upstreams {{ upstream \"{name}\" {{ … }} }}`"),
        };
        self.report.add(
            Diagnostic::error(
                code::DANGLING_REFERENCE,
                span,
                format!("there is no {kind} called `{name}`"),
            )
            .label("defined nowhere")
            .help(did_you_mean(name, known).unwrap_or(place)),
        );
    }
}
