//! Sockets whose frames agents inspect: whether there are any, and whether what is said of them has an effect.

use super::{inspect::Known, routes};
use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedAgent},
};

/// Who inspects nothing but frames is never asked where nothing upgrades.
pub(super) fn frames_without_sockets(parsed: &Parsed, report: &Report) {
    let known = Known::new(parsed);
    for route in &parsed.routes {
        if route.websocket.is_some() {
            continue;
        }
        let uses = known.uses(route);
        for agent in known.agents(&uses) {
            if agent.inspect.websocket_frames && !sees_more(agent) {
                let name = &agent.id.value;
                report.add(
                    Diagnostic::error(
                        code::CONTRADICTION,
                        route.span,
                        format!("the agent `{name}` inspects frames, and nothing upgrades here"),
                    )
                    .label("has no `websocket`")
                    .also(
                        agent.id.span,
                        "it inspects `websocket-frames` and nothing else",
                    )
                    .help("add `websocket` to the route, or take the agent out of its filters"),
                );
            }
        }
    }
}

/// Settings of sockets that nobody looks into.
pub(super) fn useless_settings(parsed: &Parsed, report: &Report) {
    let known = Known::new(parsed);
    for route in &parsed.routes {
        let Some(setting) = route.websocket.and_then(|websocket| websocket.setting) else {
            continue;
        };
        let uses = known.uses(route);
        if uses.in_doubt
            || known
                .agents(&uses)
                .any(|agent| agent.inspect.websocket_frames)
        {
            continue;
        }
        report.add(
            Diagnostic::error(
                code::CONTRADICTION,
                setting,
                "the settings of `websocket` have no effect on this route",
            )
            .also(route.span, "no agent of this route inspects frames")
            .help("write `websocket` without braces, or ask an agent here that inspects `websocket-frames`"),
        );
    }
}

/// Warning: an agent of this route sees frames elsewhere; here it sees only the rest of what it inspects.
pub(super) fn frames_never_asked(parsed: &Parsed, report: &Report) {
    let known = Known::new(parsed);
    for route in &parsed.routes {
        let mut actions = route.actions.iter();
        let answers = actions.any(|action| routes::own_answer(&action.value).is_some());
        if route.websocket.is_some() || answers {
            continue;
        }
        let uses = known.uses(route);
        let agents = known.agents(&uses);
        for agent in agents.filter(|agent| agent.inspect.websocket_frames) {
            report.add(
                Diagnostic::warning(
                    code::NEVER_ASKED,
                    route.span,
                    format!(
                        "the agent `{}` is not asked about websocket-frames on the route `{}`",
                        agent.id.value, route.id.value
                    ),
                )
                .label("has no `websocket`")
                .help("upgrades are refused here: add `websocket` if they are meant to pass"),
            );
        }
    }
}

fn sees_more(agent: &ParsedAgent) -> bool {
    let inspect = agent.inspect;
    inspect.request_headers
        || inspect.response_headers
        || inspect.request_complete.is_some()
        || inspect.bodies().next().is_some()
}
