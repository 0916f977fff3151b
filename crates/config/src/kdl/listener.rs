//! `listeners { listener "ID" { … } }`.

use super::{
    address::{self, Use},
    agent_reverse,
    cursor::{Block, Node},
    header_span, http2,
    listener_tls::{self, ParsedListenerTls},
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{
        ByteSize, Http2, ListenerAddress, ListenerId, ListenerLimits, ListenerProxyProtocol,
        ListenerTimeouts, Underscores,
    },
    source::{Span, Spanned},
};
use ipnet::IpNet;

/// A listener as it is written.
pub(crate) struct ParsedListener {
    pub(crate) id: Spanned<ListenerId>,
    pub(crate) address: Option<Spanned<ListenerAddress>>,
    pub(crate) h2c: Option<Spanned<bool>>,
    pub(crate) proxy_protocol: Option<Spanned<ListenerProxyProtocol>>,
    pub(crate) tls: Option<ParsedListenerTls>,
    /// Where its deadline is written.
    pub(crate) tls_handshake: Option<Span>,
    pub(crate) http2: Option<Spanned<Http2>>,
    pub(crate) half_close: bool,
    pub(crate) underscores_in_headers: Underscores,
    pub(crate) timeouts: ListenerTimeouts,
    pub(crate) limits: ListenerLimits,
    /// None: the system's list holds.
    pub(crate) trusted_proxies: Option<Vec<IpNet>>,
    pub(crate) span: Span,
}

const UNDERSCORES: [(&str, Underscores); 2] =
    [("drop", Underscores::Drop), ("pass", Underscores::Pass)];

/// More than any disk behind us would take in one piece.
const MOST_BODY_BYTES: ByteSize = ByteSize::mib(1 << 20);

pub(super) fn listener(node: &mut Node<'_>) -> Option<ParsedListener> {
    let id = node.id();
    let span = header_span(node);
    node.block(|block| {
        let mut tls_handshake = None;
        Some(ParsedListener {
            address: address(block),
            h2c: block.one("h2c", |node| {
                let value = node.flag()?;
                let span = node.span();
                Some(Spanned { value, span })
            }),
            proxy_protocol: block.one("proxy-protocol", proxy_protocol).flatten(),
            tls: block.one("tls", listener_tls::tls),
            http2: block.one("http2", |node| Some(http2::http2(node))),
            half_close: block.one("half-close", Node::flag).unwrap_or(false),
            underscores_in_headers: block
                .one("underscores-in-headers", |node| {
                    node.argument("\"drop\" or \"pass\"")?
                        .choice(&UNDERSCORES, &[])
                })
                .unwrap_or_default(),
            timeouts: block
                .one("timeouts", |node| {
                    Some(node.block(|block| timeouts(block, &mut tls_handshake)))
                })
                .unwrap_or_default(),
            tls_handshake,
            limits: block
                .one("limits", |node| Some(limits(node)))
                .unwrap_or_default(),
            trusted_proxies: block.one("trusted-proxies", address::networks),
            id: id?,
            span,
        })
    })
}

fn address(block: &mut Block<'_>) -> Option<Spanned<ListenerAddress>> {
    if !block.has("unix-socket") {
        return block.required("address", "address \"0.0.0.0:8080\"", tcp);
    }
    let unix = block.one("unix-socket", unix);
    let mut second = None;
    block.one("address", |node| {
        second = Some(node.span());
        tcp(node)
    });
    if let (Some(unix), Some(second)) = (&unix, second) {
        block.report(
            Diagnostic::error(
                code::CONTRADICTION,
                second,
                "a listener is at one place, an address or a Unix socket",
            )
            .also(unix.span, "it is here already")
            .help("remove one of the two, or make two listeners"),
        );
    }
    unix
}

fn tcp(node: &mut Node<'_>) -> Option<Spanned<ListenerAddress>> {
    let value = node.argument("an address, such as \"0.0.0.0:8080\"")?;
    let is_path = |text: &str| text.starts_with("unix:") || text.starts_with('/');
    if value.raw().as_string().is_some_and(is_path) {
        value.report(
            value
                .error(
                    code::INVALID_VALUE,
                    "this is the path of a Unix socket, and not an address and a port",
                )
                .help("write `unix-socket \"/run/portcullis/http.sock\"` instead of `address`"),
        );
        return None;
    }
    let address = address::socket_address(value, Use::Listen)?;
    Some(value.spanned(ListenerAddress::Tcp(address.value)))
}

