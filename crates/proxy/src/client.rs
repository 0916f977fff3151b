//! Who the client is, and what the next hop is told about it.

use crate::{mirror, server::connection::Connection};
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use pingora::{ErrorType::InternalError, OrErr, Result, http::RequestHeader};
use portcullis_config::{Underscores, why_protected};
use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
    time::SystemTime,
};
use uuid::Uuid;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// Names a request towards clients, agents, upstreams and logs.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer id from a trusted proxy is replaced.
const LONGEST_REQUEST_ID: usize = 128;

/// Whom a request comes from and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The client's address, after trusted proxies were looked through.
    pub(crate) ip: IpAddr,
    /// The client's port; 0 when a proxy stands in between.
    pub(crate) port: u16,
    request_id: HeaderValue,
    /// What agents know the request by, where that is not its id: a proxy before us may send one id twice at a time.
    correlation_id: Option<HeaderValue>,
    /// The host that was asked for: lower case, without port and final dot.
    pub(crate) host: String,
    pub(crate) scheme: &'static str,
}

impl Identity {
    /// Reads who the client is. Headers are believed only when the connection comes from a trusted proxy.
    pub(crate) fn read(
        head: &RequestHeader,
        connection: &Connection,
        host: String,
        now: SystemTime,
    ) -> Self {
        let peer = connection.peer;
        let trusted = connection.is_trusted;
        let forwarded = trusted.then(|| walk(head, connection)).flatten();
        let given = trusted
            .then(|| head.headers.get(X_REQUEST_ID))
            .flatten()
            .filter(|id| is_request_id(id.as_bytes()));
        let own = new_request_id(now);
        let (request_id, correlation_id) = match given {
            Some(given) => (given.clone(), Some(own)),
            None => (own, None),
        };
        Self {
            ip: forwarded.unwrap_or_else(|| peer.ip()),
            port: if forwarded.is_none() { peer.port() } else { 0 },
            request_id,
            correlation_id,
            host,
            scheme: connection.scheme(),
        }
    }

    /// The id of the request, as in `X-Request-Id`.
    pub(crate) fn request_id(&self) -> &str {
        // It was checked, or made, as visible ASCII.
        self.request_id.to_str().unwrap_or_default()
    }

    /// The id of the request as a header's value.
    pub(crate) fn request_id_value(&self) -> HeaderValue {
        self.request_id.clone()
    }

    /// What agents know the request by. No two requests share it.
    pub(crate) fn correlation_id(&self) -> &str {
        let id = self.correlation_id.as_ref().unwrap_or(&self.request_id);
        id.to_str().unwrap_or_default()
    }

    /// Writes into a request's headers what the next hop may believe, and takes out what the client made up.
    ///
    /// # Errors
    /// There are more headers than there can be.
    pub(crate) fn forward(
        &self,
        headers: &mut HeaderMap,
        connection: &Connection,
        version: Version,
    ) -> Result<()> {
        let peer = connection.peer;
        let trusted = connection.is_trusted;
        let chain = trusted
            .then(|| forwarded_for(headers))
            .filter(|chain| !chain.is_empty());
        let forwarded = forwarded_element(headers, peer, &self.host, self.scheme, trusted);
        remove_made_up(headers, trusted, connection.listener.underscores_in_headers);
        let peer_value = connection.peer_value();
        let chain = match chain {
            None => peer_value.clone(),
            Some(chain) => value(format!("{chain}, {}", peer.ip()))?,
        };
        put(headers, X_FORWARDED_FOR, chain)?;
        if !headers.contains_key(X_FORWARDED_PROTO) {
            put(
                headers,
                X_FORWARDED_PROTO,
                HeaderValue::from_static(self.scheme),
            )?;
        }
        if !headers.contains_key(X_FORWARDED_HOST) {
            // As the client sent it, port included.
            let host = match headers.get(header::HOST) {
                Some(host) => host.clone(),
                None => value(self.host.clone())?,
            };
            put(headers, X_FORWARDED_HOST, host)?;
        }
        // A Unix socket has none.
        if !headers.contains_key(X_FORWARDED_PORT) && connection.local.port() != 0 {
            put(headers, X_FORWARDED_PORT, connection.local_port_value())?;
        }
        if let Some(forwarded) = forwarded {
            put(headers, header::FORWARDED, value(forwarded)?)?;
        }
        let real = if self.ip == peer.ip() {
            peer_value
        } else {
            value(self.ip.to_string())?
        };
        put(headers, X_REAL_IP, real)?;
        put(headers, X_REQUEST_ID, self.request_id_value())?;
        headers
            .try_append(header::VIA, via(version))
            .or_err(InternalError, TOO_MANY)?;
        Ok(())
    }
}

