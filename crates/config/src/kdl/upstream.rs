//! `upstreams { upstream "ID" { … } }`.

use super::{
    balance, connect,
    cursor::{Block, Node},
    header_span, health, retry,
    target::{target, targets_file},
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{
        Balance, HealthCheck, Keepalive, Outlier, ProxyProtocol, RetryBudget, Share, Sticky,
        Target, UpstreamId, UpstreamLimits, UpstreamProtocol, UpstreamTls,
    },
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
    pub(crate) balance: Balance,
    pub(crate) sticky: Option<Sticky>,
    pub(crate) slow_start: Option<Spanned<Duration>>,
    pub(crate) health_check: Option<Spanned<HealthCheck>>,
    pub(crate) outlier: Option<Spanned<Outlier>>,
    pub(crate) panic_threshold: Option<Spanned<Share>>,
    pub(crate) retry_budget: RetryBudget,
    pub(crate) limits: UpstreamLimits,
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

/// Settings that mean something only with targets.
const FOR_TARGETS: [&str; 13] = [
    "balance",
    "sticky",
    "slow-start",
    "health-check",
    "outlier",
    "panic-threshold",
    "retry-budget",
    "limits",
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
        let mut settings = Vec::new();
        let (mut protocol, mut timeouts_written) = (None, None);
        let (mut tls, mut keepalive, mut send_proxy_protocol) = (None, None, None);
        let (mut balance, mut sticky, mut slow_start) = (None, None, None);
        let (mut retry_budget, mut limits) = (None, None);
        let (mut health_check, mut outlier, mut panic_threshold) = (None, None, None);
        for name in FOR_TARGETS {
            block.one(name, |node| {
                settings.push(Spanned {
                    value: name,
                    span: node.span(),
                });
                let span = node.span();
                match name {
                    "balance" => balance = balance::balance(node),
                    "sticky" => sticky = balance::sticky(node),
                    "health-check" => health_check = health::health_check(node),
                    "outlier" => outlier = health::outlier(node),
                    "panic-threshold" => panic_threshold = health::panic_threshold(node),
                    "retry-budget" => retry_budget = retry::budget(node),
                    "limits" => limits = retry::limits(node),
                    "slow-start" => slow_start = self::slow_start(node),
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
            balance: balance.unwrap_or_default(),
            sticky,
            slow_start,
            health_check,
            outlier,
            panic_threshold,
            retry_budget: retry_budget.unwrap_or_default(),
            limits: limits.unwrap_or_default(),
            span,
        })
    })
}

fn slow_start(node: &mut Node<'_>) -> Option<Spanned<Duration>> {
    let value = node.argument("a duration, such as \"30s\"")?;
    Some(value.spanned(value.timeout()?))
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
