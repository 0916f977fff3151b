//! A connection to an agent of any dialect: what its owner has to know of it,
//! whatever is spoken there.

use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::dialect::authz::{ExtAuthzGrpc, ExtAuthzHttp, ForwardAuth};
use crate::dialect::exchanges::{Dialect, Exchanges, MoreTime, PendingExchange};
use crate::dialect::ext_proc::ExtProc;
use crate::dialect::v1;
use crate::dialect::v2::grpc;
use crate::dialect::v2::reverse::Lease;
use crate::{
    CallError, CallGuard, CancelReason, Capabilities, CloseReason, Condition, ConnectError,
    ConnectOptions, Connection, ConnectionDriver, Decision, Event, EventKind, ExtAuthzGrpcTarget,
    ExtAuthzHttpTarget, ExtProcTarget, ForwardAuthTarget, PendingAnswer, PendingPong, Target,
};

/// A connection to an agent of any dialect. Clones share it; when the last is
/// dropped, it finishes what is outstanding and closes.
#[derive(Debug, Clone)]
pub struct AnyConnection(Kind);

#[derive(Debug, Clone)]
enum Kind {
    V2(Connection),
    Reverse(Lease),
    Exchanges(Exchanges),
}

impl AnyConnection {
    /// Reaches the agent and does what has to be done before it can be asked;
    /// all under one deadline. The driver has to be spawned on the runtime
    /// that this was called on.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(
        target: &Target,
        options: &ConnectOptions,
    ) -> Result<(Self, AnyDriver), ConnectError> {
        match target {
            Target::UnixSocket(path) => {
                let (connection, driver) = Connection::connect(path, options).await?;
                Ok((connection.into(), AnyDriver(Driver::V2(Box::new(driver)))))
            }
            Target::V2Grpc { endpoint, package } => {
                let (connection, driver) = grpc::connect(endpoint, package, options).await?;
                let driver = AnyDriver(Driver::V2Grpc(Box::new(driver)));
                Ok((connection.into(), driver))
            }
            Target::Reverse(agent) => {
                let lease = agent.lease(options)?;
                let ended = Lease::ended(lease.connection().clone(), lease.watch());
                let driver = AnyDriver(Driver::Exchanges(Box::pin(ended)));
                Ok((Self(Kind::Reverse(lease)), driver))
            }
            Target::V1UnixSocket(path) => {
                let (agent, capabilities) = v1::UnixAgent::connect(path, options).await?;
                Ok(Self::exchanging(agent, capabilities))
            }
            Target::V1Http(endpoint) => {
                let (agent, capabilities) = v1::HttpAgent::connect(endpoint, options).await?;
                Ok(Self::exchanging(agent, capabilities))
            }
            Target::ExtProc(agent) => {
                let ExtProcTarget {
                    endpoint,
                    options: spoken,
                } = &**agent;
                let (agent, capabilities) = ExtProc::connect(endpoint, spoken, options).await?;
                Ok(Self::exchanging(agent, capabilities))
            }
            Target::ExtAuthzGrpc(agent) => {
                let ExtAuthzGrpcTarget {
                    endpoint,
                    options: spoken,
                } = &**agent;
                let (agent, capabilities) =
                    ExtAuthzGrpc::connect(endpoint, spoken, options).await?;
                Ok(Self::exchanging(agent, capabilities))
            }
            Target::ExtAuthzHttp(agent) => {
                let ExtAuthzHttpTarget {
                    endpoint,
                    options: spoken,
                } = &**agent;
                let (agent, capabilities) =
                    ExtAuthzHttp::connect(endpoint, spoken, options).await?;
                Ok(Self::exchanging(agent, capabilities))
            }
            Target::ForwardAuth(agent) => {
                let ForwardAuthTarget {
                    endpoint,
                    options: spoken,
                } = &**agent;
                let (agent, capabilities) = ForwardAuth::connect(endpoint, spoken, options).await?;
                Ok(Self::exchanging(agent, capabilities))
            }
        }
    }

    fn exchanging(dialect: impl Dialect, capabilities: Capabilities) -> (Self, AnyDriver) {
        let exchanges = Exchanges::new(dialect, capabilities);
        let driver = AnyDriver(Driver::Exchanges(exchanges.driver()));
        (Self(Kind::Exchanges(exchanges)), driver)
    }

    /// The connection of protocol version 2 that this is, for what no other
    /// dialect has.
    #[must_use]
    pub fn as_v2(&self) -> Option<&Connection> {
        match &self.0 {
            Kind::V2(connection) => Some(connection),
            Kind::Reverse(lease) => Some(lease.connection()),
            Kind::Exchanges(_) => None,
        }
    }

    /// What the agent said about itself, or what its dialect implies.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        match &self.0 {
            Kind::V2(connection) => connection.capabilities(),
            Kind::Reverse(lease) => lease.connection().capabilities(),
            Kind::Exchanges(exchanges) => exchanges.capabilities(),
        }
    }

    /// Whether the agent wants events of this kind.
    #[must_use]
    pub fn supports(&self, kind: EventKind) -> bool {
        self.capabilities().supports(kind)
    }

    /// Whether an answer always belongs to its question, however late it
    /// comes. Legacy peers name the request alone.
    #[must_use]
    pub fn tells_answers_apart(&self) -> bool {
        match &self.0 {
            Kind::V2(connection) => connection.extensions().event_id,
            Kind::Reverse(lease) => lease.connection().extensions().event_id,
            Kind::Exchanges(_) => true,
        }
    }

    /// Whether the events of one request belong together: all of them go over
    /// this connection, and [`forget`](Self::forget) is called at their end.
    #[must_use]
    pub fn binds_requests(&self) -> bool {
        match &self.0 {
            Kind::V2(_) | Kind::Reverse(_) => false,
            Kind::Exchanges(exchanges) => exchanges.binds_requests(),
        }
    }

    /// After the head of the request with this correlation id, which is asked
    /// about next, the agent is shown its body. Only where the events of a
    /// request belong together does that make a difference.
    pub fn body_follows(&self, correlation_id: &str) {
        match &self.0 {
            Kind::V2(_) | Kind::Reverse(_) => {}
            Kind::Exchanges(exchanges) => exchanges.body_follows(correlation_id),
        }
    }

    /// Nothing more comes about the request with this correlation id.
    pub fn forget(&self, correlation_id: &str) {
        match &self.0 {
            Kind::V2(_) | Kind::Reverse(_) => {}
            Kind::Exchanges(exchanges) => exchanges.forget(correlation_id),
        }
    }

    /// How many events the agent says it works on at once, over all of its
    /// connections. `None` when the agent does not say.
    #[must_use]
    pub fn max_concurrency(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.capabilities().limits.max_concurrency)
    }

    /// How many events should be outstanding on this connection at once. More
    /// are no mistake, but have to wait for each other.
    #[must_use]
    pub fn most_in_flight(&self) -> usize {
        match &self.0 {
            Kind::V2(_) | Kind::Reverse(_) => usize::MAX,
            Kind::Exchanges(exchanges) => exchanges.most_under_way(),
        }
    }

    /// Whether the connection has ended because a question on it was given up,
    /// which says nothing about the agent.
    #[must_use]
    pub fn was_given_up(&self) -> bool {
        match &self.0 {
            Kind::V2(_) | Kind::Reverse(_) => false,
            Kind::Exchanges(exchanges) => exchanges.was_given_up(),
        }
    }

    /// Whether new events are accepted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match &self.0 {
            Kind::V2(connection) => connection.is_open(),
            Kind::Reverse(lease) => lease.is_open(),
            Kind::Exchanges(exchanges) => exchanges.is_open(),
        }
    }

    /// How many calls are being waited for.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        match &self.0 {
            Kind::V2(connection) => connection.in_flight(),
            Kind::Reverse(lease) => lease.connection().in_flight(),
            Kind::Exchanges(exchanges) => exchanges.under_way(),
        }
    }

    /// How many events the agent has not answered, whether or not somebody
    /// still waits for them.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        match &self.0 {
            Kind::V2(connection) => connection.unanswered(),
            Kind::Reverse(lease) => lease.connection().unanswered(),
            Kind::Exchanges(exchanges) => exchanges.under_way(),
        }
    }

    /// How the agent says that it is; well, in dialects that do not say.
    #[must_use]
    pub fn condition(&self) -> Condition {
        match &self.0 {
            Kind::V2(connection) => connection.condition(),
            Kind::Reverse(lease) => lease.connection().condition(),
            Kind::Exchanges(_) => Condition::default(),
        }
    }

    /// Waits until the condition is another than this one that was seen; at
    /// once when it is already. `None` when the connection is gone and it
    /// still is what was seen.
    pub async fn condition_changed(&self, seen: Condition) -> Option<Condition> {
        match &self.0 {
            Kind::V2(connection) => connection.condition_changed(seen).await,
            Kind::Reverse(lease) => lease.connection().condition_changed(seen).await,
            Kind::Exchanges(exchanges) => {
                exchanges.closed().await;
                None
            }
        }
    }

    /// Takes no new events; closes when nobody waits any longer.
    pub fn retire(&self) {
        match &self.0 {
            Kind::V2(connection) => connection.retire(),
            Kind::Reverse(lease) => lease.connection().retire(),
            Kind::Exchanges(exchanges) => exchanges.retire(),
        }
    }

    /// Is asked no more by this owner: it retires, unless the agent dialled it,
    /// for then others ask over it too.
    pub fn leave(&self) {
        match &self.0 {
            Kind::V2(_) | Kind::Exchanges(_) => self.retire(),
            Kind::Reverse(lease) => lease.leave(),
        }
    }

    /// Waits until the connection is gone, or was [left](Self::leave).
    pub async fn closed(&self) {
        match &self.0 {
            Kind::V2(connection) => connection.closed().await,
            Kind::Reverse(lease) => tokio::select! {
                () = lease.connection().closed() => {}
                () = lease.left() => {}
            },
            Kind::Exchanges(exchanges) => exchanges.closed().await,
        }
    }

    /// Waits until no new events are accepted.
    pub async fn no_longer_open(&self) {
        match &self.0 {
            Kind::V2(connection) => connection.no_longer_open().await,
            Kind::Reverse(lease) => tokio::select! {
                () = lease.connection().no_longer_open() => {}
                () = lease.left() => {}
            },
            Kind::Exchanges(exchanges) => exchanges.no_longer_open().await,
        }
    }

    /// When the agent was heard last; before the first time, when the
    /// connection was opened.
    #[must_use]
    pub fn last_heard(&self) -> Instant {
        match &self.0 {
            Kind::V2(connection) => connection.last_heard(),
            Kind::Reverse(lease) => lease.connection().last_heard(),
            Kind::Exchanges(exchanges) => exchanges.last_heard(),
        }
    }

    /// Asks whether the agent is there. How long to wait for the answer is for
    /// the caller to decide.
    pub fn ping(&self) -> AnyPong {
        AnyPong(match &self.0 {
            Kind::V2(connection) => Pong::V2(connection.ping()),
            Kind::Reverse(lease) => Pong::V2(lease.connection().ping()),
            Kind::Exchanges(exchanges) => Pong::Exchange(exchanges.ping()),
        })
    }

    /// Asks about an event. This never waits. The guard is held as long as the
    /// agent may be working on the event; see [`CallGuard`].
    ///
    /// Whether the agent wants events of this kind, and that it has answered
    /// the one before of the same request, is for the caller to see to.
    ///
    /// # Errors
    /// As [`Connection::send`]. Nothing was sent then, and the guard is
    /// dropped.
    pub fn send(&self, event: &Event<'_>, guard: CallGuard) -> Result<AnyAnswer, CallError> {
        let answer = match &self.0 {
            Kind::V2(connection) => Answer::V2(connection.send(event, guard)?),
            Kind::Reverse(lease) if !lease.is_open() => return Err(CallError::Closed),
            Kind::Reverse(lease) => Answer::V2(lease.connection().send(event, guard)?),
            Kind::Exchanges(exchanges) => Answer::Exchange(exchanges.ask(event, guard)?),
        };
        Ok(AnyAnswer(answer))
    }
}

