//! The signals that the process obeys.

use std::{io, sync::Arc, time::Duration};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// Several requests to reload within this time are one.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Listens from the moment it is made. An agent that may ask for a reload is heard like a signal. SIGPIPE is ignored by every Rust program.
pub(super) struct Signals {
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
    hangup: Signal,
    reopen: Signal,
    /// What agents tell.
    asked: Arc<Notify>,
}

/// How a signal wants the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Requests in flight are finished first.
    InOrder,
    AtOnce,
}

/// What a signal wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    End(End),
    /// Reads the configuration again.
    Reload,
    /// Opens the log files again, because somebody has moved them.
    Reopen,
}

impl Signals {
    pub(super) fn listen(asked: Arc<Notify>) -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            asked,
        })
    }

    /// Waits for a signal.
    pub(super) async fn next(&mut self) -> Wanted {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => Wanted::End(End::AtOnce),
            _ = self.terminate.recv() => Wanted::End(End::InOrder),
            _ = self.quit.recv() => Wanted::End(End::InOrder),
            _ = self.reopen.recv() => Wanted::Reopen,
            _ = self.hangup.recv() => Wanted::Reload,
            () = self.asked.notified() => Wanted::Reload,
        }
    }

    /// Waits for a signal that ends the process. Others that come meanwhile are kept for later.
    pub(super) async fn end(&mut self) -> End {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => End::AtOnce,
            _ = self.terminate.recv() => End::InOrder,
            _ = self.quit.recv() => End::InOrder,
        }
    }

    /// After a request to reload: waits for more of them, which are the same request.
    pub(super) async fn reload_settles(&mut self) {
        let more = async { while self.hangup.recv().await.is_some() {} };
        // The end of the time is what is waited for.
        let _ = tokio::time::timeout(DEBOUNCE, more).await;
    }
}
