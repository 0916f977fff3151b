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
                .help("add one of `upstream \"…\"`, `split { … }`, `static \"…\"`, `redirect \"…\"` and `respond 200 \"…\"`"),
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
        let own = own_answer(&action.value);
        let mut upstreams = action.value.upstreams().peekable();
        let all_builtin =
            upstreams.peek().is_some() && upstreams.all(|id| builtin.contains(id.value.as_str()));
        let inside = all_builtin || matches!(action.value, ParsedAction::Static(_));
        let inside = inside.then_some("this is answered inside the program");
        let rewrite = route.rewrite.as_ref().filter(|_| own.is_some());
        let rewrite = rewrite.map(|rewrite| ("rewrite", rewrite.span));
        let passes_on = action.value.upstreams().next().is_some();
        let mirror = route.mirror.as_ref().filter(|_| !passes_on);
        let mirror = mirror.map(|mirror| ("mirror", mirror.span));
        let Some(why) = own.or(inside) else { continue };
        for (name, span) in settings(route).chain(rewrite).chain(mirror) {
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
        // What agents inspect of responses they inspect of files too.
        ParsedAction::Upstream(_)
        | ParsedAction::Split(_)
        | ParsedAction::Static(_)
        | ParsedAction::Broken => None,
    }
}

fn settings(route: &ParsedRoute) -> impl Iterator<Item = (&'static str, Span)> {
    let websocket = route
        .websocket
        .map(|websocket| ("websocket", websocket.span));
    let timeouts = route.timeouts_span.map(|span| ("timeouts", span));
    let retry = route.retry.as_ref().map(|retry| ("retry", retry.span));
    websocket.into_iter().chain(timeouts).chain(retry)
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
