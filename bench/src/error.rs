//! What can go wrong while measuring.

use std::{io, path::Path};

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A process of ours ended before its work was done.
    #[error("{name} ended early ({status}); the end of its output:\n{output}")]
    ProcessEnded {
        /// Its role.
        name: String,
        /// How it ended.
        status: String,
        /// The last lines that it wrote.
        output: String,
    },
    /// A process did not become ready.
    #[error("{name} was not ready after {seconds} s; the end of its output:\n{output}")]
    NotReady {
        /// Its role.
        name: String,
        /// How long it was waited for.
        seconds: u64,
        /// The last lines that it wrote.
        output: String,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The load generator cannot go on.
    #[error("gave up after {errors} errors, the first of them: {first}")]
    TooManyErrors {
        /// How many requests failed.
        errors: u64,
        /// What the first one met.
        first: String,
    },
    /// A report could not be read or written.
    #[error("{doing}: {source}")]
    Json {
        /// What was being done.
        doing: String,
        /// The parser's answer.
        source: serde_json::Error,
    },
}

impl BenchError {
    /// For `map_err`: an I/O error with what was being done.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// For `map_err`: an I/O error on a file.
    pub(crate) fn file(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("{doing} {}", path.display()))
    }
}
