//! Addresses and networks. Everything here is numeric; names, which have to be resolved, are for targets alone.

use super::{cursor::Node, value::Value};
use crate::{
    diagnostic::{Diagnostic, code},
    source::Spanned,
};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What a numeric address is for; it decides what is said about one that is not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// We listen on it. Port 0 lets the system choose.
    Listen,
    /// We connect to it.
    Connect,
    /// We ask it for names.
    Resolver,
}

/// `IP:PORT`, with IPv6 in brackets.
pub(super) fn socket_address(value: Value<'_>, purpose: Use) -> Option<Spanned<SocketAddr>> {
    let text = value.text()?;
    let Ok(address) = text.parse::<SocketAddr>() else {
        value.report(not_an_address(value, &text, purpose));
        return None;
    };
    if purpose != Use::Listen && address.port() == 0 {
        value.report(
            value
                .error(code::INVALID_VALUE, "nobody can be reached at port 0")
                .help("write the target's port"),
        );
        return None;
    }
    Some(value.spanned(address))
}

fn not_an_address(value: Value<'_>, text: &str, purpose: Use) -> Diagnostic {
    let invalid = |help: String| {
        value
            .error(
                code::INVALID_VALUE,
                format!("`{text}` is not an address and a port"),
            )
            .help(help)
    };
    if purpose == Use::Connect && (text.starts_with("unix:") || text.starts_with('/')) {
        let path = text.strip_prefix("unix:").unwrap_or(text);
        return invalid(format!("write it as `unix-socket=\"{path}\"`"));
    }
    if text.starts_with("unix:") || text.starts_with('/') {
        return value
            .error(
                code::NOT_SUPPORTED_YET,
                "Unix sockets are not supported here yet",
            )
            .help("write an IP address and a port, such as \"127.0.0.1:8080\"");
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.trim_end_matches('/');
        return invalid(format!(
            "leave out `{scheme}://`: write only the address and the port, such as \"{rest}\""
        ));
    }
    let host_and_port = text.rsplit_once(':').filter(|(_, port)| is_digits(port));
    if let Some((host, port)) = host_and_port
        && host.parse::<Ipv6Addr>().is_ok()
    {
        return invalid(format!(
            "an IPv6 address needs brackets: \"[{host}]:{port}\""
        ));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return invalid(format!(
            "add the port: \"{}\"",
            SocketAddr::new(address, 8080)
        ));
    }
    if let Some(help) = without_an_address(text, purpose) {
        return invalid(help);
    }
    invalid(without_a_name(text, host_and_port, purpose))
}

/// What to write instead of a port alone.
fn without_an_address(text: &str, purpose: Use) -> Option<String> {
    let port = text.strip_prefix(':').or_else(|| text.strip_prefix("*:"));
    let port = port.unwrap_or(text);
    port.parse::<u16>().ok()?;
    let host = if purpose == Use::Listen {
        "0.0.0.0"
    } else {
        "127.0.0.1"
    };
    Some(format!("write the address too: \"{host}:{port}\""))
}

/// What to write instead of what may be a name. Only targets have names, and those had their chance.
fn without_a_name(text: &str, host_and_port: Option<(&str, &str)>, purpose: Use) -> String {
    match host_and_port {
        None if purpose == Use::Connect && is_name(text) => {
            format!("add the port: \"{text}:8080\"")
        }
        Some(("localhost", port)) => format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\""),
        Some((_, port)) if port.parse::<u16>().is_err() => {
            "a port is a number up to 65535".to_owned()
        }
        Some((host, port)) if is_name(host) => {
            format!("write its IP address and the port, such as \"10.0.0.11:{port}\"")
        }
        None if is_name(text) => {
            "write its IP address and its port, such as \"10.0.0.11:8080\"".to_owned()
        }
        _ => "write it such as \"127.0.0.1:8080\" or \"[::1]:8080\"".to_owned(),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether it could be the name of a host rather than a numeric address.
fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    text.bytes().all(allowed) && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// The arguments of a node as networks; a bare address is a network of one.
pub(super) fn networks(node: &mut Node<'_>) -> Option<Vec<IpNet>> {
    let values = node.arguments("addresses or networks, such as \"10.0.0.0/8\"");
    Some(values.into_iter().filter_map(network).collect())
}

/// A network that is believed; that it is everybody is hardly meant.
fn network(value: Value<'_>) -> Option<IpNet> {
    let network = any_network(value)?;
    if network.prefix_len() == 0 {
        value.report(
            Diagnostic::warning(
                code::TRUSTS_EVERYBODY,
                value.span(),
                format!("`{}` is everybody", value.text()?),
            )
            .label("any client can claim any address")
            .help("list only the proxies in front of this one"),
        );
    }
    Some(network)
}

/// One argument as a network.
pub(super) fn any_network(value: Value<'_>) -> Option<IpNet> {
    match parse_network(&value.text()?) {
        Ok(network) => Some(network),
        Err((message, help)) => {
            value.report(value.error(code::INVALID_VALUE, message).help(help));
            None
        }
    }
}

/// An address or a network.
///
/// # Errors
/// It is neither: what is wrong, and what to write.
pub(super) fn parse_network(text: &str) -> Result<IpNet, (String, String)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let Ok(network) = text.parse::<IpNet>() else {
        return Err((
            format!("`{text}` is neither an address nor a network"),
            "write it such as \"10.0.0.0/8\", \"fd00::/8\" or \"192.0.2.7\"".to_owned(),
        ));
    };
    if network.trunc() != network {
        return Err((
            format!("`{text}` has bits set behind its prefix"),
            format!(
                "write \"{}\" for the network or \"{}\" for the one address",
                network.trunc(),
                network.addr()
            ),
        ));
    }
    Ok(network)
}
