//! What agents are asked and told.

use bytes::Bytes;

use super::Header;

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RequestMetadata {
    #[prost(string, tag = "1")]
    pub correlation_id: String,
    #[prost(string, tag = "2")]
    pub request_id: String,
    #[prost(string, tag = "3")]
    pub client_ip: String,
    #[prost(uint32, tag = "4")]
    pub client_port: u32,
    #[prost(string, optional, tag = "5")]
    pub server_name: Option<String>,
    #[prost(string, tag = "6")]
    pub protocol: String,
    #[prost(string, optional, tag = "7")]
    pub tls_version: Option<String>,
    #[prost(string, optional, tag = "8")]
    pub route_id: Option<String>,
    #[prost(string, optional, tag = "9")]
    pub upstream_id: Option<String>,
    #[prost(uint64, tag = "10")]
    pub timestamp_ms: u64,
    #[prost(string, optional, tag = "11")]
    pub traceparent: Option<String>,
    #[prost(string, optional, tag = "100")]
    pub tls_cipher: Option<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RequestHeadersEvent {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<RequestMetadata>,
    #[prost(string, tag = "2")]
    pub method: String,
    #[prost(string, tag = "3")]
    pub uri: String,
    #[prost(string, tag = "4")]
    pub http_version: String,
    #[prost(message, repeated, tag = "5")]
    pub headers: Vec<Header>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResponseHeadersEvent {
    #[prost(string, tag = "1")]
    pub correlation_id: String,
    #[prost(uint32, tag = "2")]
    pub status_code: u32,
    #[prost(message, repeated, tag = "3")]
    pub headers: Vec<Header>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BodyChunkEvent {
    #[prost(string, tag = "1")]
    pub correlation_id: String,
    #[prost(uint32, tag = "2")]
    pub chunk_index: u32,
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
    #[prost(bool, tag = "4")]
    pub is_last: bool,
    #[prost(uint64, optional, tag = "5")]
    pub total_size: Option<u64>,
    #[prost(uint64, tag = "6")]
    pub bytes_transferred: u64,
    #[prost(uint64, tag = "7")]
    pub proxy_buffer_available: u64,
    #[prost(uint64, tag = "8")]
    pub timestamp_ms: u64,
    #[prost(bool, tag = "100")]
    pub truncated: bool,
    #[prost(message, repeated, tag = "101")]
    pub trailers: Vec<Header>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WebSocketFrameEvent {
    #[prost(string, tag = "1")]
    pub correlation_id: String,
    #[prost(bool, tag = "2")]
    pub client_to_server: bool,
    #[prost(int32, tag = "3")]
    pub frame_type: i32,
    #[prost(bytes = "bytes", tag = "4")]
    pub payload: Bytes,
    #[prost(bool, optional, tag = "100")]
    pub fin: Option<bool>,
    #[prost(uint64, tag = "101")]
    pub frame_index: u64,
    #[prost(string, optional, tag = "102")]
    pub route_id: Option<String>,
    #[prost(string, optional, tag = "103")]
    pub client_ip: Option<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GuardrailInspectEvent {
    #[prost(string, tag = "1")]
    pub correlation_id: String,
    #[prost(string, tag = "2")]
    pub content: String,
    #[prost(int32, tag = "3")]
    pub content_type: i32,
    #[prost(string, optional, tag = "4")]
    pub model: Option<String>,
    #[prost(string, tag = "5")]
    pub context_json: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RequestCompleteEvent {
    #[prost(string, tag = "1")]
    pub correlation_id: String,
    #[prost(uint32, tag = "2")]
    pub status_code: u32,
    #[prost(uint64, tag = "3")]
    pub duration_ms: u64,
    #[prost(uint64, tag = "4")]
    pub bytes_received: u64,
    #[prost(uint64, tag = "5")]
    pub bytes_sent: u64,
    #[prost(string, optional, tag = "6")]
    pub upstream: Option<String>,
    #[prost(bool, tag = "7")]
    pub from_cache: bool,
    #[prost(string, optional, tag = "8")]
    pub error: Option<String>,
    #[prost(uint32, tag = "100")]
    pub upstream_attempts: u32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConfigureEvent {
    #[prost(string, tag = "1")]
    pub config_json: String,
    #[prost(string, optional, tag = "2")]
    pub config_version: Option<String>,
    #[prost(bool, tag = "3")]
    pub is_initial: bool,
    #[prost(uint64, tag = "4")]
    pub timestamp_ms: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CancelRequest {
    #[prost(string, tag = "1")]
    pub correlation_id: String,
    #[prost(int32, tag = "2")]
    pub reason: i32,
    #[prost(uint64, tag = "3")]
    pub timestamp_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Ping {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(uint64, tag = "2")]
    pub timestamp_ms: u64,
}
