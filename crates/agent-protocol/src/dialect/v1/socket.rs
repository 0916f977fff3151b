//! One Unix socket to an agent of version 1, and the question that is on it.
//!
//! Nothing in an answer says what it answers, so a socket has one question at a
//! time, and one that was given up takes the socket with it: its late answer
//! has nowhere to come to. For the same reason what an agent says unasked ends
//! the socket before the next question could take it for its answer.
//!
//! Whoever asks reads and writes the socket itself. Before that the system is
//! asked whether there is something, because the runtime may not know yet.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use rustix::net::{RecvFlags, Shutdown};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::codec::v1;
use crate::{CallError, CloseReason, ProtocolError};

/// How much room is made before a read: as much as there is already, between
/// these two.
const LEAST_READ: usize = 2 << 10;
const MOST_READ: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Socket {
    stream: UnixStream,
    /// One, and closed when the socket is over.
    turns: Semaphore,
    over: Mutex<Option<CloseReason>>,
}

impl Socket {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            turns: Semaphore::new(1),
            over: Mutex::new(None),
        }
    }

    /// Sends a question and gives back the answer. Questions wait for each
    /// other; dropping one that has begun ends the socket.
    pub(super) async fn ask(&self, question: &[u8]) -> Result<Bytes, CallError> {
        let turn = Turn::begin(self).await?;
        let answer = match self.exchange(question).await {
            Ok(answer) => answer,
            Err(reason) => {
                let error = reason.call_error();
                self.end(reason);
                return Err(error);
            }
        };
        turn.finish();
        Ok(answer)
    }

    /// Ends because of what an answer holds.
    pub(super) fn refuse(&self, error: ProtocolError) -> CallError {
        self.end(error.clone().into());
        error.into()
    }

    /// Whether there is somebody at the other end, as far as can be seen.
    pub(super) fn check(&self) -> Result<(), CallError> {
        // While there is a question, it finds out.
        if let Ok(_turn) = self.turns.try_acquire() {
            self.look();
        }
        match self.over() {
            None => Ok(()),
            Some(reason) => Err(reason.call_error()),
        }
    }

    /// Why there are no more questions; `None` as long as there can be.
    pub(super) fn over(&self) -> Option<CloseReason> {
        self.lock().clone()
    }

    /// Waits until the agent closes the socket or says something unasked.
    pub(super) async fn lost(&self) {
        while self.over().is_none() && self.stream.readable().await.is_ok() {
            // What comes while there is a question is for it to read.
            let Ok(_turn) = self.turns.acquire().await else {
                return;
            };
            // This also lets the runtime know that nothing is there.
            self.is_silent(self.stream.try_read(&mut [0]));
        }
    }

    fn look(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let received = rustix::net::recv(&self.stream, &mut [0_u8], flags);
        self.is_silent(received.map(|(_, bytes)| bytes).map_err(io::Error::from))
    }

    // What was read when nobody had asked. It should be nothing; else the
    // socket is over.
    fn is_silent(&self, read: io::Result<usize>) -> bool {
        let reason = match read {
            Ok(0) => CloseReason::Peer,
            Ok(_) => ProtocolError::malformed("answer", "there was no question").into(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) => lost(error),
        };
        self.end(reason);
        false
    }

    async fn exchange(&self, question: &[u8]) -> Result<Bytes, CloseReason> {
        self.write(question).await.map_err(lost)?;
        let mut buffer = BytesMut::new();
        loop {
            if let Some(answer) = v1::take(&mut buffer)? {
                return match buffer.is_empty() {
                    true => Ok(answer),
                    false => Err(ProtocolError::malformed("answer", "there is more than one"))?,
                };
            }
            if self.read_more(&mut buffer).await.map_err(lost)? == 0 {
                return Err(CloseReason::Peer);
            }
        }
    }

    async fn write(&self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.stream.try_write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    // Grows the buffer as bytes come, never by what a frame claims; 0 is the
    // end of the stream.
    async fn read_more(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        buffer.reserve(buffer.len().clamp(LEAST_READ, MOST_READ));
        loop {
            self.stream.readable().await?;
            match self.stream.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    // The first reason counts.
    fn end(&self, reason: CloseReason) {
        self.lock().get_or_insert(reason);
        self.turns.close();
        // The agent sees at once that nobody waits any longer. It may have
        // closed before, which is as good.
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Both);
    }

    fn lock(&self) -> MutexGuard<'_, Option<CloseReason>> {
        // It is replaced whole, so a poisoned lock loses nothing.
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lost(error: io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => CloseReason::Peer,
        kind => CloseReason::Lost(kind),
    }
}

/// The time of one question. Unless it is finished, the socket ends with it.
struct Turn<'a> {
    socket: &'a Socket,
    _permit: SemaphorePermit<'a>,
    is_finished: bool,
}

impl<'a> Turn<'a> {
    async fn begin(socket: &'a Socket) -> Result<Self, CallError> {
        let permit = socket.turns.acquire().await;
        let permit = permit.map_err(|_| CallError::Closed)?;
        if !socket.look() {
            return Err(CallError::Closed);
        }
        Ok(Self {
            socket,
            _permit: permit,
            is_finished: false,
        })
    }

    fn finish(mut self) {
        self.is_finished = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            self.socket.end(CloseReason::Local);
        }
    }
}
