//! A client's socket as Pingora sees it. While the head of a request is awaited the stream keeps what Pingora has no setting
//! for: a deadline for the whole head, a bound on its size, and our own answer to what is not HTTP. While a request is
//! served it reads and writes, and notices when the upstream is silent for longer than it may be.

use super::{connection::Connection, socket::Socket};
use crate::{reply, telemetry::Refused};
use async_trait::async_trait;
use pingora::{
    http::ResponseHeader,
    protocols::{
        ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
        TimingDigest, UniqueID, UniqueIDType, raw_connect::ProxyDigest,
    },
};
use std::{
    fmt,
    future::Future,
    io,
    os::fd::AsRawFd,
    pin::{Pin, pin},
    sync::{Arc, LazyLock},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, Sleep},
};

/// Output is collected up to this size before it is written, so that a head and a small body leave in one segment.
const OUTPUT_BYTES: usize = 16 * 1024;
/// A larger output buffer is given back once it is empty, so that idle connections stay small.
const KEPT_OUTPUT_BYTES: usize = 4 * 1024;

/// The client connection preface of HTTP/2 (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A digest has to have the response of a forward proxy. There is none.
static NO_RESPONSE: LazyLock<ResponseHeader> = LazyLock::new(|| {
    #[expect(clippy::unwrap_used, reason = "200 is a valid status")]
    ResponseHeader::build(200, Some(0)).unwrap()
});

/// See the module.
pub(crate) struct EdgeStream {
    socket: Socket,
    connection: Arc<Connection>,
    digest: Arc<ProxyDigest>,
    socket_digest: Arc<SocketDigest>,
    http2: bool,
    /// Bytes that were read to find out which version the client speaks; they are read again from here.
    preread: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    head: HeadWatch,
    /// Since when the client and the upstream both have been silent while an answer was due.
    waiting_since: Option<Instant>,
    timer: LazyTimer,
}

impl EdgeStream {
    /// Wraps an accepted socket; the wait for the first head begins now.
    pub(crate) fn new(socket: Socket, connection: Arc<Connection>) -> Self {
        let socket_digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
        // Known already, so that nobody asks the kernel again.
        let _ = socket_digest.peer_addr.set(Some(connection.peer.into()));
        let _ = socket_digest.local_addr.set(Some(connection.local.into()));
        let head = HeadWatch::first(connection.listener.timeouts.request_header);
        Self {
            socket,
            digest: Arc::new(ProxyDigest::new(
                Box::new(NO_RESPONSE.clone()),
                Some(Box::new(connection.clone())),
            )),
            socket_digest: Arc::new(socket_digest),
            connection,
            http2: false,
            preread: Vec::new(),
            output: Vec::new(),
            written: 0,
            head,
            waiting_since: None,
            timer: LazyTimer::default(),
        }
    }

    /// The connection that this is the stream of.
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Reads until it is clear whether the client begins with the preface of HTTP/2. What was read is read again.
    ///
    /// # Errors
    /// The client went away or took too long.
    pub(crate) async fn begins_with_http2(&mut self) -> io::Result<bool> {
        let mut seen = Vec::with_capacity(HTTP2_PREFACE.len());
        while seen.len() < HTTP2_PREFACE.len() {
            let mut chunk = [0; HTTP2_PREFACE.len()];
            let mut buffer = ReadBuf::new(&mut chunk[..HTTP2_PREFACE.len() - seen.len()]);
            std::future::poll_fn(|cx| Pin::new(&mut *self).poll_read(cx, &mut buffer)).await?;
            let read = buffer.filled();
            seen.extend_from_slice(read);
            if read.is_empty() || !HTTP2_PREFACE.starts_with(&seen) {
                break;
            }
        }
        self.http2 = seen == HTTP2_PREFACE;
        if self.http2 {
            // From here on HTTP/2 has its own limits.
            self.connection.begin_request();
        } else {
            self.head.is_read_again(seen.len());
        }
        self.preread = seen;
        Ok(self.http2)
    }

    /// When what the client begins with has to be there.
    pub(crate) const fn begins_until(&self) -> Instant {
        self.head.deadline
    }

