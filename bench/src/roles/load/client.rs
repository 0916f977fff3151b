//! One HTTP/1.1 connection that checks every answer.

use super::Options;
use std::{io, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Room for a head and a good part of a body; a body may be longer than this.
const BUFFER_BYTES: usize = 64 * 1024;

/// What every answer must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected {
    /// With this status and a body of this many bytes.
    Exactly { status: u16, body_bytes: usize },
    /// Whole, whatever it says.
    Any,
}

impl Expected {
    pub(super) fn of(options: &Options) -> Self {
        if options.any_status {
            return Self::Any;
        }
        Self::Exactly {
            status: options.expect_status,
            body_bytes: options.expect_bytes,
        }
    }

    pub(super) fn check(self, status: u16, body_bytes: usize) -> Result<(), Failure> {
        match self {
            Self::Exactly { status: wanted, .. } if status != wanted => {
                Err(Failure::Status(status))
            }
            Self::Exactly {
                body_bytes: wanted, ..
            } if body_bytes != wanted => Err(Failure::Length(body_bytes)),
            Self::Exactly { .. } | Self::Any => Ok(()),
        }
    }
}

/// Why an exchange did not count.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
    #[error("closed before the answer was complete")]
    Closed,
    #[error("status {0}")]
    Status(u16),
    #[error("a body of {0} bytes")]
    Length(usize),
    #[error("no content-length")]
    NoLength,
    #[error("not an answer, or more than one")]
    Malformed,
}

/// A connection that is opened when it is needed.
pub(super) struct Client {
    target: SocketAddr,
    expected: Expected,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    pub(super) fn new(target: SocketAddr, expected: Expected) -> Self {
        Self {
            target,
            expected,
            stream: None,
            buffer: vec![0; BUFFER_BYTES],
        }
    }

    /// Sends the request and reads the answer, whose status it gives. After a failure the next call opens a new connection.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> Result<u16, Failure> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.target).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        stream.write_all(request).await?;
        let head = self.answer(&mut stream).await?;
        self.stream = head.keep_alive.then_some(stream);
        Ok(head.status)
    }

    /// Reads one answer.
    async fn answer(&mut self, stream: &mut TcpStream) -> Result<Head, Failure> {
        let mut filled = 0;
        let (head, head_bytes) = loop {
            let count = stream.read(&mut self.buffer[filled..]).await?;
            if count == 0 {
                return Err(Failure::Closed);
            }
            filled += count;
            if let Some(end) = memchr::memmem::find(&self.buffer[..filled], b"\r\n\r\n") {
                break (Head::parse(&self.buffer[..end])?, end + 4);
            }
        };
        self.expected.check(head.status, head.content_length)?;
        let mut seen = filled - head_bytes;
        while seen < head.content_length {
            let count = stream.read(&mut self.buffer).await?;
            if count == 0 {
                return Err(Failure::Closed);
            }
            seen += count;
        }
        if seen > head.content_length {
            return Err(Failure::Malformed);
        }
        Ok(head)
    }
}

/// What matters of an answer's head.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    content_length: usize,
    keep_alive: bool,
}

impl Head {
    /// Parses a head without its last empty line.
    fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let text = str::from_utf8(bytes).map_err(|_| Failure::Malformed)?;
        let mut lines = text.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.1 "))
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or(Failure::Malformed)?;
        let mut content_length = None;
        let mut keep_alive = true;
        for line in lines {
            let (name, value) = line.split_once(':').ok_or(Failure::Malformed)?;
            if name.eq_ignore_ascii_case("content-length") {
                content_length = value.trim().parse().ok();
            } else if name.eq_ignore_ascii_case("connection") {
                keep_alive = !value.trim().eq_ignore_ascii_case("close");
            }
        }
        Ok(Self {
            status,
            content_length: content_length.ok_or(Failure::NoLength)?,
            keep_alive,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let good = |status, content_length, keep_alive| {
            Some(Head {
                status,
                content_length,
                keep_alive,
            })
        };
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5", good(200, 5, true)),
            (
                "HTTP/1.1 403 \r\nContent-Length:0\r\nConnection: Close",
                good(403, 0, false),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive",
                good(200, 5, true),
            ),
            ("HTTP/1.1 200 OK", None),
            ("HTTP/1.1 20", None),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5", None),
            ("HTTP/1.1 200 OK\r\ncontent-length", None),
        ] {
            assert_eq!(Head::parse(text.as_bytes()).ok(), expected, "{text:?}");
        }
    }
}
