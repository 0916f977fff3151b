//! Tells a service manager how the process is doing (sd_notify(3)), where one asked for it by `NOTIFY_SOCKET`.

use sd_notify::NotifyState;

/// The configuration is in effect and requests are served.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Another configuration is being put into effect.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no time for the service manager"),
    }
}

/// The process takes its leave.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
