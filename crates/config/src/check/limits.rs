//! Limits that could never be reached.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedFilter, ParsedOwn},
};

/// A body that is larger than what every listener takes never comes to a route.
pub(super) fn useless_body_limits(parsed: &Parsed, report: &Report) {
    let listeners = parsed.listeners.iter();
    let Some(largest) = listeners.map(|listener| listener.limits.body_bytes).max() else {
        return;
    };
    let routes = parsed.routes.iter().map(|route| &route.filters);
    let chains = parsed.chains.iter().map(|chain| &chain.filters);
    for filter in routes.chain(chains).flatten() {
        let ParsedFilter::Own(ParsedOwn::BodyLimit(limit)) = filter else {
            continue;
        };
        if limit.value >= largest {
            let message = format!(
                "a body limit of {} has no effect: no listener takes bodies of more than {largest}",
                limit.value
            );
            report.add(
                Diagnostic::error(code::CONTRADICTION, limit.span, message)
                    .help("write less, or more as `body-bytes` in the `limits` of a listener"),
            );
        }
    }
}
