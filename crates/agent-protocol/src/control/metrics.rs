//! What an agent reports about itself in numbers.

use std::time::Duration;

/// Metrics of an agent, as it has counted them since it began.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetricsReport {
    /// The numbers. Names and labels are as the agent wrote them: whoever
    /// shows them has to look at them first.
    pub metrics: Vec<Metric>,
    /// How long it is between two reports; `None` when the agent does not say.
    pub interval: Option<Duration>,
    /// How many entries of the report could not be read.
    pub unreadable: u64,
}

/// One number, or one distribution, with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// The name, as in `agent_requests_total`.
    pub name: String,
    /// What it means, for people; may be empty.
    pub help: String,
    /// Names and values of its labels, sorted by name, no name twice.
    pub labels: Vec<(String, String)>,
    /// What was counted.
    pub value: MetricValue,
}

/// What a metric says.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricValue {
    /// What only grows while the agent runs. Finite and not negative.
    Counter(f64),
    /// What goes up and down.
    Gauge(f64),
    /// How something is distributed.
    Histogram {
        /// All observations together.
        sum: f64,
        /// How many there were.
        count: u64,
        /// For each bound, in rising order, how many observations were at
        /// most that. Never more than `count`. The bound at infinity is left
        /// out: it has all of them.
        buckets: Vec<(f64, u64)>,
    },
}