fn unix(node: &mut Node<'_>) -> Option<Spanned<ListenerAddress>> {
    let value = node.argument("the path of a socket, such as \"/run/portcullis/http.sock\"")?;
    let path = value.socket_path("unix:");
    let mode = node
        .property("mode")
        .and_then(|value| value.choice(&agent_reverse::MODES, &[]));
    Some(value.spanned(ListenerAddress::Unix {
        path: path?,
        mode: mode.unwrap_or(0o660),
    }))
}

/// `None` in it: it is switched off.
fn proxy_protocol(node: &mut Node<'_>) -> Option<Option<Spanned<ListenerProxyProtocol>>> {
    let is_on = node.flag()?;
    let forwarded = node.property("forwarded-headers");
    let choices = [("ignore", false), ("believe", true)];
    let value = ListenerProxyProtocol {
        believes_forwarded: forwarded
            .and_then(|value| value.choice(&choices, &[]))
            .unwrap_or_default(),
    };
    let span = node.span();
    Some(is_on.then_some(Spanned { value, span }))
}

fn timeouts(block: &mut Block<'_>, tls_handshake: &mut Option<Span>) -> ListenerTimeouts {
    let default = ListenerTimeouts::default();
    let mut timeout = |name| {
        block.one(name, |node: &mut Node<'_>| {
            if name == "tls-handshake" {
                *tls_handshake = Some(node.span());
            }
            node.argument("a duration, such as \"10s\"")?.timeout()
        })
    };
    ListenerTimeouts {
        tls_handshake: timeout("tls-handshake").unwrap_or(default.tls_handshake),
        request_header: timeout("request-header").unwrap_or(default.request_header),
        keepalive: timeout("keepalive").unwrap_or(default.keepalive),
        request_body_idle: timeout("request-body-idle").unwrap_or(default.request_body_idle),
        response_write: timeout("response-write").unwrap_or(default.response_write),
    }
}

fn limits(node: &mut Node<'_>) -> ListenerLimits {
    let default = ListenerLimits::default();
    let limits = node.block(|block| {
        let most_headers = u32::try_from(ListenerLimits::MAX_HEADER_COUNT).unwrap_or(u32::MAX);
        let header_count = block.one("header-count", |node| {
            node.argument("a number of header fields")?
                .count(1..=most_headers)
        });
        let connections = block.one("connections-per-client", |node| {
            node.argument("a number of connections")?
                .count(1..=10_000_000)
        });
        let requests = block.one("requests-per-connection", |node| {
            node.argument("a number of requests")?.integer(1..=u64::MAX)
        });
        let mut size = |name, most| {
            block.one(name, |node: &mut Node<'_>| {
                node.argument("a size, such as \"64KiB\"")?
                    .size(ByteSize(1)..=most)
            })
        };
        ListenerLimits {
            header_bytes: size("header-bytes", ListenerLimits::MAX_HEAD_BYTES)
                .unwrap_or(default.header_bytes),
            uri_bytes: size("uri-bytes", ListenerLimits::MAX_HEAD_BYTES)
                .unwrap_or(default.uri_bytes),
            body_bytes: size("body-bytes", MOST_BODY_BYTES).unwrap_or(default.body_bytes),
            header_count: header_count.unwrap_or(default.header_count),
            connections_per_client: connections.unwrap_or(default.connections_per_client),
            requests_per_connection: requests.unwrap_or(default.requests_per_connection),
        }
    });
    let head = ByteSize(
        limits
            .header_bytes
            .bytes()
            .saturating_add(limits.uri_bytes.bytes()),
    );
    if head > ListenerLimits::MAX_HEAD_BYTES {
        let most = ListenerLimits::MAX_HEAD_BYTES;
        node.report(
            Diagnostic::error(
                code::OUT_OF_RANGE,
                node.span(),
                format!("`header-bytes` and `uri-bytes` are {head} together, and {most} is the most that can be read"),
            )
            .help(format!("make one of them smaller, so that both together are {most} at most")),
        );
    }
    limits
}
