//! The events of one connection: some are worked on, the rest wait.
//!
//! An event is a future that decodes it, asks the agent and yields the
//! answer. It is polled at once, because most agents answer without waiting,
//! and is kept only when it has to wait. When as many are worked on as may
//! be, the next ones are taken off the socket all the same and wait here, so
//! that a Cancel or a ping behind them is heard. Both kinds are found again
//! by the id of the event, and dropped when it is cancelled.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::StreamExt;
use futures::future::{AbortHandle, Abortable};
use futures::stream::FuturesUnordered;

use super::events::Done;
use crate::codec::EventId;

/// An event that is being worked on.
pub(super) type Handling = Pin<Box<dyn Future<Output = Done> + Send>>;

/// While the events that wait have this many bytes, no more are taken.
const WAITING_BYTES: usize = 4 << 20;

/// The id of an event and its turn, since one legacy id may name several.
type Key = (EventId, u64);

pub(super) struct Work {
    concurrency: usize,
    backlog: usize,
    running: FuturesUnordered<Abortable<Running>>,
    waiting: BTreeMap<u64, Waiting>,
    waiting_bytes: usize,
    /// Where the events are that have an id.
    places: BTreeMap<Key, Place>,
    turns: u64,
    /// An event was cancelled that is still to be dropped.
    cancelled: bool,
}

struct Running {
    key: Option<Key>,
    event: Handling,
}

struct Waiting {
    key: Option<Key>,
    event: Handling,
    bytes: usize,
}

enum Place {
    Running(AbortHandle),
    Waiting,
}

impl Work {
    /// Works on `concurrency` events at once and lets `backlog` more wait.
    pub(super) fn new(concurrency: usize, backlog: usize) -> Self {
        Self {
            concurrency,
            backlog,
            running: FuturesUnordered::new(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            places: BTreeMap::new(),
            turns: 0,
            cancelled: false,
        }
    }

    /// How many events are worked on at once.
    pub(super) fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// Whether nothing is left to do.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Whether another event may be added.
    pub(super) fn takes_more(&self) -> bool {
        let at_once = self.waiting.is_empty() && self.running.len() < self.concurrency;
        at_once || (self.waiting.len() < self.backlog && self.waiting_bytes < WAITING_BYTES)
    }

    /// Whether [`poll_done`](Self::poll_done) has something to do at once.
    pub(super) fn is_due(&self, may_begin: bool) -> bool {
        self.cancelled || (may_begin && self.can_begin())
    }

    fn can_begin(&self) -> bool {
        !self.waiting.is_empty() && self.running.len() < self.concurrency
    }

    /// Adds an event of this many bytes, and gives back what it ends with
    /// when it does so at once. Its id is asked for only when it does not.
    pub(super) fn add(
        &mut self,
        cx: &mut Context<'_>,
        event: Handling,
        bytes: usize,
        id: impl FnOnce() -> Option<EventId>,
    ) -> Option<Done> {
        let turn = self.turns;
        self.turns += 1;
        let key = move || id().map(|id| (id, turn));
        if self.waiting.is_empty() && self.running.len() < self.concurrency {
            return self.begin(cx, event, key);
        }
        let key = key();
        if let Some(key) = &key {
            self.places.insert(key.clone(), Place::Waiting);
        }
        self.waiting_bytes += bytes;
        self.waiting.insert(turn, Waiting { key, event, bytes });
        None
    }

    /// The next event that has ended. Events that wait are begun when there
    /// is room for them and `may_begin`.
    pub(super) fn poll_done(&mut self, cx: &mut Context<'_>, may_begin: bool) -> Poll<Done> {
        self.cancelled = false;
        loop {
            match self.running.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok((key, done)))) => {
                    if let Some(key) = key {
                        self.places.remove(&key);
                    }
                    return Poll::Ready(done);
                }
                // It was cancelled.
                Poll::Ready(Some(Err(_))) => continue,
                Poll::Ready(None) | Poll::Pending => {}
            }
            if !may_begin || !self.can_begin() {
                return Poll::Pending;
            }
            let Some((_, next)) = self.waiting.pop_first() else {
                return Poll::Pending;
            };
            self.waiting_bytes -= next.bytes;
            if let Some(key) = &next.key {
                self.places.remove(key);
            }
            if let Some(done) = self.begin(cx, next.event, || next.key) {
                return Poll::Ready(done);
            }
        }
    }

    /// Drops the events with this id, and says how many there were.
    pub(super) fn cancel(&mut self, id: &EventId) -> usize {
        let keys = (id.clone(), 0)..=(id.clone(), u64::MAX);
        let keys: Vec<Key> = self
            .places
            .range(keys)
            .map(|(key, _)| key.clone())
            .collect();
        for key in &keys {
            match self.places.remove(key) {
                // The future is dropped when it would be polled next.
                Some(Place::Running(handle)) => {
                    handle.abort();
                    self.cancelled = true;
                }
                Some(Place::Waiting) => {
                    let cancelled = self.waiting.remove(&key.1);
                    self.waiting_bytes -= cancelled.map_or(0, |event| event.bytes);
                }
                None => {}
            }
        }
        keys.len()
    }

    fn begin(
        &mut self,
        cx: &mut Context<'_>,
        mut event: Handling,
        key: impl FnOnce() -> Option<Key>,
    ) -> Option<Done> {
        if let Poll::Ready(done) = event.as_mut().poll(cx) {
            return Some(done);
        }
        let key = key();
        let (handle, registration) = AbortHandle::new_pair();
        if let Some(key) = &key {
            self.places.insert(key.clone(), Place::Running(handle));
        }
        let running = Abortable::new(Running { key, event }, registration);
        self.running.push(running);
        None
    }
}

impl Future for Running {
    type Output = (Option<Key>, Done);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let done = ready!(self.event.as_mut().poll(cx));
        Poll::Ready((self.key.take(), done))
    }
}
