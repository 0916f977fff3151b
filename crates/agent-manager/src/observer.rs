//! What the owner of the agents is told while it happens.

use crate::{record::Record, reports::Granted};
use portcullis_agent_protocol::ConfigChange;
use std::time::Duration;

/// Counts for one agent what no request can.
pub trait AgentObserver: Send + Sync {
    /// A call waited this long for its permit.
    fn waited(&self, time: Duration);

    /// The agent was told, or could not be told, that a request is over.
    fn completed(&self, record: &Record);

    /// The agent is not told that a request is over, because too many such events wait already.
    fn completion_dropped(&self);

    /// The agent wants this changed, and this is what becomes of it. After [`Granted::Yes`] the configuration is to be read
    /// again.
    fn config_update(&self, wanted: &ConfigChange, granted: Granted);
}
