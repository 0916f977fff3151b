//! One direction of a socket: frames out of what one side sends, past the agents, to the other side.

use super::{CLOSES_WITHIN, Tunnel};
use crate::{
    exchange::{
        download::Halt,
        memory::{Full, Held},
        upload::Received,
    },
    filter::{FrameDirection, Judged},
    websocket::{
        close,
        frame::{Frame, Opcode, Violation},
        reader::Reader,
        writer::Writer,
    },
};
use bytes::Bytes;
use pingora::protocols::http::HttpTask;
use std::{future::Future, ops::ControlFlow, pin::pin, time::Duration};
use tokio::sync::mpsc;

/// Who has broken the rules is not understood any more, and may be silent for so long before its connection ends.
const BROKEN_SILENCE: Duration = Duration::from_millis(100);

/// Where bytes come from. May be dropped while it waits; then nothing is lost.
pub(super) trait Source: Send {
    fn next(&mut self) -> impl Future<Output = Came> + Send;
}

/// What a side has sent.
pub(super) enum Came {
    Data(Bytes),
    /// The last of it: the side has ended its connection.
    Last(Bytes),
    Lost(Halt),
}

/// Where frames go to. What is sent goes whole or not at all.
pub(super) trait Sink: Send + Sync {
    /// Whether somebody is there.
    fn send(&self, frames: Bytes) -> impl Future<Output = bool> + Send;
    /// Nothing more comes.
    fn finish(&self) -> impl Future<Output = bool> + Send;
}

/// How a direction ends.
pub(super) enum End {
    /// The side has ended its connection, and all that it sent before has gone on.
    Ended,
    Lost(Halt),
    /// The other side takes nothing any more.
    Deaf,
    /// Agents, or what has become of them, close the socket.
    Close {
        code: u16,
        said: String,
    },
    /// The side does not keep to the rules.
    Broken(Violation),
}

/// See the module.
pub(super) struct Half<S, K> {
    direction: FrameDirection,
    reader: Reader,
    writer: Writer,
    source: S,
    pub(super) sink: K,
    /// Frames that have come.
    frames: u64,
    /// The side has ended its connection.
    ended: bool,
    /// Bytes of the frame that agents judge.
    in_hand: usize,
    /// The memory of what waits.
    held: Held,
}

impl<S: Source, K: Sink> Half<S, K> {
    pub(super) fn new(
        direction: FrameDirection,
        reader: Reader,
        writer: Writer,
        source: S,
        sink: K,
        held: Held,
    ) -> Self {
        Self {
            direction,
            reader,
            writer,
            source,
            sink,
            frames: 0,
            ended: false,
            in_hand: 0,
            held,
        }
    }

    /// The code of the close frame that has gone out.
    pub(super) const fn closed(&self) -> Option<u16> {
        self.writer.closed()
    }

    /// Carries frames until the direction ends.
    pub(super) async fn carry(&mut self, tunnel: &Tunnel<'_>) -> End {
        loop {
            let step = match self.reader.next() {
                Err(violation) => ControlFlow::Break(End::Broken(violation)),
                Ok(Some(frame)) => self.pass(tunnel, frame).await,
                Ok(None) if self.ended => {
                    if self.direction == FrameDirection::ClientToServer {
                        // The upstream's side ends with the client's, and may still have something to say.
                        let _ = self.sink.finish().await;
                    }
                    ControlFlow::Break(End::Ended)
                }
                Ok(None) => {
                    let came = self.source.next().await;
                    self.take(tunnel, came)
                }
            };
            if let ControlFlow::Break(end) = step {
                return end;
            }
        }
    }

    /// Keeps what has come, if it may.
    fn take(&mut self, tunnel: &Tunnel<'_>, came: Came) -> ControlFlow<End> {
        let data = match came {
            Came::Lost(halt) => return ControlFlow::Break(End::Lost(halt)),
            Came::Data(data) => data,
            Came::Last(data) => {
                self.ended = true;
                data
            }
        };
        if !self.reader.is_closed() {
            tunnel.activity.touch();
        }
        self.reader.push(&data);
        self.make_room(tunnel)
    }

    /// Accounts for what waits, if there is room for it.
    fn make_room(&mut self, tunnel: &Tunnel<'_>) -> ControlFlow<End> {
        match self.account() {
            Ok(()) => ControlFlow::Continue(()),
            Err(Full) => match tunnel.agents.buffer_full() {
                Some(judged) => ControlFlow::Break(closing(judged)),
                None => ControlFlow::Continue(()),
            },
        }
    }

    /// Accounts for the memory of what waits.
    fn account(&mut self) -> Result<(), Full> {
        self.held.set(self.reader.waiting() + self.in_hand)
    }

