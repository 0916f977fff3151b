//! `reported-metrics` and `allow-reload` of an agent: what it may say unasked.

use std::time::Duration;

/// What is done with that which an agent says unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reports {
    /// Series of its own metrics that are shown with ours; more are dropped and counted. Default 200, 0 to 10 000.
    pub max_series: usize,
    /// The least time between two reloads of the configuration that it asks for. None, the default: it may not ask.
    /// Default when it may: 30 s, 1 s to 24 h.
    pub allow_reload: Option<Duration>,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            max_series: 200,
            allow_reload: None,
        }
    }
}
