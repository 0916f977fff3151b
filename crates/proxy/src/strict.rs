//! What is refused whatever the route: requests that two readers could take for two different ones, and those beyond the
//! limits of their listener.

use crate::{hop, router::target, server::connection::Connection};
use http::{HeaderName, HeaderValue, Method, Version, header};
use pingora::{http::RequestHeader, proxy::Session};
use std::net::Ipv6Addr;

const CONTENT_LENGTH: &str = "content-length";
const TRANSFER_ENCODING: &str = "transfer-encoding";

/// Status and reason of a request that is not served.
pub(crate) struct Refusal(pub(crate) u16, pub(crate) &'static str);

/// What the checks found out on the way.
pub(crate) struct Checked {
    pub(crate) target: String,
    pub(crate) host: String,
}

/// Everything that is refused whatever the route.
pub(crate) fn check(
    session: &Session,
    connection: &Connection,
    policy: portcullis_config::PathPolicy,
) -> Result<Checked, Refusal> {
    let head = session.req_header();
    if let Some(http1) = session.as_ref().as_http1() {
        let raw = http1.get_headers_raw_bytes();
        check_raw_head(&raw, connection)?;
        check_framing(head, &raw)?;
    } else {
        check_http2_head(head, connection)?;
        check_framing(head, b"")?;
    }
    if head.headers.len() > connection.listener.limits.header_count {
        return Err(Refusal(431, "too_many_headers"));
    }
    if matches!(head.method.as_str(), "TRACE" | "TRACK") {
        return Err(Refusal(405, "method_not_allowed"));
    }
    // No method in use has small letters, and an origin may take `delete` for DELETE where rules about DELETE do not.
    if head
        .method
        .as_str()
        .bytes()
        .any(|byte| byte.is_ascii_lowercase())
    {
        return Err(Refusal(400, "method_in_lower_case"));
    }
    if !hop::is_acceptable(head) {
        return Err(Refusal(400, "invalid_connection_header"));
    }
    check_expectation(head)?;
    let host = host(head)?;
    let raw = head.raw_path();
    if raw.len() as u64 > connection.listener.limits.uri_bytes.bytes() {
        return Err(Refusal(414, "uri_too_long"));
    }
    check_body_length(head, connection)?;
    let origin_form = origin_form(raw);
    if origin_form == b"*" && head.method == Method::OPTIONS {
        return Ok(Checked {
            target: "*".into(),
            host,
        });
    }
    let target = target::normalize(origin_form, policy)
        .map_err(|bad| Refusal(400, bad.name()))?
        .into_owned();
    Ok(Checked { target, host })
}

/// What Pingora's parser lets pass: lines that end in a bare LF, and heads larger than we take.
fn check_raw_head(raw: &[u8], connection: &Connection) -> Result<(), Refusal> {
    let limits = &connection.listener.limits;
    // Empty lines before the request are to be ignored (RFC 9112 section 2.2).
    let mut raw = raw;
    while let Some(rest) = raw.strip_prefix(b"\r\n") {
        raw = rest;
    }
    let line_end = memchr::memchr(b'\n', raw).unwrap_or(raw.len());
    if line_end as u64 > limits.uri_bytes.bytes() + 32 {
        return Err(Refusal(414, "uri_too_long"));
    }
    if (raw.len() - line_end) as u64 > limits.header_bytes.bytes() {
        return Err(Refusal(431, "request_header_too_large"));
    }
    for at in memchr::memchr_iter(b'\n', raw) {
        if at == 0 || raw[at - 1] != b'\r' {
            return Err(Refusal(400, "bare_lf_in_head"));
        }
    }
    // Pingora encodes spaces in a target and drops a fragment without a word. Methods may hold the latter's sign too.
    let mut words = raw[..line_end].split(|byte| *byte == b' ');
    let target = words.nth(1);
    if words.count() != 1 {
        return Err(Refusal(400, target::BadTarget::Control.name()));
    }
    if target.is_some_and(|target| target.contains(&b'#')) {
        return Err(Refusal(400, target::BadTarget::Fragment.name()));
    }
    Ok(())
}

/// One body length, said in one way (RFC 9112 section 6.3): whatever could be read in two ways is refused, because the
/// upstream may read it in the other. Pingora takes Content-Length out when there is Transfer-Encoding too, so that the raw
/// head has to be asked.
fn check_framing(head: &RequestHeader, raw: &[u8]) -> Result<(), Refusal> {
    for name in head.headers.keys().map(HeaderName::as_str) {
        // Many servers take an underscore for a hyphen.
        if is_alike(name, TRANSFER_ENCODING) {
            return Err(Refusal(400, "invalid_transfer_encoding"));
        }
        if is_alike(name, CONTENT_LENGTH) {
            return Err(Refusal(400, "invalid_content_length"));
        }
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
            return Err(Refusal(400, "invalid_transfer_encoding"));
        }
        let name = CONTENT_LENGTH.as_bytes();
        let has_length = raw.split(|byte| *byte == b'\n').any(|line| {
            line.get(..name.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(name))
        });
        if has_length {
            return Err(Refusal(400, "content_length_with_transfer_encoding"));
        }
        return Ok(());
    }
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next()
        && (!length.as_bytes().iter().all(u8::is_ascii_digit) || lengths.next().is_some())
    {
        return Err(Refusal(400, "invalid_content_length"));
    }
    Ok(())
}

