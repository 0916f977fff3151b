//! `upstreams { upstream "ID" { … } }`.

use super::{
    connect,
    cursor::{Block, Later, Node},
    header_span,
    target::{target, targets_file},
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{Keepalive, ProxyProtocol, Target, UpstreamId, UpstreamProtocol, UpstreamTls},
    source::{Span, Spanned},
};
use std::time::Duration;

/// An upstream as it is written.
pub(crate) struct ParsedUpstream {
    pub(crate) id: Spanned<UpstreamId>,
    /// None: it was reported as wrong already.
    pub(crate) origin: Option<ParsedOrigin>,
    pub(crate) protocol: Option<Spanned<UpstreamProtocol>>,
    /// None within: it was reported as wrong already.
    pub(crate) tls: Option<Spanned<Option<UpstreamTls>>>,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) send_proxy_protocol: Option<ProxyProtocol>,
    pub(crate) timeouts: PartialTimeouts,
    pub(crate) span: Span,
}

/// Who answers, as it is written.
pub(crate) enum ParsedOrigin {
    Targets(Vec<Spanned<Target>>),
    BuiltinEcho,
}

/// Timeouts of which some may be written elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct PartialTimeouts {
    pub(crate) connect: Option<Duration>,
    pub(crate) response_header: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) total: Option<Duration>,
}

pub(super) const LATER: &[Later] = &[Later::new("health-check"), Later::new("outlier")];

/// Settings that mean something only with targets.
const FOR_TARGETS: [&str; 6] = [
    "balance",
    "protocol",
    "timeouts",
    "tls",
    "keepalive",
    "send-proxy-protocol",
];

pub(super) fn upstream(node: &mut Node<'_>) -> Option<ParsedUpstream> {
    let id = node.id();
    let span = header_span(node);
    node.block(|block| {
        block.later(LATER);
        let mut settings = Vec::new();
        let (mut protocol, mut timeouts_written) = (None, None);
        let (mut tls, mut keepalive, mut send_proxy_protocol) = (None, None, None);
        for name in FOR_TARGETS {
            block.one(name, |node| {
                settings.push(Spanned {
                    value: name,
                    span: node.span(),
                });
                let span = node.span();
                match name {
                    "balance" => balance(node),
                    "protocol" => {
                        let read = self::protocol(node);
                        protocol = read.map(|value| Spanned { value, span });
                    }
                    "tls" => {
                        let value = connect::tls(node);
                        tls = Some(Spanned { value, span });
                    }
                    "keepalive" => keepalive = connect::keepalive(node),
                    "send-proxy-protocol" => {
                        send_proxy_protocol = connect::send_proxy_protocol(node);
                    }
                    _ => timeouts_written = Some(timeouts(node)),
                }
                Some(())
            });
        }
        let origin = origin(block, span, &settings);
        Some(ParsedUpstream {
            id: id?,
            origin,
            protocol,
            tls,
            keepalive,
            send_proxy_protocol,
            timeouts: timeouts_written.unwrap_or_default(),
            span,
        })
    })
}

fn balance(node: &mut Node<'_>) {
    const LATER: &[&str] = &[
        "least-requests",
        "p2c-ewma",
        "random",
        "hash",
        "weighted",
        "sticky",
    ];
    let Some(value) = node.argument("\"round-robin\"") else {
        return;
    };
    if value.choice(&[("round-robin", ())], LATER).is_none() {
        // The properties of other balancers would only repeat what was just said.
        node.ignore_rest();
    }
}

fn protocol(node: &mut Node<'_>) -> Option<UpstreamProtocol> {
    let choices = [
        ("http1", UpstreamProtocol::Http1),
        ("h2", UpstreamProtocol::H2),
        ("h2c", UpstreamProtocol::H2c),
    ];
    node.argument("\"http1\", \"h2\" or \"h2c\"")?
        .choice(&choices, &[])
}

pub(super) fn timeouts(node: &mut Node<'_>) -> PartialTimeouts {
    node.block(|block| {
        let mut timeout = |name| {
            block.one(name, |node: &mut Node<'_>| {
                node.argument("a duration, such as \"10s\"")?.timeout()
            })
        };
        PartialTimeouts {
            connect: timeout("connect"),
            response_header: timeout("response-header"),
            idle: timeout("idle"),
            total: timeout("total"),
        }
    })
}

fn origin(block: &mut Block<'_>, span: Span, settings: &[Spanned<&str>]) -> Option<ParsedOrigin> {
    let mut written = 0_usize;
    let mut targets = block.many("target", |node| {
        written += 1;
        target(node)
    });
    targets.extend(block.many("targets-file", |node| {
        written += 1;
        targets_file(node)
    }));
    let builtin = block.one("builtin", |node| {
        let known = node
            .argument("the name of a builtin origin, \"echo\"")
            .and_then(|value| value.choice(&[("echo", ())], &[]));
        Some((node.span(), known.is_some()))
    });
    match (written, builtin) {
        (0, None) => {
            block.report(
                Diagnostic::error(code::MISSING, span, "this upstream has nobody who answers")
                    .label("no `target`")
                    .help("add a line such as `target \"10.0.0.11:8080\"`"),
            );
            None
        }
        (0, Some((at, known))) => {
            for setting in settings {
                block.report(
                    Diagnostic::error(
                        code::CONTRADICTION,
                        setting.span,
                        format!("`{}` has no effect on a builtin origin", setting.value),
                    )
                    .also(at, "it is inside this program")
                    .help("remove it"),
                );
            }
            known.then_some(ParsedOrigin::BuiltinEcho)
        }
        (_, Some((at, _))) => {
            block.report(
                Diagnostic::error(
                    code::CONTRADICTION,
                    at,
                    "an upstream is either builtin or has targets",
                )
                .help("remove `builtin` or the targets"),
            );
            None
        }
        (_, None) => Some(ParsedOrigin::Targets(targets)),
    }
}
