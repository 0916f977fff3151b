//! `upstreams { upstream "ID" { … } }`.

use super::{
    address::{self, Use},
    cursor::{Block, Later, Node},
    header_span,
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{Target, UpstreamId, UpstreamProtocol},
    source::{Span, Spanned},
};
use std::time::Duration;

/// An upstream as it is written.
pub(crate) struct ParsedUpstream {
    pub(crate) id: Spanned<UpstreamId>,
    /// None: it was reported as wrong already.
    pub(crate) origin: Option<ParsedOrigin>,
    pub(crate) protocol: UpstreamProtocol,
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
}

pub(super) const LATER: &[Later] = &[
    Later::new("health-check"),
    Later::new("outlier"),
    Later::new("keepalive"),
    Later::new("tls"),
];

const LATER_ON_TARGET: &[Later] = &[Later::with_remedy(
    "resolve",
    "write the target's IP address instead of its name",
)];

/// Settings that mean something only with targets.
const FOR_TARGETS: [&str; 3] = ["balance", "protocol", "timeouts"];

pub(super) fn upstream(node: &mut Node<'_>) -> Option<ParsedUpstream> {
    let id = node.id();
    let span = header_span(node);
    node.block(|block| {
        block.later(LATER);
        let mut settings = Vec::new();
        let (mut protocol, mut timeouts_written) = (None, None);
        for name in FOR_TARGETS {
            block.one(name, |node| {
                settings.push(Spanned {
                    value: name,
                    span: node.span(),
                });
                match name {
                    "balance" => balance(node),
                    "protocol" => protocol = self::protocol(node),
                    _ => timeouts_written = Some(timeouts(node)),
                }
                Some(())
            });
        }
        let origin = origin(block, span, &settings);
        Some(ParsedUpstream {
            id: id?,
            origin,
            protocol: protocol.unwrap_or_default(),
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
        ("h2c", UpstreamProtocol::H2c),
    ];
    node.argument("\"http1\" or \"h2c\"")?
        .choice(&choices, &["h2"])
}

pub(super) fn timeouts(node: &mut Node<'_>) -> PartialTimeouts {
    node.block(|block| {
        block.later(&[Later::new("total")]);
        let mut timeout = |name| {
            block.one(name, |node: &mut Node<'_>| {
                node.argument("a duration, such as \"10s\"")?.timeout()
            })
        };
        PartialTimeouts {
            connect: timeout("connect"),
            response_header: timeout("response-header"),
            idle: timeout("idle"),
        }
    })
}

fn origin(block: &mut Block<'_>, span: Span, settings: &[Spanned<&str>]) -> Option<ParsedOrigin> {
    let mut written = 0_usize;
    let targets = block.many("target", |node| {
        written += 1;
        target(node)
    });
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

fn target(node: &mut Node<'_>) -> Option<Spanned<Target>> {
    let value = node.argument("an address, such as \"10.0.0.11:8080\"")?;
    let weight = match node.property("weight") {
        Some(value) => value.integer(1..=1000_u32),
        None => Some(1),
    };
    let address = address::socket_address(value, Use::Connect);
    if address.is_some() {
        node.later_properties(LATER_ON_TARGET);
    } else {
        // Said already, with the remedy that makes these needless.
        node.property("resolve");
    }
    Some(value.spanned(Target {
        address: address?.value,
        weight: weight?,
    }))
}
