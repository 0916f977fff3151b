//! Filter chains: circles, sizes, and agents that are asked twice.

use super::uses::Chains;
use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedChain, ParsedFilter},
    source::{Span, Spanned},
};
use std::collections::HashMap;

/// Chains in chains. Nobody can follow more.
pub(super) const DEEPEST: usize = 8;
/// Filters of a route when all its chains are written out.
pub(super) const MOST_FILTERS: usize = 256;

/// Chains that use each other in a circle, and routes that grow without reason.
pub(super) fn loops_and_sizes(parsed: &Parsed, report: &Report) {
    let chains = parsed
        .chains
        .iter()
        .map(|chain| (chain.id.value.as_str(), chain))
        .collect();
    let mut walk = Walk {
        chains,
        sizes: HashMap::new(),
        path: Vec::new(),
        report,
    };
    for chain in &parsed.chains {
        walk.chain(&chain.id);
    }
    for route in &parsed.routes {
        let size = walk.filters(&route.filters);
        if size > MOST_FILTERS {
            report.add(
                Diagnostic::error(
                    code::OUT_OF_RANGE,
                    route.span,
                    format!("with its chains written out this route has {size} filters"),
                )
                .help(format!(
                    "{MOST_FILTERS} are the most; look for a chain that is used again and again"
                )),
            );
        }
    }
}

struct Walk<'a> {
    chains: HashMap<&'a str, &'a ParsedChain>,
    /// Of the chains that were walked to their end.
    sizes: HashMap<&'a str, usize>,
    /// The chains that are being walked, with the places where the next was used.
    path: Vec<(&'a str, Span)>,
    report: &'a Report,
}

impl<'a> Walk<'a> {
    /// How many filters it is when written out.
    fn chain(&mut self, name: &Spanned<String>) -> usize {
        if let Some(size) = self.sizes.get(name.value.as_str()) {
            return *size;
        }
        let Some((id, chain)) = self
            .chains
            .get_key_value(name.value.as_str())
            .map(|(id, chain)| (*id, *chain))
        else {
            return 0;
        };
        if let Some(start) = self.path.iter().position(|(walked, _)| *walked == id) {
            self.report_loop(start, name);
            return 0;
        }
        if self.path.len() == DEEPEST {
            self.report.add(
                Diagnostic::error(
                    code::OUT_OF_RANGE,
                    name.span,
                    "chains are nested too deeply",
                )
                .help(format!("{DEEPEST} levels are the most")),
            );
            self.sizes.insert(id, 0);
            return 0;
        }
        self.path.push((id, name.span));
        let size = self.filters(&chain.filters);
        self.path.pop();
        self.sizes.insert(id, size);
        size
    }

    fn filters(&mut self, filters: &'a [ParsedFilter]) -> usize {
        filters
            .iter()
            .map(|filter| match filter {
                // An empty chain is a line too, else a route could be made of any number of them.
                ParsedFilter::Use(name) => self.chain(name).max(1),
                ParsedFilter::Parallel(several) => several.len(),
                _ => 1,
            })
            .fold(0, usize::saturating_add)
    }

    fn report_loop(&self, start: usize, last: &Spanned<String>) {
        let circle = &self.path[start..];
        let names: Vec<String> = circle.iter().map(|(name, _)| format!("`{name}`")).collect();
        let message = match circle {
            [(name, _)] => format!("the chain `{name}` uses itself"),
            _ => format!(
                "these chains use each other in a circle: {}",
                names.join(", ")
            ),
        };
        let mut diagnostic = Diagnostic::error(code::USE_LOOP, last.span, message)
            .label("back to where it began")
            .help("remove one of the uses");
        for (_, span) in circle.iter().skip(1) {
            diagnostic = diagnostic.also(*span, "on the way");
        }
        self.report.add(diagnostic);
    }
}

/// Two answers of one agent to one question cannot both count.
pub(super) fn agents_in_parallel(parsed: &Parsed, report: &Report) {
    let routes = parsed.routes.iter().map(|route| &route.filters);
    let chains = parsed.chains.iter().map(|chain| &chain.filters);
    for filter in routes.chain(chains).flatten() {
        let ParsedFilter::Parallel(several) = filter else {
            continue;
        };
        let mut seen = HashMap::new();
        for written in several {
            let name = written.agent.value.as_str();
            if let Some(first) = seen.insert(name, written.agent.span) {
                report.add(
                    Diagnostic::error(
                        code::CONTRADICTION,
                        written.agent.span,
                        format!("`{name}` is asked twice at the same time"),
                    )
                    .label("the second time")
                    .also(first, "the first time")
                    .help("remove one of them"),
                );
            }
        }
    }
}

/// Warning: usually a chain brings an agent that the route names too.
pub(super) fn asked_twice(parsed: &Parsed, report: &Report) {
    let chains = Chains::new(parsed);
    for route in &parsed.routes {
        let mut seen = HashMap::new();
        for written in chains.uses(&route.filters).agents {
            let name = written.agent.value.as_str();
            if let Some(first) = seen.insert(name, written.agent.span) {
                report.add(
                    Diagnostic::warning(
                        code::ASKED_TWICE,
                        route.span,
                        format!("the agent `{name}` is asked twice about each request of the route `{}`", route.id.value),
                    )
                    .also(first, "here")
                    .also(written.agent.span, "and here")
                    .help("remove one of them, unless something between them changes the request"),
                );
            }
        }
    }
}
