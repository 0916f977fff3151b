//! An agent of version 1, written by hand, over a Unix socket or over HTTP. It runs in the test's own process, where it can be
//! taken away and put back in the middle of a conversation.

use serde_json::{Value, json};
use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};
use tempfile::TempDir;

/// An agent. It is gone when it is dropped.
pub(crate) struct OldAgent {
    address: Address,
    shared: Arc<Shared>,
    _folder: TempDir,
}

/// How it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Socket,
    Http,
}

/// What it does about a question.
pub(crate) enum Reply {
    /// Answers with these members beside the version.
    Answer(Value),
    /// Never answers.
    Hang,
    /// Closes the connection.
    Close,
    /// Sends something that is no answer.
    Garbage,
    /// Two answers to one question; over HTTP what is behind the first belongs to nobody.
    Twice(Value),
}

impl Reply {
    pub(crate) fn allow() -> Self {
        Self::Answer(json!({"decision": "allow"}))
    }
}

type Mind = dyn Fn(&str, &Value) -> Reply + Send + Sync;

enum Address {
    Socket(PathBuf),
    Http(SocketAddr),
}

struct Shared {
    /// Gets the type of the event and its payload.
    mind: Box<Mind>,
    /// The questions so far.
    seen: Mutex<Vec<Value>>,
    /// `None` while it is away.
    connections: Mutex<Option<Vec<Stream>>>,
}

impl OldAgent {
    pub(crate) fn start(
        over: Over,
        mind: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = match over {
            Over::Socket => Address::Socket(folder.path().join("old.sock")),
            Over::Http => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                Address::Http(listener.local_addr().unwrap())
            }
        };
        let shared = Arc::new(Shared {
            mind: Box::new(mind),
            seen: Mutex::default(),
            connections: Mutex::new(None),
        });
        let agent = Self {
            address,
            shared,
            _folder: folder,
        };
        agent.start_again();
        agent
    }

    /// The socket on which it listens.
    pub(crate) fn socket(&self) -> &Path {
        match &self.address {
            Address::Socket(path) => path,
            Address::Http(address) => panic!("it is at {address}"),
        }
    }

    /// The settings of the agent in the configuration.
    pub(crate) fn block(&self, kdl: &str) -> String {
        let way = match &self.address {
            Address::Socket(path) => format!("unix-socket \"{}\"", path.display()),
            Address::Http(address) => format!("http \"http://{address}/check\""),
        };
        format!("{way}; dialect \"v1\"; {kdl}")
    }

    /// Takes it away, with all of its connections.
    pub(crate) fn stop(&self) {
        let Some(connections) = self.shared.connections.lock().unwrap().take() else {
            return;
        };
        // Wakes the thread that accepts, which finds that the agent is away.
        let _ = self.address.connect();
        for connection in connections {
            connection.close();
        }
        if let Address::Socket(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Puts it back where it was.
    pub(crate) fn start_again(&self) {
        *self.shared.connections.lock().unwrap() = Some(Vec::new());
        let listener = super::eventually("the address is free", || self.address.listen().ok());
        let shared = self.shared.clone();
        thread::spawn(move || {
            while let Ok(stream) = listener.accept() {
                let kept = stream.try_clone().unwrap();
                match &mut *shared.connections.lock().unwrap() {
                    Some(connections) => connections.push(kept),
                    None => return,
                }
                let shared = shared.clone();
                thread::spawn(move || stream.converse(&shared));
            }
        });
    }

    /// The questions so far, with `event_type` and `payload`.
    pub(crate) fn questions(&self) -> Vec<Value> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Waits for a question.
    pub(crate) fn saw(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        super::eventually("a question", || {
            self.questions()
                .into_iter()
                .find(|question| wanted(question))
        })
    }
}

impl Drop for OldAgent {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Address {
    fn listen(&self) -> io::Result<Listener> {
        Ok(match self {
            Self::Socket(path) => Listener::Socket(UnixListener::bind(path)?),
            Self::Http(address) => Listener::Http(TcpListener::bind(address)?),
        })
    }

    fn connect(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Socket(path) => Stream::Socket(UnixStream::connect(path)?),
            Self::Http(address) => Stream::Http(TcpStream::connect(address)?),
        })
    }
}

enum Listener {
    Socket(UnixListener),
    Http(TcpListener),
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Socket(listener) => Stream::Socket(listener.accept()?.0),
            Self::Http(listener) => Stream::Http(listener.accept()?.0),
        })
    }
}

enum Stream {
    Socket(UnixStream),
    Http(TcpStream),
}

impl Stream {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Socket(stream) => Self::Socket(stream.try_clone()?),
            Self::Http(stream) => Self::Http(stream.try_clone()?),
        })
    }

    fn close(&self) {
        // It may have been closed by the other end.
        let _ = match self {
            Self::Socket(stream) => stream.shutdown(Shutdown::Both),
            Self::Http(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// Until either side has had enough.
    fn converse(mut self, shared: &Shared) {
        while let Ok(question) = self.question() {
            shared.seen.lock().unwrap().push(question.clone());
            let kind = question["event_type"].as_str().unwrap();
            let reply = (shared.mind)(kind, &question["payload"]);
            let sent = match reply {
                Reply::Answer(answer) => self.send(&message(answer)),
                Reply::Twice(answer) => {
                    let text = message(answer);
                    let both = [self.framed(&text), self.framed(&text)].concat();
                    self.write(&both)
                }
                Reply::Garbage => self.write(b"\x00\x00\x00\x02{]\r\n\r\n"),
                Reply::Hang => Ok(()),
                Reply::Close => break,
            };
            if sent.is_err() {
                break;
            }
        }
        self.close();
    }

    fn question(&mut self) -> io::Result<Value> {
        let length = match self {
            Self::Socket(stream) => {
                let mut length = [0; 4];
                stream.read_exact(&mut length)?;
                u32::from_be_bytes(length) as usize
            }
            Self::Http(stream) => content_length(&head(stream)?),
        };
        let mut body = vec![0; length];
        match self {
            Self::Socket(stream) => stream.read_exact(&mut body)?,
            Self::Http(stream) => stream.read_exact(&mut body)?,
        }
        Ok(serde_json::from_slice(&body)?)
    }

    fn send(&mut self, text: &str) -> io::Result<()> {
        let framed = self.framed(text);
        self.write(&framed)
    }

    fn framed(&self, text: &str) -> Vec<u8> {
        let length = text.len();
        match self {
            Self::Socket(_) => {
                let length = u32::try_from(length).unwrap();
                [&length.to_be_bytes(), text.as_bytes()].concat()
            }
            Self::Http(_) => {
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}").into_bytes()
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Socket(stream) => stream.write_all(bytes),
            Self::Http(stream) => stream.write_all(bytes),
        }
    }
}

fn message(mut answer: Value) -> String {
    answer["version"] = json!(1);
    answer.to_string()
}

fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head).unwrap().to_ascii_lowercase())
}

fn content_length(head: &str) -> usize {
    assert!(head.starts_with("post /check http/1.1\r\n"), "{head}");
    assert!(
        head.contains("\r\ncontent-type: application/json\r\n"),
        "{head}"
    );
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    length.unwrap().parse().unwrap()
}
