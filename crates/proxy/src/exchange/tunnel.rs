//! A request that has become a WebSocket: its frames go through agents in both directions, and when either side, an agent or
//! the process wants an end, both sides get one.
//!
//! Each direction is a [`Half`] that takes one frame after the other, so that they leave in the order in which they came. A
//! frame that waits for an agent holds up those behind it; of these, as many are read as may wait, and then whoever sends
//! has to wait.

mod half;
mod run;

use super::{
    download::Halt,
    memory::{BufferMemory, Held},
    sockets::Sockets,
    upload::Received,
};
use crate::{
    filter::{FrameAgents, FrameDirection},
    telemetry::metrics::SocketMetrics,
    websocket::{close, reader, writer::Writer},
};
use half::{End, Half, Sink, ToClient, ToUpstream};
use pingora::protocols::http::HttpTask;
use portcullis_config::WebSocket;
pub(crate) use run::SocketRun;
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until, timeout_at},
};

/// When we close, or both sides have, whoever does not end the connection within this time has it ended.
const CLOSES_WITHIN: Duration = Duration::from_secs(1);

/// For the end of what goes to the client, when closing has taken all of that time.
const LAST_WORD: Duration = Duration::from_millis(100);

/// The process waits so long for its sockets to be closed.
pub(crate) const SOCKETS_CLOSE_WITHIN: Duration = Duration::from_millis(1500);

/// What came behind the head of the request and where it goes to.
pub(super) struct Upload {
    pub(super) client: mpsc::Receiver<Received>,
    pub(super) inner: mpsc::Sender<HttpTask>,
}

/// What both directions of a socket have in common.
pub(super) struct Tunnel<'a> {
    pub(super) agents: FrameAgents<'a>,
    pub(super) settings: WebSocket,
    /// Where both sides have agreed on compression.
    pub(super) max_ratio: Option<u32>,
    pub(super) memory: &'a Arc<BufferMemory>,
    pub(super) sockets: &'a Arc<Sockets>,
    pub(super) metrics: &'a SocketMetrics,
    pub(super) run: &'a SocketRun,
    pub(super) activity: Activity,
}

type Up = Half<mpsc::Receiver<Received>, ToUpstream>;
type Down = Half<mpsc::Receiver<HttpTask>, ToClient>;

