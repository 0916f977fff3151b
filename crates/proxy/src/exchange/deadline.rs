//! The time that a whole exchange has, from the head of the request to the end of the response: `timeouts` `total`.

use crate::reply;
use pingora::Error;
use std::{
    future::pending,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// When an exchange has to be over.
pub(super) struct Deadline {
    at: Option<Instant>,
    lifted: AtomicBool,
}

impl Deadline {
    pub(super) fn new(started: Instant, total: Option<Duration>) -> Self {
        Self {
            at: total.map(|total| started + total),
            lifted: AtomicBool::new(false),
        }
    }

    /// What begins now has no end of its own: a conversation, or events as they happen.
    pub(super) fn lift(&self) {
        self.lifted.store(true, Relaxed);
    }

    /// Waits until it has passed.
    pub(super) async fn passed(&self) -> Box<Error> {
        let Some(at) = self.at else {
            return pending().await;
        };
        tokio::time::sleep_until(at.into()).await;
        if self.lifted.load(Relaxed) {
            return pending().await;
        }
        Error::explain(reply::TOTAL_TIMEOUT, "the exchange has not come to its end").into_up()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    /// Longer than any deadline here.
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn it_passes_unless_it_is_lifted() {
        for (total, lifted, passes) in [
            (Some(Duration::from_secs(5)), false, true),
            (Some(Duration::from_secs(5)), true, false),
            (None, false, false),
        ] {
            let deadline = Deadline::new(tokio::time::Instant::now().into_std(), total);
            if lifted {
                deadline.lift();
            }
            let passed = timeout(LONG, deadline.passed()).await;
            assert_eq!(passed.is_ok(), passes, "{total:?} {lifted}");
        }
    }
}
