//! The two ends of a socket, each by a library or by hand.

use crate::harness::DEADLINE;
use std::{
    fmt::Write as _,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};
use tungstenite::{
    Error, Message, WebSocket,
    handshake::derive_accept_key,
    protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
};

/// The limits of the library, which are those that the tests write into the configuration.
pub(super) const FRAME_BYTES: usize = 64 << 10;
pub(super) const MESSAGE_BYTES: usize = 128 << 10;

pub(super) type Socket = WebSocket<TcpStream>;

/// A server that upgrades every request and then does as the test says.
pub(super) struct Server {
    address: SocketAddr,
    results: Mutex<Receiver<(String, Vec<String>)>>,
}

/// What is done with a connection, by the path of its request; what it says is what the test learns.
type Script = dyn Fn(TcpStream, &str) -> Vec<String> + Send + Sync;

impl Server {
    pub(super) fn start(
        script: impl Fn(TcpStream, &str) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        Self::answering("", script)
    }

    /// With these lines in the head of its answer.
    pub(super) fn answering(
        lines: &'static str,
        script: impl Fn(TcpStream, &str) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, results) = channel();
        let script: Arc<Script> = Arc::new(script);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, sender) = (script.clone(), sender.clone());
                thread::spawn(move || serve(stream.unwrap(), &*script, lines, &sender));
            }
        });
        Self {
            address,
            results: Mutex::new(results),
        }
    }

    /// By the library, which sends back every message.
    pub(super) fn echoing() -> Self {
        Self::start(|stream, _| echo(&mut by_library(stream, Role::Server)))
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The block of an upstream that is this server.
    pub(super) fn target(&self) -> String {
        format!("target \"{}\"", self.address)
    }

    /// What the server has seen of the socket with this path, when it is over.
    pub(super) fn saw(&self, path: &str) -> Vec<String> {
        let results = self.results.lock().unwrap();
        loop {
            let (of, events) = results.recv_timeout(DEADLINE).unwrap();
            if of == path {
                return events;
            }
        }
    }
}

fn serve(
    mut stream: TcpStream,
    script: &Script,
    lines: &str,
    results: &Sender<(String, Vec<String>)>,
) {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    let Some(head) = head(&mut stream) else {
        return;
    };
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let line = |name: &str| {
        let mut lines = head.lines();
        let line = lines.find(|line| line.to_ascii_lowercase().starts_with(name));
        line.map(|line| line[name.len()..].trim().to_owned())
    };
    let key = line("sec-websocket-key:").unwrap();
    // What was offered is for the test to see.
    let offered = line("sec-websocket-extensions:").unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {}\r\nx-offered: {offered}\r\n{lines}\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_all(answer.as_bytes()).unwrap();
    let events = script(stream, &path);
    // The test may be over.
    let _ = results.send((path, events));
}

/// Reads the head of a message and nothing of what is behind it.
fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

/// A connection that has been upgraded, and the head of the answer.
pub(super) fn upgraded(address: SocketAddr, path: &str, lines: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\n{}{lines}\r\n", super::UPGRADE);
    stream.write_all(request.as_bytes()).unwrap();
    let head = head(&mut stream).unwrap();
    (stream, head)
}

/// A client by the library.
pub(super) fn connect(address: SocketAddr, path: &str) -> Socket {
    let (stream, head) = upgraded(address, path, "");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    by_library(stream, Role::Client)
}

pub(super) fn by_library(stream: TcpStream, role: Role) -> Socket {
    let config = WebSocketConfig::default()
        .max_frame_size(Some(FRAME_BYTES))
        .max_message_size(Some(MESSAGE_BYTES));
    WebSocket::from_raw_socket(stream, role, Some(config))
}

/// Sends back every message until the socket ends. Says what came.
pub(super) fn echo(socket: &mut Socket) -> Vec<String> {
    let mut events = Vec::new();
    loop {
        let message = socket.read();
        events.push(described(&message));
        let sent = match message {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message),
            Ok(_) => socket.flush(),
            Err(error) => {
                give_up(socket, &error);
                return events;
            }
        };
        // The next read says why.
        let _ = sent;
    }
}

/// What an endpoint does about what it cannot take: it says so, and reads on until the other side has gone.
fn give_up(socket: &mut Socket, error: &Error) {
    let code = match error {
        Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => return,
        Error::Protocol(_) => CloseCode::Protocol,
        Error::Utf8(_) => CloseCode::Invalid,
        Error::Capacity(_) => CloseCode::Size,
        _ => return,
    };
    let _ = socket.close(Some(CloseFrame {
        code,
        reason: "".into(),
    }));
    let _ = socket.flush();
    let stream = socket.get_mut();
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let _ = std::io::copy(stream, &mut std::io::sink());
}

