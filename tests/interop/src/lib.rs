//! Real processes for the tests: the proxy, its agents, and a program made with the published library.

pub mod judge;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const READY_WITHIN: Duration = Duration::from_secs(20);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The proxy that `make test-interop` has built; PORTCULLIS_BINARY names another.
pub fn portcullis() -> PathBuf {
    match std::env::var_os("PORTCULLIS_BINARY") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/portcullis"),
    }
}

/// A process that ends with its owner.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program whose output goes to `log`.
    pub fn start(program: &Path, arguments: &[&str], log: PathBuf) -> Self {
        let output = fs::File::create(&log).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", program.display()));
        Self { child, log }
    }

    /// Waits for the condition; panics with the output if the process ends first, or takes too long.
    pub fn wait_until(&mut self, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + READY_WITHIN;
        while !condition() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "ended, {ended:?}:\n{}", self.output());
            assert!(
                Instant::now() < deadline,
                "not ready in time:\n{}",
                self.output()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for a line of output that holds the text.
    pub fn wait_for_line(&mut self, text: &str) -> String {
        let log = self.log.clone();
        let find = || {
            let output = fs::read_to_string(&log).unwrap_or_default();
            let line = output.lines().find(|line| line.contains(text));
            line.map(str::to_owned)
        };
        self.wait_until(|| find().is_some());
        find().unwrap_or_default()
    }

    /// Everything that it has written.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("output of {}:\n{}", self.log.display(), self.output());
        }
    }
}

/// A loopback address that nobody listens on.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Whether an agent listens there.
pub fn accepts(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

/// An answer as it came over the wire.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// One GET over a connection of its own. None if nobody listens, or if the answer is none.
pub fn get(address: SocketAddr, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: interop.example\r\nuser-agent: interop\r\nconnection: close\r\n\r\n"
    )
    .ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(Answer {
        status: head.split(' ').nth(1)?.parse().ok()?,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}
