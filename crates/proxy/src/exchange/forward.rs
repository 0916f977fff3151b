//! The inner pass of an inspected exchange: Pingora's own way to the upstream, fed by us instead of by a client. It asks nobody
//! and counts nothing; what it learns about the upstream it leaves in its [`Passage`].

use crate::{
    hop,
    mirror::{self, Copying},
    snapshot::Route,
    upstream::{self, Ended, UpstreamRun, connect},
};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use pingora::{
    Error,
    ErrorType::InternalError,
    Result,
    http::{RequestHeader, ResponseHeader},
    modules::http::HttpModules,
    protocols::http::{ServerSession, subrequest::server::SubrequestHandle},
    proxy::{
        FailToProxy, HttpProxy, PreparedSubrequest, ProxyHttp, ProxyWarnLogContext, Session,
        SubrequestSpawner,
    },
    upstreams::peer::HttpPeer,
};
use std::{
    io::Cursor,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// What one inner pass is about.
pub(crate) struct Passage {
    pub(super) route: Arc<Route>,
    pub(super) started: Instant,
    /// It asks to become a WebSocket.
    pub(super) switches: bool,
    /// The client takes trailers, which an inner request of HTTP/1.1 cannot say to an upstream of HTTP/2.
    pub(super) takes_trailers: bool,
    /// Who makes it has the whole request, and may make another pass.
    pub(super) is_whole: bool,
    head: Mutex<Option<RequestHeader>>,
    upstream: Mutex<UpstreamRun>,
    /// Somebody else gets a copy.
    copying: Mutex<Option<Box<Copying>>>,
    /// How long the response is by its own word, while the inner pass does not know.
    length: Mutex<Option<HeaderValue>>,
}

impl Passage {
    pub(super) fn new(
        route: Arc<Route>,
        started: Instant,
        switches: bool,
        (takes_trailers, is_whole): (bool, bool),
        head: RequestHeader,
        upstream: UpstreamRun,
    ) -> Arc<Self> {
        Arc::new(Self {
            route,
            started,
            switches,
            takes_trailers,
            is_whole,
            head: Mutex::new(Some(head)),
            upstream: Mutex::new(upstream),
            copying: Mutex::default(),
            length: Mutex::default(),
        })
    }

    /// Whether the client takes trailers and the upstream may send them: over HTTP/2.
    fn may_have_trailers(&self) -> bool {
        let upstream = self.route.upstream();
        self.takes_trailers && upstream.is_some_and(|upstream| upstream.is_http2())
    }

    /// An inner pass that knows the length is over when so much is through, and has no time for trailers that come after it.
    fn keep_length(&self, head: &mut ResponseHeader) {
        *self.length() = head.remove_header(&header::CONTENT_LENGTH);
    }

    /// Puts back what was kept.
    ///
    /// # Errors
    /// None that can be caused from outside; the signature is Pingora's.
    pub(super) fn restore_length(&self, head: &mut ResponseHeader) -> Result<()> {
        match self.length().take() {
            Some(length) => head.insert_header(header::CONTENT_LENGTH, length),
            None => Ok(()),
        }
    }

    fn length(&self) -> MutexGuard<'_, Option<HeaderValue>> {
        self.length.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What passes is copied.
    pub(super) fn copying(&self) -> MutexGuard<'_, Option<Box<Copying>>> {
        self.copying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened upstream so far.
    pub(super) fn upstream(&self) -> MutexGuard<'_, UpstreamRun> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.upstream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes inner passes. Every worker has its own, so that connections to upstreams stay with it.
pub(crate) struct Forwarder {
    proxy: Arc<HttpProxy<Forward>>,
    /// Inner requests are made after it. The head that counts is put in when the pass begins.
    template: ServerSession,
}

impl Forwarder {
    /// # Errors
    /// None that can be caused from outside; the signature is Pingora's.
    pub(crate) async fn new(authorities: &str) -> Result<Self> {
        let mut proxy = HttpProxy::new(Forward, connect::settings(authorities));
        proxy.handle_init_modules();
        let head = &b"GET / HTTP/1.1\r\nhost: inner\r\n\r\n"[..];
        let mut template = ServerSession::new_http1(Box::new(Cursor::new(head.to_vec())));
        template.read_request().await?;
        Ok(Self {
            proxy: Arc::new(proxy),
            template,
        })
    }

    pub(super) fn prepare(&self, passage: &Arc<Passage>) -> (PreparedSubrequest, SubrequestHandle) {
        let context = pingora::proxy::subrequest::Ctx::builder()
            // Otherwise headers that describe the body are taken away.
            .body_mode(pingora::proxy::subrequest::BodyMode::ExpectBody)
            .user_ctx(Box::new(passage.clone()))
            .build();
        SubrequestSpawner::new(self.proxy.clone()).create_subrequest(&self.template, context)
    }
}

/// What Pingora calls on an inner pass.
pub(crate) struct Forward;

#[async_trait]
impl ProxyHttp for Forward {
    type CTX = Option<Arc<Passage>>;

    fn new_ctx(&self) -> Self::CTX {
        None
    }

    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(
        &self,
        session: &mut Session,
        context: &mut Self::CTX,
    ) -> Result<()> {
        let user = session
            .subrequest_ctx
            .as_ref()
            .and_then(|context| context.user_ctx());
        let passage = user.and_then(|user| user.downcast_ref::<Arc<Passage>>());
        let Some(passage) = passage.cloned() else {
            return Error::e_explain(InternalError, "an inner pass that is about nothing");
        };
        let head = passage
            .head
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(head) = head {
            *session.req_header_mut() = head;
        }
        *context = Some(passage);
        Ok(())
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        context: &mut Self::CTX,
    ) -> Result<Box<HttpPeer>> {
        let Some(passage) = context else {
            return Error::e_explain(InternalError, "an inner pass that is about nothing");
        };
        if let Some(copying) = &mut *passage.copying() {
            copying.start_again();
        }
        let is_admitted = passage.upstream().is_admitted();
        let admitted = match is_admitted {
            true => None,
            false => upstream::admit(&passage.route).await?,
        };
        let (route, run) = (&passage.route, &mut passage.upstream());
        upstream::choose(route, passage.switches, passage.started, admitted, run)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        context: &mut Self::CTX,
    ) -> Result<()> {
        upstream::drop_empty_end(body, end_of_stream);
        if let Some(passage) = context {
            mirror::passes(&mut passage.copying(), body.as_ref(), end_of_stream);
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        upstream: &mut RequestHeader,
        context: &mut Self::CTX,
    ) -> Result<()> {
        let Some(passage) = context else {
            return Ok(());
        };
        upstream::as_agreed(&passage.route, upstream)?;
        if passage.may_have_trailers() {
            let te = HeaderName::from_static("te");
            upstream.insert_header(te, HeaderValue::from_static("trailers"))?;
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Self::CTX,
    ) -> Result<()> {
        hop::check_coding(response)?;
        if let Some(passage) = context {
            let run = &mut passage.upstream();
            if response.status.is_informational() && response.status != 101 {
                return hop::count_ahead(&mut run.heads_ahead);
            }
            let may_repeat = match passage.is_whole {
                true => session.req_header().method.is_idempotent(),
                false => upstream::may_repeat(session),
            };
            let route = &passage.route;
            upstream::answered(route, passage.started, run, may_repeat, response)?;
            if passage.may_have_trailers() && response.status != 101 {
                passage.keep_length(response);
            }
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        context: &mut Self::CTX,
        error: Box<Error>,
    ) -> Box<Error> {
        match context {
            Some(passage) => {
                upstream::after_failed_connect(&passage.route, &mut passage.upstream(), error)
            }
            None => error,
        }
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        context: &mut Self::CTX,
        client_reused: bool,
    ) -> Box<Error> {
        let Some(passage) = context else {
            return error;
        };
        let ended = Ended {
            error,
            was_kept: client_reused,
            is_late: false,
            is_decided_outside: passage.is_whole,
        };
        upstream::after_error(&passage.route, &mut passage.upstream(), session, ended)
    }

    async fn fail_to_proxy(
        &self,
        _session: &mut Session,
        _error: &Error,
        _context: &mut Self::CTX,
    ) -> FailToProxy {
        // The outer pass knows what to tell the client.
        FailToProxy {
            error_code: 0,
            can_reuse_downstream: false,
        }
    }

    fn suppress_error_log(&self, _: &Session, _: &Self::CTX, _: &Error) -> bool {
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
