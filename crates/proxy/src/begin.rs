//! The start of a request: what must be true of every request before a route is looked for, and what is remembered of it.

use crate::{
    client::Identity,
    hop,
    reply::Reply,
    request::{Begun, InFlight, Request},
    router::{RequestLine, target},
    server::connection::Connection,
    snapshot::{Action, Live, Route},
    telemetry::metrics::Metrics,
};
use http::{HeaderValue, Method, Version, header};
use pingora::{Error, ErrorType::InternalError, Result, http::RequestHeader, proxy::Session};
use std::time::{Instant, SystemTime};

/// Takes the snapshot, checks the head, and finds the route. What is wrong becomes a pending reply.
///
/// # Errors
/// The stream is not one of ours, which a bug alone can cause.
pub(crate) fn begin(
    session: &mut Session,
    request: &mut Request,
    live: &Live,
    metrics: &Metrics,
) -> Result<()> {
    let Some(connection) = Connection::of(session.as_ref()) else {
        return Error::e_explain(InternalError, "a session without a connection");
    };
    connection.begin_request();
    set_timeouts(session, &connection);
    let snapshot = live.load_full();
    let started_at = SystemTime::now();
    let checked = check(session, &connection, snapshot.path);
    let (target, host, refusal) = match checked {
        Ok(Checked { target, host }) => (target, host, None),
        Err(refusal) => (raw_target(session), String::new(), Some(refusal)),
    };
    let head = session.req_header_mut();
    let identity = Identity::read(head, &connection, host, started_at);
    let method = head.method.clone();
    request.begun = Some(Begun {
        started: Instant::now(),
        started_at,
        connection,
        snapshot,
        identity,
        method,
        target,
        _in_flight: InFlight::new(&metrics.in_flight),
    });
    if let Some(Refusal(status, reason)) = refusal {
        // Whoever sends such a head may see its end elsewhere than we do; what follows it is not read.
        session.set_keepalive(None);
        refuse(request, status, reason);
        return Ok(());
    }
    prepare(session, request)
}

/// Puts the head into the form that agents and the upstream see, and finds the route.
fn prepare(session: &mut Session, request: &mut Request) -> Result<()> {
    let upgrade = wants_upgrade(session.req_header());
    let head = session.req_header_mut();
    let Some(begun) = &request.begun else {
        return Ok(());
    };
    // Before the target is replaced, which takes the host with it.
    name_host(head)?;
    if head.raw_path() != begun.target.as_bytes() {
        head.set_raw_path(begun.target.as_bytes())?;
    }
    hop::remove_nominated(head)?;
    begun.identity.forward(head, &begun.connection)?;
    let (path, query) = match begun.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*begun.target, None),
    };
    let line = RequestLine {
        host: &begun.identity.host,
        path,
        query,
        method: begun.method.as_str(),
        headers: &head.headers,
    };
    request.route = begun.snapshot.router.find(&line).cloned();
    match request.route.as_deref() {
        None => refuse(request, 404, "no_route"),
        Some(route) if upgrade != Upgrade::None && !may_upgrade(route, upgrade) => {
            refuse(request, 403, "upgrade_not_allowed");
        }
        Some(_) => {}
    }
    Ok(())
}

/// HTTP/2 names the host outside of the header fields. Rules and agents look for it among them.
fn name_host(head: &mut RequestHeader) -> Result<()> {
    if head.version != Version::HTTP_2 || head.headers.contains_key(header::HOST) {
        return Ok(());
    }
    match head.uri.authority() {
        Some(authority) => {
            let host = authority.as_str().to_owned();
            head.insert_header(header::HOST, host)
        }
        None => Ok(()),
    }
}

fn refuse(request: &mut Request, status: u16, reason: &'static str) {
    request.reason = Some(reason);
    let mut reply = Reply::status(status);
    if status == 405 {
        let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS");
        reply = reply.with_header(header::ALLOW, allowed);
    }
    request.pending = Some(reply);
}

