//! The guarded call: one question to one agent, bounded in time, that always ends in a verdict or a named failure.
//!
//! In this order: the request's budget, the agent's breaker, a permit (with a bounded queue), a connection, the answer. One
//! timer covers all the waiting: it is set to the agent's timeout or to what is left of the budget, whichever is less.

mod checked;
mod progress;

use crate::{
    agent::Agent,
    breaker::Outcome,
    chain::Ask,
    clock,
    conversation::Conversation,
    failure::{Failure, FailureReason},
    permits::QueueFull,
    pool::{Link, Look, Pool, Waits},
};
use portcullis_agent_protocol::{
    AnyAnswer, AnyConnection, CallError, CallGuard, CancelReason, Decision, Event, RequestHeaders,
};
use progress::{Progress, Stage};
use std::{
    future::Future,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// What a call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// When the question was put.
    started: Instant,
    /// When the agent is asked. Later than `started` when others were waited for first.
    now: Instant,
    /// For one answer, all waiting included.
    pub(crate) timeout: Duration,
    /// When the timeout ends.
    pub(crate) own: Instant,
    /// When the request's budget ends.
    pub(crate) budget: Option<Instant>,
    /// No agent has taken any of the budget before.
    pub(crate) whole_budget: bool,
    /// The agent has less than its time, because others were waited for first.
    is_short: bool,
}

impl Limits {
    pub(crate) fn new(timeout: Duration, conversation: &Conversation, now: Instant) -> Self {
        Self {
            started: now,
            now,
            timeout,
            own: now + timeout,
            budget: conversation.deadline(now),
            whole_budget: conversation.is_fresh(),
            is_short: false,
        }
    }

    /// The same limits for a call before which others are waited for: that there is no answer in what time is left says
    /// nothing about the agent.
    pub(crate) fn shortened(self) -> Self {
        Self {
            is_short: true,
            ..self
        }
    }

    /// The same limits for a call that is made now.
    pub(crate) fn beginning_now(self) -> Self {
        Self {
            now: Instant::now(),
            ..self
        }
    }

    /// When the agent's time began.
    pub(crate) fn began(&self) -> Instant {
        self.started
    }

    /// When it ends.
    pub(crate) fn deadline(&self) -> Instant {
        self.budget.map_or(self.own, |budget| budget.min(self.own))
    }
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) result: Result<Decision, Failure>,
    pub(crate) ended: Instant,
    /// A late answer of this agent could be taken for the answer to another event of the request.
    pub(crate) give_up: bool,
    /// The agent was not asked: the verdict was known.
    pub(crate) is_known: bool,
    /// The answer is from the agent as it has announced itself last. Looked at where verdicts are kept.
    pub(crate) is_current: bool,
    /// There is no answer, and the breaker holds that against the agent.
    pub(crate) is_agents_fault: bool,
}

impl Called {
    fn refused(reason: FailureReason, detail: &str) -> Self {
        Self::failed(Failure::new(reason, detail))
    }

    fn failed(failure: Failure) -> Self {
        Self {
            result: Err(failure),
            ended: Instant::now(),
            give_up: false,
            is_known: false,
            is_current: false,
            is_agents_fault: false,
        }
    }

    /// A verdict that is used again.
    pub(crate) fn known(decision: Decision) -> Self {
        Self {
            result: Ok(decision),
            ended: Instant::now(),
            give_up: false,
            is_known: true,
            is_current: true,
            is_agents_fault: false,
        }
    }
}

/// The outcome of a question that was asked for somebody else too and not answered in time.
pub(crate) fn no_answer(limits: Limits) -> Called {
    Called::failed(out_of_time(Stage::Answer, limits))
}

/// An answer that is waited for. When the wait ends without it, the agent is told why.
struct Awaited<'a> {
    answer: Option<AnyAnswer>,
    deadline: Instant,
    decided: &'a AtomicBool,
}

impl Future for Awaited<'_> {
    type Output = Result<Decision, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(answer) = &mut self.answer else {
            return Poll::Ready(Err(CallError::Closed));
        };
        let decision = ready!(Pin::new(answer).poll(cx));
        self.answer = None;
        Poll::Ready(decision)
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let Some(answer) = self.answer.take() else {
            return;
        };
        answer.cancel(if self.decided.load(Relaxed) {
            CancelReason::BlockedByAgent
        } else if Instant::now() >= self.deadline {
            CancelReason::Timeout
        } else {
            CancelReason::ClientDisconnect
        });
    }
}

