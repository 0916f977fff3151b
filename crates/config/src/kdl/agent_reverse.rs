//! `reverse "PATH" uid=… token-file="…" replicas=… mode="…" registering=…`, and `reverse "IP:PORT" certificate-name="…" …` with `tls`.

use super::{
    address::{Use, socket_address},
    cursor::Node,
    secret,
    value::Value,
    verdict_trace::TOKEN,
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{AgentReverse, AgentTls, Registering, ReverseFiles, ReversePlace},
    source::Span,
};
use std::net::IpAddr;

/// Who may connect to a socket.
pub(super) const MODES: [(&str, u32); 3] = [("0600", 0o600), ("0660", 0o660), ("0666", 0o666)];

/// With the node of `tls`, which goes with an address.
pub(super) fn reverse(node: &mut Node<'_>, tls: Option<&(AgentTls, Span)>) -> Option<AgentReverse> {
    let written = node.argument("the path of a socket that the agent dials, or an address")?;
    let token = node.property("token");
    if let Some(token) = &token {
        node.context().report.hide(token.span());
    }
    let token = secret::one_of([token, node.property("token-file")], TOKEN);
    let replicas = node
        .property("replicas")
        .and_then(|value| value.count(1..=64));
    let registering = registering(node);
    let place = match is_address(&written.text()?) {
        true => address(node, written, tls, token.is_some()),
        false => socket(node, written),
    };
    Some(AgentReverse {
        place: place?,
        token,
        replicas: replicas.unwrap_or(1),
        registering: registering?,
    })
}

/// `None` when something is wrong with it.
fn registering(node: &mut Node<'_>) -> Option<Registering> {
    const ALL: usize = 64;
    const PER_CLIENT: usize = 16;
    let all = node.property("registering");
    let all = all.map_or(Some(ALL), |value| value.count(1..=1024));
    let Some(written) = node.property("registering-per-client") else {
        let all = all?;
        let per_client = PER_CLIENT.min(all);
        return Some(Registering { all, per_client });
    };
    let per_client = written.count(1..=1024);
    let (all, per_client) = (all?, per_client?);
    if per_client > all {
        let message = format!("one client cannot have {per_client} places of {all}");
        let help = format!("write at most {all}, or let `registering` be more than that");
        written.report(written.error(code::CONTRADICTION, message).help(help));
        return None;
    }
    Some(Registering { all, per_client })
}

/// What could not be meant for the path of a socket.
fn is_address(text: &str) -> bool {
    let is_number = || text.parse::<IpAddr>().is_ok() || text.parse::<u16>().is_ok();
    !text.contains('/') && (text.contains(':') || is_number())
}

fn socket(node: &mut Node<'_>, written: Value<'_>) -> Option<ReversePlace> {
    let path = written.socket_path("");
    let uid = node
        .property("uid")
        .and_then(|value| value.integer(0..=u32::MAX - 1));
    let mode = node
        .property("mode")
        .and_then(|value| value.choice(&MODES, &[]));
    if let Some(name) = node.property("certificate-name") {
        refuse(
            "certificate-name",
            name,
            "nobody shows a certificate at a Unix socket",
            "remove it, or let the agent dial an address, such as \"0.0.0.0:9443\"",
        );
    }
    Some(ReversePlace::Socket {
        path: path?,
        mode: mode.unwrap_or(0o600),
        uid,
    })
}

fn address(
    node: &mut Node<'_>,
    written: Value<'_>,
    tls: Option<&(AgentTls, Span)>,
    has_token: bool,
) -> Option<ReversePlace> {
    let address = socket_address(written, Use::Listen);
    for (name, help) in [
        ("uid", "remove it, and say by `certificate-name` who it is"),
        ("mode", "remove it"),
    ] {
        if let Some(value) = node.property(name) {
            refuse(
                name,
                value,
                "this is about Unix sockets, and the agent dials an address",
                help,
            );
        }
    }
    let name = node.property("certificate-name");
    if name.is_none() && !has_token {
        node.report(
            Diagnostic::error(
                code::MISSING,
                node.span(),
                "whoever has a certificate could register as this agent",
            )
            .help("add `certificate-name=\"…\"`, the name that its certificate is for, or `token-file=\"…\"`"),
        );
    }
    let is_named = name.is_some();
    let certificate_name = name.and_then(certificate_name);
    let files = files(node, tls)?;
    (certificate_name.is_some() == is_named).then_some(ReversePlace::Tls {
        address: address?.value,
        files,
        certificate_name,
    })
}

/// A DNS name, or a URI, as certificates have them.
fn certificate_name(value: Value<'_>) -> Option<String> {
    let text = value.nonempty_text()?;
    let in_dns = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let problem = if text.contains('*') {
        "a wildcard would be for several agents"
    } else if text.parse::<IpAddr>().is_ok() {
        "an address is not the name of an agent"
    } else if text.contains("://") && text.bytes().all(|byte| byte.is_ascii_graphic())
        || text.bytes().all(in_dns)
    {
        return Some(text);
    } else {
        "it is neither a DNS name nor a URI"
    };
    value.report(
        value
            .error(
                code::INVALID_VALUE,
                format!("`{text}` cannot be the name of a certificate"),
            )
            .label(problem)
            .help("write a name of its subjectAltName, such as \"waf-1.agents.example.com\" or \"spiffe://example.com/waf\""),
    );
    None
}

/// Both ends show a certificate.
fn files(node: &Node<'_>, tls: Option<&(AgentTls, Span)>) -> Option<ReverseFiles> {
    let Some((tls, span)) = tls else {
        node.report(
            Diagnostic::error(
                code::MISSING,
                node.span(),
                "agents that dial an address do so over TLS, and its files are not said",
            )
            .help("add `tls certificate=\"…\" key=\"…\" ca=\"…\"`"),
        );
        return None;
    };
    if let Some(name) = &tls.server_name {
        node.report(
            Diagnostic::error(
                code::CONTRADICTION,
                *span,
                format!("`server-name=\"{name}\"` has no effect: we are the server"),
            )
            .help("remove it, and say by `certificate-name` of `reverse` who the agent is"),
        );
    }
    let (Some((certificate, key)), Some(ca)) = (&tls.identity, &tls.ca) else {
        node.report(
            Diagnostic::error(
                code::MISSING,
                *span,
                "both ends of these connections show a certificate",
            )
            .help("write all of `certificate=\"…\"`, `key=\"…\"` and `ca=\"…\"`, the authority of the agents"),
        );
        return None;
    };
    Some(ReverseFiles {
        certificate: certificate.clone(),
        key: key.clone(),
        ca: ca.clone(),
    })
}

fn refuse(name: &str, value: Value<'_>, why: &str, help: &str) {
    value.report(
        value
            .error(code::CONTRADICTION, format!("`{name}` has no effect here"))
            .label(why)
            .help(help),
    );
}

#[cfg(test)]
mod tests {
    use super::is_address;

    #[test]
    fn addresses_are_told_from_paths() {
        for address in [
            "127.0.0.1:1",
            "[::1]:1",
            ":9443",
            "9443",
            "10.0.0.1",
            "::1",
            "localhost:1",
        ] {
            assert!(is_address(address), "{address}");
        }
        for path in ["/run/a.sock", "a.sock", "./a:1", "run/a"] {
            assert!(!is_address(path), "{path}");
        }
    }
}
