//! A request on its way to a target, and to the next one: what the phases of a request call, those of Pingora's own pipeline and
//! those of an inner pass alike.

use super::{
    Ends, Upstream,
    gate::{Admitted, Retrying, Saturated},
    retry::{REPEAT, Why},
    target::{Attempt, TargetState},
    wish::{Asking, Wish},
};
use crate::{request::Begun, snapshot::Route};
use http::{HeaderMap, header};
use pingora::{
    Error, ErrorSource,
    ErrorType::{CustomCode, InternalError, TLSHandshakeFailure},
    Result, RetryType,
    http::{RequestHeader, ResponseHeader},
    proxy::Session,
    upstreams::peer::HttpPeer,
};
use smallvec::SmallVec;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What happened upstream to a request.
#[derive(Debug, Default)]
pub(crate) struct UpstreamRun {
    /// Between whom the client's connection is, for targets that are told.
    pub(crate) ends: Option<Ends>,
    /// The target that has the request, or had it last.
    attempt: Option<Attempt>,
    /// Those that had it before.
    pub(crate) tried: SmallVec<[Tried; 1]>,
    /// Why the last one has it no longer.
    why: Option<Why>,
    /// What decides about the target beside how they are doing, where something does.
    wish: Option<Box<Wish>>,
    /// It is among the requests that the upstream has.
    admitted: Option<Admitted>,
    /// It is among those that are tried more than once, as the route says.
    retrying: Option<Retrying>,
    /// How often it was, as the route says.
    retries: u32,
    pub(crate) attempts: u32,
    pub(crate) status: Option<u16>,
    /// Heads that were sent ahead of the response.
    pub(crate) heads_ahead: u32,
    /// From the start of the request to the choice of the first target.
    pub(crate) asked_after: Option<Duration>,
    /// From the start of the request to the head of the response.
    pub(crate) header_after: Option<Duration>,
}

/// A target that had a request and has it no longer.
#[derive(Debug)]
pub(crate) struct Tried {
    pub(super) state: Arc<TargetState>,
    pub(crate) address: Option<Arc<str>>,
    pub(crate) why: Why,
}

impl UpstreamRun {
    /// Nothing has happened yet to a request on such a connection.
    pub(crate) fn between(ends: Ends) -> Self {
        Self {
            ends: Some(ends),
            ..Self::default()
        }
    }

    /// The address of the target that was chosen last.
    pub(crate) fn target(&self) -> Option<&Arc<str>> {
        self.attempt.as_ref()?.address()
    }

    /// Whether it has a place among the requests of the upstream.
    pub(crate) fn is_admitted(&self) -> bool {
        self.admitted.is_some()
    }

    pub(super) fn wish(&self) -> Option<&Wish> {
        self.wish.as_deref()
    }

    pub(super) fn attempt(&self) -> Option<&Attempt> {
        self.attempt.as_ref()
    }

    /// The target has the request no longer.
    fn give_up(&mut self) {
        let why = self.why.take();
        if let Some(before) = self.attempt.take() {
            self.tried.push(Tried {
                state: before.target().state.clone(),
                address: before.address().cloned(),
                why: why.unwrap_or(Why::Other),
            });
        }
    }
}

/// Reads from a request what decides about its target, where something in it does. Comes before `choose`; once is enough.
pub(crate) fn consider(route: &Route, headers: &HeaderMap, begun: &Begun, run: &mut UpstreamRun) {
    let Some(upstream) = route.upstream() else {
        return;
    };
    if run.wish.is_some() || (upstream.key.is_none() && upstream.sticky.is_none()) {
        return;
    }
    let asking = Asking {
        headers,
        client: begun.identity.ip,
        target: &begun.target,
    };
    let wish = Wish::of(&asking, upstream.key.as_ref(), upstream.sticky.as_ref());
    run.wish = Some(Box::new(wish));
}

/// A place among the requests that the upstream has. One is enough for all attempts.
///
/// # Errors
/// There is none, and will be none soon.
pub(crate) async fn admit(route: &Route) -> Result<Option<Admitted>> {
    let Some(upstream) = route.upstream() else {
        return Ok(None);
    };
    match upstream
        .gate
        .enter(&upstream.config.limits, &upstream.turn)
        .await
    {
        Ok(admitted) => Ok(Some(admitted)),
        Err(Saturated) => Error::e_explain(
            CustomCode("upstream_saturated", 503),
            "the upstream has too many requests",
        ),
    }
}

/// The next target of the route's upstream.
///
/// # Errors
/// The upstream has no targets at present.
pub(crate) fn choose(
    route: &Route,
    switches: bool,
    started: Instant,
    admitted: Option<Admitted>,
    run: &mut UpstreamRun,
) -> Result<Box<HttpPeer>> {
    let Some(upstream) = route.upstream() else {
        return Error::e_explain(InternalError, "the route has no upstream");
    };
    let now = Instant::now();
    run.admitted = run.admitted.take().or(admitted);
    run.give_up();
    let (attempt, peer) = upstream.pick(route.timeouts, switches, now, run)?;
    run.attempt = Some(attempt);
    run.attempts += 1;
    run.asked_after.get_or_insert_with(|| now - started);
    Ok(peer)
}

/// A target that shows a certificate and does not agree to HTTP/2 would be asked over HTTP/1.1 by Pingora.
///
/// # Errors
/// The request is about to go out in another protocol than the upstream's.
pub(crate) fn as_agreed(route: &Route, head: &RequestHeader) -> Result<()> {
    match route.upstream() {
        Some(upstream) if upstream.is_http2() && head.version != http::Version::HTTP_2 => {
            let error = Error::explain(TLSHandshakeFailure, "the target does not agree to HTTP/2");
            Err(error.into_up())
        }
        _ => Ok(()),
    }
}