    /// Has the agents judge a frame, does what they say, and reads on meanwhile.
    async fn pass(&mut self, tunnel: &Tunnel<'_>, frame: Frame) -> ControlFlow<End> {
        let index = self.frames;
        self.frames += 1;
        tunnel.run.count(self.direction);
        self.in_hand = frame.data.len();
        // Inflated it can be much more than what has come.
        self.make_room(tunnel)?;
        let judged = {
            let mut judged = pin!(tunnel.agents.judge(self.direction, index, &frame));
            loop {
                let waiting = (self.reader.waiting() + self.in_hand) as u64;
                let has_room = !self.ended && waiting < tunnel.settings.held_bytes.bytes();
                tokio::select! {
                    biased;
                    judged = &mut judged => break judged,
                    came = self.source.next(), if has_room => self.take(tunnel, came)?,
                }
            }
        };
        tunnel.metrics.count(self.direction, &judged);
        let out = match judged {
            Judged::Pass => self.writer.pass(frame),
            Judged::Replace(data) => self.writer.pass(Frame { data, ..frame }),
            Judged::Drop => self.writer.leave_out(&frame),
            Judged::Close { .. } => return ControlFlow::Break(closing(judged)),
        };
        let Ok(out) = out else {
            // Of which agent it is cannot be said: each has seen a part.
            tunnel.run.ended_by_us("websocket_not_text");
            return ControlFlow::Break(End::Close {
                code: close::INTERNAL_ERROR,
                said: String::new(),
            });
        };
        if self.writer.closed().is_some() {
            tunnel.activity.closes();
        }
        self.in_hand = out.len();
        self.make_room(tunnel)?;
        if !out.is_empty() && !self.sink.send(out).await {
            return ControlFlow::Break(End::Deaf);
        }
        self.in_hand = 0;
        // What is less always has room.
        let _ = self.account();
        ControlFlow::Continue(())
    }

    /// Sends a close frame of our own, unless one has gone out.
    pub(super) async fn close(&mut self, code: u16, said: &str) {
        if let Some(frame) = self.writer.close(code, said) {
            // Nobody may be there any more, which is an end as well.
            let _ = self.sink.send(frame).await;
        }
    }

    /// Reads and forgets what the side still sends, until it has closed as well.
    pub(super) async fn drain(&mut self, mut broken: bool) {
        while !self.ended {
            if !broken {
                match self.reader.next() {
                    Ok(Some(frame)) if frame.opcode == Opcode::Close => return,
                    Ok(Some(_)) => continue,
                    Ok(None) if self.reader.is_closed() => return,
                    Ok(None) => {}
                    Err(_) => broken = true,
                }
            }
            let patience = if broken {
                BROKEN_SILENCE
            } else {
                CLOSES_WITHIN
            };
            match tokio::time::timeout(patience, self.source.next()).await {
                Ok(Came::Data(data)) if !broken => self.reader.push(&data),
                Ok(Came::Data(_)) => {}
                Ok(Came::Last(_) | Came::Lost(_)) | Err(_) => return,
            }
        }
    }
}

fn closing(judged: Judged) -> End {
    match judged {
        Judged::Close { code, said } => End::Close { code, said },
        // Whoever asks has been told to close.
        Judged::Pass | Judged::Replace(_) | Judged::Drop => End::Close {
            code: close::INTERNAL_ERROR,
            said: String::new(),
        },
    }
}

impl Source for mpsc::Receiver<Received> {
    async fn next(&mut self) -> Came {
        match self.recv().await {
            Some(Received { data, ends: false }) => Came::Data(data),
            Some(Received { data, ends: true }) => Came::Last(data),
            None => Came::Lost(Halt::Lost),
        }
    }
}

impl Source for mpsc::Receiver<HttpTask> {
    async fn next(&mut self) -> Came {
        match self.recv().await {
            Some(HttpTask::Body(data, ends) | HttpTask::UpgradedBody(data, ends)) => {
                let data = data.unwrap_or_default();
                match ends {
                    true => Came::Last(data),
                    false => Came::Data(data),
                }
            }
            Some(HttpTask::Done) => Came::Last(Bytes::new()),
            Some(HttpTask::Failed(error)) => Came::Lost(Halt::Failed(error)),
            Some(HttpTask::Header(..) | HttpTask::Trailer(_)) | None => Came::Lost(Halt::Lost),
        }
    }
}

/// Frames from this size on wait until nothing else does, so that no more than one of them is on its way beside those that
/// are accounted for.
const LARGE: usize = 64 << 10;

async fn send(way: &mpsc::Sender<HttpTask>, task: HttpTask, size: usize) -> bool {
    let places = if size < LARGE { 1 } else { way.max_capacity() };
    match way.reserve_many(places).await {
        Ok(mut places) => {
            if let Some(place) = places.next() {
                place.send(task);
            }
            true
        }
        Err(_) => false,
    }
}

/// The inner pass takes what is upgraded for a body.
pub(super) struct ToUpstream(pub(super) mpsc::Sender<HttpTask>);

impl Sink for ToUpstream {
    async fn send(&self, frames: Bytes) -> bool {
        let size = frames.len();
        send(&self.0, HttpTask::Body(Some(frames), false), size).await
    }

    async fn finish(&self) -> bool {
        self.0.send(HttpTask::Body(None, true)).await.is_ok()
    }
}

pub(super) struct ToClient(pub(super) mpsc::Sender<HttpTask>);

impl Sink for ToClient {
    async fn send(&self, frames: Bytes) -> bool {
        let size = frames.len();
        send(&self.0, HttpTask::UpgradedBody(Some(frames), false), size).await
    }

    async fn finish(&self) -> bool {
        self.0.send(HttpTask::Done).await.is_ok()
    }
}
