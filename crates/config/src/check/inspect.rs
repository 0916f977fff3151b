//! What agents inspect: whether it can be had, and whether something passes by them.

use super::{
    routes,
    uses::{Chains, Uses},
};
use crate::{
    diagnostic::{Diagnostic, Report, code, list},
    kdl::{Parsed, ParsedAgent, ParsedRoute},
    model::{AgentId, BodyEncoding, BodyInspection, BodyMode, System},
    source::{Span, Spanned},
};
use std::collections::{HashMap, HashSet};

/// A body that is larger than the memory for all of them could never be held.
pub(super) fn limits(parsed: &Parsed, report: &Report) {
    for agent in &parsed.agents {
        for (_, body) in agent.inspect.bodies() {
            limit(parsed, report, &agent.id.value, &body.value, body.span);
        }
    }
}

/// The same of one body, which is written there.
pub(super) fn limit(
    parsed: &Parsed,
    report: &Report,
    agent: &AgentId,
    body: &BodyInspection,
    span: Span,
) {
    let usual = System::default().buffer_memory;
    let system = parsed.system.as_ref();
    let memory = system.map_or(usual, |system| system.value.buffer_memory);
    let whence = if memory == usual { ", the default" } else { "" };
    let (BodyMode::Buffer, Some(limit)) = (body.mode, body.limit) else {
        return;
    };
    if limit <= memory {
        return;
    }
    let mut diagnostic = Diagnostic::error(
        code::CONTRADICTION,
        span,
        format!("a body of {limit} cannot be held: `buffer-memory` is {memory}{whence}"),
    )
    .label(format!("for the agent `{agent}`"))
    .help(format!(
        "write `limit=\"{memory}\"` or less, or more `buffer-memory` into `system`"
    ));
    if let (Some(system), "") = (system, whence) {
        diagnostic = diagnostic.also(system.span, "`buffer-memory` is in here");
    }
    report.add(diagnostic);
}

/// A body is shown to all agents of a route in one form.
pub(super) fn encodings(parsed: &Parsed, report: &Report) {
    let known = Known::new(parsed);
    for route in &parsed.routes {
        let uses = known.uses(route);
        let mut first: HashMap<&str, (&ParsedAgent, Spanned<BodyInspection>)> = HashMap::new();
        let mut reported = HashSet::new();
        for agent in known.agents(&uses) {
            for (direction, body) in agent.inspect.bodies() {
                let (earlier, theirs) = *first.entry(direction).or_insert((agent, body));
                let same = theirs.value.encoding == body.value.encoding;
                if same || !reported.insert(direction) {
                    continue;
                }
                let (one, other) = (&earlier.id.value, &agent.id.value);
                report.add(
                    Diagnostic::error(
                        code::CONTRADICTION,
                        route.span,
                        format!(
                            "`{one}` and `{other}` see different forms of the same `{direction}`"
                        ),
                    )
                    .label("both are asked here")
                    .also(theirs.span, form(one, theirs.value.encoding))
                    .also(body.span, form(other, body.value.encoding))
                    .help("write the same `encoded` for both: a route shows a body in one form"),
                );
            }
        }
    }
}

fn form(agent: &str, encoding: BodyEncoding) -> String {
    let word = match encoding {
        BodyEncoding::Decode => "decode",
        BodyEncoding::Raw => "raw",
    };
    format!("for `{agent}` it is `encoded=\"{word}\"`")
}

