//! Reading and writing a Unix stream by polls, with bounded buffers. Both
//! ends of a connection use it.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;

/// How much room is made before each read.
const READ_BYTES: usize = 16 << 10;
/// A buffer that has grown beyond this is given back when it is empty.
const KEEP_BYTES: usize = 256 << 10;

/// What has come in and is not yet decoded. It grows as bytes arrive, never
/// by what a frame claims.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    pub(crate) bytes: BytesMut,
}

impl Inbound {
    /// Reads once; 0 is the end of the stream.
    pub(crate) fn poll_read(
        &mut self,
        stream: &mut UnixStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.is_empty() && self.bytes.capacity() > KEEP_BYTES {
            self.bytes = BytesMut::new();
        }
        self.bytes.reserve(READ_BYTES);
        // The future keeps nothing between polls, so it may be made anew.
        pin!(stream.read_buf(&mut self.bytes)).poll(cx)
    }

    /// Reads once, and takes the end of the stream for an error.
    pub(crate) async fn read(&mut self, stream: &mut UnixStream) -> io::Result<()> {
        match std::future::poll_fn(|cx| self.poll_read(stream, cx)).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// What is to be written.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    pub(crate) bytes: Vec<u8>,
    written: usize,
}

impl Outbound {
    /// How much is still to be written.
    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Writes until nothing is left.
    pub(crate) fn poll_flush(
        &mut self,
        stream: &mut UnixStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.remaining() > 0 {
            let written =
                ready!(Pin::new(&mut *stream).poll_write(cx, &self.bytes[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        self.written = 0;
        self.bytes.clear();
        if self.bytes.capacity() > KEEP_BYTES {
            self.bytes = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Writes until nothing is left.
    pub(crate) async fn flush(&mut self, stream: &mut UnixStream) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(stream, cx)).await
    }
}

/// Milliseconds since 1970, for messages that say when they were sent.
pub(crate) fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |time| time.as_millis() as u64)
}
