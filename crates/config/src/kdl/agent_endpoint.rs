//! `grpc "URL"`, `http "URL"`, each also with several targets, `tls` and `dialect` of an agent.

use super::{agent_targets::targets, cursor::Node, value::Value};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{AgentEndpoint, AgentTls, AgentUrl, Dialect},
    source::{Span, Spanned},
};

/// What an agent can be reached over, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// `unix-socket` and `command`.
    Socket,
    Builtin,
    Grpc,
    Http,
    Reverse,
}

/// Which dialect is spoken over what.
const SPOKEN: &[(Dialect, &[Over])] = &[
    (
        Dialect::V2,
        &[Over::Socket, Over::Builtin, Over::Grpc, Over::Reverse],
    ),
    (Dialect::V1, &[Over::Socket, Over::Http]),
    (Dialect::ExtProc, &[Over::Grpc]),
    (Dialect::ExtAuthz, &[Over::Grpc, Over::Http]),
    (Dialect::ForwardAuth, &[Over::Http]),
];

impl Over {
    const fn remedy(self) -> &'static str {
        match self {
            Self::Socket => "`unix-socket` or `command`",
            Self::Builtin => "`builtin`",
            Self::Grpc => "`grpc \"http://127.0.0.1:50051\"`",
            Self::Http => "`http \"http://127.0.0.1:8000/auth\"`",
            Self::Reverse => "`reverse`",
        }
    }
}

/// What a dialect cannot be spoken over is a contradiction; one that nobody speaks yet is said to be so.
pub(super) fn spoken(dialect: Dialect, over: Over, span: Span) -> Option<Diagnostic> {
    let (_, ways) = SPOKEN.iter().find(|(it, _)| *it == dialect)?;
    if ways.contains(&over) {
        return None;
    }
    let name = dialect.name();
    if ways.is_empty() {
        return Some(
            Diagnostic::error(
                code::NOT_SUPPORTED_YET,
                span,
                format!("the dialect `{name}` is not supported yet"),
            )
            .help("use an agent that speaks \"v2\""),
        );
    }
    let ways: Vec<_> = ways.iter().map(|way| way.remedy()).collect();
    Some(
        Diagnostic::error(
            code::CONTRADICTION,
            span,
            format!("`{name}` is not spoken like this"),
        )
        .help(format!("reach the agent with {}", ways.join(", or with "))),
    )
}

pub(super) fn dialect(node: &mut Node<'_>) -> Option<Dialect> {
    let choices = Dialect::ALL.map(|dialect| (dialect.name(), dialect));
    node.argument("\"v2\"")?.choice(&choices, &[])
}

/// One for each replica. With the node of `tls`, which means something only over a network and with `https`.
pub(super) fn endpoints(
    node: &mut Node<'_>,
    tls: Option<&(AgentTls, Span)>,
) -> Option<Vec<AgentEndpoint>> {
    let is_grpc = node.name() == "grpc";
    let package = is_grpc.then(|| package(node)).flatten();
    let what = "a URL such as \"http://127.0.0.1:50051\"";
    let urls = targets(node, what, "\"http://127.0.0.1:50051\"", url)?;
    if is_grpc {
        urls.iter().for_each(|url| without_path(node, url));
    }
    if let Some((_, span)) = tls
        && urls.iter().any(|url| !url.is_https)
    {
        node.report(
            Diagnostic::error(
                code::CONTRADICTION,
                *span,
                "this agent is called without TLS",
            )
            .also(node.span(), "its URL begins with http")
            .help("write `https://` in the URL, or remove `tls`"),
        );
    }
    let endpoint = |url| AgentEndpoint {
        url,
        tls: tls.map(|(tls, _)| tls.clone()).unwrap_or_default(),
        package: package.as_ref().map(|package| package.value.clone()),
    };
    Some(urls.into_iter().map(endpoint).collect())
}

fn url(value: Value<'_>) -> Option<AgentUrl> {
    let text = value.text()?;
    match parse(&text) {
        Ok(url) => Some(url),
        Err(problem) => {
            refuse(value, &text, problem);
            None
        }
    }
}

