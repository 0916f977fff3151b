//! Agents that are none: connections in memory, which fail when a test says so, under tokio's paused clock. They keep count of
//! what no agent of a pool may ever see.

use super::{
    Pool, PoolSettings, Wanted,
    line::{Connect, Line},
};
use crate::{agent::Agent, pool::Look, quota::Quota, settings::AgentSettings};
use portcullis_agent_protocol::{
    Capabilities, Condition, ConnectError, GrpcEndpoint, HealthState, Target, TlsFiles,
};
use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// All replicas of an agent, and how they behave.
#[derive(Clone)]
pub(super) struct World(Arc<Inner>);

struct Inner {
    bounds: PoolSettings,
    /// Attempts that are refused from now on.
    refusals: AtomicUsize,
    /// Attempts that take no end from now on.
    hangs: AtomicUsize,
    /// How long an attempt takes.
    dials: Mutex<Duration>,
    replicas: Vec<Replica>,
    /// They are elsewhere, and not behind sockets of this machine.
    is_remote: bool,
    /// What must not be; looked at by the test.
    wrongs: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

#[derive(Default)]
struct Replica {
    /// Attempts and connections that are not closed.
    busy_places: AtomicUsize,
    lines: Mutex<Vec<FakeLine>>,
    /// When the attempts began.
    attempts: Mutex<Vec<tokio::time::Instant>>,
}

impl World {
    pub(super) fn new(replicas: usize, bounds: PoolSettings) -> Self {
        Self::at(false, replicas, bounds)
    }

    /// One that is elsewhere.
    pub(super) fn remote(bounds: PoolSettings) -> Self {
        Self::at(true, 1, bounds)
    }

    fn at(is_remote: bool, replicas: usize, bounds: PoolSettings) -> Self {
        Self(Arc::new(Inner {
            is_remote,
            bounds,
            refusals: AtomicUsize::new(0),
            hangs: AtomicUsize::new(0),
            dials: Mutex::new(Duration::from_millis(1)),
            replicas: (0..replicas).map(|_| Replica::default()).collect(),
            wrongs: Mutex::default(),
            is_over: AtomicBool::new(false),
        }))
    }

    /// An agent that is this world. Connections are made on the current runtime.
    pub(super) fn pool(&self) -> Pool<Self> {
        let replicas = 0..self.0.replicas.len();
        let target = |replica| match self.0.is_remote {
            true => Target::V2Grpc {
                endpoint: GrpcEndpoint {
                    url: format!("http://{replica}.test"),
                    tls: TlsFiles::default(),
                    keep_alive: None,
                },
                package: "test".to_owned(),
            },
            false => Target::UnixSocket(format!("{replica}.sock").into()),
        };
        let settings = AgentSettings {
            targets: replicas.map(target).collect(),
            pool: self.0.bounds,
            // What is heard is timed by the real clock, so each connection is pinged each time that it is looked after.
            ping_interval: Duration::from_nanos(1),
            ..AgentSettings::new("fake".into(), Target::UnixSocket("".into()))
        };
        let agent = Agent::new(settings, "test", Arc::<Quota>::default(), None);
        Pool::connecting(&Arc::new(agent), self.clone())
    }

    pub(super) fn refuse(&self, attempts: usize) {
        self.0.refusals.store(attempts, SeqCst);
    }

    pub(super) fn hang(&self, attempts: usize) {
        self.0.hangs.store(attempts, SeqCst);
    }

    /// From now on all is well.
    pub(super) fn recover(&self) {
        self.refuse(0);
        self.hang(0);
        for replica in 0..self.0.replicas.len() {
            for line in self.lines(replica) {
                line.0.mute.store(false, SeqCst);
                line.says(HealthState::Healthy, false);
            }
        }
    }

    /// From now on connections may be closed although they are needed: the agent is stopped.
    pub(super) fn end(&self) {
        self.0.is_over.store(true, SeqCst);
    }

    /// How long it took from each attempt to connect to the next.
    pub(super) fn gaps(&self) -> Vec<Duration> {
        let attempts = self.0.replicas[0].attempts.lock().unwrap();
        attempts.windows(2).map(|two| two[1] - two[0]).collect()
    }

