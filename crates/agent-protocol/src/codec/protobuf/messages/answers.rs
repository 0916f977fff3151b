//! What agents answer.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Header, HeaderOp};

#[derive(Clone, PartialEq, prost::Message)]
pub struct AgentResponse {
    #[prost(string, tag = "1")]
    pub correlation_id: String,
    #[prost(oneof = "AgentDecision", tags = "2, 3, 4, 5, 101, 102")]
    pub decision: Option<AgentDecision>,
    #[prost(message, repeated, tag = "10")]
    pub request_headers: Vec<HeaderOp>,
    #[prost(message, repeated, tag = "11")]
    pub response_headers: Vec<HeaderOp>,
    #[prost(message, optional, tag = "12")]
    pub audit: Option<AuditMetadata>,
    #[prost(uint64, optional, tag = "13")]
    pub processing_time_ms: Option<u64>,
    #[prost(bool, tag = "14")]
    pub needs_more: bool,
    #[prost(uint64, optional, tag = "100")]
    pub event_id: Option<u64>,
    #[prost(bytes = "bytes", optional, tag = "103")]
    pub request_body: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "104")]
    pub response_body: Option<Bytes>,
    #[prost(message, optional, tag = "105")]
    pub websocket: Option<WebSocketDecision>,
    #[prost(message, optional, tag = "106")]
    pub ttl: Option<VerdictTtl>,
    /// What a guardrail found, as JSON.
    #[prost(string, optional, tag = "107")]
    pub guardrail_response: Option<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum AgentDecision {
    #[prost(message, tag = "2")]
    Allow(AllowDecision),
    #[prost(message, tag = "3")]
    Block(BlockDecision),
    #[prost(message, tag = "4")]
    Redirect(RedirectDecision),
    #[prost(message, tag = "5")]
    Challenge(ChallengeDecision),
    #[prost(message, tag = "101")]
    Error(ErrorDecision),
    #[prost(message, tag = "102")]
    Overloaded(OverloadedDecision),
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct AllowDecision {}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BlockDecision {
    #[prost(uint32, tag = "1")]
    pub status: u32,
    #[prost(string, optional, tag = "2")]
    pub body: Option<String>,
    #[prost(message, repeated, tag = "3")]
    pub headers: Vec<Header>,
    /// The body when it is not UTF-8.
    #[prost(bytes = "bytes", optional, tag = "100")]
    pub raw_body: Option<Bytes>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RedirectDecision {
    #[prost(string, tag = "1")]
    pub url: String,
    #[prost(uint32, tag = "2")]
    pub status: u32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChallengeDecision {
    #[prost(string, tag = "1")]
    pub challenge_type: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub params: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ErrorDecision {
    #[prost(string, tag = "1")]
    pub message: String,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct OverloadedDecision {
    #[prost(uint64, optional, tag = "1")]
    pub retry_after_ms: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct AuditMetadata {
    #[prost(string, repeated, tag = "1")]
    pub tags: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub rule_ids: Vec<String>,
    #[prost(float, optional, tag = "3")]
    pub confidence: Option<f32>,
    #[prost(string, repeated, tag = "4")]
    pub reason_codes: Vec<String>,
    /// Each value as JSON.
    #[prost(btree_map = "string, string", tag = "5")]
    pub custom: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WebSocketDecision {
    #[prost(oneof = "FrameChange", tags = "1, 2, 3")]
    pub decision: Option<FrameChange>,
}

#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum FrameChange {
    #[prost(message, tag = "1")]
    Drop(DropFrame),
    #[prost(bytes = "bytes", tag = "2")]
    Replace(Bytes),
    #[prost(message, tag = "3")]
    Close(CloseWebSocket),
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct DropFrame {}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CloseWebSocket {
    #[prost(uint32, tag = "1")]
    pub code: u32,
    #[prost(string, tag = "2")]
    pub reason: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct VerdictTtl {
    #[prost(uint64, tag = "1")]
    pub milliseconds: u64,
    #[prost(string, repeated, tag = "2")]
    pub vary_ignores: Vec<String>,
}
