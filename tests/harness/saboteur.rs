//! A man in the middle between the proxy and an agent, who spoils what goes over the wire. He knows where frames begin and
//! where an answer has its id, and nothing else of the protocol.

use super::{
    TestAgent, eventually,
    tamper::{self, Tamper, Then},
};
use serde_json::Value;
use std::{
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};
use tempfile::TempDir;

const HANDSHAKE_REQUEST: u8 = 0x01;
const HANDSHAKE_RESPONSE: u8 = 0x02;
const REQUEST_HEADERS: u8 = 0x10;
const AGENT_RESPONSE: u8 = 0x20;
const CANCEL: u8 = 0x40;

/// An answer that waits for another to change places with waits no longer than this.
const COMPANY: Duration = Duration::from_millis(20);

/// What happens to connections and frames.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sabotage {
    /// Nothing.
    Off,
    /// There is no socket.
    NoSocket,
    /// There is a socket, and nobody listens.
    NoListener,
    /// Connections are accepted and closed.
    CloseAtOnce,
    /// Connections are accepted, and nothing is ever read.
    NeverRead,
    /// The agent's part of the handshake is spoilt.
    Handshake(Tamper),
    /// Events do not reach the agent. Everything else does.
    SwallowEvents,
    /// After the handshake nothing is read from the proxy.
    StopReading,
    /// After the handshake nothing passes, in either direction.
    Hang,
    /// Every answer is spoilt.
    Answers(Tamper),
    /// Answers are spoilt in these ways, one after the other and again from the start.
    Cycle(Vec<Tamper>),
}

impl Sabotage {
    /// What happens when a connection is made, so that there must be none for it to happen.
    fn needs_new_connections(&self) -> bool {
        use Sabotage::{CloseAtOnce, Handshake, NeverRead, NoListener, NoSocket, StopReading};
        matches!(
            self,
            NoSocket | NoListener | CloseAtOnce | NeverRead | StopReading | Handshake(_)
        )
    }
}

/// A saboteur at work. He leaves when he is dropped.
pub(crate) struct Saboteur {
    folder: TempDir,
    shared: Arc<Shared>,
}

struct Shared {
    agent: PathBuf,
    sabotage: Mutex<Sabotage>,
    lines: Mutex<Vec<Arc<Line>>>,
    cancels: Mutex<Vec<Value>>,
    accepted: AtomicUsize,
    events: AtomicUsize,
    bytes: AtomicUsize,
    spoilt: AtomicUsize,
    /// An answer that waits for one of another connection, and where it belongs.
    elsewhere: Mutex<Option<(Arc<Line>, Vec<u8>)>>,
    stopped: AtomicBool,
}

/// A connection of the proxy and the one to the agent that belongs to it.
struct Line {
    proxy: UnixStream,
    agent: Option<UnixStream>,
    writing: Mutex<()>,
    /// Something was done to it from which it does not recover.
    ruined: AtomicBool,
    ended: AtomicBool,
}

impl Saboteur {
    /// Stands before this agent and lets everything pass.
    pub(crate) fn before(agent: &TestAgent) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared {
            agent: agent.socket().to_owned(),
            sabotage: Mutex::new(Sabotage::Off),
            lines: Mutex::default(),
            cancels: Mutex::default(),
            accepted: AtomicUsize::new(0),
            events: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            spoilt: AtomicUsize::new(0),
            elsewhere: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let saboteur = Self { folder, shared };
        let listener = UnixListener::bind(saboteur.socket()).unwrap();
        let shared = saboteur.shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(SeqCst) {
                    return;
                }
                shared.accept(stream.unwrap());
            }
        });
        saboteur
    }

    /// Where the proxy finds him.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// Begins to do this.
    pub(crate) fn does(&self, sabotage: Sabotage) {
        let anew = sabotage.needs_new_connections();
        let (socket, aside) = (self.socket(), self.aside());
        match sabotage {
            Sabotage::NoSocket => std::fs::rename(&socket, &aside).unwrap(),
            Sabotage::NoListener => {
                std::fs::rename(&socket, &aside).unwrap();
                drop(UnixListener::bind(&socket).unwrap());
            }
            _ => {}
        }
        *self.shared.sabotage() = sabotage;
        if anew {
            self.cut();
        }
    }

    /// Stops doing anything. What was ruined ends, as if the agent had been restarted.
    pub(crate) fn relents(&self) {
        *self.shared.sabotage() = Sabotage::Off;
        *self.shared.elsewhere.lock().unwrap() = None;
        if self.aside().exists() {
            std::fs::rename(self.aside(), self.socket()).unwrap();
        }
        for line in self.shared.lines() {
            if line.ruined.load(SeqCst) {
                line.cut();
            }
        }
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        for line in self.shared.lines() {
            line.cut();
        }
    }

    /// How many connections are under way.
    pub(crate) fn lines(&self) -> usize {
        self.shared.lines().len()
    }

    /// How many connections the proxy has made.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(SeqCst)
    }

    /// How many events the proxy has sent, whether they passed or not.
    pub(crate) fn events(&self) -> usize {
        self.shared.events.load(SeqCst)
    }

    /// How many bytes the proxy has sent, all frames together.
    pub(crate) fn bytes(&self) -> usize {
        self.shared.bytes.load(SeqCst)
    }

    /// How many frames were spoilt.
    pub(crate) fn spoilt(&self) -> usize {
        self.shared.spoilt.load(SeqCst)
    }

    /// Waits for a Cancel of the proxy with this reason.
    pub(crate) fn saw_cancel(&self, reason: u64) -> Value {
        eventually("Cancel on the wire", || {
            let cancels = self.shared.cancels.lock().unwrap();
            cancels
                .iter()
                .find(|cancel| cancel["reason"] == reason)
                .cloned()
        })
    }

    fn aside(&self) -> PathBuf {
        self.folder.path().join("aside.sock")
    }
}

