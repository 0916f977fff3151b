//! The task behind each place of a pool that is not asleep: connects, offers the connection, finds out when the agent hangs,
//! and begins again as long as the place is needed.

use super::{
    line::{Connect, Line},
    member::Member,
    places::Place,
    shared::Shared,
};
use crate::{agent::Agent, breaker::BreakerState};
use futures::FutureExt;
use portcullis_agent_protocol::{Condition, ConnectError, Target};
use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// The longest pause between two attempts to connect to a Unix socket, and over a network.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_NETWORK_PAUSE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// A connection that ends sooner was none that is worth another at once.
const LASTED: Duration = Duration::from_millis(250);
/// A connection on which this many pings went unanswered takes no more events.
const MISSED_PINGS: u32 = 2;
/// Events that nobody waits for any longer hold their permits until they are answered. A connection that has had such events
/// for this long is replaced, because their answers do not seem to come.
const GIVEN_UP_FOR: Duration = Duration::from_secs(30);
/// Why there is no connection after the end.
pub(super) const UNWANTED: &str = "the proxy does without this agent";

/// Tells the tasks of a pool that they are no longer wanted: the agent is stopped, or the worker does without it.
pub(super) struct Ending {
    pub(super) agent: watch::Receiver<bool>,
    pub(super) pool: watch::Receiver<()>,
}

impl Ending {
    pub(super) fn is_here(&self) -> bool {
        *self.agent.borrow() || self.pool.has_changed().is_err()
    }

    async fn reached(&mut self) {
        // An error means that whoever would say it is gone, which is an end as well.
        tokio::select! {
            _ = self.agent.wait_for(|stop| *stop) => {}
            _ = self.pool.changed() => {}
        }
    }
}

/// Why a connection is no longer used.
enum Ended {
    Lost,
    /// A question was given up, and the connection with it.
    GivenUp,
    /// Nobody has used it for long.
    Idle,
    Stopping,
}

impl Ended {
    /// Why a line takes no new events.
    fn of(line: &impl Line) -> Self {
        match line.was_given_up() {
            true => Self::GivenUp,
            false => Self::Lost,
        }
    }
}

/// Connects, watches over the connection, and begins again, until the place is not needed. It is marked as connecting.
pub(super) async fn keep_up<C: Connect>(
    shared: Arc<Shared<C>>,
    replica: usize,
    index: usize,
    mut ending: Ending,
) {
    let agent = shared.agent.clone();
    let longest = longest_pause(&agent.settings.targets[replica]);
    let mut pause = FIRST_PAUSE;
    while !ending.is_here() {
        let outcome = tokio::select! {
            outcome = shared.connect.connect(&agent, replica) => outcome,
            () = ending.reached() => break,
        };
        let rests = match outcome {
            Ok(line) => {
                let since = Instant::now();
                let ended = use_line(&shared, replica, index, line, &mut ending).await;
                let given_up = matches!(ended, Ended::GivenUp);
                match ended {
                    Ended::Lost | Ended::GivenUp => {}
                    Ended::Idle if shared.again(replica, index) => continue,
                    Ended::Idle => return,
                    Ended::Stopping => break,
                }
                agent.reconnects.fetch_add(1, Relaxed);
                let lasted = given_up || since.elapsed() >= LASTED;
                if lasted {
                    pause = FIRST_PAUSE;
                }
                // A connection that lasted is replaced at once, and so is one that we ended. An agent that only shakes hands is
                // not worth that.
                !lasted
            }
            Err(error) => {
                let error = failed(&agent, replica, &error);
                shared.set(replica, index, Place::Down(error));
                true
            }
        };
        if rests {
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                () = ending.reached() => break,
            }
            pause = (pause * 2).min(longest);
        }
        if !shared.again(replica, index) {
            return;
        }
    }
    shared.set(replica, index, Place::Down(UNWANTED.to_owned()));
}

