//! A client that sends exactly the bytes it is told to, and reads answers as they are on the wire.

use super::{DEADLINE, find, tls};
use serde_json::Value;
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

/// A connection to the proxy.
pub(crate) struct RawClient {
    stream: Wire,
    buffer: Vec<u8>,
}

/// What the bytes go over.
enum Wire {
    Plain(TcpStream),
    Tls(Box<tls::Stream>),
}

impl Wire {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }

    fn as_io(&mut self) -> &mut dyn Read {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream,
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// In the order of the wire, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Without the framing of chunks.
    pub(crate) body: Vec<u8>,
    /// Whether the body ended as its framing says. A body that ends with the connection is never known to be complete.
    pub(crate) complete: bool,
}

impl RawClient {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap()
    }

    /// The same where there may be nobody.
    pub(crate) fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        stream.set_write_timeout(Some(DEADLINE)).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self {
            stream: Wire::Plain(stream),
            buffer: Vec::new(),
        })
    }

    /// A client of a Unix socket, which is read and written like any other.
    pub(crate) fn over_unix(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self {
            stream: Wire::Plain(TcpStream::from(OwnedFd::from(stream))),
            buffer: Vec::new(),
        }
    }

    /// A client on a connection of TLS.
    pub(crate) fn over_tls(stream: tls::Stream) -> Self {
        Self {
            stream: Wire::Tls(Box::new(stream)),
            buffer: Vec::new(),
        }
    }

    /// What was settled in TLS.
    ///
    /// # Panics
    /// The client does not speak it.
    pub(crate) fn tls(&self) -> &rustls::ClientConnection {
        match &self.stream {
            Wire::Plain(_) => panic!("this client speaks no TLS"),
            Wire::Tls(stream) => &stream.conn,
        }
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.stream.socket().local_addr().unwrap()
    }

    /// Sends bytes. That the proxy has closed meanwhile is no error here: the answer tells more.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    /// The writing half, for a thread of its own; not of TLS.
    pub(crate) fn sender(&self) -> TcpStream {
        self.stream.socket().try_clone().unwrap()
    }

    /// Sends a GET with these header lines and reads the answer. The connection stays open.
    pub(crate) fn get(&mut self, path: &str, lines: &[&str]) -> Response {
        let mut head = format!("GET {path} HTTP/1.1\r\n");
        if !lines
            .iter()
            .any(|line| line.to_ascii_lowercase().starts_with("host:"))
        {
            head.push_str("host: test\r\n");
        }
        for line in lines {
            head.push_str(line);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.send(head).response()
    }

    /// Reads an answer.
    ///
    /// # Panics
    /// The connection ends before there is a whole head.
    pub(crate) fn response(&mut self) -> Response {
        self.read_response(false).unwrap()
    }

    /// Reads an answer to HEAD.
    pub(crate) fn response_to_head(&mut self) -> Response {
        self.read_response(true).unwrap()
    }

    /// Reads an answer; `None` when the connection ends before there is a whole head.
    pub(crate) fn try_response(&mut self) -> Option<Response> {
        self.read_response(false)
    }

    /// Whether there is something to be read, the end of the connection included.
    pub(crate) fn is_readable(&self) -> bool {
        let socket = self.stream.socket();
        socket.set_nonblocking(true).unwrap();
        let peeked = socket.peek(&mut [0]);
        socket.set_nonblocking(false).unwrap();
        !matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Reads up to the end of the next head, as text.
    pub(crate) fn read_head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.drain(..at + 4).collect();
                return Some(String::from_utf8(head).unwrap());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads exactly this many bytes.
    pub(crate) fn read_exact(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill(), "the connection ended too early");
        }
        self.buffer.drain(..count).collect()
    }

    /// Reads to the end of the connection; what came before it.
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    /// Waits for the end of the connection.
    ///
    /// # Panics
    /// There was something before the end.
    pub(crate) fn expect_closed(&mut self) {
        let rest = self.read_to_end();
        assert_eq!(String::from_utf8_lossy(&rest), "", "nothing but the end");
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish_sending(&mut self) -> &mut Self {
        if let Wire::Tls(stream) = &mut self.stream {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        let _ = self.stream.socket().shutdown(Shutdown::Write);
        self
    }

    fn read_response(&mut self, to_head: bool) -> Option<Response> {
        let head = self.read_head()?;
        let mut response = Response::parse(&head);
        let chunked = response
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        let length = response
            .header("content-length")
            .map(|value| value.parse::<usize>().unwrap());
        let bodiless = to_head || response.status < 200 || matches!(response.status, 204 | 304);
        if bodiless {
            response.complete = true;
        } else if chunked {
            response.complete = self.read_chunks(&mut response.body).is_some();
        } else if let Some(length) = length {
            while self.buffer.len() < length && self.fill() {}
            let count = length.min(self.buffer.len());
            response.body = self.buffer.drain(..count).collect();
            response.complete = count == length;
        } else {
            response.body = self.read_to_end();
        }
        Some(response)
    }

    fn read_chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let (chunk, is_whole) = self.read_chunk();
            body.extend(&chunk);
            if !is_whole {
                return None;
            }
            if chunk.is_empty() {
                return Some(());
            }
        }
    }

    /// Reads one chunk of a body, and whether it is all of it. The last one is empty.
    pub(crate) fn read_chunk(&mut self) -> (Vec<u8>, bool) {
        let line = loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                break String::from_utf8(line).unwrap();
            }
            if !self.fill() {
                return (Vec::new(), false);
            }
        };
        let size = usize::from_str_radix(line.trim(), 16).unwrap();
        while self.buffer.len() < size + 2 {
            if !self.fill() {
                return (std::mem::take(&mut self.buffer), false);
            }
        }
        let chunk = self.buffer.drain(..size).collect();
        self.buffer.drain(..2);
        (chunk, true)
    }

    /// Reads some bytes. False at the end of the connection, orderly or not.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        match self.stream.as_io().read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let so_far = String::from_utf8_lossy(&self.buffer);
                panic!("nothing was received within {DEADLINE:?}; before: {so_far:?}")
            }
            Err(_) => false,
        }
    }
}

impl Response {
    fn parse(head: &str) -> Self {
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().unwrap();
        let status = status_line.split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap();
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        Self {
            status,
            headers,
            body: Vec::new(),
            complete: false,
        }
    }

    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// Every value of a header.
    pub(crate) fn header_values(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}
