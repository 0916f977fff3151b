//! The life of a request, phase by phase. Each phase names its steps; what a step does is in the module that owns it.

use crate::{
    access, begin,
    exchange::{self, Forwarder},
    files::Answer,
    filter::{self, Flow},
    hop, mirror,
    reply::{self, Reply},
    request::Request,
    rewrite,
    snapshot::{Action, Live},
    telemetry::Telemetry,
    trace,
    upstream::{self, Ended},
    watch,
};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Version, header};
use pingora::{
    Error,
    ErrorType::{HTTPStatus, InternalError, InvalidHTTPHeader},
    Result,
    http::{RequestHeader, ResponseHeader},
    proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session},
    upstreams::peer::HttpPeer,
};
use std::{sync::Arc, time::Duration};

/// What Pingora calls. Every worker has its own.
pub(crate) struct Edge {
    pub(crate) live: Arc<Live>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) forwarder: Forwarder,
}

#[async_trait]
impl ProxyHttp for Edge {
    /// In a box: Pingora moves it from future to future.
    type CTX = Box<Request>;

    fn new_ctx(&self) -> Self::CTX {
        Box::default()
    }

    fn init_downstream_modules(&self, _modules: &mut pingora::modules::http::HttpModules) {}

    async fn early_request_filter(
        &self,
        session: &mut Session,
        request: &mut Self::CTX,
    ) -> Result<()> {
        begin::begin(session, request, &self.live, &self.telemetry.metrics)
    }

