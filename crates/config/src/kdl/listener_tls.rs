//! `tls { … }` of a listener.

use super::{
    condition,
    cursor::{Block, Node},
    value::Value,
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::TlsVersion,
    source::{Span, Spanned},
};
use std::path::PathBuf;

/// TLS of a listener as it is written.
pub(crate) struct ParsedListenerTls {
    pub(crate) certificates: Vec<ParsedCertificate>,
    pub(crate) min_version: TlsVersion,
    pub(crate) http2: bool,
    pub(crate) client_auth: Option<ParsedClientAuth>,
    pub(crate) span: Span,
}

/// A certificate as it is written.
pub(crate) struct ParsedCertificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) server_name: Option<Spanned<String>>,
    pub(crate) ocsp: Option<PathBuf>,
    pub(crate) span: Span,
}

/// What clients have to show as it is written; `off` is `None`.
pub(crate) struct ParsedClientAuth {
    pub(crate) required: bool,
    pub(crate) ca: PathBuf,
    pub(crate) span: Span,
}

/// What `client-auth` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Off,
    Request,
    Require,
}

const CERTIFICATE: &str = "certificate \"certs/example.com.pem\" key=\"certs/example.com.key\"";

pub(super) fn tls(node: &mut Node<'_>) -> Option<ParsedListenerTls> {
    let span = node.span();
    node.block(|block| {
        if !block.has("certificate") {
            block.report(
                Diagnostic::error(code::MISSING, span, "`tls` needs a `certificate`")
                    .label("has nothing to show of itself")
                    .help(format!(
                        "add a line such as `{CERTIFICATE}` inside its braces"
                    )),
            );
        }
        Some(ParsedListenerTls {
            certificates: block.many("certificate", certificate),
            min_version: block.one("min-version", min_version).unwrap_or_default(),
            http2: block.one("alpn", alpn).unwrap_or(true),
            client_auth: client_auth(block),
            span,
        })
    })
}

fn certificate(node: &mut Node<'_>) -> Option<ParsedCertificate> {
    let certificate = node
        .argument("the path of a PEM file, such as \"certs/example.com.pem\"")
        .and_then(|value| value.path());
    let written = node.property("key");
    if written.is_none() {
        node.report(
            node.error(code::MISSING, "this certificate has no key")
                .help(format!("write its file after it, as in `{CERTIFICATE}`")),
        );
    }
    let key = written.and_then(|value| value.path());
    let server_name = node.property("server-name").and_then(server_name);
    let ocsp = node.property("ocsp").and_then(|value| value.path());
    Some(ParsedCertificate {
        certificate: certificate?,
        key: key?,
        server_name,
        ocsp,
        span: node.span(),
    })
}

fn server_name(value: Value<'_>) -> Option<Spanned<String>> {
    let text = value.nonempty_text()?.to_ascii_lowercase();
    let name = text.strip_prefix("*.").unwrap_or(&text);
    if !condition::is_host(name) || name.starts_with('[') || name.contains('_') {
        value.report(
            value
                .error(
                    code::INVALID_VALUE,
                    format!("`{text}` is not a name that clients ask for in TLS"),
                )
                .help(
                    "write a name such as \"example.com\", with `*.` before it for the names one level below it; other \
                     alphabets as punycode",
                ),
        );
        return None;
    }
    Some(value.spanned(text))
}

fn min_version(node: &mut Node<'_>) -> Option<TlsVersion> {
    let value = node.argument("a version of TLS, \"1.2\" or \"1.3\"")?;
    value.choice(
        &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)],
        &[],
    )
}

/// Whether HTTP/2 is among the protocols.
fn alpn(node: &mut Node<'_>) -> Option<bool> {
    let protocols: Vec<_> = node
        .arguments("the protocols to offer, such as \"h2\" \"http/1.1\"")
        .into_iter()
        .filter_map(|value| value.choice(&[("h2", true), ("http/1.1", false)], &[]))
        .collect();
    if !protocols.is_empty() && !protocols.contains(&false) {
        node.report(
            node.error(code::CONTRADICTION, "HTTP/1.1 cannot be left out")
                .help(
                    "add \"http/1.1\": clients that offer nothing speak it, and WebSockets need it",
                ),
        );
    }
    Some(protocols.contains(&true))
}

fn client_auth(block: &mut Block<'_>) -> Option<ParsedClientAuth> {
    block.one("client-auth", |node| {
        let choices = [
            ("off", Mode::Off),
            ("request", Mode::Request),
            ("require", Mode::Require),
        ];
        let mode = node
            .argument("\"off\", \"request\" or \"require\"")
            .and_then(|value| value.choice(&choices, &[]));
        let written = node.property("ca");
        let is_written = written.is_some();
        let ca = written.and_then(|value| value.path());
        match mode? {
            Mode::Off if is_written => {
                node.report(
                    node.error(
                        code::CONTRADICTION,
                        "nobody's certificate is looked at, so `ca` has no effect",
                    )
                    .help("remove `ca`, or write \"request\" or \"require\""),
                );
                None
            }
            Mode::Off => None,
            Mode::Request | Mode::Require if !is_written => {
                node.report(
                    node.error(
                        code::MISSING,
                        "it does not say who may have signed a client's certificate",
                    )
                    .help("add `ca=\"certs/clients.pem\"`, a PEM file with the authorities"),
                );
                None
            }
            mode => Some(ParsedClientAuth {
                required: mode == Mode::Require,
                ca: ca?,
                span: node.span(),
            }),
        }
    })
}