/// Whether a request names no host and its upstream cannot do without one: HTTP/1.0 may leave out what HTTP/2 puts in front.
pub(crate) fn lacks_host(route: Option<&Route>, head: &RequestHeader) -> bool {
    let upstream = route.and_then(Route::upstream);
    upstream.is_some_and(|upstream| upstream.is_http2()) && !head.headers.contains_key(header::HOST)
}

/// The head of a response has come. A client that is sticky is told where it was.
///
/// # Errors
/// Nobody is to see the response, and the request is to be sent once more.
pub(crate) fn answered(
    route: &Route,
    started: Instant,
    run: &mut UpstreamRun,
    may_repeat: bool,
    response: &mut ResponseHeader,
) -> Result<()> {
    let now = Instant::now();
    let status = response.status.as_u16();
    let Some(upstream) = route.upstream() else {
        return Ok(());
    };
    let is_failure = upstream.is_failure(status);
    if let Some(attempt) = &mut run.attempt {
        if is_failure {
            upstream.failed(attempt, now);
        } else {
            attempt.answered(now);
        }
    }
    if may_repeat && is_repeated(route, upstream, run, Why::Status(status)) {
        let repeat = Error::explain(CustomCode(REPEAT, status), "another target is tried");
        return Err(repeat.into_up());
    }
    run.status = Some(status);
    run.header_after = Some(now - started);
    let cookie = run.attempt.as_ref().zip(run.wish());
    let cookie = cookie.and_then(|(attempt, wish)| upstream.cookie(attempt, wish));
    if let Some(cookie) = cookie {
        response.append_header(header::SET_COOKIE, cookie)?;
    }
    Ok(())
}

/// Whether a request is sent once more as its route says, which it is when this says so.
fn is_repeated(route: &Route, upstream: &Upstream, run: &mut UpstreamRun, why: Why) -> bool {
    let Some(retry) = &route.retry else {
        return false;
    };
    if run.retries >= retry.attempts || !why.is_reason(retry) {
        return false;
    }
    if run.retrying.is_none() {
        run.retrying = upstream.gate.retry(&upstream.config.retry_budget);
    }
    if run.retrying.is_none() {
        return false;
    }
    run.retries += 1;
    run.why = Some(why);
    upstream.gate.retried();
    true
}

/// Whether what is there of a request can be sent once more, whatever came of it.
pub(crate) fn may_repeat(session: &Session) -> bool {
    session.req_header().method.is_idempotent() && !session.as_ref().retry_buffer_truncated()
}

/// The target has failed the request.
pub(crate) fn failed(route: &Route, run: &mut UpstreamRun) {
    if let (Some(attempt), Some(upstream)) = (&mut run.attempt, route.upstream()) {
        upstream.failed(attempt, Instant::now());
    }
}

/// Nothing was sent, so another target may be tried: as often as the route says, or as often as there are some.
pub(crate) fn after_failed_connect(
    route: &Route,
    run: &mut UpstreamRun,
    mut error: Box<Error>,
) -> Box<Error> {
    failed(route, run);
    let Some(upstream) = route.upstream() else {
        return error;
    };
    upstream.complain(run, &error);
    run.why = Some(Why::ConnectFailure);
    error.set_retry(match &route.retry {
        Some(_) => is_repeated(route, upstream, run, Why::ConnectFailure),
        None => (run.attempts as usize) < upstream.len(),
    });
    error
}

/// What Pingora tells of an attempt with a connection that has come to an end that is none.
pub(crate) struct Ended {
    pub(crate) error: Box<Error>,
    /// The connection was not made for this attempt.
    pub(crate) was_kept: bool,
    /// The target was silent for too long, which Pingora takes for a failure of the client.
    pub(crate) is_late: bool,
    /// Whoever has the whole request will decide whether it is sent once more.
    pub(crate) is_decided_outside: bool,
}

/// What becomes of a request after that. A connection that was kept and turned out to be closed is replaced, as Pingora does it by
/// itself; everything else is as the route says.
pub(crate) fn after_error(
    route: &Route,
    run: &mut UpstreamRun,
    session: &Session,
    ended: Ended,
) -> Box<Error> {
    let mut error = ended.error;
    let Some(upstream) = route.upstream() else {
        return error;
    };
    let may_repeat = may_repeat(session) && run.status.is_none();
    if matches!(error.etype(), CustomCode(REPEAT, _)) {
        error.set_retry(may_repeat && !ended.is_decided_outside);
        return error;
    }
    let is_upstream = *error.esource() == ErrorSource::Upstream;
    let is_stale = match error.retry {
        RetryType::ReusedOnly => ended.was_kept,
        RetryType::Decided(again) => again,
    };
    // A client that goes away is nobody's failure, and the end of a socket is none.
    if (is_upstream || ended.is_late) && !is_stale && run.status != Some(101) {
        failed(route, run);
    }
    let why = if is_stale {
        Why::Stale
    } else {
        Why::of(&error)
    };
    run.why = Some(why);
    let is_reason = || is_upstream && !ended.is_decided_outside;
    let again = may_repeat && (is_stale || (is_reason() && is_repeated(route, upstream, run, why)));
    error.set_retry(again);
    error
}

/// The same for a request that is here as a whole, and whose inner pass has ended for good.
pub(crate) fn is_passed_again(route: &Route, run: &mut UpstreamRun, error: &Error) -> bool {
    let Some(upstream) = route.upstream() else {
        return false;
    };
    match error.etype() {
        CustomCode(REPEAT, _) => true,
        _ if *error.esource() == ErrorSource::Upstream => {
            is_repeated(route, upstream, run, Why::of(error))
        }
        _ => false,
    }
}