    /// Those that are not closed.
    pub(super) fn lines(&self, replica: usize) -> Vec<FakeLine> {
        let mut lines = self.0.replicas[replica].lines.lock().unwrap();
        lines.retain(|line| line.phase() != Phase::Closed);
        lines.clone()
    }

    pub(super) fn open(&self, replica: usize) -> usize {
        let lines = self.lines(replica);
        lines.iter().filter(|line| line.is_open()).count()
    }

    /// Attempts and connections, as a replica sees them.
    pub(super) fn places(&self, replica: usize) -> usize {
        self.0.replicas[replica].busy_places.load(SeqCst)
    }

    /// Until no attempt is under way: a call would wait for one. There are no connections to this replica.
    pub(super) async fn attempts_end(&self, replica: usize) {
        while self.places(replica) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) fn unanswered(&self) -> usize {
        let replicas = 0..self.0.replicas.len();
        let lines = replicas.flat_map(|replica| self.lines(replica));
        lines.map(|line| line.unanswered()).sum()
    }

    fn wrong(&self, what: String) {
        self.0.wrongs.lock().unwrap().push(what);
    }

    /// Panics if something has been that must not be.
    pub(super) fn check(&self) {
        let wrongs = self.0.wrongs.lock().unwrap();
        assert!(wrongs.is_empty(), "{wrongs:?}");
    }
}

/// A connection that was or will be counted until this is dropped.
struct Taken {
    world: World,
    replica: usize,
}

impl Taken {
    fn new(world: &World, replica: usize) -> Self {
        let before = world.0.replicas[replica].busy_places.fetch_add(1, SeqCst);
        if before >= world.0.bounds.max {
            world.wrong(format!("{} connections to replica {replica}", before + 1));
        }
        Self {
            world: world.clone(),
            replica,
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let replica = &self.world.0.replicas[self.replica];
        replica.busy_places.fetch_sub(1, SeqCst);
    }
}

impl Connect for World {
    type Line = FakeLine;

    async fn connect(&self, _: &Arc<Agent>, replica: usize) -> Result<FakeLine, ConnectError> {
        let taken = Taken::new(self, replica);
        let attempts = &self.0.replicas[replica].attempts;
        attempts.lock().unwrap().push(tokio::time::Instant::now());
        let take = |count: &AtomicUsize| {
            let one_less = |count: usize| count.checked_sub(1);
            count.fetch_update(SeqCst, SeqCst, one_less).is_ok()
        };
        if take(&self.0.hangs) {
            tokio::time::sleep(Duration::from_secs(5)).await;
            return Err(ConnectError::Timeout);
        }
        let dials = *self.0.dials.lock().unwrap();
        tokio::time::sleep(dials).await;
        if take(&self.0.refusals) {
            return Err(ConnectError::Unreachable(
                io::ErrorKind::ConnectionRefused.into(),
            ));
        }
        let line = FakeLine(Arc::new(FakeState {
            taken: Mutex::new(Some(taken)),
            world: self.clone(),
            replica,
            capabilities: Capabilities::new("fake", "1"),
            phase: watch::Sender::new(Phase::Open),
            condition: watch::Sender::new(Condition::default()),
            unanswered: AtomicUsize::new(0),
            mute: AtomicBool::new(false),
            made: Instant::now(),
        }));
        let lines = &self.0.replicas[replica].lines;
        lines.lock().unwrap().push(line.clone());
        Ok(line)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    Retiring,
    Closed,
}

/// A connection in memory.
#[derive(Clone)]
pub(super) struct FakeLine(Arc<FakeState>);

struct FakeState {
    taken: Mutex<Option<Taken>>,
    world: World,
    replica: usize,
    capabilities: Capabilities,
    phase: watch::Sender<Phase>,
    condition: watch::Sender<Condition>,
    unanswered: AtomicUsize,
    /// Pings are not answered.
    mute: AtomicBool,
    made: Instant,
}

impl FakeLine {
    fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// The agent closes it, whatever is under way.
    pub(super) fn sever(&self) {
        self.0.phase.send_replace(Phase::Closed);
        self.0.taken.lock().unwrap().take();
    }

    /// The protocol wants no more events on it, as after a timeout of a legacy agent.
    pub(super) fn wear_out(&self) {
        if self.phase() == Phase::Open {
            self.0.phase.send_replace(Phase::Retiring);
            self.close_if_done();
        }
    }