/// What flows over an upgraded connection is no body, so it passes by those who inspect bodies, unless somebody inspects its
/// frames.
pub(super) fn upgrades(parsed: &Parsed, report: &Report) {
    let known = Known::new(parsed);
    for route in &parsed.routes {
        if route.websocket.is_none() && route.uninspected_upgrade.is_none() {
            continue;
        }
        let mut uses = known.uses(route);
        // What passes by a shadow agent is not let pass by anybody's decision.
        uses.agents.retain(|used| used.may_decide());
        let inspected = known
            .agents(&uses)
            .find_map(|agent| Some((&agent.id.value, agent.inspect.bodies().next()?.1.span)))
            .or_else(|| {
                let guardrail = uses.guardrails.first()?;
                let (_, body) = guardrail.bodies().next()?;
                Some((&guardrail.used.agent.value, body.span))
            });
        let frames = known
            .agents(&uses)
            .find(|agent| agent.inspect.websocket_frames);
        match (route.websocket, route.uninspected_upgrade, inspected) {
            (Some(_), None, _) if frames.is_some() => {}
            (Some(websocket), None, Some((agent, body))) => report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    websocket.span,
                    format!(
                        "upgraded connections would pass by the agent `{agent}` uninspected"
                    ),
                )
                .also(body, "it inspects bodies on this route")
                .help("ask an agent that inspects `websocket-frames`, write `uninspected-upgrade` if this is meant, or put `websocket` and the agent on different routes"),
            ),
            (None, Some(uninspected), _) => report.add(
                useless_upgrade(route, uninspected, "no request upgrades on this route")
                    .help("remove it, or add `websocket`"),
            ),
            (Some(_), Some(uninspected), _) if frames.is_some() => report.add(
                useless_upgrade(route, uninspected, "an agent of this route inspects frames")
                    .help("remove it: upgraded connections are inspected"),
            ),
            (Some(_), Some(uninspected), None) if !uses.in_doubt => report.add(
                useless_upgrade(route, uninspected, "no agent of this route inspects bodies")
                    .help("remove it: there is nothing that an upgrade could pass by"),
            ),
            _ => {}
        }
    }
}

fn useless_upgrade(route: &ParsedRoute, span: Span, why: &str) -> Diagnostic {
    let message = "`uninspected-upgrade` has no effect on this route";
    Diagnostic::error(code::CONTRADICTION, span, message).also(route.span, why)
}

/// Warning: where the proxy answers by itself, agents are asked about the heads of requests and nothing else.
pub(super) fn never_asked(parsed: &Parsed, report: &Report) {
    let known = Known::new(parsed);
    for route in &parsed.routes {
        let answered = route
            .actions
            .iter()
            .find_map(|action| Some((action.span, routes::own_answer(&action.value)?)));
        let Some((answer, why)) = answered else {
            continue;
        };
        let mut seen = HashSet::new();
        let uses = known.uses(route);
        if let Some(guardrail) = uses.guardrails.first() {
            let name = &guardrail.used.agent.value;
            report.add(
                Diagnostic::warning(
                    code::NEVER_ASKED,
                    route.span,
                    format!(
                        "the guardrail `{name}` sees nothing on the route `{}`",
                        route.id.value
                    ),
                )
                .also(answer, why)
                .help("only the heads of requests are inspected here: remove the guardrail"),
            );
        }
        for agent in known.agents(&uses) {
            let inspect = agent.inspect;
            let responses = inspect.response_headers.then_some("response-headers");
            let frames = inspect.websocket_frames.then_some("websocket-frames");
            let bodies = inspect.bodies().map(|(direction, _)| direction);
            let phases: Vec<_> = bodies.chain(responses).chain(frames).collect();
            if phases.is_empty() || !seen.insert(&agent.id.value) {
                continue;
            }
            report.add(
                Diagnostic::warning(
                    code::NEVER_ASKED,
                    route.span,
                    format!(
                        "the agent `{}` is not asked about {} on the route `{}`",
                        agent.id.value,
                        list(phases, "and"),
                        route.id.value
                    ),
                )
                .also(answer, why)
                .help("only the heads of requests are inspected here: ask an agent that inspects nothing else, or none"),
            );
        }
    }
}

/// What is looked up for every route.
pub(super) struct Known<'a> {
    chains: Chains<'a>,
    agents: HashMap<&'a str, &'a ParsedAgent>,
}

impl<'a> Known<'a> {
    pub(super) fn new(parsed: &'a Parsed) -> Self {
        let agents = parsed.agents.iter();
        Self {
            chains: Chains::new(parsed),
            agents: agents
                .map(|agent| (agent.id.value.as_str(), agent))
                .collect(),
        }
    }

    pub(super) fn uses(&self, route: &'a ParsedRoute) -> Uses<'a> {
        let mut uses = self.chains.uses(&route.filters);
        // One that does not exist may have been meant to inspect anything.
        let unknown = |name: &str| !self.agents.contains_key(name);
        let mut names = uses.agents.iter().map(|used| used.agent.value.as_str());
        uses.in_doubt |= names.any(unknown);
        uses
    }

    /// Those that exist, in the order in which they are asked.
    pub(super) fn agents<'b>(
        &'b self,
        uses: &'b Uses<'a>,
    ) -> impl Iterator<Item = &'a ParsedAgent> + 'b {
        let names = uses.agents.iter();
        names.filter_map(|written| self.agents.get(written.agent.value.as_str()).copied())
    }
}
