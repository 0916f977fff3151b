//! Control messages: what an agent says without being asked.

use serde_json::Value;

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
    /// The agent's own metrics, as they came.
    Metrics(Value),
    /// The agent wants its configuration changed, as it came.
    ConfigUpdate(Value),
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

/// What an agent wants to happen to the flow of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowAction {
    /// No more events for now.
    Pause,
    /// Events again.
    Resume,
    /// The message does not say in a form that is known.
    Unknown,
}
