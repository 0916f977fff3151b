//! The two kinds of sockets that clients come in by, where they are listened on and where they are connected.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

/// A socket that is listened on, and not yet by a worker.
pub(super) enum Listening {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// The same in the hands of a worker.
pub(super) enum Door {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A client's socket.
pub(super) enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listening {
    /// To be called on the worker's runtime.
    ///
    /// # Errors
    /// The system does not take it.
    pub(super) fn open(self) -> io::Result<Door> {
        Ok(match self {
            Self::Tcp(socket) => Door::Tcp(TcpListener::from_std(socket)?),
            Self::Unix(socket) => Door::Unix(UnixListener::from_std(socket)?),
        })
    }
}

impl Door {
    /// The next client, and its address, which there is none of at a Unix socket.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) async fn accept(&self) -> io::Result<(Wire, Option<SocketAddr>)> {
        Ok(match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                (Wire::Tcp(stream), Some(peer))
            }
            Self::Unix(socket) => (Wire::Unix(socket.accept().await?.0), None),
        })
    }
}

impl Wire {
    /// What is written leaves at once.
    ///
    /// # Errors
    /// The connection is lost already.
    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Our end.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Closed after this the connection is reset, which a Unix socket has no way to say.
    ///
    /// # Errors
    /// The system does not take the option.
    pub(super) fn set_zero_linger(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_zero_linger(),
            Self::Unix(_) => Ok(()),
        }
    }
}

impl AsRawFd for Wire {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(socket) => socket.as_raw_fd(),
            Self::Unix(socket) => socket.as_raw_fd(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, data),
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Self::Unix(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