    fn poll_read_head(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let limits = &self.connection.listener.limits;
        let limit = limits.header_bytes.bytes() + limits.uri_bytes.bytes();
        // Pingora reads on only while the head is incomplete.
        if self.head.received as u64 >= limit {
            return self.poll_refuse(cx, Refused::HeadTooLarge);
        }
        let before = buffer.filled().len();
        match self.poll_read_socket(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let count = buffer.filled().len() - before;
                if count > 0 {
                    self.connection.head_has_begun();
                    self.head
                        .received(count, self.connection.listener.timeouts.request_header);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                ready!(self.timer.poll_until(cx, self.head.deadline));
                if self.head.received > 0 {
                    return self.poll_refuse(cx, Refused::HeadTimeout);
                }
                // Nothing was asked, so nothing is answered: this reads as the end of the stream.
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Reads while a request is served. Pingora listens to the client while it waits for the upstream, which makes this the
    /// place where an answer that does not come can be noticed.
    fn poll_read_serving(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(result) = self.poll_read_socket(cx, buffer) {
            self.waiting_since = None;
            return Poll::Ready(result);
        }
        // Nothing is being written, so whoever writes waits for more, and what there is must not wait with it.
        if (self.written < self.output.len() || self.socket.holds_output())
            && let Poll::Ready(Err(error)) = self.poll_output(cx)
        {
            return Poll::Ready(Err(error));
        }
        let Some(limit) = self.connection.answer_within() else {
            self.waiting_since = None;
            return Poll::Pending;
        };
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        ready!(self.timer.poll_until(cx, since + limit));
        self.connection.answer_is_late();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_read_socket(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.preread.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buffer);
        }
        let count = self.preread.len().min(buffer.remaining());
        buffer.put_slice(&self.preread[..count]);
        self.preread.drain(..count);
        Poll::Ready(Ok(()))
    }

    /// Answers with the status of the refusal and fails the read, which makes Pingora close the connection.
    fn poll_refuse(&mut self, cx: &mut Context<'_>, why: Refused) -> Poll<io::Result<()>> {
        self.refuse(why);
        // If the client does not take these few bytes at once, it does not get them.
        let _ = self.poll_output(cx);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why.name())))
    }

    fn refuse(&mut self, why: Refused) {
        if !self.head.refused {
            self.head.refused = true;
            self.connection.refused(why);
            self.output = reply::raw(why.status());
            self.written = 0;
        }
    }

    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            let count =
                ready!(Pin::new(&mut self.socket).poll_write(cx, &self.output[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.written = 0;
        if self.output.capacity() > KEPT_OUTPUT_BYTES {
            self.output = Vec::new();
        } else {
            self.output.clear();
        }
        Pin::new(&mut self.socket).poll_flush(cx)
    }
}

impl AsyncRead for EdgeStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.connection.is_serving() {
            return this.poll_read_serving(cx, buffer);
        }
        if this.connection.is_head_due() {
            // The request is over and another head may come.
            this.head.next(this.connection.listener.timeouts.keepalive);
        }
        this.poll_read_head(cx, buffer)
    }
}

impl AsyncWrite for EdgeStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.connection.is_serving() {
            // Before the head is complete only Pingora itself answers, to what it cannot parse or does not take. The client
            // gets our form of the same answer.
            this.refuse(if data.starts_with(b"HTTP/1.1 405") {
                Refused::Method
            } else {
                Refused::Malformed
            });
            return Poll::Ready(Ok(data.len()));
        }
        this.waiting_since = None;
        if this.output.len() + data.len() > OUTPUT_BYTES {
            ready!(this.poll_output(cx))?;
            if data.len() >= OUTPUT_BYTES {
                return Pin::new(&mut this.socket).poll_write(cx, data);
            }
        }
        this.output.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_output(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_output(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

impl Drop for EdgeStream {
    fn drop(&mut self) {
        if self.connection.is_broken_off() {
            // Closed like this it is reset. If the option is not taken, it ends as it would have without.
            let _ = self.socket.set_zero_linger();
        }
    }
}

#[async_trait]
impl Shutdown for EdgeStream {
    async fn shutdown(&mut self) {
        if self.connection.is_broken_off() {
            return;
        }
        // The peer may be gone already, which is what is wanted.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for EdgeStream {
    fn id(&self) -> UniqueIDType {
        self.socket.as_raw_fd()
    }
}

impl Ssl for EdgeStream {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        // Prior knowledge counts as a choice; this is how Pingora is told which version to serve.
        self.http2.then_some(ALPN::H2)
    }
}

impl Peek for EdgeStream {}

impl GetTimingDigest for EdgeStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for EdgeStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl GetSocketDigest for EdgeStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket_digest.clone())
    }
}

