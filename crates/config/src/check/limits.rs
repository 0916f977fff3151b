//! Limits that could never be reached, or count what there is not.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedFilter, ParsedOwn},
    model::LimitKey,
};

/// A body that is larger than what every listener takes never comes to a route.
pub(super) fn useless_body_limits(parsed: &Parsed, report: &Report) {
    let listeners = parsed.listeners.iter();
    let Some(largest) = listeners.map(|listener| listener.limits.body_bytes).max() else {
        return;
    };
    for own in written(parsed) {
        let ParsedOwn::BodyLimit(limit) = own else {
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

/// Where no listener asks for certificates, all requests would be counted together.
pub(super) fn keys_without_certificates(parsed: &Parsed, report: &Report) {
    let mut tls = parsed.listeners.iter().filter_map(|it| it.tls.as_ref());
    if tls.any(|tls| tls.client_auth.is_some()) {
        return;
    }
    for own in written(parsed) {
        let (key, span) = match own {
            ParsedOwn::RateLimit(limit) => (&limit.value.key, limit.span),
            ParsedOwn::ConcurrencyLimit(limit) => (&limit.value.key, limit.span),
            _ => continue,
        };
        if key.contains(&LimitKey::Certificate) {
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    span,
                    "no listener asks clients for certificates, so all of them would be counted together",
                )
                .help("write `client-auth` in the `tls` of a listener, or count by something else"),
            );
        }
    }
}

/// The lines of routes and chains that ask nobody.
fn written(parsed: &Parsed) -> impl Iterator<Item = &ParsedOwn> {
    let routes = parsed.routes.iter().map(|route| &route.filters);
    let chains = parsed.chains.iter().map(|chain| &chain.filters);
    let filters = routes.chain(chains).flatten();
    filters.filter_map(|filter| match filter {
        ParsedFilter::Own(own) => Some(own),
        _ => None,
    })
}
