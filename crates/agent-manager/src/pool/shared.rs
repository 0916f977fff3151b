//! What a pool shares with the tasks of its connections: the book of places, and who has to hear of changes in it.

use super::{
    counts::{Counts, PoolView},
    keep_up::{Ending, UNWANTED, keep_up},
    line::{Connect, Line},
    member::Member,
    places::{Place, Places},
};
use crate::agent::{Agent, CountGuard};
use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::sync::{Notify, watch};

/// What a pool and the tasks of its connections share.
pub(super) struct Shared<C: Connect> {
    pub(super) agent: Arc<Agent>,
    pub(super) connect: C,
    board: Mutex<Board<C>>,
    /// Something has changed in a place, or what an agent says of itself, or there is room.
    pub(super) changed: Notify,
    /// Calls that wait for such a change.
    waiting: AtomicUsize,
    /// The number of a call, where that matters.
    pub(super) turn: AtomicU64,
    /// Calls that did not find a connection at once and waited.
    pub(super) waits: AtomicU64,
    /// Calls that found none, and nothing to wait for.
    pub(super) none: AtomicU64,
    alive: watch::Receiver<()>,
    /// For the tasks.
    itself: Weak<Self>,
}

/// Who is where.
pub(super) struct Board<C: Connect> {
    pub(super) replicas: Vec<Places<C::Line>>,
    /// There while the worker counts as connected to the agent.
    ready: Option<CountGuard>,
}

impl<C: Connect> Shared<C> {
    /// With connections being made on the current runtime, `min` to each replica.
    pub(super) fn start(agent: &Arc<Agent>, connect: C, alive: watch::Receiver<()>) -> Arc<Self> {
        let bounds = agent.settings.pool;
        let places = || Places::new(bounds.min, bounds.max);
        let replicas: Vec<_> = agent.settings.targets.iter().map(|_| places()).collect();
        let shared = Arc::new_cyclic(|itself| Self {
            agent: agent.clone(),
            connect,
            board: Mutex::new(Board {
                replicas,
                ready: None,
            }),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
            // Workers that begin with the same replica would all burden it first.
            turn: AtomicU64::new(RandomState::new().hash_one(0u8)),
            waits: AtomicU64::new(0),
            none: AtomicU64::new(0),
            alive,
            itself: itself.clone(),
        });
        let view: Arc<dyn PoolView> = shared.clone();
        agent.pools.add(Arc::downgrade(&view));
        let mut board = shared.lock();
        for replica in 0..board.replicas.len() {
            shared.fill(&mut board, replica);
        }
        drop(board);
        shared
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Board<C>> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more connection to this replica, if it may have another.
    pub(super) fn grow(&self, board: &mut Board<C>, replica: usize) {
        if let Some(index) = board.replicas[replica].grow() {
            self.spawn(board, replica, index);
        }
    }

    /// As many connections as are always needed.
    fn fill(&self, board: &mut Board<C>, replica: usize) {
        for index in board.replicas[replica].missing() {
            self.spawn(board, replica, index);
        }
    }

    fn spawn(&self, board: &mut Board<C>, replica: usize, index: usize) {
        let ending = Ending {
            agent: self.agent.stopping(),
            pool: self.alive.clone(),
        };
        match self.itself.upgrade().filter(|_| !ending.is_here()) {
            Some(shared) => drop(tokio::spawn(keep_up(shared, replica, index, ending))),
            None => board.replicas[replica].set(index, Place::Down(UNWANTED.to_owned())),
        }
    }

    /// A connection is up.
    pub(super) fn join(&self, index: usize, member: Arc<Member<C::Line>>) {
        let replica = member.replica;
        self.change(replica, |places| {
            places.created += 1;
            places.set(index, Place::Up(member));
        });
    }

    /// See [`Places::end`].
    pub(super) fn end(&self, replica: usize, index: usize, becomes: Place<C::Line>) {
        self.change(replica, |places| places.end(index, becomes));
    }

    /// See [`Places::dismiss`].
    pub(super) fn dismiss(&self, replica: usize, index: usize) -> bool {
        self.change(replica, |places| places.dismiss(index))
    }

    /// See [`Places::again`].
    pub(super) fn again(&self, replica: usize, index: usize) -> bool {
        self.change(replica, |places| places.again(index))
    }

    pub(super) fn set(&self, replica: usize, index: usize, place: Place<C::Line>) {
        self.change(replica, |places| places.set(index, place));
    }

    fn change<T>(&self, replica: usize, change: impl FnOnce(&mut Places<C::Line>) -> T) -> T {
        let mut board = self.lock();
        let result = change(&mut board.replicas[replica]);
        self.fill(&mut board, replica);
        self.note_readiness(&mut board);
        drop(board);
        self.changed.notify_waiters();
        result
    }

    /// The worker counts as connected while one replica has the connections that are waited for. That another is away must
    /// not keep the process from starting: this is what there are replicas for.
    fn note_readiness(&self, board: &mut Board<C>) {
        let bounds = self.agent.settings.pool;
        let needed = match bounds.warm_up {
            true => bounds.min.max(1),
            false => 1,
        };
        let ready = board.replicas.iter().any(|places| places.fit() >= needed);
        match (ready, board.ready.is_some()) {
            (true, false) => board.ready = Some(self.agent.ready()),
            (false, true) => board.ready = None,
            _ => {}
        }
    }

    /// There may be room on a connection.
    pub(super) fn note_room(&self) {
        if self.waiting.load(Relaxed) > 0 {
            self.changed.notify_waiters();
        }
    }
}

impl<C: Connect> PoolView for Shared<C> {
    fn counts(&self) -> Counts {
        let board = self.lock();
        let mut counts = Counts::default();
        let shown = &mut counts.shown;
        shown.waits = self.waits.load(Relaxed);
        shown.none = self.none.load(Relaxed);
        for places in &board.replicas {
            shown.created += places.created;
            shown.closed += places.closed;
            shown.found += places.at_once;
            for member in places.members() {
                shown.found += member.at_once.load(Relaxed);
                match member.line.unanswered() {
                    0 => shown.idle += 1,
                    _ => shown.busy += 1,
                }
                if let Some(average) = member.average() {
                    counts.averages.0 += average;
                    counts.averages.1 += 1;
                }
            }
        }
        counts
    }
}

impl<C: Connect> Drop for Shared<C> {
    fn drop(&mut self) {
        self.agent.pools.remove(&self.counts());
    }
}

/// A call that waits for a change, however the wait ends.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    pub(super) fn new<C: Connect>(shared: &'a Shared<C>) -> Self {
        shared.waiting.fetch_add(1, Relaxed);
        Self(&shared.waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
