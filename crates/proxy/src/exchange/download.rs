//! The response on its way: from the inner pass through its agents to the client.

use super::{
    coding::Coding,
    deadline::Deadline,
    forward::Passage,
    gathered::Gathered,
    head::{self, Length},
    pipe::{Agents, Body, End, Form, Pieces, Pipe, Released},
    tunnel::{Activity, Tunnel, Upload},
};
use crate::{
    filter::{self, Direction, Flow, FrameAgents, Inspectors},
    hop,
    reply::Reply,
    request::{Begun, Request},
    snapshot::Route,
    websocket::extension,
};
use bytes::Bytes;
use http::{HeaderMap, header};
use pingora::{
    Error,
    ErrorType::{InvalidHTTPHeader, ReadTimedout},
    http::ResponseHeader,
    protocols::http::HttpTask,
};
use portcullis_config::Deflate;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// Why a response does not come to its end.
pub(super) enum Halt {
    /// The client gets this instead, or the response is cut off if it has begun.
    Stopped(Reply),
    /// The inner pass ended early.
    Lost,
    Failed(Box<Error>),
}

/// What is known about the request whose response it is.
pub(super) struct Download<'a> {
    pub(super) request: &'a Request,
    pub(super) begun: &'a Begun,
    pub(super) route: &'a Route,
    /// The client wants to switch protocols.
    pub(super) may_switch: bool,
    /// The extensions that the upstream was offered, where agents see frames.
    pub(super) offered: HeaderMap,
    /// The head of the response is here.
    pub(super) head_seen: &'a AtomicBool,
    pub(super) deadline: &'a Deadline,
    /// The memory of what was held and is on its way to the client, who may be slow to take it.
    pub(super) until_written: &'a Mutex<Released>,
}

/// Pieces smaller than this are put together if more are there already.
const SMALL: usize = 48 << 10;
const LARGE: usize = 64 << 10;

/// The channels between the inner pass, the agents and the client.
pub(super) struct Ways {
    pub(super) inner: mpsc::Receiver<HttpTask>,
    pub(super) client: mpsc::Sender<HttpTask>,
    /// Taken off the channel and not looked at yet.
    pub(super) next: Option<HttpTask>,
    /// Where agents see frames: what the client sends behind an upgrade.
    pub(super) switched: Option<oneshot::Receiver<Upload>>,
    pub(super) passage: Arc<Passage>,
}

impl Ways {
    /// # Errors
    /// The inner pass is gone.
    async fn recv(&mut self) -> Result<HttpTask, Halt> {
        match self.next.take() {
            Some(task) => Ok(task),
            None => self.inner.recv().await.ok_or(Halt::Lost),
        }
    }

    async fn recv_within(&mut self, limit: Option<Duration>) -> Result<HttpTask, Halt> {
        if let (Some(limit), None) = (limit, &self.next) {
            let waited = tokio::time::timeout(limit, self.inner.recv()).await;
            return match waited {
                Ok(task) => task.ok_or(Halt::Lost),
                Err(_) => Err(Halt::Failed(
                    Error::explain(ReadTimedout, "the upstream is silent").into_up(),
                )),
            };
        }
        self.recv().await
    }

    /// # Errors
    /// Whoever writes to the client is gone.
    async fn send(&self, task: HttpTask) -> Result<(), Halt> {
        self.client.send(task).await.map_err(|_| Halt::Lost)
    }

    async fn send_pieces(&self, pieces: Pieces) -> Result<(), Halt> {
        for piece in pieces {
            if !piece.is_empty() {
                self.send(HttpTask::Body(Some(piece), false)).await?;
            }
        }
        Ok(())
    }

    /// Adds what is there already to a small piece.
    async fn gather(&mut self, first: Bytes) -> Bytes {
        /// Pingora hands a piece on in two steps.
        const TURNS: u8 = 2;
        if first.len() >= SMALL {
            return first;
        }
        let mut gathered = Gathered::new(first);
        let mut turns = 0;
        loop {
            while let Ok(task) = self.inner.try_recv() {
                let HttpTask::Body(Some(more), _) = task else {
                    self.next = Some(task);
                    return gathered.into_bytes();
                };
                turns = TURNS;
                gathered.push(more, LARGE);
                if gathered.len() >= LARGE {
                    return gathered.into_bytes();
                }
            }
            if turns == 0 {
                return gathered.into_bytes();
            }
            // The channel is short: who fills it gets a turn, and may have more already.
            turns -= 1;
            tokio::task::yield_now().await;
        }
    }
}

