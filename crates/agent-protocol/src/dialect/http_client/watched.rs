//! A connection that knows whether an answer has begun to come, which decides
//! whether a request may be sent again.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What has gone over a connection.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// Something was read since something was written last.
    is_answering: AtomicBool,
    /// Something was written after something had been read.
    is_reused: AtomicBool,
}

impl Wire {
    /// A request has been sent after an answer to another.
    pub(super) fn is_reused(&self) -> bool {
        self.is_reused.load(Relaxed)
    }

    /// Something has come since the last request.
    pub(super) fn has_answer(&self) -> bool {
        self.is_answering.load(Relaxed)
    }

    fn wrote(&self) {
        if self.is_answering.swap(false, Relaxed) {
            self.is_reused.store(true, Relaxed);
        }
    }

    fn has_read(&self) {
        self.is_answering.store(true, Relaxed);
    }
}

/// A stream and what has gone over it. The bytes are those of HTTP, inside of
/// TLS.
pub(super) struct Watched<S> {
    stream: S,
    wire: Arc<Wire>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            wire: Arc::default(),
        }
    }
}

impl<S: Connection> Connection for Watched<S> {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(Arc::clone(&self.wire))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.wire.has_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.wire.wrote();
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wire.wrote();
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}
