//! A client of HTTP/2 that sends frames as it is told to, whether they are allowed or not, and reads what comes back.

use super::DEADLINE;
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

/// Kinds of frames (RFC 9113 section 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags of frames.
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const HAS_PRIORITY: u8 = 0x20;

/// Codes of errors (RFC 9113 section 7).
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const STREAM_CLOSED: u32 = 5;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const COMPRESSION_ERROR: u32 = 9;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection.
pub(crate) struct FrameClient {
    stream: Box<dyn Duplex>,
    buffer: Vec<u8>,
    /// What the last GOAWAY said.
    goaway: Option<u32>,
}

trait Duplex: Read + Write + Send {}

impl<T: Read + Write + Send> Duplex for T {}

/// A frame as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    fn code(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All of an answer; the status is 0 when its head was taken before.
    Answer(u16, Vec<u8>),
    /// The stream was reset, after so much of an answer.
    Reset(u32, Vec<u8>),
    /// The connection has come to an end for this reason.
    GoAway(u32),
    /// The connection has come to an end.
    Closed,
}

impl FrameClient {
    /// A connection whose client has begun as it should. It takes no compressed names, and all that it is sent.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::silent(address).begun()
    }

    /// The same of a connection whose client has said nothing yet.
    pub(crate) fn begun(self) -> Self {
        let mut client = self.greeting();
        client.send(frame(SETTINGS, 0, 0, &setting(1, 0)));
        client
    }

    /// Says the first words of a client.
    pub(crate) fn greeting(mut self) -> Self {
        self.send(PREFACE);
        self
    }

    /// A connection whose client has said nothing.
    pub(crate) fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// The same over any stream. What waits on it for too long has to fail.
    pub(crate) fn over(stream: impl Read + Write + Send + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            buffer: Vec::new(),
            goaway: None,
        }
    }

    /// Sends bytes. That the proxy has closed meanwhile is no error here: what it said tells more.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes);
        self
    }

    /// The same; whether the bytes went out.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sent = self.stream.write_all(bytes.as_ref());
        sent.and_then(|()| self.stream.flush()).is_ok()
    }

    /// The next frame; `None` at the end of the connection. Pings are answered on the way.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let received = self.receive()?;
        if received.kind == PING && received.flags & ACK == 0 {
            self.send(frame(PING, ACK, 0, &received.payload));
        }
        if received.kind == GOAWAY {
            self.goaway = Some(received.code(4));
        }
        Some(received)
    }

    fn receive(&mut self) -> Option<Frame> {
        while self.buffer.len() < 9 {
            self.fill().then_some(())?;
        }
        let length = usize::from(self.buffer[0]) << 16
            | usize::from(self.buffer[1]) << 8
            | usize::from(self.buffer[2]);
        while self.buffer.len() < 9 + length {
            self.fill().then_some(())?;
        }
        let mut bytes: Vec<u8> = self.buffer.drain(..9 + length).collect();
        let payload = bytes.split_off(9);
        let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
        Some(Frame {
            kind: bytes[3],
            flags: bytes[4],
            stream: stream & 0x7fff_ffff,
            payload,
        })
    }

    /// The next frame of a kind; `None` when the connection ends before.
    pub(crate) fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Waits until a stream, or the connection, has come to its end.
    pub(crate) fn outcome(&mut self, stream: u32) -> Outcome {
        let mut status = None;
        let mut body = Vec::new();
        while let Some(frame) = self.next() {
            match frame.kind {
                GOAWAY if frame.code(4) != NO_ERROR => return Outcome::GoAway(frame.code(4)),
                RST_STREAM if frame.stream == stream => {
                    return Outcome::Reset(frame.code(0), body);
                }
                HEADERS if frame.stream == stream && status.is_none() => {
                    status = Some(status_of(&frame.payload));
                }
                DATA if frame.stream == stream => body.extend_from_slice(&frame.payload),
                _ => {}
            }
            let ends = matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0;
            if frame.stream == stream && ends {
                return Outcome::Answer(status.unwrap_or(0), body);
            }
        }
        Outcome::Closed
    }

    /// Waits until the connection has come to its end. The code of the last GOAWAY, if there was one.
    pub(crate) fn end(&mut self) -> Option<u32> {
        while self.next().is_some() {}
        self.goaway
    }

    fn fill(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing was received within {DEADLINE:?}")
            }
            Err(_) => false,
        }
    }
}

/// A frame as it is sent.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A setting.
pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A frame that widens a window.
pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// A frame that takes a stream back.
pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// Fields as a block: literals that nobody has to remember.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let mut bytes = length(text.len());
        bytes.extend(text.as_bytes());
        bytes
    };
    fields
        .iter()
        .flat_map(|(name, value)| [vec![0], text(name), text(value)].concat())
        .collect()
}

/// A length of seven bits (RFC 7541 section 5.1).
fn length(length: usize) -> Vec<u8> {
    if length < 127 {
        return vec![u8::try_from(length).unwrap()];
    }
    let mut bytes = vec![127];
    let mut rest = length - 127;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// A whole request without a body.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    request(stream, END_STREAM, &head("GET", path))
}

/// The head of a request with a body to come.
pub(crate) fn post(stream: u32, path: &str) -> Vec<u8> {
    request(stream, 0, &head("POST", path))
}

/// What every request has.
pub(crate) fn head<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", method),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", path),
    ]
}

/// A head in one frame.
pub(crate) fn request(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &block(fields))
}

/// The status in a block whose first field it is, as it has to be.
fn status_of(block: &[u8]) -> u16 {
    // The size of the table may be set first.
    let block = match block {
        [size, rest @ ..] if size >> 5 == 1 => rest,
        block => block,
    };
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [index @ 0x88..=0x8e, ..] => INDEXED[usize::from(index - 0x88)],
        [0x08 | 0x18 | 0x48, length, value @ ..] => {
            let coded = &value[..usize::from(length & 0x7f)];
            let digits = match length & 0x80 {
                0 => coded.iter().map(|digit| u16::from(digit - b'0')).collect(),
                _ => huffman_digits(coded),
            };
            digits.iter().take(3).fold(0, |sum, digit| sum * 10 + digit)
        }
        other => panic!("no status at the start of {other:x?}"),
    }
}

/// Digits in the code of RFC 7541: five bits for 0 to 2, six for the others.
fn huffman_digits(coded: &[u8]) -> Vec<u16> {
    let bits: Vec<u16> = coded
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)))
        .collect();
    let number = |bits: &[u16]| bits.iter().fold(0, |sum, bit| sum * 2 + bit);
    let mut digits = Vec::new();
    let mut rest = &bits[..];
    while rest.len() >= 5 && digits.len() < 3 {
        let short = number(&rest[..5]);
        if short < 3 {
            digits.push(short);
            rest = &rest[5..];
        } else {
            digits.push(number(&rest[..6]) - 0b01_0110);
            rest = &rest[6..];
        }
    }
    digits
}
