//! One agent, or several at once: the rule that decides when a request goes no further is stated here and nowhere else.

use crate::{
    call::call,
    failure::{Consequence, Failure, FailureReason, on_failure},
    link::Links,
    manager::AgentUse,
    merge::merge,
    record::{Phase, Record, RecordedVerdict},
};
use futures::{StreamExt, stream::FuturesUnordered};
use portcullis_agent_protocol::{Audit, Decision, HeaderOp, RequestHeaders, Verdict};
use portcullis_config::AgentId;
use std::time::{Duration, Instant};

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
}

/// Asks one agent.
pub(crate) async fn ask_one(
    links: &Links,
    used: &AgentUse,
    event: &RequestHeaders<'_>,
    records: &mut Vec<Record>,
) -> Answer {
    let started = Instant::now();
    let link = links.get(used.agent);
    let outcome = call(link, event, used.timeout).await;
    let (record, answer) = conclude(link.agent.id(), used, outcome, started.elapsed());
    records.push(record);
    answer
}

/// Asks several agents at once, all with the same view. The first answer, in order of arrival, that ends the request wins
/// and the others are given up; the audit data of answers that are already in is kept. Only when all let the request pass
/// are their changes put together, in the order of the configuration.
pub(crate) async fn ask_parallel(
    links: &Links,
    uses: &[AgentUse],
    event: &RequestHeaders<'_>,
    records: &mut Vec<Record>,
) -> Answer {
    let started = Instant::now();
    let mut waiting: FuturesUnordered<_> = uses
        .iter()
        .enumerate()
        .map(|(position, used)| async move {
            let outcome = call(links.get(used.agent), event, used.timeout).await;
            (position, outcome, started.elapsed())
        })
        .collect();
    let mut allowed: Vec<Option<Changes>> = vec![None; uses.len()];
    let mut answered = vec![false; uses.len()];
    while let Some((position, outcome, duration)) = waiting.next().await {
        let used = &uses[position];
        let id = links.get(used.agent).agent.id();
        let (record, answer) = conclude(id, used, outcome, duration);
        records.push(record);
        answered[position] = true;
        match answer {
            Answer::Continue(changes) => allowed[position] = Some(changes),
            ends => {
                drop(waiting);
                let losers = uses
                    .iter()
                    .zip(&answered)
                    .filter(|(_, answered)| !**answered);
                records.extend(losers.map(|(used, _)| cancelled(links, used, started)));
                return ends;
            }
        }
    }
    let parts = uses
        .iter()
        .zip(allowed)
        .filter_map(|(used, changes)| Some((links.get(used.agent).agent.id().clone(), changes?)))
        .collect();
    let (changes, conflicts) = merge(parts);
    for conflict in conflicts {
        tracing::warn!(header = %conflict.header, lost = %conflict.lost, won = %conflict.won,
            request_id = event.metadata.request_id, "two agents of a parallel group set the same header");
    }
    Answer::Continue(changes)
}

fn cancelled(links: &Links, used: &AgentUse, started: Instant) -> Record {
    Record {
        agent: links.get(used.agent).agent.id().clone(),
        phase: Phase::RequestHeaders,
        verdict: RecordedVerdict::Cancelled,
        reason: None,
        tags: Vec::new(),
        duration: started.elapsed(),
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
        Err(Failure { reason, detail }) => {
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
