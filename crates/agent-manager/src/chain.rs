//! One agent, or several at once: the rule that decides when a request goes no further is stated here and nowhere else.

use crate::{
    cache::{self, Subject},
    call::{Called, Limits},
    changed,
    conversation::Conversation,
    failure::{Consequence, Failure, FailureReason, on_failure},
    manager::AgentUse,
    merge::merge,
    pool::Links,
    record::{MOST_TAGS, Phase, Record, RecordedVerdict},
};
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use portcullis_agent_protocol::{
    Audit, Decision, Event, FrameDecision, GuardrailResult, HeaderOp, Target, Verdict,
};
use portcullis_config::AgentId;
use smallvec::SmallVec;
use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// A question to one agent.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Who is asked.
    pub used: &'a AgentUse,
    /// What about.
    pub event: &'a Event<'a>,
    /// The agent gets more of this message, so that a verdict which it calls provisional ends nothing yet.
    pub more: bool,
    /// It is about a piece of a stream. The budget of the request bounds the wait for this piece and is not lessened by it,
    /// because a stream has any number of them.
    pub streamed: bool,
}

/// What agents want changed. It has been checked: none of it can break a message.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// Headers of the request on its way to the upstream, in the order in which the changes apply.
    pub request: Vec<HeaderOp>,
    /// Headers of the response on its way to the client, in that order.
    pub response: Vec<HeaderOp>,
    /// What takes the place of the pieces of a body that were shown, by the position of the question. Empty: the piece goes.
    /// The same for the frame of a WebSocket, which may be empty and goes only when the next says so.
    pub pieces: SmallVec<[(usize, Bytes); 1]>,
    /// The frame that was shown does not go on.
    pub drops_frame: bool,
    /// What was found in the text that was shown. None: nothing, or nobody has looked at it.
    pub found: Option<Box<GuardrailResult>>,
}

/// What the proxy has to do after a step of the chain.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Go on with these changes.
    Continue(Changes),
    /// Send the client what this agent decided; the verdict is not allow.
    Final {
        /// Who decided.
        agent: AgentId,
        /// Block, redirect or challenge.
        verdict: Verdict,
        /// Changes to the head of what the client gets.
        response: Vec<HeaderOp>,
        /// The agent's reasons, for the log.
        reason: Option<String>,
    },
    /// Close the WebSocket whose frame was shown, on both sides.
    Close {
        /// Who decided.
        agent: AgentId,
        /// One that may be sent.
        code: u16,
        /// For the two ends; it has room in a close frame.
        said: String,
        /// The agent's reasons, for the log.
        reason: Option<String>,
    },
    /// Send the client the status of this failure.
    Refused(Refusal),
}

/// An agent failed whose failure mode on this route is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Who failed.
    pub agent: AgentId,
    /// How; it knows its status.
    pub reason: FailureReason,
    /// For the log.
    pub detail: String,
    /// How long the client is told to stay away.
    pub retry_after: Option<Duration>,
}

/// Asks one agent.
pub(crate) async fn ask_one(
    links: &Links,
    ask: &Ask<'_>,
    subject: Option<&Subject<'_>>,
    conversation: &Conversation,
) -> Answer {
    let started = Instant::now();
    let link = links.link(ask.used.agent);
    let mut asked = Asked::new(links, std::slice::from_ref(ask), conversation, started);
    let limits = Limits::new(ask.used.timeout, conversation, started);
    let decided = AtomicBool::new(false);
    let called = cache::ask(link, ask, subject, limits, conversation, &decided).await;
    let answer = asked.ended(0, called);
    if conversation.keeps_changes() {
        asked.note_changes(0, &answer);
    }
    answer
}

