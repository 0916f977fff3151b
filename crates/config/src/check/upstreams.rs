//! How upstreams are connected to.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::Parsed,
    model::UpstreamProtocol,
};

/// HTTP/2 is agreed upon within TLS, or known beforehand without it.
pub(super) fn protocols(parsed: &Parsed, report: &Report) {
    for upstream in &parsed.upstreams {
        let Some(protocol) = upstream.protocol else {
            continue;
        };
        match (protocol.value, &upstream.tls) {
            (UpstreamProtocol::H2, None) => report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    protocol.span,
                    "`h2` is spoken over TLS, and this upstream has none",
                )
                .help("add `tls server-name=\"…\"`, or write `protocol \"h2c\"` for HTTP/2 without TLS"),
            ),
            (UpstreamProtocol::H2c, Some(tls)) => report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    protocol.span,
                    "`h2c` is spoken without TLS",
                )
                .also(tls.span, "this upstream has TLS")
                .help("write `protocol \"h2\"`, or remove `tls`"),
            ),
            _ => {}
        }
    }
}

/// A WebSocket begins as a request of HTTP/1.1, and cannot be passed on as one of HTTP/2.
pub(super) fn upgrades(parsed: &Parsed, report: &Report) {
    for route in &parsed.routes {
        let Some(websocket) = &route.websocket else {
            continue;
        };
        let ids = route
            .actions
            .iter()
            .flat_map(|action| action.value.upstreams())
            .map(|id| &id.value);
        for id in ids {
            let upstream = parsed.upstreams.iter().find(|it| it.id.value == *id);
            let protocol = upstream.and_then(|upstream| upstream.protocol);
            let Some(protocol) = protocol.filter(|it| it.value != UpstreamProtocol::Http1) else {
                continue;
            };
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    websocket.span,
                    format!("`websocket` has no effect: the targets of `{id}` speak HTTP/2"),
                )
                .also(protocol.span, "WebSockets begin in HTTP/1.1")
                .help("remove `websocket`, or send the route to an upstream with `protocol \"http1\"`"),
            );
        }
    }
}

/// Warning: whoever answers at the address of a target is believed.
pub(super) fn unverified(parsed: &Parsed, report: &Report) {
    for upstream in &parsed.upstreams {
        let Some(tls) = &upstream.tls else { continue };
        if tls
            .value
            .as_ref()
            .is_some_and(|tls| tls.insecure_skip_verify)
        {
            report.add(
                Diagnostic::warning(
                    code::UNVERIFIED,
                    tls.span,
                    format!(
                        "the targets of `{}` may show any certificate",
                        upstream.id.value
                    ),
                )
                .label("nothing is verified")
                .help("name the authority that signed it with `ca=\"…\"` and remove `insecure-skip-verify`"),
            );
        }
    }
}
