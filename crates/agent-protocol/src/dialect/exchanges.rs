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
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::v2::CloseReason;
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

    /// The same; the agent may ask for more time while it is waited for.
    fn ask_granting(&self, event: &Event<'_>, _granted: Option<MoreTime>) -> Exchange<Decision> {
        self.ask(event)
    }

    /// Whether agents may ask for more time here.
    fn grants_time(&self) -> bool {
        false
    }

    /// Finds out whether the agent is there.
    fn ping(&self) -> Exchange<()>;

    /// Whether the events of one request belong together here: the agent is
    /// asked all of them over the same connection, and told their end.
    fn binds_requests(&self) -> bool {
        false
    }

    /// After the head of the request with this correlation id, which comes next, the agent is shown its body.
    fn body_follows(&self, _correlation_id: &str) {}

    /// Nothing more comes about the request with this correlation id.
    fn forget(&self, _correlation_id: &str) {}

    /// How many exchanges there should be at once.
    fn most_under_way(&self) -> usize {
        usize::MAX
    }

    /// Why the connection has ended, when it has; looked at after each
    /// exchange, and when [`lost`](Self::lost) is.
    fn over(&self) -> Option<CloseReason> {
        None
    }

    /// Resolves when the agent ends the connection by itself, if that can be
    /// seen.
    fn lost(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

/// More time for an answer, when the agent has asked for it and may have it:
/// once for each event. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MoreTime(Arc<OnceLock<Instant>>);

impl MoreTime {
    /// The answer may take this long from now on.
    pub(crate) fn grant(&self, time: Duration) {
        // Only the first counts.
        let _ = self.0.set(Instant::now() + time);
    }

    /// Until when the answer may take, if the agent has asked for it.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.0.get().copied()
    }
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

    pub(crate) fn body_follows(&self, correlation_id: &str) {
        self.shared().dialect.body_follows(correlation_id);
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

    pub(crate) fn most_under_way(&self) -> usize {
        self.shared().dialect.most_under_way()
    }

    /// Whether it has ended, and not by the agent.
    pub(crate) fn was_given_up(&self) -> bool {
        *self.shared().phase.borrow() == Phase::Closed(CloseReason::Local)
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

    /// Resolves with the end of the connection, and sees to it when the agent
    /// ends it.
    pub(crate) fn driver(&self) -> Pin<Box<dyn Future<Output = CloseReason> + Send>> {
        let shared = Arc::clone(self.shared());
        Box::pin(async move {
            let is_closed = |phase: &Phase| matches!(phase, Phase::Closed(_));
            tokio::select! {
                () = shared.reached(is_closed) => {}
                () = shared.dialect.lost() => shared.close(shared.dialect.over()),
            }
            match &*shared.phase.borrow() {
                Phase::Closed(reason) => reason.clone(),
                Phase::Open | Phase::Retiring => CloseReason::Local,
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
        let granted = shared.dialect.grants_time().then(MoreTime::default);
        let exchange = shared.dialect.ask_granting(event, granted.clone());
        let mut pending = PendingExchange::new(shared, exchange, guard);
        pending.granted = granted;
        Ok(pending)
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

    // Without a reason it was the agent.
    fn close(&self, reason: Option<CloseReason>) {
        self.phase.send_if_modified(|phase| {
            let is_news = !matches!(phase, Phase::Closed(_));
            if is_news {
                *phase = Phase::Closed(reason.unwrap_or(CloseReason::Peer));
            }
            is_news
        });
    }

    fn ended(&self) {
        self.lock().under_way -= 1;
        if let Some(reason) = self.dialect.over() {
            self.close(Some(reason));
        }
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
    granted: Option<MoreTime>,
}

impl<T> PendingExchange<T> {
    fn new(shared: &Arc<Shared>, exchange: Exchange<T>, guard: CallGuard) -> Self {
        shared.lock().under_way += 1;
        Self {
            shared: Arc::clone(shared),
            started: Instant::now(),
            exchange: Some(exchange),
            guard,
            granted: None,
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
    /// Where the agent may ask for more time.
    pub(crate) fn more_time(&self) -> Option<&MoreTime> {
        self.granted.as_ref()
    }

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
        self.end();
        match &result {
            Err(CallError::Closed) => self.shared.close(None),
            _ => self.shared.lock().last_heard = Instant::now(),
        }
        Poll::Ready(result)
    }
}

impl<T> Drop for PendingExchange<T> {
    fn drop(&mut self) {
        self.end();
    }
}