/// In a few words, without what is a library's own affair.
pub(super) fn described(message: &Result<Message, Error>) -> String {
    match message {
        Ok(Message::Text(text)) => format!("text {}", short(text.as_bytes())),
        Ok(Message::Binary(data)) => format!("binary {}", short(data)),
        Ok(Message::Ping(data)) => format!("ping {}", short(data)),
        Ok(Message::Pong(data)) => format!("pong {}", short(data)),
        Ok(Message::Close(None)) => "close".to_owned(),
        Ok(Message::Close(Some(frame))) => format!("close {} {}", frame.code, frame.reason),
        Ok(Message::Frame(_)) => "frame".to_owned(),
        Err(Error::ConnectionClosed | Error::AlreadyClosed) => "end".to_owned(),
        Err(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
            "lost".to_owned()
        }
        Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => "silence".to_owned(),
        Err(Error::Io(_)) => "lost".to_owned(),
        Err(Error::Protocol(_)) => "error protocol".to_owned(),
        Err(Error::Utf8(_)) => "error utf-8".to_owned(),
        Err(Error::Capacity(_)) => "error size".to_owned(),
        Err(other) => format!("error {other}"),
    }
}

/// All of it when it is short, else its length and a sum over it.
fn short(data: &[u8]) -> String {
    if data.len() <= 130 {
        let mut text = String::new();
        for byte in data {
            match byte {
                b' '..=b'~' => text.push(char::from(*byte)),
                other => write!(text, "\\{other:02x}").unwrap(),
            }
        }
        return text;
    }
    let sum = data.iter().fold(7_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    format!("{} bytes {sum:x}", data.len())
}

/// One frame as it is on the wire, masked when it is a client's.
pub(super) fn frame(first: u8, data: &[u8], masked: bool) -> Vec<u8> {
    let mark = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match u16::try_from(data.len()) {
        Ok(length @ 0..=125) => bytes.push(mark | u8::try_from(length).unwrap()),
        Ok(length) => {
            bytes.push(mark | 126);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            bytes.push(mark | 127);
            bytes.extend_from_slice(&(data.len() as u64).to_be_bytes());
        }
    }
    if masked {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        bytes.extend_from_slice(&key);
        let keys = key.iter().cycle();
        bytes.extend(data.iter().zip(keys).map(|(byte, key)| byte ^ key));
    } else {
        bytes.extend_from_slice(data);
    }
    bytes
}

/// The data of a close frame.
pub(super) fn close_data(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason].concat()
}

/// What is done by hand, one after the other.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Send(Vec<u8>),
    /// One byte at a time.
    Slowly(Vec<u8>),
    /// Waits for a frame, whatever it is.
    Await,
    /// The connection ends in order, without a close frame.
    Finish,
    /// It ends with a reset.
    Reset,
}

/// Does these steps and reads all frames until the other side ends, or has closed. Says what came, frame by frame.
pub(super) fn by_hand(mut stream: TcpStream, steps: &[Step]) -> Vec<String> {
    for step in steps {
        match step {
            Step::Send(bytes) => {
                // That the other side is gone is seen when it is read.
                let _ = stream.write_all(bytes);
            }
            Step::Slowly(bytes) => {
                for byte in bytes {
                    let _ = stream.write_all(&[*byte]);
                }
            }
            Step::Await => {
                let _ = next_frame(&mut stream);
            }
            Step::Finish => stream.shutdown(Shutdown::Write).unwrap(),
            Step::Reset => {
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
                return Vec::new();
            }
        }
    }
    let mut frames = Vec::new();
    loop {
        match next_frame(&mut stream) {
            None => {
                frames.push("end".to_owned());
                return frames;
            }
            Some((first, data)) => {
                let is_close = first & 0x0f == 8;
                frames.push(match (is_close, data.as_slice()) {
                    (true, [high, low, reason @ ..]) => {
                        let code = u16::from_be_bytes([*high, *low]);
                        format!("close {code} {}", short(reason))
                    }
                    (true, _) => "close".to_owned(),
                    (false, data) => format!("{first:02x} {}", short(data)),
                });
                if is_close {
                    return frames;
                }
            }
        }
    }
}

/// The first byte and the data of the next frame, without its mask.
pub(super) fn next_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length).ok()?;
            u16::from_be_bytes(length).into()
        }
        127 => {
            let mut length = [0; 8];
            stream.read_exact(&mut length).ok()?;
            u64::from_be_bytes(length)
        }
        short => short.into(),
    };
    let mut key = [0; 4];
    let masked = head[1] & 0x80 != 0;
    if masked {
        stream.read_exact(&mut key).ok()?;
    }
    let mut data = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut data).ok()?;
    for (byte, key) in data.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    Some((head[0], data))
}
