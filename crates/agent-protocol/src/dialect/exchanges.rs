//! Dialects in which every event is an exchange of its own: the answer comes
//! back on the same request or stream, so that none can be taken for another.
//! What they have in common is here: how long a connection takes events, what
//! is under way on it, and what becomes of an answer that nobody waits for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::v2_uds::CloseReason;
use crate::{CallError, CallGuard, Capabilities, Decision, Event};

/// What is under way with an agent; owns everything that it needs. Nothing is
/// sent before it is polled, and dropping it ends the exchange.
pub(crate) type Exchange<T> = Pin<Box<dyn Future<Output = Result<T, CallError>> + Send>>;

/// One way of telling an agent events and of reading its answers. There is one
/// of these for each connection.
pub(crate) trait Dialect: Send + Sync + fmt::Debug + 'static {
    /// Asks about an event. [`CallError::Closed`] means that the agent cannot
    /// be reached any more: the connection ends with it.
    fn ask(&self, event: &Event<'_>) -> Exchange<Decision>;

    /// Finds out whether the agent is there.
    fn ping(&self) -> Exchange<()>;

    /// Whether the events of one request belong together here: the agent is
    /// asked all of them over the same connection, and told their end.
    fn binds_requests(&self) -> bool {
        false
    }

    /// Nothing more comes about the request with this correlation id.
    fn forget(&self, _correlation_id: &str) {}
}

/// A connection of such a dialect. Clones share it; when the last is dropped,
/// it finishes what is under way and closes.
#[derive(Clone)]
pub(crate) struct Exchanges(Arc<Handle>);

/// Counts the clones, apart from the answers, which must not keep it open.
struct Handle(Arc<Shared>);

struct Shared {
    dialect: Box<dyn Dialect>,
    capabilities: Capabilities,
    phase: watch::Sender<Phase>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    under_way: usize,
    last_heard: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Open,
    /// Takes no new events.
    Retiring,
    Closed(CloseReason),
}

impl Exchanges {
    /// An open connection to an agent that takes these events.
    pub(crate) fn new(dialect: impl Dialect, capabilities: Capabilities) -> Self {
        Self(Arc::new(Handle(Arc::new(Shared {
            dialect: Box::new(dialect),
            capabilities,
            phase: watch::Sender::new(Phase::Open),
            state: Mutex::new(State {
                under_way: 0,
                last_heard: Instant::now(),
            }),
        }))))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.shared().capabilities
    }

    pub(crate) fn binds_requests(&self) -> bool {
        self.shared().dialect.binds_requests()
    }

    pub(crate) fn forget(&self, correlation_id: &str) {
        self.shared().dialect.forget(correlation_id);
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.shared().phase.borrow() == Phase::Open
    }

    pub(crate) fn under_way(&self) -> usize {
        self.shared().lock().under_way
    }

    pub(crate) fn last_heard(&self) -> Instant {
        self.shared().lock().last_heard
    }

    pub(crate) fn retire(&self) {
        self.shared().retire();
    }

    pub(crate) async fn no_longer_open(&self) {
        self.shared().reached(|phase| *phase != Phase::Open).await;
    }

    pub(crate) async fn closed(&self) {
        let is_closed = |phase: &Phase| matches!(phase, Phase::Closed(_));
        self.shared().reached(is_closed).await;
    }

    /// Resolves with the end of the connection.
    pub(crate) fn driver(&self) -> Pin<Box<dyn Future<Output = CloseReason> + Send>> {
        let mut phase = self.shared().phase.subscribe();
        Box::pin(async move {
            let closed = phase.wait_for(|phase| matches!(phase, Phase::Closed(_)));
            match closed.await.as_deref() {
                Ok(Phase::Closed(reason)) => reason.clone(),
                _ => CloseReason::Local,
            }
        })
    }

    pub(crate) fn ask(
        &self,
        event: &Event<'_>,
        guard: CallGuard,
    ) -> Result<PendingExchange<Decision>, CallError> {
        let shared = self.shared();
        if !self.is_open() {
            return Err(CallError::Closed);
        }
        Ok(PendingExchange::new(
            shared,
            shared.dialect.ask(event),
            guard,
        ))
    }

    pub(crate) fn ping(&self) -> PendingExchange<()> {
        let shared = self.shared();
        PendingExchange::new(shared, shared.dialect.ping(), CallGuard::none())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.retire();
    }
}

impl fmt::Debug for Exchanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchanges")
            .field("dialect", &self.shared().dialect)
            .field("under_way", &self.under_way())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reached(&self, is_it: impl Fn(&Phase) -> bool) {
        // The sender is in `self`, so it cannot be gone.
        let _ = self.phase.subscribe().wait_for(|phase| is_it(phase)).await;
    }

    fn retire(&self) {
        let is_idle = self.lock().under_way == 0;
        self.phase.send_if_modified(|phase| {
            let next = match phase {
                Phase::Open if !is_idle => Phase::Retiring,
                Phase::Open | Phase::Retiring if is_idle => Phase::Closed(CloseReason::Local),
                _ => return false,
            };
            *phase = next;
            true
        });
    }

    fn lost(&self) {
        self.phase.send_if_modified(|phase| {
            let is_news = !matches!(phase, Phase::Closed(_));
            if is_news {
                *phase = Phase::Closed(CloseReason::Peer);
            }
            is_news
        });
    }

    fn ended(&self) {
        self.lock().under_way -= 1;
        if *self.phase.borrow() == Phase::Retiring {
            self.retire();
        }
    }
}

/// An exchange that is under way. Dropping it ends the exchange, and the guard
/// of the call with it: the answer has nowhere to come to.
pub(crate) struct PendingExchange<T> {
    shared: Arc<Shared>,
    started: Instant,
    /// `None` after its end.
    exchange: Option<Exchange<T>>,
    guard: CallGuard,
}

impl<T> PendingExchange<T> {
    fn new(shared: &Arc<Shared>, exchange: Exchange<T>, guard: CallGuard) -> Self {
        shared.lock().under_way += 1;
        Self {
            shared: Arc::clone(shared),
            started: Instant::now(),
            exchange: Some(exchange),
            guard,
        }
    }

    fn end(&mut self) {
        if self.exchange.take().is_some() {
            self.guard = CallGuard::none();
            self.shared.ended();
        }
    }
}

impl<T> PendingExchange<T> {
    /// How long it has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl<T> Future for PendingExchange<T> {
    type Output = Result<T, CallError>;

    /// After its end, every further poll yields [`CallError::Closed`].
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(exchange) = &mut self.exchange else {
            return Poll::Ready(Err(CallError::Closed));
        };
        let result = ready!(exchange.as_mut().poll(cx));
        match &result {
            Err(CallError::Closed) => self.shared.lost(),
            _ => self.shared.lock().last_heard = Instant::now(),
        }
        self.end();
        Poll::Ready(result)
    }
}

impl<T> Drop for PendingExchange<T> {
    fn drop(&mut self) {
        self.end();
    }
}
