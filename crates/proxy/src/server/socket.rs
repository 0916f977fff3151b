//! What bytes come over: a client's socket, with TLS over it or without.

use super::{
    proxy_protocol::{self, Decoded, Malformed, Said},
    wire::Wire,
};
use std::{
    future::poll_fn,
    io,
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::server::TlsStream;

/// See the module.
pub(crate) enum Socket {
    Plain(Transport),
    Tls(Box<TlsStream<Transport>>),
}

/// A socket, some of whose bytes may have been looked at before they are read.
pub(crate) struct Transport {
    socket: Wire,
    /// What was looked at and is not read yet.
    seen: Vec<u8>,
}

impl Transport {
    pub(super) const fn new(socket: Wire) -> Self {
        Self {
            socket,
            seen: Vec::new(),
        }
    }

    /// The next byte, which stays the next; `None` at the end of the stream.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) async fn peek_byte(&mut self) -> io::Result<Option<u8>> {
        if self.seen.is_empty() {
            self.look_ahead().await?;
        }
        Ok(self.seen.first().copied())
    }

    /// Reads something without taking it; how much.
    async fn look_ahead(&mut self) -> io::Result<usize> {
        /// As much as a client usually begins with in TLS.
        const AT_ONCE: usize = 1024;
        let mut chunk = [0; AT_ONCE];
        let mut buffer = ReadBuf::new(&mut chunk);
        poll_fn(|cx| Pin::new(&mut self.socket).poll_read(cx, &mut buffer)).await?;
        self.seen.extend_from_slice(buffer.filled());
        Ok(buffer.filled().len())
    }

    /// What a proxy in front says about the connection.
    ///
    /// # Errors
    /// It is no header of the PROXY protocol, or the connection is lost before there is a whole one.
    pub(super) async fn proxy_header(&mut self) -> io::Result<Said> {
        loop {
            match proxy_protocol::decode(&self.seen) {
                Ok(Decoded::Whole(said, length)) => {
                    self.seen.drain(..length);
                    return Ok(said);
                }
                Ok(Decoded::Part) if self.look_ahead().await? > 0 => {}
                Ok(Decoded::Part) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(Malformed) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    /// Writes these bytes and ends the connection.
    ///
    /// # Errors
    /// The client is gone, and has no need of them.
    pub(crate) async fn end_with(mut self, bytes: &[u8]) -> io::Result<()> {
        /// More of what the client still says is not listened to.
        const MOST_READ: u64 = 64 * 1024;
        self.socket.write_all(bytes).await?;
        self.socket.shutdown().await?;
        // Closed with something unread, a connection is reset, and the answer may be lost.
        let mut rest = self.socket.take(MOST_READ);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
        Ok(())
    }
}

impl Socket {
    fn transport(&self) -> &Transport {
        match self {
            Self::Plain(transport) => transport,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether something that was written still has to leave.
    pub(crate) fn holds_output(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.wants_write(),
        }
    }

    /// Closed after this the connection is reset.
    ///
    /// # Errors
    /// The system does not take the option.
    pub(crate) fn set_zero_linger(&self) -> io::Result<()> {
        self.transport().socket.set_zero_linger()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.transport().socket.as_raw_fd()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(transport) => Pin::new(transport).poll_read(cx, buffer),
            Self::Tls(stream) => match ready!(Pin::new(stream).poll_read(cx, buffer)) {
                // The end of a request is in the request: many clients go without a word when they have their answer.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                result => Poll::Ready(result),
            },
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(transport) => Pin::new(transport).poll_write(cx, data),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(transport) => Pin::new(transport).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(transport) => Pin::new(transport).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.seen.is_empty() {
            return Pin::new(&mut this.socket).poll_read(cx, buffer);
        }
        let count = this.seen.len().min(buffer.remaining());
        buffer.put_slice(&this.seen[..count]);
        if count == this.seen.len() {
            this.seen = Vec::new();
        } else {
            this.seen.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
