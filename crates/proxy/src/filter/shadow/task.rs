//! Asks a shadow agent about one request, in a task of its own: what was copied is asked in the order in which it came, as an
//! enforced agent would be asked, and nothing comes of the answers but records.

use super::{
    Shadow,
    copies::{Message, Over},
    tally::Dropped,
};
use crate::{
    exchange::{
        memory::BufferMemory,
        pipe::{Agents, Body, End, Piece, Pipe, Unshown},
        plan::Step,
    },
    filter::{Direction, agents::ask_aside, bodies},
    reply::Reply,
    snapshot::Serving,
};
use bytes::Bytes;
use portcullis_agent_manager::{
    Answer, Ask, Conversation, FailureReason, Phase, Record, RecordedVerdict,
};
use portcullis_agent_protocol::Event;
use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc::UnboundedReceiver;

/// What has become of the questions, seen by the request too.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Of phases that are over.
    records: Mutex<Vec<Record>>,
    /// Enforced, the agent would have ended the request, so it is asked nothing more.
    ended: AtomicBool,
    /// Something was not copied, so nothing more is.
    lost: AtomicBool,
}

impl Told {
    /// What is known by now.
    pub(super) fn records(&self) -> Vec<Record> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.clone()
    }

    /// Whether the agent gets more.
    pub(super) fn goes_on(&self) -> bool {
        !self.ended.load(Relaxed) && !self.lost.load(Relaxed)
    }

    /// The agent gets nothing more. Returns whether that is news.
    pub(super) fn lose(&self) -> bool {
        !self.lost.swap(true, Relaxed)
    }

    fn add(&self, record: Record) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.push(record);
    }
}

/// One request and one agent.
pub(super) struct Task {
    pub(super) serving: Arc<Serving>,
    pub(super) shadow: Arc<Shadow>,
    pub(super) correlation_id: String,
    pub(super) request_id: String,
    pub(super) conversation: Conversation,
    pub(super) told: Arc<Told>,
}

/// Asks until the request is over and all that was copied of it has been asked about, or until the end, which is some time
/// after that of the request: pieces and frames that an agent takes one by one could keep it, and the configuration of
/// the request with it, for hours.
pub(super) async fn run(
    task: Task,
    mut messages: UnboundedReceiver<Message>,
    end: impl Future<Output = ()>,
) {
    let over = tokio::select! {
        biased;
        over = ask_about(&task, &mut messages) => over,
        () = end => {
            if task.told.lose() {
                task.shadow.tally.dropped(Dropped::Time);
            }
            last(&mut messages).await
        }
    };
    if let Some(over) = over {
        task.conclude(over);
    }
}

/// How the request ended, whatever else there is.
async fn last(messages: &mut UnboundedReceiver<Message>) -> Option<Over> {
    loop {
        if let Message::Over(over) = messages.recv().await? {
            return Some(over);
        }
    }
}

/// Asks about one message after the other. Returns how the request ended, when it has.
async fn ask_about(task: &Task, messages: &mut UnboundedReceiver<Message>) -> Option<Over> {
    let inspect = task.shadow.inspect;
    let bodies = [
        (Direction::Request, inspect.request_body),
        (Direction::Response, inspect.response_body),
    ];
    // The place in the chain means nothing here: there is one step with one member.
    let steps = bodies.map(|(_, body)| Vec::from_iter(Step::new(0, [body.as_ref()].into_iter())));
    let viewers = bodies.map(|(direction, _)| Viewer { task, direction });
    let memory = task.serving.snapshot.copies.clone();
    let mut pipes: [Option<Pipe<'_, Viewer<'_>>>; 2] = [None, None];
    while let Some(message) = messages.recv().await {
        match message {
            Message::Over(over) => return Some(over),
            _ if task.told.ended.load(Relaxed) => {}
            Message::RequestHead(head, _hold) => {
                let more = head.has_body && inspect.request_body.is_some();
                task.ask(&head.event(), more, false).await;
                task.publish(Phase::RequestHeaders);
            }
            Message::ResponseHead(head, _hold) => {
                let more = head.has_body && inspect.response_body.is_some();
                task.ask(&head.event(), more, false).await;
                task.publish(Phase::ResponseHeaders);
            }
            Message::Frame(frame, _held) => {
                let event = frame.event(&task.correlation_id, &task.shadow.route);
                task.ask(&event, false, true).await;
            }
            Message::BodyBegins(direction, body) => {
                let at = direction as usize;
                pipes[at] = viewers[at].begin(&steps[at], &body, &memory);
            }
            Message::Piece(direction, data, end, _held) => {
                let at = direction as usize;
                viewers[at].pass(&mut pipes[at], data, end).await;
            }
        }
    }
    None
}

