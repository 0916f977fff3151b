//! The start of a request: what must be true of every request before a route is looked for, and what is remembered of it.

use crate::{
    client::{Identity, put},
    filter::shadow::Shadows,
    hop,
    reply::Reply,
    request::{Begun, InFlight, Request},
    router::RequestLine,
    server::connection::Connection,
    snapshot::{Action, Live, Route},
    strict,
    telemetry::metrics::Metrics,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header, request::Parts};
use pingora::{
    Error, ErrorType::InternalError, OrErr, Result, http::RequestHeader, proxy::Session,
};
use std::{
    sync::OnceLock,
    time::{Instant, SystemTime},
};

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
    let serving = live.load_full();
    let started_at = SystemTime::now();
    // Before anybody else sees the head.
    request.traced = serving.snapshot.trace.take_token(session.req_header_mut());
    if hop::names(session.req_header(), &HeaderName::from_static("close")) {
        // Pingora looks at the first line of several.
        session.set_keepalive(None);
    }
    let checked = strict::check(session, &connection, serving.snapshot.path);
    let (target, host, refusal) = match checked {
        Ok(strict::Checked { target, host }) => {
            let misdirected = connection
                .tls
                .as_ref()
                .is_some_and(|tls| !tls.is_for(&host));
            // What a client has shown of itself for one name means nothing for another (RFC 9110 section 7.4).
            let refusal = misdirected.then_some(strict::Refusal(421, "misdirected_request"));
            (target, host, refusal)
        }
        Err(refusal) => (raw_target(session), String::new(), Some(refusal)),
    };
    let head = session.req_header_mut();
    let identity = Identity::read(head, &connection, host, started_at);
    let method = head.method.clone();
    request.begun = Some(Begun {
        started: Instant::now(),
        started_at,
        connection,
        serving,
        identity,
        method,
        target,
        memory: OnceLock::new(),
        _in_flight: InFlight::new(&metrics.in_flight),
    });
    if let Some(strict::Refusal(status, reason)) = refusal {
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
    request.switches = upgrade == Upgrade::WebSocket;
    let head = session.req_header_mut();
    let Some(begun) = &request.begun else {
        return Ok(());
    };
    let target = begun.target.as_bytes();
    let is_other_target = head.raw_path() != target;
    change(head, |parts| {
        // Before the target is replaced, which takes the host with it.
        as_http1(parts)?;
        let version = parts.version;
        let headers = &mut parts.headers;
        if version == Version::HTTP_10 {
            // It does not know what would come of it (RFC 9110 section 10.1.1).
            headers.remove(header::EXPECT);
        }
        plain_length(headers);
        hop::remove_nominated(headers);
        // What only an agent may say, nobody else has said, on whatever route.
        for name in begun.snapshot().agents.owned_headers().found_in(headers) {
            headers.remove(name);
        }
        begun.identity.forward(headers, &begun.connection, version)
    })?;
    if is_other_target || head.raw_path() != target {
        head.set_raw_path(target)?;
    }
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
    if let Some(found) = begun.snapshot().router.find(&line) {
        let route = match &found.route.action {
            Action::Split(split) => split.choose(begun.identity.ip, &head.headers),
            _ => found.route,
        };
        request.route = Some(route.clone());
        request.rank = found.rank;
    }
    if let Some(route) = &request.route {
        let keeps_changes = begun.snapshot().trace.keeps_requests;
        request.agents.limit(route.agent_budget, keeps_changes);
        request.shadows = Shadows::of(route, begun);
    }
    match request.route.as_deref() {
        None => refuse(request, 404, "no_route"),
        Some(route) if upgrade != Upgrade::None && !may_upgrade(route, upgrade) => {
            refuse(request, 403, "upgrade_not_allowed");
        }
        Some(_) if upgrade == Upgrade::WebSocket && !is_handshake(session.req_header()) => {
            // Where the body ends and the frames begin, the upstream may see elsewhere than we do.
            session.set_keepalive(None);
            refuse(request, 400, "upgrade_with_body");
        }
        Some(_) => {}
    }
    Ok(())
}

/// Changes a head without Pingora's record of how its names were spelled, which costs an allocation or two for each name
/// whenever the head is changed, copied or dropped. From here on all names are in lower case, as HTTP/2 has them.
fn change<R>(head: &mut RequestHeader, how: impl FnOnce(&mut Parts) -> R) -> R {
    let (placeholder, ()) = http::Request::new(()).into_parts();
    let mut parts = Parts::from(std::mem::replace(head, placeholder.into()));
    let result = how(&mut parts);
    *head = parts.into();
    result
}

/// HTTP/2 names the host outside of the header fields, and may spread cookies over several (RFC 9113 sections 8.3.1 and
/// 8.2.3). Rules, agents and upstreams see what HTTP/1.1 would have brought.
fn as_http1(head: &mut Parts) -> Result<()> {
    if head.version != Version::HTTP_2 {
        return Ok(());
    }
    let cookies: Vec<&[u8]> = head
        .headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1 {
        let joined = HeaderValue::try_from(cookies.join(&b"; "[..]))
            .or_err(InternalError, "cookies that are no header value together")?;
        head.headers.insert(header::COOKIE, joined);
    }
    if head.headers.contains_key(header::HOST) {
        return Ok(());
    }
    match head.uri.authority() {
        Some(authority) => {
            let host = HeaderValue::try_from(authority.as_str())
                .or_err(InternalError, "an authority that is no header value")?;
            put(&mut head.headers, header::HOST, host)
        }
        None => Ok(()),
    }
}

/// A length in the digits that it needs. Zeros in front of it pass our checks, and some read an octal number in them.
fn plain_length(headers: &mut HeaderMap) {
    let Some(length) = headers.get_mut(header::CONTENT_LENGTH) else {
        return;
    };
    let digits = length.as_bytes();
    if digits.len() > 1
        && digits.starts_with(b"0")
        && let Some(number) = str::from_utf8(digits).ok().and_then(|it| it.parse().ok())
    {
        let number: u64 = number;
        *length = HeaderValue::from(number);
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
    session.set_abort_on_close(!connection.listener.half_close);
    session.set_proxy_tasks_enabled(false);
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
    // Without it nothing is switched (RFC 9110 section 7.8), but an upstream may not be so exact.
    let announced = hop::names(head, &header::UPGRADE);
    for value in head.headers.get_all(header::UPGRADE) {
        for protocol in value.as_bytes().split(|byte| *byte == b',') {
            let protocol = protocol.trim_ascii();
            if protocol.is_empty() || protocol.eq_ignore_ascii_case(b"h2c") {
                continue;
            }
            if !announced || !protocol.eq_ignore_ascii_case(b"websocket") {
                return Upgrade::Other;
            }
            wanted = Upgrade::WebSocket;
        }
    }
    wanted
}

/// A handshake is a GET (RFC 6455 section 4.1) without a body.
fn is_handshake(head: &RequestHeader) -> bool {
    let length = head.headers.get(header::CONTENT_LENGTH);
    head.method == Method::GET
        && !head.headers.contains_key(header::TRANSFER_ENCODING)
        && length.is_none_or(|length| length.as_bytes().iter().all(|digit| *digit == b'0'))
}

fn may_upgrade(route: &Route, upgrade: Upgrade) -> bool {
    route.websocket.is_some() && upgrade == Upgrade::WebSocket && route.upstream().is_some()
}
