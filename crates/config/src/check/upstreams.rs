//! How upstreams are connected to, and how their targets are chosen and asked.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedOrigin},
    model::{Balance, HealthCheckKind, UpstreamProtocol},
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

/// Somebody has to be stood in for.
pub(super) fn only_backups(parsed: &Parsed, report: &Report) {
    for upstream in &parsed.upstreams {
        let Some(ParsedOrigin::Targets(targets)) = &upstream.origin else {
            continue;
        };
        let Some(first) = targets.first() else {
            continue;
        };
        if targets.iter().all(|target| target.value.is_backup) {
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    first.span,
                    format!("all targets of `{}` are backups", upstream.id.value),
                )
                .label("a backup stands in for others")
                .help("remove `backup` from those that requests go to as a rule"),
            );
        }
    }
}

/// A key belongs to a target, whether that has just come or not.
pub(super) fn useless_slow_start(parsed: &Parsed, report: &Report) {
    for upstream in &parsed.upstreams {
        if let (Balance::Hash(_), Some(slow_start)) = (&upstream.balance, &upstream.slow_start) {
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    slow_start.span,
                    "`slow-start` has no effect where a hash decides",
                )
                .also(upstream.span, "this has `balance \"hash\"`")
                .help("remove it, or choose another `balance`"),
            );
        }
    }
}

/// gRPC is spoken over HTTP/2 alone.
pub(super) fn grpc_over_http1(parsed: &Parsed, report: &Report) {
    for upstream in &parsed.upstreams {
        let Some(check) = &upstream.health_check else {
            continue;
        };
        let is_grpc = matches!(check.value.kind, HealthCheckKind::Grpc { .. });
        let protocol = upstream
            .protocol
            .map_or(UpstreamProtocol::Http1, |it| it.value);
        if is_grpc && protocol == UpstreamProtocol::Http1 {
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    check.span,
                    "gRPC is not spoken over HTTP/1.1",
                )
                .also(upstream.span, "this has `protocol \"http1\"`")
                .help("write `protocol \"h2c\"`, or ask with \"http\" or \"tcp\""),
            );
        }
    }
}

/// Nobody finds out that a target is not in order.
pub(super) fn useless_panic_threshold(parsed: &Parsed, report: &Report) {
    for upstream in &parsed.upstreams {
        let is_watched = upstream.health_check.is_some() || upstream.outlier.is_some();
        if let (Some(threshold), false) = (&upstream.panic_threshold, is_watched) {
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    threshold.span,
                    "`panic-threshold` has no effect here",
                )
                .also(upstream.span, "nobody finds out which targets are in order")
                .help("remove it, or add `health-check` or `outlier`"),
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
