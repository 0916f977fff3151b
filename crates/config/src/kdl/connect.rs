//! `tls`, `keepalive` and `send-proxy-protocol` of an upstream.

use super::{cursor::Node, value::Value};
use crate::{
    diagnostic::code,
    model::{Keepalive, ProxyProtocol, UpstreamTls},
};
use std::net::IpAddr;

/// `tls server-name="…" ca="…" certificate="…" key="…"`.
pub(super) fn tls(node: &mut Node<'_>) -> Option<UpstreamTls> {
    let server_name_value = node.property("server-name");
    if server_name_value.is_none() {
        node.report(
            node.error(
                code::MISSING,
                "`tls` needs the name that the target's certificate must have",
            )
            .label("no `server-name`")
            .help("write `tls server-name=\"backend.internal\"`; without a name no certificate could be verified"),
        );
    }
    // All of them are looked at, whatever is wrong with one.
    let server_name = server_name_value.and_then(host_or_address);
    let ca_value = node.property("ca");
    let ca = ca_value.map(|value| value.path());
    let certificate = node.property("certificate").map(|value| value.path());
    let key = node.property("key").map(|value| value.path());
    let skip = node.property("insecure-skip-verify");
    if certificate.is_some() != key.is_some() {
        node.report(
            node.error(code::MISSING, "a certificate and its key go together")
                .help("write both `certificate=\"…\"` and `key=\"…\"`, or neither"),
        );
    }
    let insecure_skip_verify = match skip {
        Some(value) => value.boolean()?,
        None => false,
    };
    if let (true, Some(ca)) = (insecure_skip_verify, ca_value) {
        ca.report(
            ca.error(
                code::CONTRADICTION,
                "authorities have no effect when nothing is verified",
            )
            .also(node.span(), "`insecure-skip-verify` takes any certificate")
            .help("remove `insecure-skip-verify`, so that they count, or remove `ca`"),
        );
    }
    Some(UpstreamTls {
        server_name: server_name?,
        ca: match ca {
            Some(ca) => Some(ca?),
            None => None,
        },
        identity: match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate?, key?)),
            _ => None,
        },
        insecure_skip_verify,
    })
}

fn host_or_address(value: Value<'_>) -> Option<String> {
    let text = value.nonempty_text()?;
    if text.parse::<IpAddr>().is_ok() || is_host(&text) {
        return Some(text);
    }
    value.report(
        value
            .error(
                code::INVALID_VALUE,
                format!("`{text}` is neither the name of a host nor an address"),
            )
            .help("write one name or address, without port, such as \"backend.internal\""),
    );
    None
}

/// Whether it is the name of a host: labels of letters, digits, `-` and `_` between dots.
pub(super) fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let labels = text.strip_suffix('.').unwrap_or(text).split('.');
    // One that ends in a number is an address that is written wrongly.
    let last_is_number = |mut labels: std::str::Split<'_, char>| {
        labels
            .next_back()
            .is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()))
    };
    text.len() <= 253 && labels.clone().all(is_label) && !last_is_number(labels)
}

/// `keepalive connections=128 idle="60s"`.
pub(super) fn keepalive(node: &mut Node<'_>) -> Option<Keepalive> {
    let default = Keepalive::default();
    let connections = node.property("connections");
    let connections = connections.map_or(Some(default.connections), |value| {
        value.integer(0..=1024_u32)
    });
    let idle = node.property("idle");
    let idle = idle.map_or(Some(default.idle), |value| value.timeout());
    Some(Keepalive {
        connections: connections?,
        idle: idle?,
    })
}

/// `send-proxy-protocol "v1"`.
pub(super) fn send_proxy_protocol(node: &mut Node<'_>) -> Option<ProxyProtocol> {
    let choices = [("v1", ProxyProtocol::V1), ("v2", ProxyProtocol::V2)];
    node.argument("\"v1\" or \"v2\"")?.choice(&choices, &[])
}

#[cfg(test)]
mod tests {
    use super::is_host;

    #[test]
    fn names_of_hosts() {
        for good in ["a", "backend.internal", "x-1.y_2.z", "example.com.", "1.a"] {
            assert!(is_host(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in [
            "", ".", "a..b", "-a", "a-", "a b", "a:80", "1.2.3", "*.a", &long,
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