impl Task {
    async fn ask(&self, event: &Event<'_>, more: bool, streamed: bool) {
        let ask = Ask {
            used: &self.shadow.used,
            event,
            more,
            streamed,
        };
        let answer = ask_aside(&self.serving, &[ask], &self.conversation).await;
        self.obey(&answer);
    }

    /// Enforced, such an answer would have ended the request.
    fn obey(&self, answer: &Answer) {
        if !matches!(answer, Answer::Continue(_)) {
            self.told.ended.store(true, Relaxed);
        }
    }

    /// A phase is over: what became of it can be seen.
    fn publish(&self, phase: Phase) {
        for record in self.conversation.take_records() {
            match record.phase == phase {
                true => self.told.add(record),
                false => self.conversation.note(record),
            }
        }
    }

    /// Counts the verdicts beside those that were enforced.
    fn conclude(&self, over: Over) {
        // Of a body that did not come to its end, what was said of its beginning; unless it was we who cut it off.
        let rest = self.conversation.take_records();
        if !self.told.lost.load(Relaxed) {
            rest.into_iter().for_each(|record| self.told.add(record));
        }
        let now = Instant::now();
        let snapshot = &self.serving.snapshot;
        let metrics = snapshot.agent_metrics.get(self.shadow.used.agent);
        for record in self.told.records() {
            let enforced = over
                .enforced
                .iter()
                .find(|(phase, _)| *phase == record.phase);
            let enforced = enforced.and_then(|(_, verdict)| *verdict);
            self.shadow.tally.count(&record, enforced, &self.request_id);
            if let Some((_, metrics)) = metrics {
                metrics.asked_in_shadow(&record);
            }
            self.shadow.count_failure(&record, now);
        }
        if let Some(completed) = over.completed {
            let agents = [self.shadow.used.agent];
            snapshot
                .agents
                .completed(&self.serving.links, &agents, &completed, &self.conversation);
        }
    }
}

/// Shows the body of one direction to the agent.
struct Viewer<'a> {
    task: &'a Task,
    direction: Direction,
}

impl<'a> Viewer<'a> {
    fn begin(
        &'a self,
        steps: &'a [Step],
        body: &Body,
        memory: &'a Arc<BufferMemory>,
    ) -> Option<Pipe<'a, Self>> {
        let pipe = Pipe::new(self, steps, body, memory);
        if pipe.is_err() {
            self.end();
        }
        pipe.ok()
    }

    async fn pass(&self, pipe: &mut Option<Pipe<'a, Self>>, data: Bytes, end: Option<End>) {
        let Some(open) = pipe else { return };
        let ends = end.is_some();
        let passed = open.push(data, end).await;
        open.let_go();
        if passed.is_err() {
            *pipe = None;
            self.end();
        } else if ends {
            *pipe = None;
            self.task.publish(self.direction.phase());
        }
    }

    /// Enforced, the agent would have ended the request with this body.
    fn end(&self) {
        self.task.told.ended.store(true, Relaxed);
        self.task.publish(self.direction.phase());
    }

    fn note(&self, verdict: RecordedVerdict, reason: Option<String>) {
        let agents = &self.task.serving.snapshot.agents;
        self.task.conversation.note(Record {
            agent: agents.name(self.task.shadow.used.agent).clone(),
            phase: self.direction.phase(),
            verdict,
            reason,
            tags: Vec::new(),
            duration: Duration::ZERO,
            calls: 0,
            cached: false,
        });
    }
}

impl Agents for Viewer<'_> {
    fn chunk(&self, _: &Step, _: usize) -> usize {
        let agents = &self.task.serving.snapshot.agents;
        agents.preferred_chunk(self.task.shadow.used.agent, self.direction.event())
    }

    async fn show(&self, step: &Step, pieces: &[Piece]) -> Result<Vec<(usize, Bytes)>, Reply> {
        let task = self.task;
        for piece in pieces {
            let event = bodies::event(self.direction, &task.correlation_id, piece);
            let ask = Ask {
                used: &task.shadow.used,
                event: &event,
                more: !piece.is_last,
                streamed: !step.holds,
            };
            let answer = ask_aside(&task.serving, &[ask], &task.conversation).await;
            if !matches!(answer, Answer::Continue(_)) {
                // Nobody gets it.
                return Err(Reply::status(500));
            }
        }
        Ok(Vec::new())
    }

    fn refuse(&self, _: &Step, _: usize, why: Unshown) -> Reply {
        let (reason, detail) = bodies::unshown(why);
        match reason {
            // An enforced agent has memory of its own, so this says nothing of what it would have decided.
            FailureReason::BufferFull => {
                if self.task.told.lose() {
                    self.task.shadow.tally.dropped(Dropped::Memory);
                }
            }
            reason => self.note(RecordedVerdict::Refused(reason), Some(detail)),
        }
        Reply::status(reason.status(self.direction.phase()))
    }

    fn skip(&self, _: &Step, _: usize) {
        self.note(RecordedVerdict::Skipped, None);
    }
}
