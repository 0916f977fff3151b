//! What a pool has to know of a connection, and how it makes one. There is one kind of it outside of tests; in them there are
//! such that fail when the test says so.

use crate::agent::Agent;
use portcullis_agent_protocol::{AnyConnection, AnyDriver, Capabilities, Condition, ConnectError};
use std::{future::Future, sync::Arc, time::Instant};

/// Makes connections.
pub(crate) trait Connect: Send + Sync + 'static {
    /// What it makes.
    type Line: Line;

    /// Opens a connection to one of the agent's replicas and has it accept its configuration. Ends in time.
    fn connect(
        &self,
        agent: &Arc<Agent>,
        replica: usize,
    ) -> impl Future<Output = Result<Self::Line, ConnectError>> + Send;
}

/// A connection; clones share it. The methods are those of [`AnyConnection`].
pub(crate) trait Line: Clone + Send + Sync + 'static {
    fn capabilities(&self) -> &Capabilities;
    /// Whether an answer names its event. Without it the agent is taken for one that handles one event at a time.
    fn numbers_events(&self) -> bool;
    fn is_open(&self) -> bool;
    fn in_flight(&self) -> usize;
    fn unanswered(&self) -> usize;
    fn condition(&self) -> Condition;
    fn condition_changed(&self, seen: Condition) -> impl Future<Output = Option<Condition>> + Send;
    fn last_heard(&self) -> Instant;
    /// Whether the agent answers a ping. The caller bounds the wait.
    fn ping(&self) -> impl Future<Output = bool> + Send;
    fn retire(&self);
    /// How many events should be under way on it at once.
    fn most_in_flight(&self) -> usize {
        usize::MAX
    }
    /// It has ended because a question was given up, which says nothing about the agent.
    fn was_given_up(&self) -> bool {
        false
    }
    /// It is not used by this pool any longer.
    fn leave(&self) {
        self.retire();
    }
    fn no_longer_open(&self) -> impl Future<Output = ()> + Send;
    fn closed(&self) -> impl Future<Output = ()> + Send;
}

/// Reaches the targets that are configured.
pub(crate) struct Dial;

impl Connect for Dial {
    type Line = AnyConnection;

    async fn connect(
        &self,
        agent: &Arc<Agent>,
        replica: usize,
    ) -> Result<AnyConnection, ConnectError> {
        let target = &agent.settings.targets[replica];
        let (connection, driver) = AnyConnection::connect(target, &agent.connect).await?;
        tokio::spawn(drive(agent.clone(), driver));
        Ok(connection)
    }
}

async fn drive(agent: Arc<Agent>, driver: AnyDriver) {
    let reason = driver.await;
    tracing::info!(agent = %agent.id(), %reason, "agent connection ended");
}

impl Line for AnyConnection {
    fn capabilities(&self) -> &Capabilities {
        self.capabilities()
    }

    fn numbers_events(&self) -> bool {
        self.tells_answers_apart()
    }

    fn is_open(&self) -> bool {
        self.is_open()
    }

    fn in_flight(&self) -> usize {
        self.in_flight()
    }

    fn unanswered(&self) -> usize {
        self.unanswered()
    }

    fn condition(&self) -> Condition {
        self.condition()
    }

    async fn condition_changed(&self, seen: Condition) -> Option<Condition> {
        self.condition_changed(seen).await
    }

    fn last_heard(&self) -> Instant {
        self.last_heard()
    }

    async fn ping(&self) -> bool {
        self.ping().await.is_ok()
    }

    fn retire(&self) {
        self.retire();
    }

    fn most_in_flight(&self) -> usize {
        self.most_in_flight()
    }

    fn was_given_up(&self) -> bool {
        self.was_given_up()
    }

    fn leave(&self) {
        self.leave();
    }

    async fn no_longer_open(&self) {
        self.no_longer_open().await;
    }

    async fn closed(&self) {
        self.closed().await;
    }
}
