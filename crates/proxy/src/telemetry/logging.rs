//! The log of the process, on standard error.

use portcullis_config::{LogFormat, LogLevel, LogSettings};
use std::io::IsTerminal;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, registry::LookupSpan, reload,
    util::SubscriberInitExt,
};

type Format = Box<dyn Layer<Registry> + Send + Sync>;

/// Changes what the running log writes, and how.
pub(crate) struct Handle {
    format: reload::Handle<Format, Registry>,
    /// `None` when the environment decides.
    #[expect(
        clippy::type_complexity,
        reason = "the type of the layers, outermost first"
    )]
    filter: Option<
        reload::Handle<
            EnvFilter,
            tracing_subscriber::layer::Layered<reload::Layer<Format, Registry>, Registry>,
        >,
    >,
}

/// Sets up the log. `PORTCULLIS_LOG`, or else `RUST_LOG`, wins over the configuration; `wanted` is the text of the first that
/// is set.
pub(crate) fn start(settings: LogSettings, wanted: Option<&str>) -> Handle {
    let filter = wanted.map_or_else(|| default_filter(settings.level), EnvFilter::new);
    let (format, format_handle) = reload::Layer::new(layer(settings.format));
    let (filter, filter_handle) = reload::Layer::new(filter);
    tracing_subscriber::registry()
        .with(format)
        .with(filter)
        .init();
    Handle {
        format: format_handle,
        filter: wanted.is_none().then_some(filter_handle),
    }
}

impl Handle {
    /// Obeys other settings from now on.
    pub(crate) fn apply(&self, settings: LogSettings) {
        let format = self.format.reload(layer(settings.format));
        let filter = self.filter.as_ref().map_or(Ok(()), |filter| {
            filter.reload(default_filter(settings.level))
        });
        if let Err(error) = format.and(filter) {
            tracing::error!(%error, "the log cannot be changed");
        }
    }
}

fn layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    match format {
        LogFormat::Text => fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(colours())
            .with_target(false)
            .boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(std::io::stderr)
            .boxed(),
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