/// Asks several agents at once, all with the same view. The first answer, in order of arrival, that ends the request wins
/// and the others are given up; the audit data of answers that are already in is kept. Only when all let the request pass
/// are their changes put together, in the order of the configuration.
pub(crate) async fn ask_parallel(
    links: &Links,
    asks: &[Ask<'_>],
    subject: Option<&Subject<'_>>,
    conversation: &Conversation,
) -> Answer {
    let started = Instant::now();
    let mut asked = Asked::new(links, asks, conversation, started);
    let decided = AtomicBool::new(false);
    let decided = &decided;
    let mut waiting: FuturesUnordered<_> = asks
        .iter()
        .enumerate()
        .map(|(position, ask)| {
            let limits = Limits::new(ask.used.timeout, conversation, started);
            async move {
                let link = links.link(ask.used.agent);
                let called = cache::ask(link, ask, subject, limits, conversation, decided).await;
                (position, called)
            }
        })
        .collect();
    let mut allowed: Vec<Option<Changes>> = vec![None; asks.len()];
    while let Some((position, called)) = waiting.next().await {
        match asked.ended(position, called) {
            Answer::Continue(changes) => allowed[position] = Some(changes),
            end => {
                // Dropping the others' calls tells their agents.
                decided.store(true, Relaxed);
                drop(waiting);
                if conversation.keeps_changes() {
                    asked.note_changes(position, &end);
                }
                asked.abandon(RecordedVerdict::Cancelled);
                return end;
            }
        }
    }
    drop(waiting);
    drop(asked);
    if conversation.keeps_changes() {
        for (ask, changes) in asks.iter().zip(&allowed) {
            if let Some(changes) = changes {
                let id = links.pool(ask.used.agent).agent.id();
                let phase = Phase::of(ask.event);
                conversation.note_changes(changed::of_changes(id, phase, changes));
            }
        }
    }
    let parts = asks
        .iter()
        .zip(allowed)
        .filter_map(|(ask, changes)| {
            Some((links.pool(ask.used.agent).agent.id().clone(), changes?))
        })
        .collect();
    let (changes, conflicts) = merge(parts);
    for conflict in conflicts {
        let correlation_id = asks.first().map(|ask| ask.event.correlation_id());
        tracing::warn!(header = %conflict.header, lost = %conflict.lost, won = %conflict.won, correlation_id,
            "two agents of a parallel group set the same header");
    }
    Answer::Continue(changes)
}

/// The agents of a step while they are asked. When it is dropped before all have answered, which is what happens when the
/// client goes away, the rest is written down as such.
struct Asked<'a> {
    links: &'a Links,
    asks: &'a [Ask<'a>],
    conversation: &'a Conversation,
    started: Instant,
    /// When the last answer came.
    ended: Instant,
    unanswered: SmallVec<[usize; 4]>,
}

impl<'a> Asked<'a> {
    fn new(
        links: &'a Links,
        asks: &'a [Ask<'a>],
        conversation: &'a Conversation,
        started: Instant,
    ) -> Self {
        Self {
            links,
            asks,
            conversation,
            started,
            ended: started,
            unanswered: (0..asks.len()).collect(),
        }
    }

    /// Writes down how a question ended and says what it means.
    fn ended(&mut self, position: usize, called: Called) -> Answer {
        self.unanswered.retain(|waiting| *waiting != position);
        self.ended = called.ended;
        let duration = called.ended.saturating_duration_since(self.started);
        let ask = &self.asks[position];
        if called.give_up {
            let why = called.result.as_ref().err().map(|failure| failure.reason);
            // An answer from elsewhere has taken the place of one that did not come in time.
            let why = why.unwrap_or(FailureReason::Timeout);
            self.conversation.give_up(ask.used.agent, why);
        }
        let id = self.links.pool(ask.used.agent).agent.id();
        let (mut record, answer) = conclude(id, ask, position, called.result, duration);
        if called.is_known {
            (record.calls, record.cached) = (0, true);
        }
        self.conversation.note(record);
        answer
    }

    /// Writes down which headers the answer to a question changes.
    fn note_changes(&self, position: usize, answer: &Answer) {
        let ask = &self.asks[position];
        let id = self.links.pool(ask.used.agent).agent.id();
        let phase = Phase::of(ask.event);
        self.conversation
            .note_changes(changed::of_answer(id, phase, answer));
    }

    /// Nobody waits for the rest any longer. They are not asked about this request again, because a late answer could be
    /// taken for that to another event.
    fn abandon(&mut self, verdict: RecordedVerdict) {
        if self.unanswered.is_empty() {
            return;
        }
        self.ended = Instant::now();
        for position in std::mem::take(&mut self.unanswered) {
            let ask = &self.asks[position];
            // Nobody would know why, because nothing is asked after that.
            let why = FailureReason::Timeout;
            self.conversation.give_up(ask.used.agent, why);
            self.conversation.note(Record {
                agent: self.links.pool(ask.used.agent).agent.id().clone(),
                phase: Phase::of(ask.event),
                verdict,
                reason: None,
                tags: Vec::new(),
                duration: self.ended.saturating_duration_since(self.started),
                calls: 1,
                cached: false,
            });
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.abandon(RecordedVerdict::ClientGone);
        // By how much a timer is late is not taken off the time of the agents that follow.
        let most = self.asks.iter().map(|ask| {
            let settings = &self.links.pool(ask.used.agent).agent.settings;
            let granted = settings.targets.iter().map(Target::most_time).max();
            ask.used.timeout.max(granted.unwrap_or_default())
        });
        let most = most.max();
        let spent = self.ended.saturating_duration_since(self.started);
        let spent = spent.min(most.unwrap_or_default());
        let streamed = self.asks.iter().all(|ask| ask.streamed);
        self.conversation.spend(spent, streamed);
    }
}