    async fn request_filter(&self, session: &mut Session, request: &mut Self::CTX) -> Result<bool> {
        if let Some(reply) = request.pending.take() {
            return answered(session, reply, request).await;
        }
        let flow = watch::on_request(session, request).await?;
        filter::compress::prepare(session, request);
        if let Flow::Reply(reply) = flow {
            return answered(session, reply, request).await;
        }
        if let Some((status, reason)) = rewrite::apply(session.req_header_mut(), request)? {
            request.reason = Some(reason);
            return answered(session, Reply::status(status), request).await;
        }
        if upstream::lacks_host(request.route.as_deref(), session.req_header()) {
            request.reason = Some("missing_host");
            return answered(session, Reply::status(400), request).await;
        }
        if let Some(reply) = local_reply(request) {
            return answered(session, reply, request).await;
        }
        let file = match file(session, request).await? {
            None => None,
            Some(Answer::File(file)) => Some(file),
            Some(Answer::Own(reply, reason)) => {
                request.reason = reason;
                return answered(session, reply, request).await;
            }
        };
        request.copying = mirror::begin(session.req_header(), request);
        request.is_mirrored = request.copying.is_some();
        let keeps_trailers = filter::compress::keeps_trailers(session);
        if !exchange::is_due(request, session.is_http2(), keeps_trailers) {
            if !request.has_body {
                mirror::end(&mut request.copying);
            }
            let Some(file) = file else { return Ok(false) };
            let written = Box::pin(reply::write_file(session, *file, request)).await;
            return written.map(|()| true);
        }
        // Only requests that need it have room for it.
        match Box::pin(exchange::run(session, request, &self.forwarder, file)).await? {
            Flow::Continue => Ok(true),
            Flow::Reply(reply) => answered(session, reply, request).await,
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        request: &mut Self::CTX,
    ) -> Result<Box<HttpPeer>> {
        let (Some(begun), Some(route)) = (&request.begun, &request.route) else {
            return Error::e_explain(InternalError, "no route");
        };
        if let Some(copying) = &mut request.copying {
            copying.start_again();
        }
        let run = &mut request.upstream;
        run.ends = Some(begun.ends());
        // An attempt that was not the first brings what it has of the body once more.
        request.body_received = 0;
        upstream::consider(route, &session.req_header().headers, begun, run);
        let admitted = match run.is_admitted() {
            true => None,
            false => upstream::admit(route).await?,
        };
        upstream::choose(route, request.switches, begun.started, admitted, run)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        request: &mut Self::CTX,
    ) -> Result<()> {
        upstream::drop_empty_end(body, end_of_stream);
        mirror::passes(&mut request.copying, body.as_ref(), end_of_stream);
        let Some(chunk) = body else { return Ok(()) };
        request.body_received += chunk.len() as u64;
        let upgraded = request.upstream.status == Some(101);
        if !upgraded && request.body_received > request.body_limit() {
            return Error::e_explain(HTTPStatus(413), "the body is larger than it may be");
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        request: &mut Self::CTX,
    ) -> Result<()> {
        if response.status == 101 && !session.is_upgrade_req() {
            // Passed on it would leave the client's connection in a state that neither side agreed on.
            return Err(
                Error::explain(InvalidHTTPHeader, "an upgrade that nobody asked for").into_up(),
            );
        }
        hop::check_coding(response)?;
        hop::clean_response(response);
        if response.status.is_informational() && response.status != 101 {
            return hop::count_ahead(&mut request.upstream.heads_ahead);
        }
        if let (Some(begun), Some(route)) = (&request.begun, &request.route) {
            let may_repeat = upstream::may_repeat(session);
            let run = &mut request.upstream;
            upstream::answered(route, begun.started, run, may_repeat, response)?;
        }
        reply::end_if_leaving(session, request);
        if session.req_header().version == Version::HTTP_10 {
            // Chunks are new in HTTP/1.1; before, a body of unknown length ends with the connection.
            response.remove_header(&header::TRANSFER_ENCODING);
            if !response.headers.contains_key(header::CONTENT_LENGTH) {
                session.set_keepalive(None);
            }
        }
        if let (Some(begun), Some(route)) = (&request.begun, &request.route) {
            // A longer idle time is what the upstream's own limit is set to.
            let timeouts = route.timeouts;
            let shorter = timeouts.idle < timeouts.response_header && response.status != 101;
            begun
                .connection
                .expect_answer(shorter.then_some(timeouts.idle));
        }
        filter::on_response(request, response)?;
        trace::stamp(request, &request.upstream, response)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        head: &mut RequestHeader,
        request: &mut Self::CTX,
    ) -> Result<()> {
        let (Some(begun), Some(route)) = (&request.begun, &request.route) else {
            return Ok(());
        };
        upstream::as_agreed(route, head)?;
        if !session.is_http2() {
            begun
                .connection
                .expect_answer(Some(route.timeouts.response_header));
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        request: &mut Self::CTX,
        error: Box<Error>,
    ) -> Box<Error> {
        match &request.route {
            Some(route) => upstream::after_failed_connect(route, &mut request.upstream, error),
            None => error,
        }
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        request: &mut Self::CTX,
        client_reused: bool,
    ) -> Box<Error> {
        let (Some(begun), Some(route)) = (&request.begun, &request.route) else {
            return error;
        };
        let ended = Ended {
            error,
            was_kept: client_reused,
            is_late: begun.connection.was_answer_late(),
            is_decided_outside: false,
        };
        upstream::after_error(route, &mut request.upstream, session, ended)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        request: &mut Self::CTX,
    ) -> FailToProxy {
        let mut status = 0;
        if let Some(begun) = &request.begun
            && reply::answered(session).is_some()
            && reply::ends_with_connection(session)
        {
            begun.connection.break_off();
        }
        let late = request
            .begun
            .as_ref()
            .is_some_and(|begun| begun.connection.was_answer_late());
        let outcome = if late {
            Some((504, "upstream_timeout"))
        } else {
            reply::from_error(error)
        };
        if let Some((code, reason)) = outcome {
            tracing::debug!(%error, reason, "request failed");
            request.reason = Some(reason);
            status = code;
            if code == 413 {
                request.body_is_too_large();
            }
            if reply::answered(session).is_none() {
                // The connection is not used again, see below, and the answer shall say so.
                session.set_keepalive(None);
                let retry = (code == 503).then_some(Duration::from_secs(1));
                let reply = Reply::status(code).with_retry_after(retry);
                // The client may have gone; there is nobody to tell.
                let _ = reply::write(session, reply, request).await;
            }
        } else {
            request.reason = Some("client_gone");
        }
        FailToProxy {
            error_code: status,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, request: &mut Self::CTX) {
        access::finished(session, error, request, &self.telemetry);
    }

    fn suppress_error_log(&self, _: &Session, _: &Self::CTX, _: &Error) -> bool {
        // The access log has the request and its reason.
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Self::CTX,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

async fn answered(session: &mut Session, reply: Reply, request: &mut Request) -> Result<bool> {
    // Only requests that are answered here have room for it. What goes wrong here goes wrong on the way to the client.
    Box::pin(reply::write(session, reply, request))
        .await
        .map_err(Error::into_down)?;
    Ok(true)
}

/// The answer of a route that serves files.
async fn file(session: &Session, request: &Request) -> Result<Option<Answer>> {
    let (Some(begun), Some(route)) = (&request.begun, request.route.as_deref()) else {
        return Ok(None);
    };
    let Action::Static(files) = &route.action else {
        return Ok(None);
    };
    let rewritten = request.rewritten.as_deref();
    let target = rewritten.and_then(|to| to.target.as_deref());
    let target = target.unwrap_or(&begun.target);
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let whole = request.plan(route).whole_responses;
    let headers = &session.req_header().headers;
    // Only requests that need it have room for it.
    Box::pin(files.answer(begun, path, headers, whole))
        .await
        .map(Some)
}

/// The answer of a route that needs no upstream.
fn local_reply(request: &Request) -> Option<Reply> {
    match &request.route.as_deref()?.action {
        Action::Upstream(_) | Action::Split(_) | Action::Static(_) => None,
        Action::Respond(reply) => Some(reply.clone()),
        Action::Redirect { location, status } => Some(match location.fill(request) {
            // Two slashes that came out of variables would name another host (RFC 3986 section 4.2).
            Some(filled) if filled.as_bytes().starts_with(b"//") && !location.is_constant() => {
                Reply::status(400)
            }
            Some(location) => Reply::status(*status)
                .with_header(header::LOCATION, location)
                .with_body(""),
            None => Reply::status(400),
        }),
    }
}
