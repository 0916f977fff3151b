//! Agents that are called over HTTP/1.1: one request, one answer, both held in
//! memory and bounded. Nothing is done that was not asked for: no redirect is
//! followed, no proxy of the environment is used.

mod tls;
mod watched;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_rustls::{
    DefaultServerNameResolver, FixedServerNameResolver, HttpsConnector, MaybeHttpsStream,
    ResolveServerName,
};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tower_service::Service;

use self::watched::{Watched, Wire};
use super::channel::reasons;
use crate::{CallError, ConnectError, ProtocolError, TlsFiles};

/// A connection that nobody has used for this long is closed. Many servers
/// close theirs sooner; those are not used again either.
const IDLE_FOR: Duration = Duration::from_secs(30);
/// Connections that nobody uses and that are kept all the same.
const MOST_IDLE: usize = 64;
/// The head of an answer, in bytes.
const LARGEST_HEAD: usize = 64 << 10;
const MOST_HEADERS: usize = 256;

type Stream = TokioIo<Watched<TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where an agent is called over HTTP, and how the two ends recognise each
/// other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpEndpoint {
    /// Scheme (`http` or `https`), host, port and path.
    pub url: Uri,
    /// Means something only with `https`.
    pub tls: TlsFiles,
}

impl fmt::Display for HttpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// Connections to one HTTP server. Clones share them. Has to be used on the
/// runtime that it was made on.
#[derive(Clone)]
pub(crate) struct HttpClient {
    client: Client<Dial, Full<Bytes>>,
    dial: Dial,
    url: Uri,
}

impl HttpClient {
    /// Reads what is needed for TLS and reaches the server once.
    /// `connect_timeout` is for that and, later, for each connection.
    ///
    /// # Errors
    /// [`ConnectError::Unreachable`], which names the file when one is at
    /// fault.
    pub(crate) async fn connect(
        endpoint: &HttpEndpoint,
        connect_timeout: Duration,
    ) -> Result<Self, ConnectError> {
        Self::reached(endpoint, connect_timeout)
            .await
            .map_err(ConnectError::Unreachable)
    }

    async fn reached(endpoint: &HttpEndpoint, connect_timeout: Duration) -> io::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let config = tls::config(endpoint).await?;
        let names = names(endpoint.tls.server_name.as_deref())?;
        let dial = Dial {
            https: HttpsConnector::new(tcp, config, false, names),
            timeout: connect_timeout,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(MOST_IDLE)
            .http1_max_buf_size(LARGEST_HEAD)
            .http1_max_headers(MOST_HEADERS)
            .build(dial.clone());
        let client = Self {
            client,
            dial,
            url: endpoint.url.clone(),
        };
        client.reach().await?;
        Ok(client)
    }

    /// What the server is called with.
    pub(crate) fn url(&self) -> &Uri {
        &self.url
    }

    /// Finds out whether the server takes connections, by making one that
    /// nothing is sent over.
    pub(crate) async fn reach(&self) -> io::Result<()> {
        let made = self.dial.clone().call(self.url.clone()).await;
        made.map(drop)
    }

    /// Sends a request and reads the head of the answer. The target is an
    /// absolute URL; without a Host header its authority is sent.
    ///
    /// Over a connection that has been used before, the server may have closed
    /// it at the same moment. When nothing of an answer has come then, the
    /// request is sent once more over another.
    ///
    /// # Errors
    /// [`CallError::Closed`] when the server cannot be reached,
    /// [`CallError::Lost`] when it closes without an answer, and
    /// [`CallError::Protocol`] when the answer is none of HTTP or too large.
    pub(crate) async fn send(&self, request: Request<Bytes>) -> Result<HttpAnswer, CallError> {
        let request = request.map(Full::new);
        let error = match self.client.request(request.clone()).await {
            Ok(answer) => return HttpAnswer::new(answer),
            Err(error) => error,
        };
        if !was_stale(&error) {
            return Err(meaning(&error));
        }
        match self.client.request(request).await {
            Ok(answer) => HttpAnswer::new(answer),
            Err(error) => Err(meaning(&error)),
        }
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// The head of an answer, and a body that is still to come. A connection whose
/// answer is not read to its end is closed.
pub(crate) struct HttpAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
}

impl HttpAnswer {
    fn new(answer: http::Response<Incoming>) -> Result<Self, CallError> {
        let (head, body) = answer.into_parts();
        // The others of this kind are passed over; this one has no answer
        // after it, and was not asked for.
        if head.status.is_informational() {
            return Err(malformed(format!("has status {}", head.status.as_u16())));
        }
        Ok(Self {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    /// Reads the body.
    ///
    /// # Errors
    /// It is longer than `limit` bytes, or the connection ends before it does:
    /// [`CallError::Protocol`].
    pub(crate) async fn body(mut self, limit: usize) -> Result<Bytes, CallError> {
        let too_large = || malformed(format!("has a body of more than {limit} bytes"));
        if self.body.size_hint().lower() > limit as u64 {
            return Err(too_large());
        }
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| malformed(format!("is cut short: {error}")))?;
            let Ok(piece) = frame.into_data() else {
                continue;
            };
            if first.len() + rest.len() + piece.len() > limit {
                return Err(too_large());
            }
            // Most bodies are one piece, which need not be copied.
            if first.is_empty() {
                first = piece;
            } else {
                rest.extend_from_slice(&piece);
            }
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(first.len() + rest.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&rest);
        Ok(whole.freeze())
    }
}

fn malformed(detail: String) -> CallError {
    ProtocolError::malformed("HTTP answer", detail).into()
}

/// Nothing of an answer has come over a connection that had been used before.
fn was_stale(error: &Error) -> bool {
    let wire = error.connect_info().and_then(|info| {
        let mut extensions = http::Extensions::new();
        info.get_extras(&mut extensions);
        extensions.remove::<Arc<Wire>>()
    });
    wire.is_some_and(|wire| wire.is_reused() && !wire.has_answer())
}

fn meaning(error: &Error) -> CallError {
    if error.is_connect() {
        return CallError::Closed;
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let is_lost = match error.downcast_ref::<hyper::Error>() {
            Some(error) if error.is_parse() => false,
            Some(error) => {
                error.is_incomplete_message() || error.is_canceled() || error.is_closed()
            }
            None => error.is::<io::Error>(),
        };
        if is_lost {
            return CallError::Lost;
        }
        cause = error.source();
    }
    malformed(format!("cannot be read: {}", reasons(error)))
}

/// Makes connections, TLS included, each within a time.
#[derive(Clone)]
struct Dial {
    https: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

impl Service<Uri> for Dial {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.https.poll_ready(cx).map_err(readable)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let dialling = self.https.call(url);
        let timeout = self.timeout;
        Box::pin(async move {
            match tokio::time::timeout(timeout, dialling).await {
                Ok(Ok(stream)) => Ok(TokioIo::new(Watched::new(TokioIo::new(stream)))),
                Ok(Err(error)) => Err(readable(error)),
                Err(_) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection within {timeout:?}"),
                )),
            }
        })
    }
}

fn readable(error: BoxError) -> io::Error {
    io::Error::other(reasons(&*error))
}

fn names(written: Option<&str>) -> io::Result<Arc<dyn ResolveServerName + Send + Sync>> {
    let Some(name) = written else {
        return Ok(Arc::new(DefaultServerNameResolver::default()));
    };
    let parsed = ServerName::try_from(name.to_owned()).map_err(|_| {
        let text = format!("the server name '{name}' is not a name or an address");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    Ok(Arc::new(FixedServerNameResolver::new(parsed)))
}

#[cfg(test)]
mod tests;