/// What one outcome means for the request, and what is written down about it.
fn conclude(
    id: &AgentId,
    ask: &Ask<'_>,
    position: usize,
    outcome: Result<Decision, Failure>,
    duration: Duration,
) -> (Record, Answer) {
    let mode = ask.used.failure_mode;
    let record = |verdict, reason, tags| Record {
        agent: id.clone(),
        phase: Phase::of(ask.event),
        verdict,
        reason,
        tags,
        duration,
        calls: 1,
        cached: false,
    };
    let decision = match outcome {
        Ok(decision) => decision,
        Err(Failure {
            reason,
            detail,
            retry_after,
        }) => {
            let verdict = RecordedVerdict::Failed { reason, mode };
            let answer = match on_failure(reason, mode) {
                Consequence::GoOn => Answer::Continue(Changes::default()),
                Consequence::Refuse(reason) => Answer::Refused(Refusal {
                    agent: id.clone(),
                    reason,
                    detail: detail.clone(),
                    retry_after,
                }),
            };
            return (record(verdict, Some(detail), Vec::new()), answer);
        }
    };
    let (reason, tags) = decision.audit.map(|audit| said(*audit)).unwrap_or_default();
    if matches!(ask.event, Event::GuardrailInspect(_)) {
        let (verdict, changes, reason) = about_text(decision.verdict, decision.guardrail, reason);
        return (record(verdict, reason, tags), Answer::Continue(changes));
    }
    if let (Verdict::Allow, Some(frame)) = (&decision.verdict, decision.websocket) {
        let (verdict, answer) = about_frame(id, *frame, position, reason.clone());
        return (record(verdict, reason, tags), answer);
    }
    let verdict = match &decision.verdict {
        // What an agent says before it has seen the whole message decides nothing.
        _ if decision.needs_more && ask.more => RecordedVerdict::Allow,
        Verdict::Allow => RecordedVerdict::Allow,
        Verdict::Block { .. } => RecordedVerdict::Block,
        Verdict::Redirect { .. } => RecordedVerdict::Redirect,
        Verdict::Challenge { .. } => RecordedVerdict::Challenge,
    };
    let answer = if verdict == RecordedVerdict::Allow {
        let piece = decision.request_body.or(decision.response_body);
        Answer::Continue(Changes {
            request: decision.request_headers,
            response: decision.response_headers,
            pieces: piece.map(|piece| (position, piece)).into_iter().collect(),
            drops_frame: false,
            found: None,
        })
    } else {
        Answer::Final {
            agent: id.clone(),
            verdict: decision.verdict,
            response: decision.response_headers,
            reason: reason.clone(),
        }
    };
    (record(verdict, reason, tags), answer)
}

/// What a decision about the frame of a WebSocket means that does not let it pass as it is.
fn about_frame(
    id: &AgentId,
    decision: FrameDecision,
    position: usize,
    reason: Option<String>,
) -> (RecordedVerdict, Answer) {
    match decision {
        FrameDecision::Drop => {
            let changes = Changes {
                drops_frame: true,
                ..Changes::default()
            };
            (RecordedVerdict::Drop, Answer::Continue(changes))
        }
        FrameDecision::Replace(data) => {
            let changes = Changes {
                pieces: std::iter::once((position, data)).collect(),
                ..Changes::default()
            };
            (RecordedVerdict::Allow, Answer::Continue(changes))
        }
        FrameDecision::Close { code, reason: said } => {
            let answer = Answer::Close {
                agent: id.clone(),
                code,
                said,
                reason,
            };
            (RecordedVerdict::Close, answer)
        }
    }
}

/// What an agent has found in a text. Whatever it would do about it, that is not its decision.
fn about_text(
    verdict: Verdict,
    result: Option<Box<GuardrailResult>>,
    reason: Option<String>,
) -> (RecordedVerdict, Changes, Option<String>) {
    let refuses = verdict != Verdict::Allow;
    let found = result.unwrap_or_default();
    if !found.detected && !refuses {
        return (RecordedVerdict::Allow, Changes::default(), reason);
    }
    let reason = reason.or_else(|| {
        let mut categories: Vec<&str> = Vec::new();
        for detection in &found.detections {
            let category = detection.category.as_str();
            if categories.len() < MOST_TAGS && !categories.contains(&category) {
                categories.push(category);
            }
        }
        (!categories.is_empty()).then(|| shortened(categories.join(",")))
    });
    let changes = Changes {
        found: Some(found),
        ..Changes::default()
    };
    (RecordedVerdict::Detected, changes, reason)
}

/// More of an agent's audit data than this is not kept.
const MOST_TEXT_BYTES: usize = 256;

/// The reason and the tags of an agent's audit data: reason codes, or the rules when it gives no codes.
fn said(audit: Audit) -> (Option<String>, Vec<String>) {
    let reasons = if audit.reason_codes.is_empty() {
        audit.rule_ids
    } else {
        audit.reason_codes
    };
    let reasons: Vec<String> = reasons.into_iter().take(MOST_TAGS).map(shortened).collect();
    let reason = (!reasons.is_empty()).then(|| reasons.join(","));
    let tags = audit.tags.into_iter().take(MOST_TAGS).map(shortened);
    (reason, tags.collect())
}

fn shortened(mut text: String) -> String {
    if text.len() > MOST_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MOST_TEXT_BYTES));
        text.push('…');
    }
    text
}
