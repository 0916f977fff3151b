//! The log of the process, on standard error.

use portcullis_config::{LogFormat, LogLevel, LogSettings};
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Sets up the log. `PORTCULLIS_LOG`, or else `RUST_LOG`, wins over the configuration; `wanted` is the text of the first that
/// is set.
pub(crate) fn start(settings: LogSettings, wanted: Option<&str>) {
    let filter = wanted.map_or_else(|| default_filter(settings.level), EnvFilter::new);
    let registry = tracing_subscriber::registry().with(filter);
    match settings.format {
        LogFormat::Text => registry
            .with(
                fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_ansi(colours())
                    .with_target(false),
            )
            .init(),
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .init(),
    }
}

/// Pingora reports every client that goes away as an error of its own; the access log has all of that with more of its
/// circumstances.
fn default_filter(level: LogLevel) -> EnvFilter {
    let level = level.name();
    EnvFilter::new(format!(
        "{level},pingora_core=off,pingora_proxy=off,pingora_pool=off,h2=off,hyper=off"
    ))
}

fn colours() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
