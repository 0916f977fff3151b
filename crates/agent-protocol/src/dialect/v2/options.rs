//! What a connection is made with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::codec::frame::MAX_FRAME_BYTES;
use crate::dialect::ext_proc::StreamCounters;
use crate::{ControlMessage, Extensions};

/// Called by the driver with each control message. It must not block.
pub type ControlHandler = Arc<dyn Fn(&ControlMessage) + Send + Sync>;

/// How to connect to an agent.
#[derive(Clone)]
pub struct ConnectOptions {
    /// What the proxy calls itself; default `portcullis`.
    pub proxy_id: String,
    /// The version of the proxy; default that of this crate.
    pub proxy_version: String,
    /// The id of the agent in the proxy's configuration.
    pub agent_name: String,
    /// The agent's configuration. When there is one, the agent has to accept
    /// it before the connection is used.
    pub config: Option<Arc<Value>>,
    /// How long dialling, handshake and configuration may take together;
    /// default 5 s.
    pub handshake_timeout: Duration,
    /// Bounds of what the connection keeps in memory.
    pub limits: Limits,
    /// What is offered beyond the legacy protocol; default everything.
    pub extensions: Extensions,
    /// Who gets the control messages; default nobody, they are only counted.
    pub on_control: Option<ControlHandler>,
    /// What streams of requests are counted with, in dialects that have them;
    /// default counters that nobody looks at.
    pub streams: StreamCounters,
}

impl ConnectOptions {
    /// The defaults, for the agent of this name.
    #[must_use]
    pub fn new(agent_name: impl Into<String>) -> Self {
        Self {
            proxy_id: "portcullis".to_owned(),
            proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_name: agent_name.into(),
            config: None,
            handshake_timeout: Duration::from_secs(5),
            limits: Limits::default(),
            extensions: Extensions::ALL,
            on_control: None,
            streams: StreamCounters::default(),
        }
    }
}

impl fmt::Debug for ConnectOptions {
    // The configuration is left out, because it may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("proxy_id", &self.proxy_id)
            .field("agent_name", &self.agent_name)
            .field("handshake_timeout", &self.handshake_timeout)
            .field("limits", &self.limits)
            .field("extensions", &self.extensions)
            .finish_non_exhaustive()
    }
}

/// Bounds of what a connection keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest frame that is sent or accepted; default and at most 16 MiB.
    pub max_frame_bytes: usize,
    /// While so many bytes or more wait to be written, an event is refused
    /// with `OutboundFull`; default 8 MiB. One event more than that may wait,
    /// because what an encoding makes of it has to find room on a connection
    /// that has nothing else to do.
    pub max_outbound_bytes: usize,
    /// How many events may be unanswered, including those that nobody waits
    /// for any longer; default 65 536, at most 1 048 576. One more is refused
    /// with `OutboundFull`.
    pub max_unanswered: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame_bytes: MAX_FRAME_BYTES,
            max_outbound_bytes: 8 << 20,
            max_unanswered: 1 << 16,
        }
    }
}