/// Asks an agent. `decided` says, when the call is dropped, whether that is because another agent has decided.
pub(crate) async fn call(
    link: &Link,
    ask: &Ask<'_>,
    mut limits: Limits,
    conversation: &Conversation,
    decided: &AtomicBool,
) -> Called {
    let pool = &*link.pool;
    let agent = &*pool.agent;
    let mut now = limits.now;
    let refused = Called::refused;
    let turn = match conversation.try_turn(ask.used.agent) {
        Some(turn) => Some(turn),
        // It ends with the call before this one, which has a deadline of its own.
        None => {
            let turn = conversation.turn(ask.used.agent);
            let turn = clock::until(now, limits.deadline(), turn).await;
            now = Instant::now();
            // The agent has all of its time for each event, whatever it was asked before.
            limits.own = now + limits.timeout;
            turn.flatten()
        }
    };
    let Some(_turn) = turn else {
        let failure = out_of_time(Stage::Permit, limits);
        return refused(failure.reason, "it was still busy with this request");
    };
    if conversation.has_given_up(ask.used.agent) {
        return refused(
            FailureReason::Timeout,
            "it did not answer an earlier event of this request",
        );
    }
    if limits.budget.is_some_and(|budget| budget <= now) {
        return refused(FailureReason::Budget, "no time was left");
    }
    let Some(admitted) = agent.breaker.admit(now) else {
        return refused(FailureReason::BreakerOpen, "it failed too often");
    };
    let progress = Progress::new();
    let asking = Asking {
        limits,
        now,
        deadline: limits.deadline(),
        ask,
        conversation,
        decided,
        progress: &progress,
    };
    // Pinned here, because it is large and would be copied on its way into the timer.
    let answer = pin!(try_on(pool, &asking));
    let result = in_time(answer, now, &mut limits, &progress).await;
    let ended = Instant::now();
    let give_up = progress.gives_up(result.as_ref());
    let result = match result {
        Some(Ok(decision)) => checked::checked(agent, decision, ask.event, &link.foreign),
        Some(Err(failure)) => Err(failure),
        None => Err(out_of_time(progress.stage(), limits)),
    };
    let outcome = match outcome(&result, limits, &progress) {
        Outcome::Failed | Outcome::Lost if conversation.is_aside() => Outcome::Neutral,
        outcome => outcome,
    };
    admitted.record(outcome, ended);
    Called {
        result,
        ended,
        give_up,
        is_known: false,
        is_current: progress.is_current(),
        is_agents_fault: matches!(outcome, Outcome::Failed | Outcome::Lost),
    }
}

/// The answer, unless the time is up. Agents that may ask for more time get it here.
async fn in_time<F: Future>(
    mut answer: Pin<&mut F>,
    now: Instant,
    limits: &mut Limits,
    progress: &Progress,
) -> Option<F::Output> {
    let answered = clock::until(now, limits.deadline(), answer.as_mut()).await;
    if answered.is_some() {
        return answered;
    }
    limits.own = progress.granted()?;
    clock::until(Instant::now(), limits.deadline(), answer).await
}

/// What the breaker learns from a call.
fn outcome(result: &Result<Decision, Failure>, limits: Limits, progress: &Progress) -> Outcome {
    match result {
        Ok(_) => Outcome::Success,
        Err(Failure {
            reason: FailureReason::Timeout | FailureReason::Budget,
            ..
        }) if limits.is_short => Outcome::Neutral,
        // An agent that had all of the budget and does not answer is too slow, whatever its own timeout would be.
        Err(Failure {
            reason: FailureReason::Budget,
            ..
        }) if limits.whole_budget && progress.is_answering() => Outcome::Failed,
        Err(failure) => failure.reason.outcome(),
    }
}

/// What a call keeps to while it waits.
struct Asking<'a> {
    ask: &'a Ask<'a>,
    limits: Limits,
    /// When it began.
    now: Instant,
    deadline: Instant,
    conversation: &'a Conversation,
    decided: &'a AtomicBool,
    progress: &'a Progress,
}

/// Asks, and asks again when the agent says "not now" and there is time for it.
async fn try_on(pool: &Pool, asking: &Asking<'_>) -> Result<Decision, Failure> {
    let agent: &Agent = &pool.agent;
    let overload = &agent.settings.overload;
    let mut tries_left = overload.retries;
    let mut is_delayed = false;
    loop {
        is_delayed |= rest(agent, asking).await?;
        let answer = match ask_once(pool, asking, is_delayed).await? {
            Err(CallError::Overloaded { retry_after }) => retry_after.unwrap_or(overload.backoff),
            answer => return answer.map_err(failure),
        };
        agent.quota.rest_until(Instant::now() + answer);
        if tries_left == 0 {
            return Err(Failure::overloaded(answer));
        }
        tries_left -= 1;
        is_delayed = true;
        asking.progress.reach(Stage::Permit);
    }
}

/// Waits while the agent wants to be left alone, if there is time for it. Returns whether it had to.
async fn rest(agent: &Agent, asking: &Asking<'_>) -> Result<bool, Failure> {
    let mut has_rested = false;
    loop {
        let now = Instant::now();
        let Some(rest) = agent.quota.rest(now) else {
            return Ok(has_rested);
        };
        if asking.conversation.is_aside() || now + rest >= asking.deadline {
            return Err(Failure::overloaded(rest));
        }
        let _place = agent.permits.wait().map_err(queue_full)?;
        tokio::time::sleep(rest).await;
        has_rested = true;
    }
}