/// Which protocol the request came in (RFC 9110 section 7.6.3), and who passes it on. Of the latter it says no more than that.
const fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2.0 portcullis",
        Version::HTTP_10 => "1.0 portcullis",
        _ => "1.1 portcullis",
    })
}

const TOO_MANY: &str = "more headers than there can be";

/// Replaces all fields of the name.
///
/// # Errors
/// There are more headers than there can be.
pub(crate) fn put(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) -> Result<()> {
    headers
        .try_insert(name, value)
        .map(|_| ())
        .or_err(InternalError, TOO_MANY)
}

fn value(text: String) -> Result<HeaderValue> {
    HeaderValue::try_from(text).or_err(InternalError, "a text that is no header value")
}

/// UUID version 7: unique, and in the order of time.
fn new_request_id(now: SystemTime) -> HeaderValue {
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let timestamp =
        uuid::Timestamp::from_unix(uuid::NoContext, since.as_secs(), since.subsec_nanos());
    let mut text = Uuid::encode_buffer();
    let text = Uuid::new_v7(timestamp).hyphenated().encode_lower(&mut text);
    // Hexadecimal digits and hyphens are a header's value.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Visible ASCII without what would need quoting in logs and headers.
fn is_request_id(id: &[u8]) -> bool {
    (1..=LONGEST_REQUEST_ID).contains(&id.len())
        && id
            .iter()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b','))
}

/// The first address from the right that is not a trusted proxy's. `None` when the header says nothing usable; what cannot be
/// read ends the walk at the last proxy that could. It is walked over bytes: whoever is to the left of a proxy must not be able
/// to make what the proxy has added unreadable.
fn walk(head: &RequestHeader, connection: &Connection) -> Option<IpAddr> {
    let mut client = None;
    for value in head.headers.get_all(X_FORWARDED_FOR).iter().rev() {
        for part in value.as_bytes().rsplit(|byte| *byte == b',') {
            let Some(address) = parse_address(part) else {
                return client;
            };
            client = Some(address);
            if !connection.listener.trusts(address) {
                return client;
            }
        }
    }
    client
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?.trim();
    let address = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .or_else(|_| text.trim_start_matches('[').trim_end_matches(']').parse())
        .ok()?;
    Some(address.to_canonical())
}

/// What the next hop may read of all X-Forwarded-For lines, as one list: the addresses behind the last element that is none,
/// for what is in front of that one is nobody's word.
fn forwarded_for(headers: &HeaderMap) -> String {
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let parts = lines.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    let addresses = parts.map_while(|part| {
        parse_address(part)?;
        str::from_utf8(part).ok().map(str::trim)
    });
    let mut addresses: Vec<&str> = addresses.collect();
    addresses.reverse();
    addresses.join(", ")
}

/// The elements of a list behind the last one that is not visible ASCII.
fn readable_end(list: &[u8]) -> &str {
    let is_plain = |byte: u8| matches!(byte, b'\t' | b' '..=b'~');
    let readable = match list.iter().rposition(|byte| !is_plain(*byte)) {
        None => list,
        Some(bad) => match memchr::memchr(b',', &list[bad..]) {
            None => b"",
            Some(comma) => &list[bad + comma + 1..],
        },
    };
    str::from_utf8(readable).unwrap_or_default().trim()
}

/// RFC 7239, spoken only when the request speaks it already: our element, behind those of trusted proxies, instead of those
/// of others.
fn forwarded_element(
    headers: &HeaderMap,
    peer: SocketAddr,
    host: &str,
    scheme: &str,
    trusted: bool,
) -> Option<String> {
    if !headers.contains_key(header::FORWARDED) {
        return None;
    }
    let mut text = String::new();
    if trusted {
        let lines: Vec<&[u8]> = headers
            .get_all(header::FORWARDED)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        text.push_str(readable_end(&lines.join(&b", "[..])));
        if !text.is_empty() {
            text.push_str(", ");
        }
    }
    let ip = peer.ip();
    // A String takes everything.
    let _ = match ip {
        IpAddr::V4(_) => write!(text, "for={ip};host=\"{host}\";proto={scheme}"),
        IpAddr::V6(_) => write!(text, "for=\"[{ip}]\";host=\"{host}\";proto={scheme}"),
    };
    Some(text)
}