impl From<Connection> for AnyConnection {
    fn from(connection: Connection) -> Self {
        Self(Kind::V2(connection))
    }
}

/// What a connection needs to go on; to be spawned on the runtime that it was
/// made on. It ends when the connection ends, and says why.
#[must_use = "without its driver a connection does nothing"]
pub struct AnyDriver(Driver);

enum Driver {
    V2(Box<ConnectionDriver>),
    V2Grpc(Box<grpc::GrpcDriver>),
    Exchanges(Pin<Box<dyn Future<Output = CloseReason> + Send>>),
}

impl Future for AnyDriver {
    type Output = CloseReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        match &mut self.0 {
            Driver::V2(driver) => Pin::new(&mut **driver).poll(cx),
            Driver::V2Grpc(driver) => Pin::new(&mut **driver).poll(cx),
            Driver::Exchanges(end) => end.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for AnyDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyDriver").finish_non_exhaustive()
    }
}

/// The answer to one event, when it comes. Dropping it gives it up, as the
/// dialect has it; no late answer is ever taken for another.
#[must_use = "an answer that nobody waits for is thrown away"]
pub struct AnyAnswer(Answer);

enum Answer {
    V2(PendingAnswer),
    Exchange(PendingExchange<Decision>),
}

impl AnyAnswer {
    /// Where agents may ask for more time: what they were granted.
    #[must_use]
    pub fn more_time(&self) -> Option<&MoreTime> {
        match &self.0 {
            Answer::V2(_) => None,
            Answer::Exchange(answer) => answer.more_time(),
        }
    }

