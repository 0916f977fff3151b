//! What an agent wants to stand in the proxy's log.

/// One entry. It comes over transports that have a message for it; a Unix
/// socket has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// How much it matters.
    pub level: LogLevel,
    /// What happened, for people.
    pub message: String,
    /// What goes with it, in order.
    pub fields: Vec<(String, String)>,
}

/// How much an entry of a log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogLevel {
    /// Of interest to who looks for a mistake.
    Debug,
    /// What happens in good order.
    Info,
    /// What somebody should look at.
    Warn,
    /// What does not work.
    Error,
}

impl LogLevel {
    /// The name, as in `warn`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}