impl fmt::Debug for EdgeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeStream")
            .field("peer", &self.connection.peer)
            .finish_non_exhaustive()
    }
}

/// Polls a timer whatever is left of the task's budget of tokio's: without any, it would not be armed, and nobody would notice.
fn arm(timer: &mut Pin<Box<Sleep>>, cx: &mut Context<'_>) -> Poll<()> {
    pin!(tokio::task::unconstrained(timer.as_mut())).poll(cx)
}

/// What is known of the head that is awaited.
struct HeadWatch {
    deadline: Instant,
    /// Whether the deadline is that of a whole head, and not that of its first byte.
    is_begun: bool,
    received: usize,
    refused: bool,
}

impl HeadWatch {
    /// The first head of a connection must be complete within `limit`, counted from the connection's start.
    fn first(limit: Duration) -> Self {
        Self {
            deadline: Instant::now() + limit,
            is_begun: true,
            received: 0,
            refused: false,
        }
    }

    /// Another head may begin within `idle`.
    fn next(&mut self, idle: Duration) {
        self.deadline = Instant::now() + idle;
        self.is_begun = false;
        self.received = 0;
    }

    fn received(&mut self, count: usize, limit: Duration) {
        if !self.is_begun {
            self.is_begun = true;
            self.deadline = Instant::now() + limit;
        }
        self.received += count;
    }

    /// So much of it comes once more.
    fn is_read_again(&mut self, count: usize) {
        self.received -= count;
    }
}

/// The timer behind the deadlines of a connection. It is armed only when a read has to wait, and moved only when a deadline
/// comes nearer or the timer has fired, so that a busy connection hardly touches it.
#[derive(Default)]
struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whom it wakes.
    waker: Option<Waker>,
}

impl LazyTimer {
    /// Ready when `deadline` has passed; until then the task is woken in time.
    fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.will_wake(cx, deadline) {
            return Poll::Pending;
        }
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        self.waker = Some(cx.waker().clone());
        let timer = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline || timer.is_elapsed() {
            timer.as_mut().reset(deadline);
        }
        // A timer that is set to an earlier time wakes the task once for nothing, and is moved then.
        if arm(timer, cx).is_ready() {
            timer.as_mut().reset(deadline);
            let _ = arm(timer, cx);
        }
        Poll::Pending
    }

    /// Whether the timer is running, and wakes this task no later than at the deadline. That it does not even have to be
    /// asked for the time is what makes it cheap.
    fn will_wake(&self, cx: &Context<'_>, deadline: Instant) -> bool {
        let wakes = |waker: &Waker| waker.will_wake(cx.waker());
        self.waker.as_ref().is_some_and(wakes)
            && self
                .sleep
                .as_ref()
                .is_some_and(|timer| timer.deadline() <= deadline && !timer.is_elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn the_first_head_has_its_time_once() {
        let (limit, idle) = (Duration::from_secs(10), Duration::from_secs(60));
        let pass = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        let begun = Instant::now();
        let mut head = HeadWatch::first(limit);
        pass(8).await;
        head.received(4, limit);
        assert_eq!(head.deadline, begun + limit);
        // It was looked at for its version.
        head.is_read_again(4);
        pass(1).await;
        head.received(4, limit);
        assert_eq!((head.deadline, head.received), (begun + limit, 4));
        // Another one begins with its first byte.
        head.next(idle);
        assert_eq!(head.deadline, Instant::now() + idle);
        pass(50).await;
        let begun = Instant::now();
        head.received(1, limit);
        pass(5).await;
        head.received(1, limit);
        assert_eq!((head.deadline, head.received), (begun + limit, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_is_armed_also_when_the_task_has_done_much() {
        let begun = Instant::now();
        let mut timer = LazyTimer::default();
        for seconds in [5, 9, 7] {
            let deadline = begun + Duration::from_secs(seconds);
            // The next poll finds nothing left of the budget.
            poll_fn(|cx| {
                while tokio::task::coop::has_budget_remaining() {
                    if pin!(tokio::task::coop::consume_budget())
                        .poll(cx)
                        .is_pending()
                    {
                        break;
                    }
                }
                let _ = timer.poll_until(cx, deadline);
                Poll::Ready(())
            })
            .await;
            let waited = poll_fn(|cx| timer.poll_until(cx, deadline));
            tokio::time::timeout(Duration::from_secs(60), waited)
                .await
                .unwrap();
            assert!(Instant::now() >= deadline);
        }
    }
}
