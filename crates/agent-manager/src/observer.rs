//! What the owner of the agents is told while it happens.

use crate::record::Record;
use std::time::Duration;

/// Counts for one agent what no request can.
pub trait AgentObserver: Send + Sync {
    /// A call waited this long for its permit.
    fn waited(&self, time: Duration);

    /// The agent was told, or could not be told, that a request is over.
    fn completed(&self, record: &Record);

    /// The agent is not told that a request is over, because too many such events wait already.
    fn completion_dropped(&self);
}