    /// Drops it, and tells an agent that understands it why.
    pub fn cancel(self, reason: CancelReason) {
        match self.0 {
            Answer::V2(answer) => answer.cancel(reason),
            Answer::Exchange(answer) => drop(answer),
        }
    }
}

impl Future for AnyAnswer {
    type Output = Result<Decision, CallError>;

    /// After the answer, every further poll yields [`CallError::Closed`].
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Answer::V2(answer) => Pin::new(answer).poll(cx),
            Answer::Exchange(answer) => Pin::new(answer).poll(cx),
        }
    }
}

impl fmt::Debug for AnyAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyAnswer").finish_non_exhaustive()
    }
}

/// How long the agent took to give a sign of life.
#[must_use = "a ping that nobody waits for says nothing"]
pub struct AnyPong(Pong);

enum Pong {
    V2(PendingPong),
    Exchange(PendingExchange<()>),
}

impl Future for AnyPong {
    type Output = Result<Duration, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Pong::V2(pong) => Pin::new(pong).poll(cx),
            Pong::Exchange(pong) => {
                let answered = ready!(Pin::new(&mut *pong).poll(cx));
                Poll::Ready(answered.map(|()| pong.elapsed()))
            }
        }
    }
}

impl fmt::Debug for AnyPong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyPong").finish_non_exhaustive()
    }
}
