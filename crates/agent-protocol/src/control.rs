//! Control messages: what an agent says without being asked.

mod config_update;
mod log;
mod metrics;

pub use config_update::{ConfigChange, ConfigUpdate};
pub use log::{LogEntry, LogLevel};
pub use metrics::{Metric, MetricValue, MetricsReport};

/// A message of an agent that is not an answer to an event.
///
/// Agents of different makes write these in different shapes. Any JSON object
/// is accepted; what cannot be found in it is `Unknown`.
#[derive(Debug, Clone, PartialEq)]
pub enum ControlMessage {
    /// How the agent is.
    Health(HealthState),
    /// The agent wants fewer events, or events again.
    FlowControl(FlowAction),
    /// None of the agent's verdicts holds any longer that were to hold for a
    /// while. Comes only from agents that have agreed to `verdict-ttl`.
    PurgeVerdicts,
    /// The agent's own metrics.
    Metrics(MetricsReport),
    /// The agent wants its configuration changed.
    ConfigUpdate(ConfigUpdate),
    /// The agent wants something to stand in the log.
    Log(LogEntry),
    /// The answer to a ping.
    Pong {
        /// The number of the ping.
        sequence: u64,
    },
}

/// How an agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    /// Well.
    Healthy,
    /// At work, but not well.
    Degraded,
    /// About to stop: it finishes what it has.
    Draining,
    /// Not at work.
    Unhealthy,
    /// The message does not say in a form that is known.
    Unknown,
}

/// How an agent says that it is, on one connection.
///
/// An agent that has said nothing is healthy and not paused. What cannot be
/// understood changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// What it reported last; never [`HealthState::Unknown`].
    pub health: HealthState,
    /// Whether it wants no more events for now. It still answers those that it
    /// has.
    pub paused: bool,
    /// How many times one of the two has become another since the connection
    /// was opened.
    pub changes: u64,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            health: HealthState::Healthy,
            paused: false,
            changes: 0,
        }
    }
}

impl Condition {
    /// Takes note of a message, and says whether it changed anything.
    pub(crate) fn note(&mut self, message: &ControlMessage) -> bool {
        let (health, paused) = match message {
            ControlMessage::Health(HealthState::Unknown)
            | ControlMessage::FlowControl(FlowAction::Unknown)
            | ControlMessage::PurgeVerdicts
            | ControlMessage::Metrics(_)
            | ControlMessage::ConfigUpdate(_)
            | ControlMessage::Log(_)
            | ControlMessage::Pong { .. } => return false,
            ControlMessage::Health(health) => (*health, self.paused),
            ControlMessage::FlowControl(FlowAction::Pause) => (self.health, true),
            ControlMessage::FlowControl(FlowAction::Resume) => (self.health, false),
        };
        let changed = (health, paused) != (self.health, self.paused);
        (self.health, self.paused) = (health, paused);
        self.changes += u64::from(changed);
        changed
    }
}

impl HealthState {
    /// The name, as in `degraded`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
        }
    }
}

/// What an agent wants to happen to the flow of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowAction {
    /// No more events for now.
    Pause,
    /// Events again.
    Resume,
    /// The message does not say in a form that is known, or is about one
    /// request alone.
    Unknown,
}
