//! The workers as the control thread sees them: started together, told the same, ended together.

use super::{
    ServeError,
    listeners::Assignment,
    worker::{self, Order, Shared, Stage},
};
use crate::snapshot::Snapshot;
use std::{io, sync::Arc, thread::JoinHandle, time::Duration};
use tokio::sync::{mpsc, oneshot, watch};

/// A worker does what it is told between two requests; this is long enough for one that has much to do.
const OBEYS_WITHIN: Duration = Duration::from_secs(5);

/// All workers of the process.
pub(super) struct Workers {
    orders: Vec<mpsc::Sender<Order>>,
    threads: Vec<JoinHandle<()>>,
    stage: watch::Sender<Stage>,
}

impl Workers {
    /// Starts the threads. They connect to the agents of the snapshot, and accept nothing before the first
    /// [`commit`](Self::commit).
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(super) fn start(
        count: usize,
        shared: &Arc<Shared>,
        first: &Arc<Snapshot>,
    ) -> io::Result<Self> {
        let mut workers = Self {
            orders: Vec::new(),
            threads: Vec::new(),
            stage: watch::Sender::new(Stage::Running),
        };
        for number in 0..count {
            let (sender, orders) = mpsc::channel(1);
            let (shared, first) = (shared.clone(), first.clone());
            let stage = workers.stage.subscribe();
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    if let Err(error) = worker::run(&shared, first, orders, stage) {
                        tracing::error!(%error, "worker cannot run");
                    }
                })?;
            workers.orders.push(sender);
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    pub(super) fn count(&self) -> usize {
        self.threads.len()
    }

    /// All workers connect to the agents of a snapshot.
    ///
    /// # Errors
    /// A worker does not do what it is told.
    pub(super) async fn prepare(&self, snapshot: &Arc<Snapshot>) -> Result<(), ServeError> {
        self.tell(self.orders.iter().map(|_| ()), |(), done| {
            Order::Prepare(snapshot.clone(), done)
        })
        .await
    }

    /// All workers serve what they prepared, on these listeners.
    ///
    /// # Errors
    /// A worker does not do what it is told.
    pub(super) async fn commit(&self, assignments: Vec<Vec<Assignment>>) -> Result<(), ServeError> {
        self.tell(assignments.into_iter(), Order::Commit).await
    }

    /// All workers forget what they prepared.
    pub(super) async fn discard(&self) {
        let told = self.tell(self.orders.iter().map(|_| ()), |(), done| {
            Order::Discard(done)
        });
        if let Err(error) = told.await {
            tracing::error!(%error, "a worker keeps what it prepared");
        }
    }

    async fn tell<T>(
        &self,
        each: impl Iterator<Item = T>,
        order: impl Fn(T, oneshot::Sender<()>) -> Order,
    ) -> Result<(), ServeError> {
        let mut confirmations = Vec::new();
        for (worker, what) in self.orders.iter().zip(each) {
            let (done, confirmation) = oneshot::channel();
            let told = worker.send(order(what, done));
            let told = tokio::time::timeout(OBEYS_WITHIN, told).await;
            let Ok(Ok(())) = told else {
                return Err(ServeError::Worker);
            };
            confirmations.push(confirmation);
        }
        for confirmation in confirmations {
            let confirmed = tokio::time::timeout(OBEYS_WITHIN, confirmation).await;
            let Ok(Ok(())) = confirmed else {
                return Err(ServeError::Worker);
            };
        }
        Ok(())
    }

    /// No worker accepts anything any more; connections end after their requests.
    pub(super) fn drain(&self) {
        self.stage.send_replace(Stage::Draining);
    }

    /// Ends the workers, whatever they have left to do.
    pub(super) fn end(self) {
        self.stage.send_replace(Stage::Ended);
        for thread in self.threads {
            // A worker that panicked has nothing left to wait for.
            let _ = thread.join();
        }
    }
}
