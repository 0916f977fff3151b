//! What routes do.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedAction, ParsedOrigin, ParsedRoute},
    source::Span,
};
use std::collections::HashSet;

/// One action for each route.
pub(super) fn actions(parsed: &Parsed, report: &Report) {
    for route in &parsed.routes {
        match route.actions.as_slice() {
            [_] => {}
            [] => report.add(
                Diagnostic::error(
                    code::NO_ACTION,
                    route.span,
                    format!("the route `{}` does nothing", route.id.value),
                )
                .label("has no action")
                .help("add one of `upstream \"…\"`, `redirect \"…\"` and `respond 200 \"…\"`"),
            ),
            [first, others @ ..] => {
                for other in others {
                    report.add(
                        Diagnostic::error(
                            code::TWO_ACTIONS,
                            other.span,
                            format!("the route `{}` does two things", route.id.value),
                        )
                        .label("the second")
                        .also(first.span, "the first")
                        .help("keep one of them; for two kinds of requests write two routes"),
                    );
                }
            }
        }
    }
}

/// Settings that mean something only with an upstream.
pub(super) fn useless_settings(parsed: &Parsed, report: &Report) {
    let builtin: HashSet<&str> = parsed
        .upstreams
        .iter()
        .filter(|upstream| matches!(upstream.origin, Some(ParsedOrigin::BuiltinEcho)))
        .map(|upstream| upstream.id.value.as_str())
        .collect();
    for route in &parsed.routes {
        let [action] = route.actions.as_slice() else {
            continue;
        };
        let why = match &action.value {
            ParsedAction::Upstream(id) if builtin.contains(id.value.as_str()) => {
                Some("this is answered inside the program")
            }
            other => own_answer(other),
        };
        let Some(why) = why else { continue };
        for (name, span) in settings(route) {
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    span,
                    format!("`{name}` has no effect on this route"),
                )
                .also(action.span, why)
                .help(format!("remove `{name}`, or use an upstream with targets")),
            );
        }
    }
}

/// How a route answers by itself, if it does.
pub(super) fn own_answer(action: &ParsedAction) -> Option<&'static str> {
    match action {
        ParsedAction::Redirect { .. } => Some("this redirects"),
        ParsedAction::Respond { .. } => Some("this answers at once"),
        ParsedAction::Upstream(_) | ParsedAction::Broken => None,
    }
}

fn settings(route: &ParsedRoute) -> impl Iterator<Item = (&'static str, Span)> {
    let websocket = route
        .websocket
        .map(|websocket| ("websocket", websocket.span));
    let timeouts = route.timeouts_span.map(|span| ("timeouts", span));
    websocket.into_iter().chain(timeouts)
}

/// Warning: every request would be answered with 404.
pub(super) fn no_routes(parsed: &Parsed, report: &Report) {
    if parsed.routes.is_empty() {
        report.add(
            Diagnostic::warning(
                code::NO_ROUTES,
                Span::new(0, 0..0),
                "there is no route, so every request gets 404",
            )
            .help("add `routes { route \"all\" { upstream \"backend\" } }`"),
        );
    }
}