impl Download<'_> {
    /// Passes the response on.
    ///
    /// # Errors
    /// It does not come to its end.
    pub(super) async fn pass(&self, mut ways: Ways) -> Result<(), Halt> {
        let mut head = loop {
            match ways.recv().await? {
                HttpTask::Header(head, _) if head.status == 101 => {
                    return Box::pin(self.pass_switched(*head, ways)).await;
                }
                HttpTask::Header(head, _) if head.status.is_informational() => {
                    // Whoever reads the body says 100 (Continue) when it begins to.
                    // Nobody judges what is said in advance, so it does not pass where heads are judged.
                    let plan = self.request.plan(self.route);
                    if head.status != 100 && !plan.response_heads {
                        let mut head = head;
                        hop::clean_response(&mut head);
                        ways.send(HttpTask::Header(head, false)).await?;
                    }
                }
                HttpTask::Header(head, _) => break head,
                HttpTask::Failed(error) => return Err(Halt::Failed(error)),
                _ => return Err(Halt::Lost),
            }
        };
        ways.passage
            .restore_length(&mut head)
            .map_err(Halt::Failed)?;
        self.head_seen.store(true, Relaxed);
        if head::is_event_stream(&head) {
            self.deadline.lift();
        }
        hop::clean_response(&mut head);
        let has_body = head::has_body(&head, &self.begun.method);
        self.judge(&mut head, has_body).await?;
        let plan = self.request.plan(self.route);
        if plan.whole_responses {
            head::check_whole(&head).map_err(Halt::Failed)?;
        }
        let steps = &plan.response;
        if !has_body || steps.is_empty() {
            let agents = self.agents();
            let copying = (has_body && agents.copies()).then_some(&agents);
            if let Some(copying) = copying {
                copying.copy_begins(body_of(&head));
            }
            ways.send(HttpTask::Header(head, false)).await?;
            return self.pass_rest(&mut ways, copying).await;
        }
        // Responses whose bodies nobody sees shall not be larger for this.
        Box::pin(self.pass_inspected(*head, &mut ways)).await
    }

    /// Runs the filters over the head and asks the agents that want to see it.
    async fn judge(&self, head: &mut ResponseHeader, has_body: bool) -> Result<(), Halt> {
        let flow = filter::on_upstream_response(self.request, head, has_body).await;
        match flow.map_err(Halt::Failed)? {
            Flow::Continue => Ok(()),
            Flow::Reply(reply) => Err(Halt::Stopped(reply)),
        }
    }

    /// Keeps the memory of what was held until the client has it.
    fn keep(&self, released: Released) {
        let kept = self.until_written.lock();
        let mut kept = kept.unwrap_or_else(PoisonError::into_inner);
        kept.extend(released);
    }

    async fn pass_inspected(&self, head: ResponseHeader, ways: &mut Ways) -> Result<(), Halt> {
        let agents = self.agents().behind(&head.headers);
        let body = body_of(&head);
        let memory = self.begun.buffer_memory();
        let steps = &self.request.plan(self.route).response;
        let mut pipe = Pipe::new(&agents, steps, &body, memory).map_err(Halt::Stopped)?;
        let idle = self.idle();
        let mut head = Some(head);
        let mut waiting = Pieces::new();
        loop {
            if !pipe.is_holding()
                && let Some(head) = head.take()
            {
                let held = std::mem::take(&mut waiting);
                Self::begin(ways, head, &agents, pipe.changes(), held).await?;
            }
            let (data, end, after) = match ways.recv_within(idle).await? {
                HttpTask::Body(data, ends) => {
                    let data = ways.gather(data.unwrap_or_default()).await;
                    (data, ends.then(End::default), None)
                }
                // They came behind a body whose length was known and is complete: nobody was shown them.
                HttpTask::Trailer(_) if pipe.changes().ended => {
                    (Bytes::new(), Some(End::default()), Some(HttpTask::Done))
                }
                HttpTask::Trailer(trailers) => {
                    let end = End {
                        trailers: trailers.as_deref().cloned().map(Arc::new),
                    };
                    (Bytes::new(), Some(end), Some(HttpTask::Trailer(trailers)))
                }
                HttpTask::Done => (Bytes::new(), Some(End::default()), Some(HttpTask::Done)),
                HttpTask::Failed(error) => return Err(Halt::Failed(error)),
                HttpTask::Header(..) | HttpTask::UpgradedBody(..) => return Err(Halt::Lost),
            };
            let passed = pipe.push(data, end).await.map_err(Halt::Stopped)?;
            self.keep(pipe.released());
            if head.is_some() {
                waiting.extend(passed);
            } else {
                ways.send_pieces(passed).await?;
            }
            let Some(after) = after else { continue };
            if let Some(head) = head.take() {
                Self::begin(ways, head, &agents, pipe.changes(), waiting).await?;
            }
            return ways.send(after).await;
        }
    }

    /// Sends the head, made true for the body that agents have let pass so far and for the rest of it, and then what was held.
    async fn begin(
        ways: &Ways,
        mut head: ResponseHeader,
        agents: &Inspectors<'_>,
        form: Form,
        held: Pieces,
    ) -> Result<(), Halt> {
        filter::apply(&mut head, &agents.take_changes()).map_err(Halt::Failed)?;
        let length = Length::of(form, &held);
        head::describe_response(&mut head, length, form).map_err(Halt::Failed)?;
        ways.send(HttpTask::Header(Box::new(head), false)).await?;
        ways.send_pieces(held).await
    }

    fn agents(&self) -> Inspectors<'_> {
        let filters = &self.route.filters;
        Inspectors::new(self.request, self.begun, filters, Direction::Response)
    }

    /// Passes on what nobody inspects; it may be copied.
    async fn pass_rest(
        &self,
        ways: &mut Ways,
        copying: Option<&Inspectors<'_>>,
    ) -> Result<(), Halt> {
        let idle = self.idle();
        loop {
            let task = ways.recv_within(idle).await?;
            if let Some(copying) = copying {
                copy(copying, &task);
            }
            match task {
                HttpTask::Failed(error) => return Err(Halt::Failed(error)),
                task @ (HttpTask::Trailer(_) | HttpTask::Done) => {
                    return ways.send(task).await;
                }
                task => ways.send(task).await?,
            }
        }
    }

    /// After the switch, both sides speak as they like.
    async fn pass_switched(&self, mut head: ResponseHeader, mut ways: Ways) -> Result<(), Halt> {
        self.head_seen.store(true, Relaxed);
        self.deadline.lift();
        if !self.may_switch {
            let error = Error::explain(InvalidHTTPHeader, "an upgrade that nobody asked for");
            return Err(Halt::Failed(error.into_up()));
        }
        self.judge(&mut head, false).await?;
        if let Some(switched) = ways.switched.take() {
            return self.pass_frames(head, ways, switched).await;
        }
        ways.send(HttpTask::Header(Box::new(head), false)).await?;
        loop {
            match ways.recv().await? {
                // What Pingora calls a body here is none to the outer session.
                HttpTask::Body(data, ends) | HttpTask::UpgradedBody(data, ends) => {
                    ways.send(HttpTask::UpgradedBody(data, ends)).await?;
                }
                HttpTask::Done => return ways.send(HttpTask::Done).await,
                HttpTask::Failed(error) => return Err(Halt::Failed(error)),
                HttpTask::Header(..) | HttpTask::Trailer(_) => return Err(Halt::Lost),
            }
        }
    }

    /// After the switch, agents see the frames.
    async fn pass_frames(
        &self,
        head: ResponseHeader,
        ways: Ways,
        switched: oneshot::Receiver<Upload>,
    ) -> Result<(), Halt> {
        let (Some(settings), Some(metrics)) = (self.route.websocket, &self.route.sockets) else {
            return Err(Halt::Lost);
        };
        if self.request.has_body {
            // It was refused before: nobody could say where the body ends and the frames begin.
            return Err(Halt::Lost);
        }
        let compressed = extension::agreed(&self.offered, &head.headers).map_err(|_| {
            let why = "an extension that was not offered";
            Halt::Failed(Error::explain(InvalidHTTPHeader, why).into_up())
        })?;
        ways.send(HttpTask::Header(Box::new(head), false)).await?;
        // It comes as soon as the request is with the upstream.
        let upload = switched.await.map_err(|_| Halt::Lost)?;
        let snapshot = self.begun.snapshot();
        let tunnel = Tunnel {
            agents: FrameAgents {
                request: self.request,
                begun: self.begun,
                route: self.route,
            },
            settings,
            max_ratio: match settings.deflate {
                Deflate::Inflate { max_ratio } if compressed => Some(max_ratio),
                Deflate::Inflate { .. } | Deflate::Refuse => None,
            },
            memory: self.begun.buffer_memory(),
            sockets: &snapshot.sockets,
            metrics,
            run: self.request.socket.get_or_init(Box::default),
            activity: Activity::new(),
        };
        tunnel.carry(upload, ways.inner, ways.client).await
    }

    /// How long the upstream may be silent within a body, where Pingora does not see to it: it has one limit for everything.
    fn idle(&self) -> Option<Duration> {
        let timeouts = self.route.timeouts;
        (timeouts.idle < timeouts.response_header).then_some(timeouts.idle)
    }
}

fn body_of(head: &ResponseHeader) -> Body {
    Body {
        coding: Coding::of(&head.headers),
        length: head::content_length(head.headers.get(header::CONTENT_LENGTH)),
    }
}

/// Copies what is part of a body that passes no step.
fn copy(copying: &Inspectors<'_>, task: &HttpTask) {
    let (data, end) = match task {
        HttpTask::Body(data, ends) => (data.clone(), ends.then(End::default)),
        HttpTask::Trailer(trailers) => {
            let trailers = trailers.as_deref().cloned().map(Arc::new);
            (None, Some(End { trailers }))
        }
        HttpTask::Done => (None, Some(End::default())),
        HttpTask::Header(..) | HttpTask::UpgradedBody(..) | HttpTask::Failed(_) => return,
    };
    let pieces: Pieces = data.into_iter().collect();
    copying.copy(0, &pieces, end.as_ref());
}
