//! The guarded call: one question to one agent, bounded in time, that always ends in a verdict or a named failure.
//!
//! In this order: the request's budget, the agent's breaker, a permit (with a bounded queue), a connection, the answer. One
//! timer covers all the waiting: it is set to the agent's timeout or to what is left of the budget, whichever is less.
//!
//! An agent with replicas is asked once more, at another replica, when the first is lost before it has answered: within the same
//! timer, and as long as no replica knows the request from an earlier event.

mod awaited;
mod checked;
mod ended;
mod limits;
mod progress;

use crate::{
    agent::Agent,
    breaker::Outcome,
    chain::Ask,
    clock,
    conversation::Conversation,
    failure::{Failure, FailureReason},
    permits::QueueFull,
    pool::{Link, Look, Member, Pool, Waits, Wanted},
};
use awaited::{Asked, Awaited};
use ended::{failure, is_answered, out_of_time, outcome};
pub(crate) use limits::Limits;
use portcullis_agent_protocol::{
    AnyAnswer, AnyConnection, CallError, CallGuard, Decision, Event, RequestHeaders,
};
use progress::{Progress, Stage};
use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

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
        return Called::refused(failure.reason, "it was still busy with this request");
    };
    if let Some(why) = conversation.given_up(ask.used.agent) {
        return Called::refused(why, "it did not answer an earlier event of this request");
    }
    if limits.budget.is_some_and(|budget| budget <= now) {
        return Called::refused(FailureReason::Budget, "no time was left");
    }
    let Some(admitted) = agent.breaker.admit(now) else {
        return Called::refused(FailureReason::BreakerOpen, "it failed too often");
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
    let tried = in_time(answer, now, &mut limits, &progress).await;
    let ended = Instant::now();
    let give_up = progress.gives_up(tried.as_ref().map(|(result, _)| result));
    let (result, asked) = match tried {
        Some((Ok(decision), asked)) => {
            let checked = checked::checked(agent, decision, ask.event, &link.foreign);
            (checked, asked)
        }
        Some(failed) => failed,
        None => (Err(out_of_time(progress.stage(), limits)), None),
    };
    crate::observer::pass_on(agent, ask.event, &result, [now, ended]);
    let outcome = match outcome(&result, limits, &progress) {
        Outcome::Failed | Outcome::Lost if conversation.is_aside() => Outcome::Neutral,
        outcome => outcome,
    };
    if let Some(asked) = asked {
        asked.ended(outcome, is_answered(&result), ended);
    }
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

/// What a call keeps to while it waits.
struct Asking<'a> {
    limits: Limits,
    /// When it began.
    now: Instant,
    deadline: Instant,
    ask: &'a Ask<'a>,
    conversation: &'a Conversation,
    decided: &'a AtomicBool,
    progress: &'a Progress,
}

/// What a call ended with, and who has answered.
type Tried<'a> = (Result<Decision, Failure>, Option<Asked<'a>>);