/// Takes out what only a trusted proxy may say, and what marks copies of ours. Names with underscores go from everybody, since
/// many servers take them for those with hyphens, by which agents and rules have decided. Where the operator lets them pass,
/// those go that must not be made up at all: names that nobody may edit, and those by which a body is read, for who reads a
/// length or a coding in one of them sees another message.
fn remove_made_up(headers: &mut HeaderMap, trusted: bool, underscores: Underscores) {
    let made_up = |name: &str| match name.contains('_') {
        true => underscores == Underscores::Drop || is_telling(name),
        false => name == mirror::MARK.as_str() || !trusted && is_forwarding(name),
    };
    let removed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| made_up(name.as_str()))
        .cloned()
        .collect();
    for name in removed {
        headers.remove(name);
    }
}

/// Whether a name with underscores reads as one that frames, describes or routes a message, or says whose it is.
fn is_telling(name: &str) -> bool {
    let read = name.replace('_', "-");
    why_protected(name).is_some()
        || read == mirror::MARK.as_str()
        || read.starts_with("content-")
        || matches!(
            &*read,
            "range" | "if-range" | "request-range" | "expect" | "proxy-authorization"
        )
}

fn is_forwarding(name: &str) -> bool {
    name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip" | "x-request-id")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::connection::test_connection;

    fn head(lines: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in lines {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    fn identity(lines: &[(&'static str, &str)], peer: &str) -> Identity {
        let connection = test_connection(peer, &["10.0.0.0/8", "::1/128"]);
        Identity::read(&head(lines), &connection, "h".into(), SystemTime::now())
    }

    #[test]
    fn the_walk_ends_at_the_first_untrusted_address() {
        for (peer, forwarded, ip) in [
            ("192.0.2.1:5", vec!["203.0.113.9"], "192.0.2.1"),
            ("10.0.0.1:5", vec!["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1:5", vec!["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
            (
                "10.0.0.1:5",
                vec!["203.0.113.9, 10.2.2.2, 10.3.3.3"],
                "203.0.113.9",
            ),
            ("10.0.0.1:5", vec!["203.0.113.9", "10.2.2.2"], "203.0.113.9"),
            ("10.0.0.1:5", vec!["10.9.9.9, 10.2.2.2"], "10.9.9.9"),
            ("10.0.0.1:5", vec!["203.0.113.9, nonsense"], "10.0.0.1"),
            ("10.0.0.1:5", vec!["\u{ff}, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1:5", vec!["\u{ff}", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1:5", vec!["203.0.113.9, \u{ff}"], "10.0.0.1"),
            ("10.0.0.1:5", vec!["nonsense, 10.2.2.2"], "10.2.2.2"),
            (
                "10.0.0.1:5",
                vec!["203.0.113.9, döner, 10.2.2.2"],
                "10.2.2.2",
            ),
            ("10.0.0.1:5", vec!["döner", "10.2.2.2"], "10.2.2.2"),
            ("10.0.0.1:5", vec!["döner, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1:5", vec!["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1:5", vec!["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.0.0.1:5", vec!["[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.1:5", vec!["::ffff:203.0.113.9"], "203.0.113.9"),
            ("[::1]:5", vec!["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1:5", vec![""], "10.0.0.1"),
            ("10.0.0.1:5", vec![], "10.0.0.1"),
        ] {
            let lines: Vec<_> = forwarded
                .iter()
                .map(|value| ("x-forwarded-for", *value))
                .collect();
            assert_eq!(
                identity(&lines, peer).ip.to_string(),
                ip,
                "{peer} {forwarded:?}"
            );
        }
    }

    #[test]
    fn request_ids_are_believed_from_trusted_proxies_only() {
        assert_eq!(
            identity(&[("x-request-id", "abc-1")], "10.0.0.1:5").request_id(),
            "abc-1"
        );
        for (id, peer) in [
            ("abc-1", "192.0.2.1:5"),
            ("a b", "10.0.0.1:5"),
            ("a\"b", "10.0.0.1:5"),
            ("", "10.0.0.1:5"),
        ] {
            let given = identity(&[("x-request-id", id)], peer);
            let given = given.request_id();
            assert!(
                Uuid::parse_str(given).is_ok(),
                "{id} from {peer} became {given}"
            );
        }
    }

    fn forwarded(lines: &[(&'static str, &str)], peer: &str) -> HeaderMap {
        let connection = test_connection(peer, &["10.0.0.0/8"]);
        let head = head(lines);
        let identity = Identity::read(&head, &connection, "h".into(), SystemTime::now());
        let mut headers = head.headers.clone();
        identity
            .forward(&mut headers, &connection, Version::HTTP_11)
            .unwrap();
        headers
    }

    fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn others_headers_are_replaced() {
        let made_up = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "5.6.7.8"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-user", "root"),
            ("x_forwarded_for", "1.2.3.4"),
            ("x-forwarded_for", "1.2.3.4"),
            ("x_request_id", "1"),
            ("content_length", "7"),
            ("transfer_encoding", "chunked"),
            ("x_own", "1"),
            ("x-real-ip", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
        ];
        let head = forwarded(&made_up, "192.0.2.1:5");
        assert_eq!(all(&head, "x-forwarded-for"), ["192.0.2.1"]);
        assert_eq!(all(&head, "x-forwarded-proto"), ["http"]);
        assert_eq!(all(&head, "x-forwarded-host"), ["h"]);
        assert_eq!(all(&head, "x-real-ip"), ["192.0.2.1"]);
        assert_eq!(
            all(&head, "forwarded"),
            ["for=192.0.2.1;host=\"h\";proto=http"]
        );
        for gone in [
            "x-forwarded-user",
            "x_forwarded_for",
            "x-forwarded_for",
            "x_request_id",
            "content_length",
            "transfer_encoding",
        ] {
            assert_eq!(all(&head, gone), [""; 0], "{gone}");
        }
        assert_eq!(all(&head, "x_own"), [""; 0]);
    }

    #[test]
    fn names_with_underscores_pass_where_they_may() {
        let mut headers = head(&[
            ("x_own", "1"),
            ("user_agent", "a"),
            ("content_encoding", "gzip"),
            ("content_length", "7"),
            ("if_range", "a"),
            ("proxy_authorization", "a"),
            ("x_portcullis-mirror", "all"),
            ("x-portcullis-mirror", "all"),
            ("x_forwarded_for", "1.2.3.4"),
        ])
        .headers
        .clone();
        remove_made_up(&mut headers, true, Underscores::Pass);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["user_agent", "x_own"]);
        remove_made_up(&mut headers, true, Underscores::Drop);
        assert!(headers.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_not_passed_on() {
        let lines = [
            ("x-forwarded-for", "1.2.3.4, \u{ff}, 203.0.113.9"),
            ("x-forwarded-for", "10.1.1.1:80"),
            ("forwarded", "for=1.2.3.4, for=\u{ff}, for=203.0.113.9"),
        ];
        let head = forwarded(&lines, "10.0.0.1:5");
        assert_eq!(
            all(&head, "x-forwarded-for"),
            ["203.0.113.9, 10.1.1.1:80, 10.0.0.1"]
        );
        assert_eq!(
            all(&head, "forwarded"),
            ["for=203.0.113.9, for=10.0.0.1;host=\"h\";proto=http"]
        );
        assert_eq!(all(&head, "x-real-ip"), ["203.0.113.9"]);
    }

    #[test]
    fn trusted_headers_are_kept_and_extended() {
        let lines = [
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "10.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=203.0.113.9"),
            ("x_forwarded_for", "1.2.3.4"),
        ];
        let head = forwarded(&lines, "10.0.0.1:5");
        assert_eq!(
            all(&head, "x-forwarded-for"),
            ["203.0.113.9, 10.1.1.1, 10.0.0.1"]
        );
        assert_eq!(all(&head, "x-forwarded-proto"), ["https"]);
        assert_eq!(all(&head, "x-real-ip"), ["203.0.113.9"]);
        assert_eq!(
            all(&head, "forwarded"),
            ["for=203.0.113.9, for=10.0.0.1;host=\"h\";proto=http"]
        );
        assert_eq!(all(&head, "x_forwarded_for"), [""; 0]);
        assert_eq!(all(&head, "via"), ["1.1 portcullis"]);
    }
}
