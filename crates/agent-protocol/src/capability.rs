//! Capabilities: what an agent says about itself in the handshake.

use serde::{Deserialize, Serialize};

/// A kind of event that an agent can be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EventKind {
    /// The head of a request.
    RequestHeaders = 1,
    /// A piece of a request's body.
    RequestBodyChunk = 2,
    /// The head of a response.
    ResponseHeaders = 3,
    /// A piece of a response's body.
    ResponseBodyChunk = 4,
    /// The end of a request.
    RequestComplete = 5,
    /// A frame of a WebSocket.
    WebSocketFrame = 6,
    /// Text for a guardrail.
    GuardrailInspect = 7,
    /// The agent's configuration.
    Configure = 8,
}

impl EventKind {
    /// The name, as in `request_headers`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RequestHeaders => "request_headers",
            Self::RequestBodyChunk => "request_body_chunk",
            Self::ResponseHeaders => "response_headers",
            Self::ResponseBodyChunk => "response_body_chunk",
            Self::RequestComplete => "request_complete",
            Self::WebSocketFrame => "websocket_frame",
            Self::GuardrailInspect => "guardrail_inspect",
            Self::Configure => "configure",
        }
    }
}

/// The size of a piece of a body that suits agents of this library, unless they
/// say otherwise: most bodies are one piece then.
const PREFERRED_CHUNK_BYTES: u64 = 256 << 10;

/// What an agent said about itself.
///
/// Every member has a default, because agents leave members out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// The id of the agent, as in `denylist`.
    pub agent_id: String,
    /// The name of the agent for people.
    pub name: String,
    /// The version of the agent.
    pub version: String,
    /// Numbers of the events that it wants, see [`EventKind`]. When the
    /// agent does not say, these are the request headers alone.
    pub supported_events: Vec<u32>,
    /// What it can do.
    pub features: Features,
    /// What it can bear.
    pub limits: AgentLimits,
}

impl Capabilities {
    /// The capabilities of an agent that wants request headers.
    #[must_use]
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            agent_id: name.clone(),
            name,
            version: version.into(),
            limits: AgentLimits {
                preferred_chunk_size: PREFERRED_CHUNK_BYTES,
                ..AgentLimits::default()
            },
            ..Self::default()
        }
    }

    /// The same agent, but it wants events of these kinds and no others.
    #[must_use]
    pub fn with_events(mut self, kinds: &[EventKind]) -> Self {
        self.supported_events = kinds.iter().map(|kind| *kind as u32).collect();
        self
    }

    /// Whether the agent wants events of this kind.
    #[must_use]
    pub fn supports(&self, kind: EventKind) -> bool {
        self.supported_events.contains(&(kind as u32))
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            agent_id: String::new(),
            name: String::new(),
            version: String::new(),
            supported_events: vec![EventKind::RequestHeaders as u32],
            features: Features::default(),
            limits: AgentLimits::default(),
        }
    }
}

/// What an agent can do. Everything is off unless it says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Features {
    /// It takes bodies in pieces.
    pub streaming_body: bool,
    /// It takes frames of WebSockets.
    pub websocket: bool,
    /// It inspects text for guardrails.
    pub guardrails: bool,
    /// It takes a new configuration at any time.
    pub config_push: bool,
    /// It sends metrics.
    pub metrics_export: bool,
    /// How many events it works on at once on one connection; 0 when it does
    /// not say, which is not the same as 1.
    pub concurrent_requests: u32,
    /// It understands that an event was cancelled.
    pub cancellation: bool,
    /// It sends pause and resume.
    pub flow_control: bool,
    /// It sends reports about its health.
    pub health_reporting: bool,
}

/// What an agent can bear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentLimits {
    /// The largest body that it takes, in bytes; default 10 MiB.
    pub max_body_size: u64,
    /// How many events it works on at once, over all connections; 0 when it
    /// does not say.
    pub max_concurrency: u32,
    /// The size of a piece of a body that suits it, in bytes; default 64 KiB.
    pub preferred_chunk_size: u64,
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self {
            max_body_size: 10 << 20,
            max_concurrency: 0,
            preferred_chunk_size: 64 << 10,
        }
    }
}

/// What goes beyond the legacy protocol: offered by the proxy, chosen by the
/// agent. An agent that chooses nothing is spoken to as a legacy peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extensions {
    /// `event-id`: a number per event, so that late answers are recognised.
    pub event_id: bool,
    /// `binary`: our encoding for events and answers; includes `event-id`.
    pub binary: bool,
    /// `error`: the agent can answer that it failed.
    pub error: bool,
    /// `overloaded`: the agent can answer that it has too much to do.
    pub overloaded: bool,
    /// `verdict-ttl`: the agent can say for how long a verdict holds, and that
    /// none of its verdicts holds any longer.
    pub verdict_ttl: bool,
}

impl Extensions {
    /// Everything that this library can do.
    pub const ALL: Self = Self {
        event_id: true,
        binary: true,
        error: true,
        overloaded: true,
        verdict_ttl: true,
    };
    /// The legacy protocol.
    pub const NONE: Self = Self {
        event_id: false,
        binary: false,
        error: false,
        overloaded: false,
        verdict_ttl: false,
    };

    /// The names as they are in the handshake.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let all = [
            (self.event_id, "event-id"),
            (self.binary, "binary"),
            (self.error, "error"),
            (self.overloaded, "overloaded"),
            (self.verdict_ttl, "verdict-ttl"),
        ];
        all.into_iter()
            .filter_map(|(on, name)| on.then_some(name))
            .collect()
    }

    /// Reads names, and gives back the first that is not known.
    ///
    /// # Errors
    /// The unknown name, for a reader that has to refuse it.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let mut extensions = Self::NONE;
        for name in names {
            *extensions.by_name(name).ok_or(name)? = true;
        }
        Ok(extensions.complete())
    }

    /// Reads names and passes over those that are not known.
    pub fn from_known_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut extensions = Self::NONE;
        for name in names {
            if let Some(member) = extensions.by_name(name) {
                *member = true;
            }
        }
        extensions.complete()
    }

    /// What both sides can do.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            event_id: self.event_id && other.event_id,
            binary: self.binary && other.binary,
            error: self.error && other.error,
            overloaded: self.overloaded && other.overloaded,
            verdict_ttl: self.verdict_ttl && other.verdict_ttl,
        }
        .complete()
    }

    /// Whether everything in here is also in the other.
    #[must_use]
    pub fn is_within(self, other: Self) -> bool {
        self.and(other) == self
    }

    fn by_name(&mut self, name: &str) -> Option<&mut bool> {
        match name {
            "event-id" => Some(&mut self.event_id),
            "binary" => Some(&mut self.binary),
            "error" => Some(&mut self.error),
            "overloaded" => Some(&mut self.overloaded),
            "verdict-ttl" => Some(&mut self.verdict_ttl),
            _ => None,
        }
    }

    // Binary frames have no other id than the number.
    fn complete(mut self) -> Self {
        self.event_id |= self.binary;
        self
    }
}
