//! A client's connection that speaks HTTP/2: its settings, its streams, and how it ends.

use super::{
    connection::{Connection, Listener},
    frames::{FramedStream, TO_SAY_SO, Violation, Watched},
    stream::EdgeStream,
    worker::told,
};
use crate::{phases::Edge, telemetry::Refused};
use bytes::Bytes;
use h2::Reason;
use pingora::{
    apps::HttpServerApp,
    protocols::{
        Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Ssl, Stream,
        http::{
            ServerSession,
            v2::server::{H2Accept, H2Options, HttpSession, default_h2_options, handshake},
        },
    },
    proxy::HttpProxy,
    server::ShutdownWatch,
};
use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{timeout, timeout_at},
};

/// Malformed requests of one connection. Clients that are not broken send none.
const MOST_MALFORMED: u32 = 32;
/// A client that was told that the connection ends, and asks for nothing, has this long to let it go.
const LEAVING_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of a response that wait for the connection, of each stream. Others wait with the upstream.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// What unread pieces of bodies may take beside their bytes, at 256 bytes for each small one. A call of gRPC may consist of
/// many.
const SMALL_PIECES_BYTES: usize = 4 * 1024 * 1024;

/// Serves a connection to its end.
pub(super) async fn serve(
    proxy: Arc<HttpProxy<Edge>>,
    stream: EdgeStream,
    shutdown: &ShutdownWatch,
) {
    let connection = stream.connection().clone();
    let begins_until = stream.begins_until();
    let digest = Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    });
    let watched = Watched::default();
    let framed = Box::new(FramedStream::new(stream, watched.clone()));
    let shaken = handshake(framed, Some(options(&connection.listener)));
    // Whoever does not begin in time, or not with HTTP/2, has asked for nothing.
    let Ok(Ok(http2)) = timeout_at(begins_until, shaken).await else {
        return;
    };
    let streams = Streams {
        proxy,
        connection,
        digest,
        active: Arc::default(),
        shutdown: shutdown.clone(),
        begun: 0,
        malformed: 0,
    };
    streams.serve(http2, &watched).await;
}

/// Pingora's own limits are the start: a bare set of options would lose them.
fn options(listener: &Listener) -> H2Options {
    let mut options = default_h2_options();
    let head = listener.limits.header_bytes.bytes() + listener.limits.uri_bytes.bytes();
    let http2 = &listener.http2;
    let window = |size: portcullis_config::ByteSize| u32::try_from(size.bytes()).unwrap_or(1 << 24);
    options
        .max_header_list_size(u32::try_from(head).unwrap_or(1 << 20))
        .max_concurrent_streams(http2.max_concurrent_streams)
        .max_concurrent_reset_streams(50)
        .max_pending_accept_reset_streams(20)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .data_frame_budget(SMALL_PIECES_BYTES)
        .initial_window_size(window(http2.initial_stream_window))
        .initial_connection_window_size(window(http2.initial_connection_window));
    options
}

/// What serving the streams of a connection takes.
struct Streams {
    proxy: Arc<HttpProxy<Edge>>,
    connection: Arc<Connection>,
    digest: Arc<Digest>,
    active: Arc<Active>,
    shutdown: ShutdownWatch,
    /// Requests so far.
    begun: u64,
    malformed: u32,
}

#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart where it was made"
)]
enum Event {
    Violated(Violation),
    Leaving,
    Accepted(pingora::Result<Option<H2Accept>>),
    Idle,
}

type Http2 = h2::server::Connection<Stream, Bytes>;