/// Says in the log, once, why there is no connection.
fn failed(agent: &Agent, replica: usize, error: &ConnectError) -> String {
    let refused = matches!(
        error,
        ConnectError::Refused { .. } | ConnectError::ConfigurationRefused { .. }
    );
    let error = error.to_string();
    if agent.record_error(replica, &error, refused) {
        let target = &agent.replicas[replica].target;
        tracing::warn!(agent = %agent.id(), %target, ?error, "agent cannot be connected, trying again");
    }
    error
}

/// Offers a connection to callers until it takes no new events or is no longer wanted. Then calls that are under way get
/// their answers, and it closes.
async fn use_line<C: Connect>(
    shared: &Shared<C>,
    replica: usize,
    index: usize,
    line: C::Line,
    ending: &mut Ending,
) -> Ended {
    let agent = &shared.agent;
    let lacking = lacking(agent, &line);
    let connected = agent.connected(replica, line.capabilities(), lacking.as_deref());
    if let Some(verdicts) = &agent.verdicts
        && verdicts.connected(line.capabilities())
    {
        tracing::info!(agent = %agent.id(), "agent has become another, its verdicts are not used any longer");
    }
    log_connected(agent, replica, &line);
    let member = Arc::new(Member::new(line.clone(), replica, lacking.is_none()));
    shared.join(index, member.clone());
    let ended = watch_over(shared, index, &member, ending).await;
    drop(member);
    match ended {
        Ended::Lost | Ended::GivenUp if line.closed().now_or_never().is_some() => {
            shared.end(replica, index, Place::Connecting);
        }
        // Some wait for their last answers. Meanwhile it counts, and another place is used if there is one.
        Ended::Lost | Ended::GivenUp => {
            shared.end(replica, index, Place::Leaving);
            line.closed().await;
        }
        Ended::Idle => {
            line.leave();
            line.closed().await;
        }
        Ended::Stopping => {
            shared.end(replica, index, Place::Down(UNWANTED.to_owned()));
            line.leave();
            line.closed().await;
        }
    }
    drop(connected);
    ended
}

/// What the agent should be asked about and does not take.
fn lacking(agent: &Agent, line: &impl Line) -> Option<String> {
    let needs = agent.settings.needs.iter();
    let lacking: Vec<&str> = needs
        .filter(|kind| !line.capabilities().supports(**kind))
        .map(|kind| kind.name())
        .collect();
    (!lacking.is_empty()).then(|| format!("the agent does not take {}", lacking.join(", ")))
}

/// The first connection to a replica is news, those of the other workers are not.
fn log_connected(agent: &Agent, replica: usize, line: &impl Line) {
    let replica = &agent.replicas[replica];
    let target = &replica.target;
    let (name, version) = (&line.capabilities().name, &line.capabilities().version);
    if replica.connections.load(Relaxed) <= 1 {
        tracing::info!(agent = %agent.id(), %target, ?name, ?version, "agent connected");
    } else {
        tracing::debug!(agent = %agent.id(), %target, ?name, ?version, "agent connected once more");
    }
}