    /// The agent hangs.
    pub(super) fn mute(&self) {
        self.0.mute.store(true, SeqCst);
    }

    pub(super) fn says(&self, health: HealthState, paused: bool) {
        self.0.condition.send_modify(|condition| {
            condition.health = health;
            condition.paused = paused;
            condition.changes += 1;
        });
    }

    /// An event that is answered after so long; whether it was.
    pub(super) async fn ask(&self, takes: Duration) -> bool {
        if !self.is_open() {
            return false;
        }
        let answered = Answering(self);
        let before = self.0.unanswered.fetch_add(1, SeqCst);
        if before >= self.0.world.0.bounds.max_outstanding {
            let most = before + 1;
            self.0
                .world
                .wrong(format!("{most} events on one connection"));
        }
        let answer = tokio::select! {
            () = tokio::time::sleep(takes) => true,
            () = self.closed() => false,
        };
        drop(answered);
        answer
    }

    fn close_if_done(&self) {
        if self.phase() == Phase::Retiring && self.unanswered() == 0 {
            self.sever();
        }
    }

    async fn reached(&self, is_it: impl Fn(Phase) -> bool) {
        let mut phase = self.0.phase.subscribe();
        let _ = phase.wait_for(|phase| is_it(*phase)).await;
    }
}

/// An event that is answered when this is dropped.
struct Answering<'a>(&'a FakeLine);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.0.unanswered.fetch_sub(1, SeqCst);
        self.0.close_if_done();
    }
}

impl Line for FakeLine {
    fn capabilities(&self) -> &Capabilities {
        &self.0.capabilities
    }

    fn numbers_events(&self) -> bool {
        false
    }

    fn is_open(&self) -> bool {
        self.phase() == Phase::Open
    }

    fn in_flight(&self) -> usize {
        self.unanswered()
    }

    fn unanswered(&self) -> usize {
        self.0.unanswered.load(SeqCst)
    }

    fn condition(&self) -> Condition {
        *self.0.condition.borrow()
    }

    async fn condition_changed(&self, seen: Condition) -> Option<Condition> {
        let mut condition = self.0.condition.subscribe();
        let changed = condition.wait_for(|now| *now != seen).await;
        changed.ok().map(|condition| *condition)
    }

    fn last_heard(&self) -> Instant {
        match self.0.mute.load(SeqCst) {
            true => self.0.made,
            false => Instant::now(),
        }
    }

    async fn ping(&self) -> bool {
        if self.0.mute.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        true
    }

    /// Called by the pool alone. Unless the agent hangs or is stopped, that is to close a connection that is not needed.
    fn retire(&self) {
        let world = &self.0.world;
        let has_reason = self.0.mute.load(SeqCst) || world.0.is_over.load(SeqCst);
        self.wear_out();
        let left = world.open(self.0.replica);
        if !has_reason && left < world.0.bounds.min {
            world.wrong(format!("{left} connections after an idle one has gone"));
        }
    }

    async fn no_longer_open(&self) {
        self.reached(|phase| phase != Phase::Open).await;
    }

    async fn closed(&self) {
        self.reached(|phase| phase == Phase::Closed).await;
    }
}

/// How a call of a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Answered,
    /// There was no connection, or it was lost.
    Unreachable,
    TimedOut,
}

/// Asks as calls do: takes a connection at once or waits for one, and for the answer, within a limit.
pub(super) async fn call(pool: &Pool<World>, takes: Duration, limit: Duration) -> End {
    let wanted = Wanted::default();
    let ask = async {
        let member = match pool.look(&wanted, Instant::now()) {
            Look::Ready(member) => member,
            Look::Failed(_) => return End::Unreachable,
            Look::Wait(_) => match pool.connection(&wanted, |_| {}).await {
                Ok(member) => member,
                Err(_) => return End::Unreachable,
            },
        };
        let answered = member.line.ask(takes).await;
        // What the guard of a real call does.
        pool.shared.note_room();
        match answered {
            true => End::Answered,
            false => End::Unreachable,
        }
    };
    let ended = tokio::time::timeout(limit, ask).await;
    pool.shared.note_room();
    ended.unwrap_or(End::TimedOut)
}
