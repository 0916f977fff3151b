//! The messages of version 2 over gRPC. Fields below 100 are those of the
//! published protocol, those from 100 on are our extensions; what they mean
//! is in docs/protocol.md.
#![expect(
    missing_docs,
    reason = "each is the member of the same name in docs/protocol.md"
)]

mod answers;
mod control;
mod events;

use bytes::Bytes;

pub use answers::*;
pub use control::*;
pub use events::*;

/// What the proxy sends. One of these is a question, a notice, or the
/// beginning of the conversation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProxyToAgent {
    #[prost(oneof = "FromProxy", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub message: Option<FromProxy>,
    /// The number of the event that the message is or cancels.
    #[prost(uint64, optional, tag = "100")]
    pub event_id: Option<u64>,
    /// The time left in whole microseconds.
    #[prost(uint64, optional, tag = "101")]
    pub budget_left_us: Option<u64>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "it is looked at where it was decoded, and most are of the large kind"
)]
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum FromProxy {
    #[prost(message, tag = "1")]
    Handshake(HandshakeRequest),
    #[prost(message, tag = "2")]
    RequestHeaders(RequestHeadersEvent),
    #[prost(message, tag = "3")]
    RequestBodyChunk(BodyChunkEvent),
    #[prost(message, tag = "4")]
    ResponseHeaders(ResponseHeadersEvent),
    #[prost(message, tag = "5")]
    ResponseBodyChunk(BodyChunkEvent),
    #[prost(message, tag = "6")]
    WebSocketFrame(WebSocketFrameEvent),
    #[prost(message, tag = "7")]
    Guardrail(GuardrailInspectEvent),
    #[prost(message, tag = "8")]
    RequestComplete(RequestCompleteEvent),
    #[prost(message, tag = "9")]
    Cancel(CancelRequest),
    #[prost(message, tag = "10")]
    Configure(ConfigureEvent),
    #[prost(message, tag = "11")]
    Ping(Ping),
}

/// What the agent sends.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AgentToProxy {
    #[prost(oneof = "FromAgent", tags = "1, 2, 3, 4, 5, 6, 7, 8, 100")]
    pub message: Option<FromAgent>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum FromAgent {
    #[prost(message, tag = "1")]
    Handshake(HandshakeResponse),
    #[prost(message, tag = "2")]
    Response(Box<AgentResponse>),
    #[prost(message, tag = "3")]
    Health(HealthStatus),
    #[prost(message, tag = "4")]
    Metrics(MetricsReport),
    #[prost(message, tag = "5")]
    ConfigUpdate(ConfigUpdateRequest),
    #[prost(message, tag = "6")]
    FlowControl(FlowControlSignal),
    #[prost(message, tag = "7")]
    Pong(Pong),
    #[prost(message, tag = "8")]
    Log(LogMessage),
    #[prost(message, tag = "100")]
    VerdictPurge(VerdictPurge),
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HandshakeRequest {
    #[prost(uint32, repeated, tag = "1")]
    pub supported_versions: Vec<u32>,
    #[prost(string, tag = "2")]
    pub proxy_id: String,
    #[prost(string, tag = "3")]
    pub proxy_version: String,
    #[prost(string, tag = "4")]
    pub config_json: String,
    #[prost(string, repeated, tag = "100")]
    pub extensions: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HandshakeResponse {
    #[prost(uint32, tag = "1")]
    pub protocol_version: u32,
    #[prost(message, optional, tag = "2")]
    pub capabilities: Option<AgentCapabilities>,
    #[prost(bool, tag = "3")]
    pub success: bool,
    #[prost(string, optional, tag = "4")]
    pub error: Option<String>,
    #[prost(string, repeated, tag = "100")]
    pub extensions: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AgentCapabilities {
    #[prost(uint32, tag = "1")]
    pub protocol_version: u32,
    #[prost(string, tag = "2")]
    pub agent_id: String,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub version: String,
    #[prost(int32, repeated, tag = "5")]
    pub supported_events: Vec<i32>,
    #[prost(message, optional, tag = "6")]
    pub features: Option<AgentFeatures>,
    #[prost(message, optional, tag = "7")]
    pub limits: Option<AgentLimits>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct AgentFeatures {
    #[prost(bool, tag = "1")]
    pub streaming_body: bool,
    #[prost(bool, tag = "2")]
    pub websocket: bool,
    #[prost(bool, tag = "3")]
    pub guardrails: bool,
    #[prost(bool, tag = "4")]
    pub config_push: bool,
    #[prost(bool, tag = "5")]
    pub metrics_export: bool,
    #[prost(uint32, tag = "6")]
    pub concurrent_requests: u32,
    #[prost(bool, tag = "7")]
    pub cancellation: bool,
    #[prost(bool, tag = "8")]
    pub flow_control: bool,
    #[prost(bool, tag = "9")]
    pub health_reporting: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct AgentLimits {
    #[prost(uint64, tag = "1")]
    pub max_body_size: u64,
    #[prost(uint32, tag = "2")]
    pub max_concurrency: u32,
    #[prost(uint64, tag = "3")]
    pub preferred_chunk_size: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Header {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
    /// The value when it is not UTF-8; `value` says it as well as it can then.
    #[prost(bytes = "bytes", optional, tag = "100")]
    pub raw_value: Option<Bytes>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HeaderOp {
    #[prost(oneof = "HeaderChange", tags = "1, 2, 3")]
    pub operation: Option<HeaderChange>,
}

#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum HeaderChange {
    #[prost(message, tag = "1")]
    Set(Header),
    #[prost(message, tag = "2")]
    Add(Header),
    #[prost(string, tag = "3")]
    Remove(String),
}