/// Returns when the connection takes no new events, or has had none for so long that it can go. A connection whose agent is
/// silent is asked for a sign of life; when none comes, it retires. What the agent says of itself is counted, and told to those
/// who wait.
async fn watch_over<C: Connect>(
    shared: &Shared<C>,
    index: usize,
    member: &Member<C::Line>,
    ending: &mut Ending,
) -> Ended {
    let (agent, line) = (&shared.agent, &member.line);
    let replica = &agent.replicas[member.replica];
    let interval = agent.settings.ping_interval;
    let mut condition = Condition::default();
    let mut said = None;
    let mut given_up = GivenUp::default();
    let mut activity = Activity::new(member);
    // The breakers want to know whether the agent is well, not only whether its socket is.
    let reachable = || {
        agent.breaker.reachable();
        replica.breaker.reachable();
    };
    let is_closed = || {
        let breakers = [&agent.breaker, &replica.breaker];
        breakers.iter().all(|it| it.state() == BreakerState::Closed)
    };
    let mut missed = match check(line, interval, ending).await {
        Some(true) => {
            reachable();
            0
        }
        Some(false) => 1,
        None => return Ended::Stopping,
    };
    loop {
        let tick = tokio::time::sleep(agent.settings.pool.maintenance);
        tokio::pin!(tick);
        loop {
            tokio::select! {
                () = line.no_longer_open() => return Ended::of(line),
                () = &mut tick => break,
                () = ending.reached() => return Ended::Stopping,
                Some(now) = line.condition_changed(condition) => {
                    condition = now;
                    said = Some(agent.says(condition));
                    log_condition(agent, member.replica, condition);
                    shared.changed.notify_waiters();
                }
            }
        }
        if activity.is_over(member, agent.settings.pool.idle)
            && shared.dismiss(member.replica, index)
        {
            return Ended::Idle;
        }
        if given_up.too_long(line, Instant::now()) {
            tracing::warn!(agent = %agent.id(), "agent leaves events unanswered, its connection retires");
            line.retire();
            return Ended::Lost;
        }
        // A breaker that is not closed wants to know for certain.
        if line.last_heard().elapsed() < interval && is_closed() {
            missed = 0;
            continue;
        }
        match check(line, interval, ending).await {
            Some(true) => {
                missed = 0;
                reachable();
            }
            Some(false) => missed += 1,
            None => return Ended::Stopping,
        }
        if missed >= MISSED_PINGS {
            tracing::warn!(agent = %agent.id(), missed, "agent does not answer pings, its connection retires");
            line.retire();
            drop(said);
            return Ended::Lost;
        }
    }
}

/// Since when a connection has had no event.
struct Activity {
    calls: u64,
    since: Instant,
}

impl Activity {
    fn new<L: Line>(member: &Member<L>) -> Self {
        Self {
            calls: member.calls(),
            since: Instant::now(),
        }
    }

    /// Whether there was none for so long.
    fn is_over<L: Line>(&mut self, member: &Member<L>, limit: Duration) -> bool {
        let calls = member.calls();
        if calls != self.calls || member.line.unanswered() > 0 {
            *self = Self::new(member);
            return false;
        }
        self.since.elapsed() >= limit
    }
}

/// Since when there have been events that nobody waits for any longer.
#[derive(Default)]
struct GivenUp(Option<Instant>);

impl GivenUp {
    fn too_long(&mut self, line: &impl Line, now: Instant) -> bool {
        if line.unanswered() <= line.in_flight() {
            self.0 = None;
            return false;
        }
        now.duration_since(*self.0.get_or_insert(now)) >= GIVEN_UP_FOR
    }
}

/// Each worker hears it on each of its connections; the first is news.
fn log_condition(agent: &Agent, replica: usize, condition: Condition) {
    let replica = &agent.replicas[replica];
    let (health, paused) = (condition.health.name(), condition.paused);
    let news = format!("{health}, paused: {paused}");
    if replica.is_news(&news) {
        let target = &replica.target;
        tracing::info!(agent = %agent.id(), %target, health, paused, "agent says how it is");
    }
}

/// Whether the agent answers a ping, or anything else, in time, or takes no more events, which is seen to elsewhere; `None`
/// when the process stops.
async fn check(line: &impl Line, limit: Duration, ending: &mut Ending) -> Option<bool> {
    let before = line.last_heard();
    tokio::select! {
        answered = tokio::time::timeout(limit, line.ping()) => {
            Some(answered == Ok(true) || line.last_heard() > before)
        }
        () = line.no_longer_open() => Some(false),
        () = ending.reached() => None,
    }
}

fn longest_pause(target: &Target) -> Duration {
    match target.is_local() {
        true => LONGEST_PAUSE,
        false => LONGEST_NETWORK_PAUSE,
    }
}

/// Between half of `pause` and all of it, so that workers and proxies do not dial in step.
fn jittered(pause: Duration) -> Duration {
    // RandomState is seeded by the system; this needs no quality beyond not being the same everywhere.
    let random = RandomState::new().hash_one(0u8) % 1000;
    pause / 2 + pause.mul_f64(random as f64 / 2000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_half_and_whole() {
        for _ in 0..1000 {
            let pause = jittered(LONGEST_PAUSE);
            assert!(pause >= LONGEST_PAUSE / 2 && pause <= LONGEST_PAUSE);
        }
    }
}
