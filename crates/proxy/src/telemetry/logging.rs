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
    let filter = wanted.map_or_else(|| of_level(settings.level), filter);
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
        let filter = self
            .filter
            .as_ref()
            .map_or(Ok(()), |filter| filter.reload(of_level(settings.level)));
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

fn of_level(level: LogLevel) -> EnvFilter {
    filter(level.name())
}

/// What these directives want, and nothing of those who see requests as they are, unless they are named: they print whole
/// heads, secrets included. Pingora also reports every client that goes away as an error of its own; the access log has all of
/// that with more of its circumstances. Errors are shown where nothing else is wanted, or nothing that is understood.
fn filter(directives: &str) -> EnvFilter {
    // The beginnings of names stand for all of them, as in `pingora_core`. Of two directives for one name the last one holds.
    EnvFilter::new(format!("error,pingora=off,h2=off,hyper=off,{directives}"))
}

fn colours() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::fmt::MakeWriter;

    /// Which of these names the log has at the level `debug` and, after the bar, at `error`.
    fn shown(directives: &str) -> String {
        let (debug, errors) = Lines::of(filter(directives));
        format!("{debug}|{errors}")
    }

    #[test]
    fn pingora_is_silent_until_it_is_named() {
        for (directives, expected) in [
            ("", "|own other"),
            ("trace", "own other|own other"),
            ("DEBUG", "own other|own other"),
            ("off", "|"),
            ("nonsense=nonsense", "|own other"),
            ("info,portcullis=debug", "own|own other"),
            ("trace,pingora_core=off", "own other|own other"),
            ("trace,pingora=debug", "own other core|own other core"),
            ("error,pingora_core=debug", "core|own other core"),
            ("trace,h2=error", "own other|own other h2"),
            ("trace,hyper=error", "own other|own other hyper"),
        ] {
            assert_eq!(shown(directives), expected, "{directives:?}");
        }
    }

    /// What was written, as names.
    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Lines {
        fn of(filter: EnvFilter) -> (String, String) {
            let lines = Self::default();
            let format = fmt::layer()
                .without_time()
                .with_ansi(false)
                .with_target(false);
            let log = tracing_subscriber::registry()
                .with(format.with_writer(lines.clone()))
                .with(filter);
            tracing::subscriber::with_default(log, || {
                tracing::debug!(target: "portcullis", "own");
                tracing::debug!(target: "other", "other");
                tracing::debug!(target: "pingora_core::protocols", "core");
                tracing::debug!(target: "h2::codec", "h2");
                tracing::debug!(target: "hyper_util::client", "hyper");
                tracing::error!(target: "portcullis", "own");
                tracing::error!(target: "other", "other");
                tracing::error!(target: "pingora_core::protocols", "core");
                tracing::error!(target: "h2::codec", "h2");
                tracing::error!(target: "hyper_util::client", "hyper");
            });
            let text = lines.0.lock().unwrap().clone();
            let text = String::from_utf8(text).unwrap();
            let of_level = |level: &str| {
                let of_level = text
                    .lines()
                    .filter_map(|line| line.trim().strip_prefix(level));
                of_level.map(str::trim).collect::<Vec<_>>().join(" ")
            };
            (of_level("DEBUG"), of_level("ERROR"))
        }
    }

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }
}
