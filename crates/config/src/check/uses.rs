//! Who is asked on a route when its chains are written out.

use super::chains::{DEEPEST, MOST_FILTERS};
use crate::kdl::{Parsed, ParsedAgentUse, ParsedChain, ParsedFilter, ParsedGuardrail, ParsedOwn};
use std::collections::HashMap;

/// The lines of a route that is accepted, with those that were replaced by a chain.
const MOST_LINES: usize = MOST_FILTERS * (DEEPEST + 1);

/// The chains that routes may use.
pub(super) struct Chains<'a>(HashMap<&'a str, &'a ParsedChain>);

/// Who is asked on a route.
pub(super) struct Uses<'a> {
    /// In the order written; who is asked twice is there twice.
    pub(super) agents: Vec<&'a ParsedAgentUse>,
    /// Those who are shown texts, in the order written.
    pub(super) guardrails: Vec<&'a ParsedGuardrail>,
    /// The lines that ask nobody, in the order written.
    pub(super) own: Vec<&'a ParsedOwn>,
    /// There may be more of them: something is wrong with a line, a chain or the size of the route, and reported
    /// elsewhere.
    pub(super) in_doubt: bool,
}

impl<'a> Chains<'a> {
    pub(super) fn new(parsed: &'a Parsed) -> Self {
        let chains = parsed.chains.iter();
        Self(
            chains
                .map(|chain| (chain.id.value.as_str(), chain))
                .collect(),
        )
    }

    /// Ends soon, whatever the chains do to each other.
    pub(super) fn uses(&self, filters: &'a [ParsedFilter]) -> Uses<'a> {
        let mut walk = Walk {
            chains: &self.0,
            found: Uses {
                agents: Vec::new(),
                guardrails: Vec::new(),
                own: Vec::new(),
                in_doubt: false,
            },
            lines_left: MOST_LINES,
        };
        walk.filters(filters, 0);
        walk.found
    }
}

struct Walk<'w, 'a> {
    chains: &'w HashMap<&'a str, &'a ParsedChain>,
    found: Uses<'a>,
    lines_left: usize,
}

impl<'a> Walk<'_, 'a> {
    fn filters(&mut self, filters: &'a [ParsedFilter], depth: usize) {
        for filter in filters {
            if self.lines_left == 0 {
                self.found.in_doubt = true;
                return;
            }
            match filter {
                ParsedFilter::Agent(one) => self.agents(std::slice::from_ref(one)),
                ParsedFilter::Parallel(several) => self.agents(several),
                ParsedFilter::Guardrail(guardrail) => {
                    self.lines_left -= 1;
                    self.found.guardrails.push(guardrail);
                }
                ParsedFilter::Own(own) => {
                    self.lines_left -= 1;
                    self.found.own.push(own);
                }
                ParsedFilter::Broken => self.found.in_doubt = true,
                ParsedFilter::Use(name) => {
                    self.lines_left -= 1;
                    match self.chains.get(name.value.as_str()) {
                        Some(chain) if depth < DEEPEST => self.filters(&chain.filters, depth + 1),
                        _ => self.found.in_doubt = true,
                    }
                }
            }
        }
    }

    fn agents(&mut self, agents: &'a [ParsedAgentUse]) {
        // A `parallel` that asks nobody was meant to ask somebody.
        self.found.in_doubt |= agents.is_empty() || agents.len() > self.lines_left;
        let agents = agents.iter().take(self.lines_left);
        self.lines_left -= agents.len();
        self.found.agents.extend(agents);
    }
}