/// Asks, and asks again when the agent says "not now" or a replica is lost, and there is time for it.
async fn try_on<'a>(pool: &'a Pool, asking: &Asking<'a>) -> Tried<'a> {
    let agent: &Agent = &pool.agent;
    let overload = &agent.settings.overload;
    let mut tries_left = overload.retries;
    let mut is_delayed = false;
    let position = asking.ask.used.agent;
    let mut wanted = Wanted::default();
    if pool.keeps_together() {
        wanted.bound = asking.conversation.replica(position);
    }
    let is_known = pool.has_replicas() && asking.conversation.bound(position).is_some();
    loop {
        match rest(agent, asking).await {
            Ok(has_rested) => is_delayed |= has_rested,
            Err(failure) => return (Err(failure), None),
        }
        let (answer, asked) = match ask_once(pool, asking, &wanted, is_delayed).await {
            Ok(asked) => asked,
            Err(failure) => return (Err(failure), None),
        };
        is_delayed = true;
        match answer {
            Err(CallError::Overloaded { retry_after }) => {
                let wait = retry_after.unwrap_or(overload.backoff);
                agent.quota.rest_until(Instant::now() + wait);
                if tries_left == 0 {
                    return (Err(Failure::overloaded(wait)), asked);
                }
                tries_left -= 1;
            }
            answer => match answer.map_err(failure) {
                Err(lost) if lost.reason == FailureReason::Unreachable && !is_known => {
                    let replica = asked.as_ref().map(|asked| asked.member.replica);
                    wanted.tried.extend(replica);
                    if !pool.has_open(&wanted, Instant::now()) {
                        return (Err(lost), asked);
                    }
                    agent.failovers.fetch_add(1, Relaxed);
                    asking.conversation.unbind(position);
                    if let Some(asked) = asked {
                        asked.ended(Outcome::Lost, false, Instant::now());
                    }
                }
                result => return (result, asked),
            },
        }
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

/// Asks one replica.
async fn ask_once<'a>(
    pool: &'a Pool,
    asking: &Asking<'a>,
    wanted: &Wanted,
    mut is_delayed: bool,
) -> Result<(Result<Decision, CallError>, Option<Asked<'a>>), Failure> {
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
    let member = member(pool, asking, wanted, &mut is_delayed).await?;
    let connection = &member.line;
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
    if asking.ask.more && matches!(event, Event::RequestHeaders(_)) {
        connection.body_follows(event.correlation_id());
    }
    let told = event
        .clone()
        .with_budget_left(asking.limits.budget.map(left));
    let answer = send(connection, agent, &told, pool.guard(connection, permit))?;
    let mut asked = Asked {
        began: now,
        admitted: None,
        member,
    };
    if pool.has_replicas() {
        let replica = asked.member.replica;
        if pool.keeps_together() {
            asking.conversation.bind_replica(position, replica);
        }
        asked.admitted = agent.replicas[replica].breaker.admit(now);
    }
    let answer = match answer {
        Err(error) => return Ok((Err(error), Some(asked))),
        Ok(answer) => {
            asking.progress.note_more_time(answer.more_time());
            Awaited {
                answer: Some(answer),
                asked: Some(asked),
                deadline: asking.deadline,
                is_fair: asking.limits.is_fair() && !asking.conversation.is_aside(),
                decided: asking.decided,
            }
        }
    };
    Ok(answer.await)
}

/// The connection for an event: the one that the request is bound to, if it is.
async fn member(
    pool: &Pool,
    asking: &Asking<'_>,
    wanted: &Wanted,
    is_delayed: &mut bool,
) -> Result<Arc<Member>, Failure> {
    let position = asking.ask.used.agent;
    match asking.conversation.bound(position) {
        Some(member) if member.line.is_open() => {
            asking.progress.note_bound();
            Ok(member)
        }
        Some(_) => {
            asking.progress.note_bound();
            Err(unreachable("it has lost what it knew of this request"))
        }
        None => {
            let member = find(pool, asking, wanted, is_delayed).await?;
            if member.line.binds_requests() {
                asking.progress.note_bound();
                let id = asking.ask.event.correlation_id();
                asking.conversation.bind(position, member.clone(), id);
            }
            Ok(member)
        }
    }
}

/// A connection for an event, which may have to be waited for.
async fn find(
    pool: &Pool,
    asking: &Asking<'_>,
    wanted: &Wanted,
    is_delayed: &mut bool,
) -> Result<Arc<Member>, Failure> {
    match pool.look(wanted, asking.now) {
        Look::Ready(member) => Ok(member),
        Look::Failed(failure) => Err(failure),
        Look::Wait(_) => {
            *is_delayed = true;
            let waits = |why| {
                asking.progress.reach(match why {
                    Waits::Connecting => Stage::Connection,
                    Waits::Paused => Stage::Paused,
                    Waits::Room => Stage::Room,
                });
            };
            pool.connection(wanted, waits).await
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
) -> Result<Result<AnyAnswer, CallError>, Failure> {
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
    Ok(match &filtered {
        None => connection.send(event, permit),
        Some((head, headers)) => {
            let head = RequestHeaders {
                headers,
                ..(*head).clone()
            };
            connection.send(&Event::RequestHeaders(head), permit)
        }
    })
}