impl Streams {
    /// The connection ends in two steps: the client is told, which ends its requests in order, and when it has none any more
    /// it has a moment to go.
    async fn serve(mut self, mut http2: Http2, watched: &Watched) {
        let keepalive = self.connection.listener.timeouts.keepalive;
        let mut shutdown = self.shutdown.clone();
        let mut is_leaving = false;
        loop {
            let idle = if is_leaving {
                LEAVING_WITHIN
            } else {
                keepalive
            };
            let event = tokio::select! {
                biased;
                violation = violated(watched) => Event::Violated(violation),
                () = told(&mut shutdown), if !is_leaving => Event::Leaving,
                accepted = HttpSession::from_h2_conn(&mut http2, self.digest.clone()) => Event::Accepted(accepted),
                () = self.active.idle_for(idle) => Event::Idle,
            };
            let goes_on = match event {
                Event::Violated(Violation::Flood) => {
                    self.connection.refused(Refused::Flood);
                    return end(http2, Reason::ENHANCE_YOUR_CALM).await;
                }
                Event::Violated(Violation::NoSettings) => {
                    self.connection.refused(Refused::Malformed);
                    return end(http2, Reason::PROTOCOL_ERROR).await;
                }
                Event::Leaving => false,
                Event::Idle if is_leaving => return,
                Event::Idle => false,
                Event::Accepted(Ok(Some(H2Accept::Session(session)))) => self.begin(session),
                Event::Accepted(Ok(Some(H2Accept::Rejected))) => {
                    self.connection.refused(Refused::Malformed);
                    self.malformed += 1;
                    if self.malformed >= MOST_MALFORMED {
                        return end(http2, Reason::ENHANCE_YOUR_CALM).await;
                    }
                    true
                }
                Event::Accepted(Ok(None)) => return,
                // The client has gone, or has broken the rules, which it was told.
                Event::Accepted(Err(error)) => {
                    if is_flood(&error) {
                        self.connection.refused(Refused::Flood);
                    }
                    return;
                }
            };
            if !goes_on && !is_leaving {
                is_leaving = true;
                http2.graceful_shutdown();
            }
        }
    }

    /// Serves a request beside the others. Returns whether there may be more.
    fn begin(&mut self, session: HttpSession) -> bool {
        self.begun += 1;
        let proxy = self.proxy.clone();
        let shutdown = self.shutdown.clone();
        let active = self.active.begin();
        tokio::spawn(async move {
            let session = ServerSession::new_http2(session);
            proxy.process_new_http(session, &shutdown).await;
            drop(active);
        });
        self.begun < self.connection.listener.limits.requests_per_connection
    }
}

/// Ends a connection whose client does not behave. What is still being served ends with it.
async fn end(mut http2: Http2, reason: Reason) {
    http2.abrupt_shutdown(reason);
    // It is told, if it listens.
    let _ = timeout(TO_SAY_SO, poll_fn(|cx| http2.poll_closed(cx))).await;
}

/// Whether the library below us has ended the connection because of what the client does.
fn is_flood(error: &pingora::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<h2::Error>();
    cause.is_some_and(|cause| {
        cause.is_library() && cause.reason() == Some(Reason::ENHANCE_YOUR_CALM)
    })
}

/// Waits until there is something wrong with the client's frames. Whoever notices it wakes the task.
async fn violated(watched: &Watched) -> Violation {
    poll_fn(|_| match watched.violation() {
        Some(violation) => Poll::Ready(violation),
        None => Poll::Pending,
    })
    .await
}

/// The requests of a connection that are being served.
#[derive(Default)]
struct Active {
    count: AtomicUsize,
    none: Notify,
}

/// One of them, until it is dropped.
struct ActiveRequest(Arc<Active>);

impl Active {
    fn begin(self: &Arc<Self>) -> ActiveRequest {
        self.count.fetch_add(1, Relaxed);
        ActiveRequest(self.clone())
    }

    /// Waits until there has been none for this long. Begins anew with every call.
    async fn idle_for(&self, limit: Duration) {
        while self.count.load(Relaxed) > 0 {
            self.none.notified().await;
        }
        pingora_timeout::sleep(limit).await;
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Relaxed) == 1 {
            self.0.none.notify_one();
        }
    }
}