/// `package="…"` of `grpc`: dots between names, as protobuf has them.
fn package(node: &mut Node<'_>) -> Option<Spanned<String>> {
    let value = node.property("package")?;
    let text = value.nonempty_text()?;
    let is_name = |name: &str| {
        let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        begins
            && name
                .chars()
                .all(|it| it.is_ascii_alphanumeric() || it == '_')
    };
    if !text.split('.').all(is_name) {
        value.report(
            value
                .error(
                    code::INVALID_VALUE,
                    format!("`{text}` is not the package of a service"),
                )
                .help(
                    "write the `package` of the agent's .proto file, such as \"zentinel.agent.v2\"",
                ),
        );
        return None;
    }
    Some(value.spanned(text))
}

/// gRPC calls a service at a host; it has no paths of its own.
fn without_path(node: &Node<'_>, url: &AgentUrl) {
    if url.path != "/" {
        node.report(
            node.error(
                code::INVALID_VALUE,
                format!(
                    "`{}` has no effect: gRPC calls a service at a host",
                    url.path
                ),
            )
            .help("leave the path out of the URL"),
        );
    }
}

fn refuse(value: Value<'_>, text: &str, problem: &'static str) {
    value.report(
        value
            .error(
                code::INVALID_VALUE,
                format!("`{text}` is not the URL of an agent"),
            )
            .label(problem)
            .help("write scheme, host, port and, where it matters, path, such as \"http://127.0.0.1:50051\""),
    );
}

fn parse(text: &str) -> Result<AgentUrl, &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or("has no scheme")?;
    let is_https = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err("the scheme is not http or https"),
    };
    let (authority, path) = match rest.find(['/', '?', '#']) {
        Some(end) => rest.split_at(end),
        None => (rest, "/"),
    };
    if path.contains(['?', '#']) {
        return Err("has a query or a fragment");
    }
    let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte);
    if !path.bytes().all(is_path) {
        return Err("the path has characters that have to be percent-encoded");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("a bracket is not closed")?;
            host.parse::<std::net::Ipv6Addr>()
                .map_err(|_| "what is in brackets is not an IPv6 address")?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or("something follows the host")?),
            };
            (host, port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if host.is_empty() || (!authority.starts_with('[') && !host.bytes().all(is_name)) {
        return Err("the host is not a name or an address");
    }
    let port = match port {
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port != 0 => port,
            _ => return Err("the port is not a number from 1 to 65535"),
        },
        None if is_https => 443,
        None => 80,
    };
    Ok(AgentUrl {
        is_https,
        host: host.to_owned(),
        port,
        path: path.to_owned(),
    })
}

/// `tls ca="…" server-name="…" certificate="…" key="…"`.
pub(super) fn tls(node: &mut Node<'_>) -> AgentTls {
    let ca = node.property("ca").and_then(|value| value.path());
    let server_name = node
        .property("server-name")
        .and_then(|value| value.nonempty_text());
    let certificate = node.property("certificate").and_then(|value| value.path());
    let key = node.property("key").and_then(|value| value.path());
    if certificate.is_some() != key.is_some() {
        node.report(
            node.error(code::MISSING, "a certificate and its key go together")
                .help("write both `certificate=\"…\"` and `key=\"…\"`, or neither"),
        );
    }
    AgentTls {
        ca,
        server_name,
        identity: certificate.zip(key),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn urls() {
        let good = [
            ("http://127.0.0.1:50051", "http://127.0.0.1:50051/"),
            ("https://auth.example.com", "https://auth.example.com:443/"),
            ("http://auth/check", "http://auth:80/check"),
            ("http://[::1]:80/a/b", "http://[::1]:80/a/b"),
        ];
        for (written, read) in good {
            assert_eq!(parse(written).unwrap().to_string(), read);
        }
        for bad in [
            "",
            "127.0.0.1:80",
            "ftp://a",
            "http://",
            "http://a:0",
            "http://a:x",
            "http://a:70000",
            "http://u@a",
            "http://a/?q",
            "http://a#f",
            "http://[::1",
            "http://[a]:1",
            "http://a/ b",
            "http://a/<b>",
            "http://a/\u{e9}",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