/// Whether a name is another one but for underscores in place of hyphens.
fn is_alike(name: &str, other: &str) -> bool {
    name.len() == other.len()
        && name != other
        && name
            .bytes()
            .zip(other.bytes())
            .all(|(byte, other)| byte == other || (byte, other) == (b'_', b'-'))
}

/// The one expectation that there is (RFC 9110 section 10.1.1). What a client means by another nobody behind us may know.
fn check_expectation(head: &RequestHeader) -> Result<(), Refusal> {
    let known = |value: &HeaderValue| {
        value.is_empty() || value.as_bytes().eq_ignore_ascii_case(b"100-continue")
    };
    let mut values = head.headers.get_all(header::EXPECT).iter();
    match values.next().is_none_or(known) && values.next().is_none() {
        true => Ok(()),
        false => Err(Refusal(417, "unknown_expectation")),
    }
}

fn check_http2_head(head: &RequestHeader, connection: &Connection) -> Result<(), Refusal> {
    let bytes: usize = head
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if bytes as u64 > connection.listener.limits.header_bytes.bytes() {
        return Err(Refusal(431, "request_header_too_large"));
    }
    let scheme = head.uri.scheme_str().unwrap_or_default();
    if !matches!(scheme, "http" | "https") {
        return Err(Refusal(400, "invalid_scheme"));
    }
    // Malformed (RFC 9113 section 8.2.1), and in HTTP/1.1 another value.
    let is_space = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    let padded = |value: &HeaderValue| {
        is_space(value.as_bytes().first()) || is_space(value.as_bytes().last())
    };
    if head.headers.values().any(padded) {
        return Err(Refusal(400, "padded_header_value"));
    }
    Ok(())
}

/// The host that is asked for. HTTP/1.1 must name one (RFC 9112 section 3.2).
fn host(head: &RequestHeader) -> Result<String, Refusal> {
    let authority = match head.headers.get(header::HOST) {
        Some(value) => value.to_str().map_err(|_| Refusal(400, "invalid_host"))?,
        None => head
            .uri
            .authority()
            .map_or("", |authority| authority.as_str()),
    };
    if authority.is_empty() {
        return if head.version == Version::HTTP_10 {
            Ok(String::new())
        } else {
            Err(Refusal(400, "missing_host"))
        };
    }
    let (name, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(Refusal(400, "invalid_host"))?;
            if address.parse::<Ipv6Addr>().is_err() {
                return Err(Refusal(400, "invalid_host"));
            }
            (&authority[..address.len() + 2], port)
        }
        None => {
            let (name, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            let name = name.strip_suffix('.').unwrap_or(name);
            if !is_host_name(name) {
                return Err(Refusal(400, "invalid_host"));
            }
            (name, port)
        }
    };
    let port_is_valid = match port.strip_prefix(':') {
        Some(digits) => {
            digits.is_empty()
                || digits
                    .parse::<u16>()
                    .is_ok_and(|_| !digits.starts_with('+'))
        }
        None => port.is_empty(),
    };
    if !port_is_valid {
        return Err(Refusal(400, "invalid_host"));
    }
    Ok(name.to_ascii_lowercase())
}

/// Labels of letters, digits, hyphens and underscores. The grammar of RFC 3986 allows far more, which no name has.
fn is_host_name(name: &str) -> bool {
    name.split('.').all(|label| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    })
}

/// The target without scheme and authority, which the absolute form carries (RFC 9112 section 3.2.2).
fn origin_form(raw: &[u8]) -> &[u8] {
    if raw.first() == Some(&b'/') {
        return raw;
    }
    let Some(scheme_end) = raw.windows(3).position(|window| window == b"://") else {
        return raw;
    };
    let scheme = &raw[..scheme_end];
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return raw;
    }
    let rest = &raw[scheme_end + 3..];
    match memchr::memchr3(b'/', b'?', b'#', rest) {
        Some(at) if rest[at] == b'/' => &rest[at..],
        // An empty path; with a query it cannot be expressed by a part of the text, and nobody sends it.
        Some(_) => raw,
        None => b"/",
    }
}

fn check_body_length(head: &RequestHeader, connection: &Connection) -> Result<(), Refusal> {
    let declared = head
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > connection.listener.limits.body_bytes.bytes()) {
        return Err(Refusal(413, "request_body_too_large"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_are_names_or_addresses() {
        for (sent, host) in [
            ("example.com", Some("example.com")),
            ("EXAMPLE.com.:8080", Some("example.com")),
            ("example.com:", Some("example.com")),
            ("a_b.example", Some("a_b.example")),
            ("127.0.0.1:1", Some("127.0.0.1")),
            ("[::1]:8080", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("[h", None),
            ("[h]", None),
            ("[::1]x", None),
            (".", None),
            ("..", None),
            (".a", None),
            ("a..b", None),
            ("h%2fadmin", None),
            ("h/x", None),
            ("u@h", None),
            ("h:99999", None),
            ("h:+1", None),
            ("h:x", None),
            ("", None),
        ] {
            let mut head = RequestHeader::build("GET", b"/", None).unwrap();
            head.insert_header(header::HOST, sent).unwrap();
            let found = super::host(&head).ok();
            assert_eq!(found.as_deref(), host, "{sent}");
        }
    }
}