/// When something came last, and how much of the closing handshake has.
pub(super) struct Activity {
    started: Instant,
    last_ms: AtomicU64,
    closes: AtomicUsize,
    changed: Notify,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            last_ms: AtomicU64::new(0),
            closes: AtomicUsize::new(0),
            changed: Notify::new(),
        }
    }

    /// Something has come.
    fn touch(&self) {
        let since = self.started.elapsed().as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.last_ms.store(since, Relaxed);
    }

    /// A close frame has gone on.
    fn closes(&self) {
        self.closes.fetch_add(1, Relaxed);
        self.changed.notify_one();
    }

    /// Waits until nothing has come for so long. Returns whether both sides have closed.
    async fn silence(&self, idle: Duration) -> bool {
        loop {
            let closed = self.closes.load(Relaxed) >= 2;
            let limit = if closed { CLOSES_WITHIN } else { idle };
            let last = self.started + Duration::from_millis(self.last_ms.load(Relaxed));
            if Instant::now() >= last + limit {
                return closed;
            }
            tokio::select! {
                () = sleep_until(last + limit) => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

/// How a socket ends.
enum Ending {
    /// A side has ended its connection.
    Ended,
    /// The connection of one side is lost.
    Halted(Halt),
    /// Both have closed, and neither ends the connection.
    Closed,
    /// We close: the code and the text for the client, those for the upstream, and who has broken the rules.
    Close {
        client: (u16, String),
        upstream: (u16, String),
        broken: Option<FrameDirection>,
    },
}

impl Ending {
    fn both(code: u16, said: &str) -> Self {
        Self::Close {
            client: (code, said.to_owned()),
            upstream: (code, said.to_owned()),
            broken: None,
        }
    }
}

impl Tunnel<'_> {
    /// Carries the frames until the socket ends.
    ///
    /// # Errors
    /// A connection is lost. What the other side gets must not look like an end in order.
    pub(super) async fn carry(
        &self,
        upload: Upload,
        from_upstream: mpsc::Receiver<HttpTask>,
        to_client: mpsc::Sender<HttpTask>,
    ) -> Result<(), Halt> {
        let _open = self.sockets.open();
        let limits = reader::Limits {
            frame_bytes: self.settings.frame_bytes.bytes(),
            message_bytes: self.settings.message_bytes.bytes(),
        };
        let mut up = Half::new(
            FrameDirection::ClientToServer,
            reader::Reader::new(true, limits, self.max_ratio),
            Writer::new(true),
            upload.client,
            ToUpstream(upload.inner),
            Held::new(self.memory),
        );
        let mut down = Half::new(
            FrameDirection::ServerToClient,
            reader::Reader::new(false, limits, self.max_ratio),
            Writer::new(false),
            from_upstream,
            ToClient(to_client),
            Held::new(self.memory),
        );
        let ending = self.carry_both(&mut up, &mut down).await;
        let ended = self.end(ending, &mut up, &mut down).await;
        self.run.closed(down.closed().or(up.closed()));
        ended
    }

    async fn carry_both(&self, up: &mut Up, down: &mut Down) -> Ending {
        let mut ups = pin!(up.carry(self));
        // What it has in hand is nowhere else, so it is never begun anew.
        let mut downs = pin!(down.carry(self));
        let first = tokio::select! {
            biased;
            end = &mut ups => end,
            end = &mut downs => return self.ending(FrameDirection::ServerToClient, end),
            ending = self.ended_from_here() => return ending,
        };
        if !matches!(first, End::Ended | End::Deaf) {
            return self.ending(FrameDirection::ClientToServer, first);
        }
        // Nothing more goes to the upstream. What has come from it still goes on.
        tokio::select! {
            biased;
            end = &mut downs => match end {
                End::Lost(_) => Ending::Ended,
                end => self.ending(FrameDirection::ServerToClient, end),
            },
            ending = self.ended_from_here() => ending,
        }
    }

    /// Waits until it is neither of the sides that ends the socket.
    async fn ended_from_here(&self) -> Ending {
        tokio::select! {
            closed = self.activity.silence(self.settings.idle) => match closed {
                true => Ending::Closed,
                false => {
                    self.run.ended_by_us("websocket_idle");
                    Ending::both(close::GOING_AWAY, "idle")
                }
            },
            () = self.sockets.ending() => {
                self.run.ended_by_us("shutting_down");
                Ending::both(close::GOING_AWAY, "shutting down")
            }
        }
    }

    /// What the end of one direction means for the socket.
    fn ending(&self, direction: FrameDirection, end: End) -> Ending {
        match end {
            End::Ended => Ending::Ended,
            End::Deaf => Ending::Halted(Halt::Lost),
            End::Lost(halt) => Ending::Halted(halt),
            End::Close { code, said } => Ending::both(code, &said),
            End::Broken(violation) => {
                tracing::debug!(
                    why = violation.why,
                    code = violation.code,
                    ?direction,
                    request_id = self.agents.begun.identity.request_id(),
                    "socket closed: its frames are not as they have to be"
                );
                self.run.ended_by_us(match violation.code {
                    close::TOO_BIG => "websocket_too_big",
                    _ => "websocket_protocol_error",
                });
                let offender = (violation.code, violation.why.to_owned());
                // The other side has done nothing wrong.
                let other = (close::GOING_AWAY, String::new());
                let (client, upstream) = match direction {
                    FrameDirection::ClientToServer => (offender, other),
                    FrameDirection::ServerToClient => (other, offender),
                };
                Ending::Close {
                    client,
                    upstream,
                    broken: Some(direction),
                }
            }
        }
    }

    async fn end(&self, ending: Ending, up: &mut Up, down: &mut Down) -> Result<(), Halt> {
        let by = Instant::now() + CLOSES_WITHIN;
        match ending {
            Ending::Halted(halt) => return Err(halt),
            Ending::Closed | Ending::Ended => {}
            Ending::Close {
                client,
                upstream,
                broken,
            } => {
                let closing = async {
                    tokio::join!(
                        down.close(client.0, &client.1),
                        up.close(upstream.0, &upstream.1)
                    );
                    // Who is not listened to any more could lose what it was told last.
                    tokio::join!(
                        up.drain(broken == Some(FrameDirection::ClientToServer)),
                        down.drain(broken == Some(FrameDirection::ServerToClient))
                    );
                };
                let _ = timeout_at(by, closing).await;
            }
        }
        let done = timeout_at(by.max(Instant::now() + LAST_WORD), down.sink.finish()).await;
        match done {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Halt::Lost),
        }
    }
}