impl Drop for Saboteur {
    fn drop(&mut self) {
        self.relents();
        self.shared.stopped.store(true, SeqCst);
        // Wakes the thread that accepts.
        let _ = UnixStream::connect(self.socket());
        self.cut();
    }
}

impl Line {
    fn cut(&self) {
        self.ended.store(true, SeqCst);
        // One that has ended by itself is as good.
        let _ = self.proxy.shutdown(Shutdown::Both);
        if let Some(agent) = &self.agent {
            let _ = agent.shutdown(Shutdown::Both);
        }
    }

    fn tell_proxy(&self, bytes: &[u8]) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap();
        (&self.proxy).write_all(bytes)
    }

    /// One byte after the other.
    fn drip(&self, bytes: &[u8], pause: Duration) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap();
        for byte in bytes {
            (&self.proxy).write_all(&[*byte])?;
            thread::sleep(pause);
        }
        Ok(())
    }

    /// Returns when the connection has been cut, and does nothing until then.
    fn wait_end(&self) {
        while !self.ended.load(SeqCst) {
            thread::park_timeout(Duration::from_millis(5));
        }
    }
}

impl Shared {
    fn sabotage(&self) -> MutexGuard<'_, Sabotage> {
        self.sabotage.lock().unwrap()
    }

    /// Those that have not ended.
    fn lines(&self) -> Vec<Arc<Line>> {
        let mut lines = self.lines.lock().unwrap();
        lines.retain(|line| !line.ended.load(SeqCst));
        lines.clone()
    }

    /// Marks a line that does not recover.
    ///
    /// # Errors
    /// The saboteur has relented since he began with this line, and may not have seen the mark: it ends here.
    fn ruin(&self, line: &Line) -> io::Result<()> {
        line.ruined.store(true, SeqCst);
        match *self.sabotage() {
            Sabotage::Off => Err(ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }

    fn accept(self: &Arc<Self>, proxy: UnixStream) {
        self.accepted.fetch_add(1, SeqCst);
        let sabotage = self.sabotage().clone();
        let agent = match sabotage {
            Sabotage::CloseAtOnce => return,
            Sabotage::NeverRead => None,
            // An agent that is not there is not there behind the saboteur either.
            _ => match UnixStream::connect(&self.agent) {
                Ok(agent) => Some(agent),
                Err(_) => return,
            },
        };
        let line = Arc::new(Line {
            ruined: AtomicBool::new(false),
            proxy,
            agent,
            writing: Mutex::new(()),
            ended: AtomicBool::new(false),
        });
        self.lines.lock().unwrap().push(line.clone());
        if line.agent.is_none() && self.ruin(&line).is_err() {
            line.cut();
        }
        type Pump = fn(&Shared, &Arc<Line>) -> io::Result<()>;
        let pumps: [Pump; 2] = [Self::pump_events, Self::pump_answers];
        if line.agent.is_some() {
            for pump in pumps {
                let (shared, line) = (self.clone(), line.clone());
                thread::spawn(move || {
                    // However it ends, the other direction ends too.
                    let _ = pump(&shared, &line);
                    line.cut();
                });
            }
        }
    }

    fn pump_events(&self, line: &Arc<Line>) -> io::Result<()> {
        let mut frames = Frames::of(&line.proxy)?;
        let Some(mut agent) = line.agent.as_ref() else {
            return Ok(());
        };
        loop {
            let Some(frame) = frames.next()? else {
                continue;
            };
            let kind = tamper::kind(&frame);
            self.bytes.fetch_add(frame.len(), SeqCst);
            if kind == CANCEL {
                let cancel = serde_json::from_slice(&frame[5..])?;
                self.cancels.lock().unwrap().push(cancel);
            }
            if kind == REQUEST_HEADERS {
                self.events.fetch_add(1, SeqCst);
            }
            let sabotage = self.sabotage().clone();
            match sabotage {
                Sabotage::SwallowEvents if kind == REQUEST_HEADERS => {}
                Sabotage::Hang if kind != HANDSHAKE_REQUEST => self.ruin(line)?,
                Sabotage::StopReading => {
                    agent.write_all(&frame)?;
                    self.ruin(line)?;
                    line.wait_end();
                    return Ok(());
                }
                _ => agent.write_all(&frame)?,
            }
        }
    }

    fn pump_answers(&self, line: &Arc<Line>) -> io::Result<()> {
        let Some(agent) = line.agent.as_ref() else {
            return Ok(());
        };
        let mut frames = Frames::of(agent)?;
        let mut waiting: Option<Vec<u8>> = None;
        let mut last = None;
        loop {
            let Some(frame) = frames.next()? else {
                if let Some(frame) = waiting.take() {
                    line.tell_proxy(&frame)?;
                }
                continue;
            };
            let tamper = self.tamper_for(&frame, line);
            let then = match tamper {
                None => {
                    line.tell_proxy(&frame)?;
                    Then::GoOn
                }
                Some(Tamper::Cross) => {
                    // The later one first.
                    match waiting.take() {
                        Some(earlier) => line.tell_proxy(&[&frame[..], &earlier].concat())?,
                        None => waiting = Some(frame.clone()),
                    }
                    Then::GoOn
                }
                Some(Tamper::CrossConnections) => {
                    self.cross(line, &frame)?;
                    Then::GoOn
                }
                Some(Tamper::Drip(pause)) => {
                    // A slow one is not through when it is wanted to end.
                    if pause > COMPANY / 10 {
                        self.ruin(line)?;
                    }
                    line.drip(&frame, pause)?;
                    Then::GoOn
                }
                Some(tamper) => {
                    if tamper.ruins() {
                        self.ruin(line)?;
                    }
                    let (bytes, then) = tamper.spoil(&frame, last.as_deref());
                    line.tell_proxy(&bytes)?;
                    then
                }
            };
            if tamper::kind(&frame) == AGENT_RESPONSE {
                last = Some(frame);
            }
            match then {
                Then::GoOn => {}
                Then::Stall => {
                    self.ruin(line)?;
                    line.wait_end();
                    return Ok(());
                }
                Then::Close => return Ok(()),
            }
        }
    }

    /// What is to be done to a frame of the agent; nothing for most.
    fn tamper_for(&self, frame: &[u8], line: &Line) -> Option<Tamper> {
        let kind = tamper::kind(frame);
        let tamper = match &*self.sabotage() {
            Sabotage::Handshake(tamper) if kind == HANDSHAKE_RESPONSE => tamper.clone(),
            Sabotage::Answers(tamper) if kind == AGENT_RESPONSE => tamper.clone(),
            Sabotage::Cycle(tampers) if kind == AGENT_RESPONSE => {
                let turn = self.spoilt.load(SeqCst) % tampers.len();
                tampers[turn].clone()
            }
            Sabotage::Hang if kind != HANDSHAKE_RESPONSE => {
                line.ruined.store(true, SeqCst);
                Tamper::Swallow
            }
            _ => return None,
        };
        self.spoilt.fetch_add(1, SeqCst);
        Some(tamper)
    }

    /// Sends this answer where an earlier one belongs, and that one here.
    fn cross(&self, line: &Arc<Line>, frame: &[u8]) -> io::Result<()> {
        let mut elsewhere = self.elsewhere.lock().unwrap();
        match elsewhere.take() {
            Some((other, earlier)) => {
                drop(elsewhere);
                // The other one may have ended meanwhile.
                let _ = other.tell_proxy(frame);
                line.tell_proxy(&earlier)
            }
            None => {
                *elsewhere = Some((line.clone(), frame.to_vec()));
                Ok(())
            }
        }
    }
}

/// Reads frames as they are on the wire.
struct Frames<'a> {
    stream: &'a UnixStream,
    buffer: Vec<u8>,
}

impl<'a> Frames<'a> {
    fn of(stream: &'a UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(COMPANY))?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// The next frame, header included; `None` when nothing has come for a while.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(total) = tamper::frame_length(&self.buffer)
                && self.buffer.len() >= total
            {
                return Ok(Some(self.buffer.drain(..total).collect()));
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
