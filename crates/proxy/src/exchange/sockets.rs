//! The sockets of the process whose frames go through agents: how many are open, and how they learn that it ends.

use prometheus_client::metrics::gauge::Gauge;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// Of the whole process, whatever the configuration.
#[derive(Debug)]
pub(crate) struct Sockets {
    ending: watch::Sender<bool>,
    open: watch::Sender<usize>,
    gauge: Gauge,
}

impl Sockets {
    /// The gauge shows how many are open.
    pub(crate) fn new(gauge: Gauge) -> Self {
        Self {
            ending: watch::Sender::new(false),
            open: watch::Sender::new(0),
            gauge,
        }
    }

    /// Counts a socket as open until this is dropped.
    pub(super) fn open(self: &Arc<Self>) -> Open {
        self.open.send_modify(|open| *open += 1);
        self.gauge.inc();
        Open(self.clone())
    }

    /// Waits until the process ends.
    pub(super) async fn ending(&self) {
        // An error cannot come: the sender is here.
        let _ = self.ending.subscribe().wait_for(|ending| *ending).await;
    }

    /// Tells all sockets that the process ends, and waits until they are closed. Returns how many are not.
    pub(crate) async fn close(&self, within: Duration) -> usize {
        self.ending.send_replace(true);
        let mut open = self.open.subscribe();
        let none = open.wait_for(|open| *open == 0);
        match tokio::time::timeout(within, none).await {
            Ok(_) => 0,
            Err(_) => *self.open.borrow(),
        }
    }
}

/// An open socket.
#[derive(Debug)]
pub(super) struct Open(Arc<Sockets>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
        self.0.gauge.dec();
    }
}
