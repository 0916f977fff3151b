//! One agent, or several at once: the rule that decides when a request goes no further is stated here and nowhere else.

use crate::{
    call::{Called, Limits, call},
    conversation::Conversation,
    failure::{Consequence, Failure, FailureReason, on_failure},
    manager::AgentUse,
    merge::merge,
    pool::Links,
    record::{Phase, Record, RecordedVerdict},
};
use futures::{StreamExt, stream::FuturesUnordered};
use portcullis_agent_protocol::{Audit, Decision, HeaderOp, RequestHeaders, Verdict};
use portcullis_config::AgentId;
use smallvec::SmallVec;
use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Changes of headers, in the order in which they apply. They have been checked: none of them can break a message.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// For the request on its way to the upstream.
    pub request: Vec<HeaderOp>,
    /// For the response on its way to the client.
    pub response: Vec<HeaderOp>,
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
    used: &AgentUse,
    event: &RequestHeaders<'_>,
    conversation: &mut Conversation,
) -> Answer {
    let started = Instant::now();
    let link = links.link(used.agent);
    let mut asked = Asked::new(links, std::slice::from_ref(used), conversation);
    let limits = Limits::new(used.timeout, used.agent, asked.conversation, started);
    let called = call(link, event, limits, &AtomicBool::new(false)).await;
    asked.ended(0, called, started.elapsed())
}

/// Asks several agents at once, all with the same view. The first answer, in order of arrival, that ends the request wins
/// and the others are given up; the audit data of answers that are already in is kept. Only when all let the request pass
/// are their changes put together, in the order of the configuration.
pub(crate) async fn ask_parallel(
    links: &Links,
    uses: &[AgentUse],
    event: &RequestHeaders<'_>,
    conversation: &mut Conversation,
) -> Answer {
    let started = Instant::now();
    let mut asked = Asked::new(links, uses, conversation);
    let decided = AtomicBool::new(false);
    let decided = &decided;
    let mut waiting: FuturesUnordered<_> = uses
        .iter()
        .enumerate()
        .map(|(position, used)| {
            let limits = Limits::new(used.timeout, used.agent, asked.conversation, started);
            async move {
                let called = call(links.link(used.agent), event, limits, decided).await;
                (position, called, started.elapsed())
            }
        })
        .collect();
    let mut allowed: Vec<Option<Changes>> = vec![None; uses.len()];
    while let Some((position, called, duration)) = waiting.next().await {
        match asked.ended(position, called, duration) {
            Answer::Continue(changes) => allowed[position] = Some(changes),
            end => {
                // Dropping the others' calls tells their agents.
                decided.store(true, Relaxed);
                drop(waiting);
                asked.abandon(RecordedVerdict::Cancelled);
                return end;
            }
        }
    }
    drop(asked);
    let parts = uses
        .iter()
        .zip(allowed)
        .filter_map(|(used, changes)| Some((links.pool(used.agent).agent.id().clone(), changes?)))
        .collect();
    let (changes, conflicts) = merge(parts);
    for conflict in conflicts {
        tracing::warn!(header = %conflict.header, lost = %conflict.lost, won = %conflict.won,
            request_id = event.metadata.request_id, "two agents of a parallel group set the same header");
    }
    Answer::Continue(changes)
}

/// The agents of a step while they are asked. When it is dropped before all have answered, which is what happens when the
/// client goes away, the rest is written down as such.
struct Asked<'a> {
    links: &'a Links,
    uses: &'a [AgentUse],
    conversation: &'a mut Conversation,
    started: Instant,
    unanswered: SmallVec<[usize; 4]>,
}

impl<'a> Asked<'a> {
    fn new(links: &'a Links, uses: &'a [AgentUse], conversation: &'a mut Conversation) -> Self {
        Self {
            links,
            uses,
            conversation,
            started: Instant::now(),
            unanswered: (0..uses.len()).collect(),
        }
    }

    /// Writes down how a question ended and says what it means.
    fn ended(&mut self, position: usize, called: Called, duration: Duration) -> Answer {
        self.unanswered.retain(|waiting| *waiting != position);
        let used = &self.uses[position];
        if called.give_up {
            self.conversation.give_up(used.agent);
        }
        let id = self.links.pool(used.agent).agent.id();
        let (record, answer) = conclude(id, used, called.result, duration);
        self.conversation.records.push(record);
        answer
    }

    /// Nobody waits for the rest any longer. They are not asked about this request again, because a late answer could be
    /// taken for that to another event.
    fn abandon(&mut self, verdict: RecordedVerdict) {
        for position in std::mem::take(&mut self.unanswered) {
            let used = &self.uses[position];
            self.conversation.give_up(used.agent);
            self.conversation.records.push(Record {
                agent: self.links.pool(used.agent).agent.id().clone(),
                phase: Phase::RequestHeaders,
                verdict,
                reason: None,
                tags: Vec::new(),
                duration: self.started.elapsed(),
            });
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.abandon(RecordedVerdict::ClientGone);
        // By how much a timer is late is not taken off the time of the agents that follow.
        let most = self.uses.iter().map(|used| used.timeout).max();
        let spent = self.started.elapsed().min(most.unwrap_or_default());
        self.conversation.spend(spent);
    }
}

/// What one outcome means for the request, and what is written down about it.
fn conclude(
    id: &AgentId,
    used: &AgentUse,
    outcome: Result<Decision, Failure>,
    duration: Duration,
) -> (Record, Answer) {
    let record = |verdict, reason, tags| Record {
        agent: id.clone(),
        phase: Phase::RequestHeaders,
        verdict,
        reason,
        tags,
        duration,
    };
    let decision = match outcome {
        Ok(decision) => decision,
        Err(Failure {
            reason,
            detail,
            retry_after,
        }) => {
            let verdict = RecordedVerdict::Failed {
                reason,
                mode: used.failure_mode,
            };
            let answer = match on_failure(reason, used.failure_mode) {
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
    let verdict = match &decision.verdict {
        Verdict::Allow => RecordedVerdict::Allow,
        Verdict::Block { .. } => RecordedVerdict::Block,
        Verdict::Redirect { .. } => RecordedVerdict::Redirect,
        Verdict::Challenge { .. } => RecordedVerdict::Challenge,
    };
    let answer = if verdict == RecordedVerdict::Allow {
        Answer::Continue(Changes {
            request: decision.request_headers,
            response: decision.response_headers,
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

/// More of an agent's audit data than this is not kept.
const MOST_TAGS: usize = 32;
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
