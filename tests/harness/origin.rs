//! An origin that records the exact bytes of what it is asked, and answers as it is told.

use super::{DEADLINE, eventually, find};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// A running origin. It stops accepting when it is dropped.
pub(crate) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Script,
    recorded: Mutex<Vec<Recorded>>,
    connections: AtomicUsize,
    stopped: AtomicBool,
}

type Script = Box<dyn Fn(&Recorded) -> Answer + Send + Sync>;
type Handler = Box<dyn FnOnce(&mut TcpStream) + Send>;

/// A request as it arrived.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorded {
    /// The bytes of the head, the empty line included.
    pub(crate) head: Vec<u8>,
    /// Without the framing of chunks.
    pub(crate) body: Vec<u8>,
    /// Whether the body ended as its framing says.
    pub(crate) complete: bool,
}

/// What the origin answers to a request.
pub(crate) struct Answer {
    bytes: Vec<u8>,
    then: Then,
}

enum Then {
    KeepOpen,
    Close,
    Handle(Handler),
}

impl Origin {
    /// Answers everything with 200 and `ok`.
    pub(crate) fn start() -> Self {
        Self::answering(|_| Answer::ok("ok"))
    }

    /// Answers as the script says.
    pub(crate) fn answering(script: impl Fn(&Recorded) -> Answer + Send + Sync + 'static) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), script)
    }

    /// The same at an address where another one was before.
    pub(crate) fn at(
        address: SocketAddr,
        script: impl Fn(&Recorded) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            recorded: Mutex::default(),
            connections: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let origin = Self {
            address: listener.local_addr().unwrap(),
            shared: shared.clone(),
        };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(SeqCst) {
                    return;
                }
                let shared = shared.clone();
                thread::spawn(move || shared.serve(stream.unwrap()));
            }
        });
        origin
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has arrived so far.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.shared.recorded.lock().unwrap().clone()
    }

    /// What has arrived since the last call of this.
    pub(crate) fn take(&self) -> Vec<Recorded> {
        std::mem::take(&mut self.shared.recorded.lock().unwrap())
    }

    /// The last request that has arrived.
    pub(crate) fn last(&self) -> Recorded {
        self.requests().pop().unwrap()
    }

    /// Waits for a request.
    pub(crate) fn saw(&self, wanted: impl Fn(&Recorded) -> bool) -> Recorded {
        eventually("request at the origin", || {
            self.requests().into_iter().find(|request| wanted(request))
        })
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        self.connections.fetch_add(1, SeqCst);
        stream.set_read_timeout(Some(6 * DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer) {
            let answer = (self.script)(&request);
            let complete = request.complete;
            self.recorded.lock().unwrap().push(request);
            if stream.write_all(&answer.bytes).is_err() {
                return;
            }
            match answer.then {
                Then::KeepOpen if complete => {}
                Then::KeepOpen | Then::Close => return,
                Then::Handle(handler) => return handler(&mut stream),
            }
        }
    }
}

fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Recorded> {
    let end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        if !fill(stream, buffer) {
            return None;
        }
    };
    let mut request = Recorded {
        head: buffer.drain(..end).collect(),
        ..Recorded::default()
    };
    if request.header("expect").as_deref() == Some("100-continue") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    if request.header("transfer-encoding").is_some() {
        request.complete = read_chunks(stream, buffer, &mut request.body).is_some();
    } else {
        let length = request.header("content-length");
        let length = length.map_or(0, |value| value.parse::<usize>().unwrap());
        while buffer.len() < length && fill(stream, buffer) {}
        let count = length.min(buffer.len());
        request.body = buffer.drain(..count).collect();
        request.complete = count == length;
    }
    Some(request)
}

fn read_chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>, body: &mut Vec<u8>) -> Option<()> {
    loop {
        let at = loop {
            match find(buffer, b"\r\n") {
                Some(at) => break at,
                None if fill(stream, buffer) => {}
                None => return None,
            }
        };
        let line: Vec<u8> = buffer.drain(..at + 2).collect();
        let size = std::str::from_utf8(&line).unwrap().trim();
        let size = usize::from_str_radix(size, 16).unwrap();
        while buffer.len() < size + 2 {
            if !fill(stream, buffer) {
                return None;
            }
        }
        body.extend(buffer.drain(..size));
        buffer.drain(..2);
        if size == 0 {
            return Some(());
        }
    }
}

fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 64 * 1024];
    match stream.read(&mut chunk) {
        Ok(0) | Err(_) => false,
        Ok(count) => {
            buffer.extend_from_slice(&chunk[..count]);
            true
        }
    }
}

impl Recorded {
    /// The first line, without its end.
    pub(crate) fn request_line(&self) -> String {
        let end = find(&self.head, b"\r\n").unwrap();
        String::from_utf8_lossy(&self.head[..end]).into_owned()
    }

    /// What stands between method and version.
    pub(crate) fn target(&self) -> String {
        let line = self.request_line();
        let (_, rest) = line.split_once(' ').unwrap();
        rest.rsplit_once(' ').unwrap().0.to_owned()
    }

    /// The only value of a header.
    ///
    /// # Panics
    /// There are several.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let mut values = self.header_values(name);
        assert!(values.len() < 2, "{name}: {values:?}");
        values.pop()
    }

    /// Every value of a header.
    pub(crate) fn header_values(&self, name: &str) -> Vec<String> {
        let head = String::from_utf8_lossy(&self.head);
        head.split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    }
}

impl Answer {
    pub(crate) fn ok(body: &str) -> Self {
        Self::with(200, &[], body.as_bytes())
    }

    /// A complete answer with a length.
    pub(crate) fn with(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut head = format!("HTTP/1.1 {status} Status\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        Self::raw(bytes)
    }

    /// A complete answer in chunks of this size.
    pub(crate) fn chunked(status: u16, headers: &[(&str, &str)], body: &[u8], size: usize) -> Self {
        let mut bytes = format!("HTTP/1.1 {status} Status\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
        bytes.extend_from_slice(&in_chunks(body, size));
        Self::raw(bytes)
    }

    /// These bytes.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            bytes: bytes.into(),
            then: Then::KeepOpen,
        }
    }

    /// And then the end of the connection.
    pub(crate) fn then_close(mut self) -> Self {
        self.then = Then::Close;
        self
    }

    /// And then this handler has the connection.
    pub(crate) fn then(mut self, handler: impl FnOnce(&mut TcpStream) + Send + 'static) -> Self {
        self.then = Then::Handle(Box::new(handler));
        self
    }
}

/// A body as it is framed by `transfer-encoding: chunked`, its end included.
pub(crate) fn in_chunks(body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + body.len() / size * 8 + 5);
    for chunk in body.chunks(size) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}