async fn ask_once(
    pool: &Pool,
    asking: &Asking<'_>,
    mut is_delayed: bool,
) -> Result<Result<Decision, CallError>, Failure> {
    let agent: &Agent = &pool.agent;
    let (event, position) = (asking.ask.event, asking.ask.used.agent);
    let (permit, waited) = match asking.conversation.is_aside() {
        false => agent.permits.acquire().await,
        true => agent.permits.try_aside(),
    }
    .map_err(queue_full)?;
    agent.observe_wait(waited);
    asking.progress.reach(Stage::Connection);
    is_delayed |= !waited.is_zero();
    let bound = asking.conversation.bound(position);
    if bound.is_some() {
        asking.progress.note_bound();
    }
    let connection = match bound {
        Some(connection) if connection.is_open() => connection,
        Some(_) => return Err(unreachable("it has lost what it knew of this request")),
        None => {
            let connection = find(pool, asking, &mut is_delayed).await?;
            if connection.binds_requests() {
                asking.progress.note_bound();
                let id = event.correlation_id();
                asking.conversation.bind(position, connection.clone(), id);
            }
            connection
        }
    };
    if let Some(verdicts) = &agent.verdicts {
        let is_current = verdicts.is_current(connection.capabilities());
        asking.progress.note_current(is_current);
    }
    asking.progress.reach(if connection.tells_answers_apart() {
        Stage::Answer
    } else {
        Stage::LegacyAnswer
    });
    let now = match is_delayed {
        true => Instant::now(),
        false => asking.now,
    };
    let left = |budget: Instant| budget.saturating_duration_since(now);
    let told = event
        .clone()
        .with_budget_left(asking.limits.budget.map(left));
    let answer = send(&connection, agent, &told, CallGuard::new(permit))?;
    asking.progress.note_more_time(answer.more_time());
    let answer = Awaited {
        answer: Some(answer),
        deadline: asking.deadline,
        decided: asking.decided,
    };
    Ok(answer.await)
}

/// A connection for an event, which may have to be waited for.
async fn find(
    pool: &Pool,
    asking: &Asking<'_>,
    is_delayed: &mut bool,
) -> Result<AnyConnection, Failure> {
    match pool.look() {
        Look::Ready(connection) => Ok(connection),
        Look::Failed(failure) => Err(failure),
        Look::Wait(_) => {
            *is_delayed = true;
            let waits = |why| {
                asking.progress.reach(match why {
                    Waits::Connecting => Stage::Connection,
                    Waits::Paused => Stage::Paused,
                });
            };
            pool.connection(waits).await
        }
    }
}

fn unreachable(detail: &str) -> Failure {
    Failure::new(FailureReason::Unreachable, detail)
}

fn queue_full(QueueFull: QueueFull) -> Failure {
    Failure::new(
        FailureReason::Saturated,
        "it has as many calls as it may have, and the queue is full",
    )
}

fn send(
    connection: &AnyConnection,
    agent: &Agent,
    event: &Event<'_>,
    permit: CallGuard,
) -> Result<AnyAnswer, Failure> {
    if !connection.supports(event.kind()) {
        return Err(Failure::new(
            FailureReason::Unavailable,
            format!("the agent does not take {}", event.kind().name()),
        ));
    }
    let filtered = match event {
        Event::RequestHeaders(head) => agent.told(head.headers).map(|headers| (head, headers)),
        _ => None,
    };
    let sent = match &filtered {
        None => connection.send(event, permit),
        Some((head, headers)) => {
            let head = RequestHeaders {
                headers,
                ..(*head).clone()
            };
            connection.send(&Event::RequestHeaders(head), permit)
        }
    };
    sent.map_err(failure)
}

/// What it means that the time is up. Where the budget is what the agent has anyway, as it is by default for a single agent,
/// the agent was too slow: its breaker has to know.
fn out_of_time(stage: Stage, limits: Limits) -> Failure {
    let timeout = limits.timeout;
    match stage {
        _ if limits.budget.is_some_and(|budget| budget < limits.own) => {
            Failure::new(FailureReason::Budget, "the time of all agents is used up")
        }
        Stage::Permit => Failure::new(FailureReason::Saturated, "no permit became free in time"),
        Stage::Paused => Failure::new(
            FailureReason::Saturated,
            format!("it has paused for longer than {timeout:?}"),
        ),
        Stage::Connection => Failure::new(
            FailureReason::Unreachable,
            format!("no connection within {timeout:?}"),
        ),
        Stage::Answer | Stage::LegacyAnswer => Failure::new(
            FailureReason::Timeout,
            format!("no answer within {timeout:?}"),
        ),
    }
}

fn failure(error: CallError) -> Failure {
    let reason = match &error {
        CallError::Closed | CallError::Lost | CallError::Unavailable(_) => {
            FailureReason::Unreachable
        }
        CallError::OutboundFull => FailureReason::Saturated,
        // Seen to before; here it would be one of a kind of call that is not tried again.
        CallError::Overloaded { .. } => FailureReason::Overloaded,
        CallError::DuplicateOutstanding
        | CallError::EventTooLarge { .. }
        | CallError::Protocol(_)
        | CallError::Agent(_) => FailureReason::ProtocolError,
    };
    Failure::new(reason, error.to_string())
}
