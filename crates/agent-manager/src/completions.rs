//! Tells agents that requests are over, behind the requests' backs: nobody waits for it, and what is too much is dropped.

use crate::{
    call::{Limits, call},
    chain::Ask,
    conversation::Conversation,
    failure::{FailureReason, NOBODY_WAITS},
    headers::HeaderNames,
    manager::AgentUse,
    pool::{Link, Pool},
    record::{Phase, Record, RecordedVerdict},
};
use futures::{StreamExt, stream::FuturesUnordered};
use portcullis_agent_protocol::{Event, RequestComplete};
use std::{
    sync::{Arc, Weak, atomic::AtomicBool},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// How an agent is told that requests are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletionSettings {
    /// Events of each worker that may wait; what comes when there are as many is dropped and counted.
    pub queue: usize,
    /// The agent has this long to take one of them.
    pub timeout: Duration,
    /// How often one of them is tried at most while the agent has no room for it or cannot be reached; at least 1.
    pub tries: u32,
}

/// An agent works on so many of these events of a worker at once.
const AT_ONCE: usize = 32;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// A request that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// That of the request's other events.
    pub correlation_id: String,
    /// What the client got; 499 when it was gone before it got anything.
    pub status: u16,
    /// From the head of the request to the end.
    pub duration: Duration,
    /// Bytes of the request's body that came from the client.
    pub request_body_size: u64,
    /// Bytes of the response's body that went to the client.
    pub response_body_size: u64,
    /// How many targets of the upstream were tried.
    pub upstream_attempts: u32,
    /// Why it went wrong; `None` when it did not.
    pub error: Option<String>,
}

/// An event that waits, and the replica that knows the request.
pub(crate) struct Telling {
    completed: Arc<Completed>,
    replica: Option<usize>,
}

/// The place where events of one worker wait for one agent.
pub(crate) type Queue = mpsc::Sender<Telling>;

/// Starts the task that empties the queue; it ends with the pool.
pub(crate) fn start(pool: Weak<Pool>, length: usize) -> Queue {
    let (sender, receiver) = mpsc::channel(length.max(1));
    tokio::spawn(empty(pool, receiver));
    sender
}

/// Puts an event into the queue of its agent. `replica` is the one that knows the request, if the agent has several.
pub(crate) fn tell(pool: &Pool, completed: &Arc<Completed>, replica: Option<usize>) {
    let Some(queue) = &pool.completions else {
        return;
    };
    let completed = completed.clone();
    if queue.try_send(Telling { completed, replica }).is_err()
        && let Some(observer) = &pool.agent.observer
    {
        observer.completion_dropped();
    }
}

async fn empty(pool: Weak<Pool>, mut events: mpsc::Receiver<Telling>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            event = events.recv(), if under_way.len() < AT_ONCE => match event {
                Some(event) => under_way.push(tell_one(pool.clone(), event)),
                None => break,
            },
            Some(()) = under_way.next() => {}
        }
    }
    while under_way.next().await.is_some() {}
}

async fn tell_one(pool: Weak<Pool>, telling: Telling) {
    let mut tried = 0;
    loop {
        let Some(pool) = pool.upgrade() else { return };
        let Some(settings) = pool.agent.settings.completions else {
            return;
        };
        let record = try_to_tell(&pool, &telling, settings).await;
        tried += 1;
        if tried >= settings.tries || !was_not_asked(record.verdict) {
            if let Some(observer) = &pool.agent.observer {
                observer.completed(&record);
            }
            return;
        }
        drop(pool);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether it never had the event, and may have it later.
const fn was_not_asked(verdict: RecordedVerdict) -> bool {
    use FailureReason::{BreakerOpen, Saturated, Unreachable};
    matches!(
        verdict,
        RecordedVerdict::Failed {
            reason: Saturated | BreakerOpen | Unreachable,
            ..
        }
    )
}

async fn try_to_tell(
    pool: &Arc<Pool>,
    Telling { completed, replica }: &Telling,
    settings: CompletionSettings,
) -> Record {
    let started = Instant::now();
    let used = AgentUse {
        agent: 0,
        timeout: settings.timeout,
        failure_mode: NOBODY_WAITS,
    };
    let event = Event::RequestComplete(RequestComplete {
        correlation_id: &completed.correlation_id,
        status: completed.status,
        duration: completed.duration,
        request_body_size: completed.request_body_size,
        response_body_size: completed.response_body_size,
        upstream_attempts: completed.upstream_attempts,
        error: completed.error.as_deref(),
    });
    let ask = Ask {
        used: &used,
        event: &event,
        more: false,
        streamed: false,
    };
    let link = Link {
        pool: pool.clone(),
        foreign: Arc::new(HeaderNames::default()),
    };
    let conversation = Conversation::default();
    if let Some(replica) = replica {
        conversation.bind_replica(used.agent, *replica);
    }
    let limits = Limits::new(settings.timeout, &conversation, started);
    let called = call(&link, &ask, limits, &conversation, &AtomicBool::new(false)).await;
    let (verdict, reason) = match called.result {
        // There is nothing left to decide about.
        Ok(_) => (RecordedVerdict::Allow, None),
        Err(failure) => (failed(failure.reason), Some(failure.detail)),
    };
    Record {
        agent: pool.agent.id().clone(),
        phase: Phase::RequestComplete,
        verdict,
        reason,
        tags: Vec::new(),
        duration: started.elapsed(),
        calls: 1,
        cached: false,
    }
}

const fn failed(reason: FailureReason) -> RecordedVerdict {
    RecordedVerdict::Failed {
        reason,
        mode: NOBODY_WAITS,
    }
}