fn set_timeouts(session: &mut Session, connection: &Connection) {
    let timeouts = &connection.listener.timeouts;
    session.set_read_timeout(Some(timeouts.request_body_idle));
    session.set_write_timeout(Some(timeouts.response_write));
    session.set_total_drain_timeout(Some(timeouts.request_body_idle));
    session.set_pipelining_enabled(true);
}

/// Status and reason of a request that is not served.
struct Refusal(u16, &'static str);

/// What the checks found out on the way.
struct Checked {
    target: String,
    host: String,
}

/// Everything that is refused whatever the route.
fn check(
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
    let host = host(head)?;
    let raw = head.raw_path();
    if raw.len() as u64 > connection.listener.limits.uri_bytes.bytes() {
        return Err(Refusal(414, "uri_too_long"));
    }
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
    check_body_length(head, connection)?;
    Ok(Checked { target, host })
}

/// What Pingora's parser lets pass: lines that end in a bare LF, and heads larger than we take.
fn check_raw_head(raw: &[u8], connection: &Connection) -> Result<(), Refusal> {
    let limits = &connection.listener.limits;
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
    // Pingora drops a fragment without a word. Methods may hold the character too.
    let target = raw[..line_end].split(|byte| *byte == b' ').nth(1);
    if target.is_some_and(|target| target.contains(&b'#')) {
        return Err(Refusal(400, target::BadTarget::Fragment.name()));
    }
    Ok(())
}

/// One body length, said in one way (RFC 9112 section 6.3): whatever could be read in two ways is refused, because the
/// upstream may read it in the other. Pingora takes Content-Length out when there is Transfer-Encoding too, so that the raw
/// head has to be asked.
fn check_framing(head: &RequestHeader, raw: &[u8]) -> Result<(), Refusal> {
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
            return Err(Refusal(400, "invalid_transfer_encoding"));
        }
        let name = header::CONTENT_LENGTH.as_str().as_bytes();
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

fn check_http2_head(head: &RequestHeader, connection: &Connection) -> Result<(), Refusal> {
    let bytes: usize = head
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if bytes as u64 > connection.listener.limits.header_bytes.bytes() {
        return Err(Refusal(431, "request_header_too_large"));
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
    let name = if authority.starts_with('[') {
        authority.split_inclusive(']').next().unwrap_or(authority)
    } else {
        authority.split(':').next().unwrap_or(authority)
    };
    let port = &authority[name.len()..];
    let port_is_valid = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let name_is_valid = !name.is_empty()
        && name.bytes().all(|byte| {
            byte.is_ascii_alphanumeric()
                || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'[' | b']' | b':' | b'%')
        });
    if !port_is_valid || !name_is_valid {
        return Err(Refusal(400, "invalid_host"));
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    Ok(name.to_ascii_lowercase())
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

fn raw_target(session: &Session) -> String {
    String::from_utf8_lossy(session.req_header().raw_path()).into_owned()
}

/// Which protocol a request wants to switch to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    None,
    WebSocket,
    Other,
}

/// An offer of h2c (RFC 9113 section 3.1 retired it) is ignored, as a server may; clients make it on ordinary requests.
fn wants_upgrade(head: &RequestHeader) -> Upgrade {
    let mut wanted = Upgrade::None;
    for value in head.headers.get_all(header::UPGRADE) {
        for protocol in value.as_bytes().split(|byte| *byte == b',') {
            let protocol = protocol.trim_ascii();
            if protocol.is_empty() || protocol.eq_ignore_ascii_case(b"h2c") {
                continue;
            }
            if !protocol.eq_ignore_ascii_case(b"websocket") {
                return Upgrade::Other;
            }
            wanted = Upgrade::WebSocket;
        }
    }
    wanted
}

fn may_upgrade(route: &Route, upgrade: Upgrade) -> bool {
    route.websocket && upgrade == Upgrade::WebSocket && matches!(route.action, Action::Upstream(_))
}
