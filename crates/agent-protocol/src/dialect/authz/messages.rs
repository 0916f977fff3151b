//! The messages of `envoy.service.auth.v3`, as far as they are needed: what is left out is skipped when it is read. Names and
//! numbers are those of the published definitions. Texts of answers that need not be UTF-8 are bytes, which is the same on
//! the wire.

use std::collections::BTreeMap;

use bytes::Bytes;

pub use crate::dialect::envoy::{
    HeaderValue, HeaderValueOption, HttpStatus, Kind, ListValue, Metadata, Struct, Value,
};

/// The question.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CheckRequest {
    /// All of it.
    #[prost(message, optional, tag = "1")]
    pub attributes: Option<AttributeContext>,
}

/// What is known of a request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttributeContext {
    /// The client.
    #[prost(message, optional, tag = "1")]
    pub source: Option<Peer>,
    /// The request.
    #[prost(message, optional, tag = "4")]
    pub request: Option<RequestAttributes>,
    /// What the configuration adds.
    #[prost(btree_map = "string, string", tag = "10")]
    pub context_extensions: BTreeMap<String, String>,
    /// Empty.
    #[prost(message, optional, tag = "11")]
    pub metadata_context: Option<Metadata>,
    /// What is known of TLS with the client.
    #[prost(message, optional, tag = "12")]
    pub tls_session: Option<TlsSession>,
}

/// One end of a connection.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Peer {
    /// Where it is.
    #[prost(message, optional, tag = "1")]
    pub address: Option<Address>,
    /// Who it has shown to be in TLS; empty when it has not.
    #[prost(string, tag = "4")]
    pub principal: String,
}

/// `envoy.config.core.v3.Address`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Address {
    /// Of IP.
    #[prost(message, optional, tag = "1")]
    pub socket_address: Option<SocketAddress>,
}

/// `envoy.config.core.v3.SocketAddress`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SocketAddress {
    /// Without port.
    #[prost(string, tag = "2")]
    pub address: String,
    /// 0 when it is not known.
    #[prost(uint32, tag = "3")]
    pub port_value: u32,
}

/// The request and its time.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RequestAttributes {
    /// When it began.
    #[prost(message, optional, tag = "1")]
    pub time: Option<Timestamp>,
    /// The request itself.
    #[prost(message, optional, tag = "2")]
    pub http: Option<HttpRequest>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Timestamp {
    /// Since 1970.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// The request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HttpRequest {
    /// Of this request alone.
    #[prost(string, tag = "1")]
    pub id: String,
    /// As in `GET`.
    #[prost(string, tag = "2")]
    pub method: String,
    /// Names in lower case, pseudo-headers among them; several values of one name are one.
    #[prost(btree_map = "string, string", tag = "3")]
    pub headers: BTreeMap<String, String>,
    /// With the query.
    #[prost(string, tag = "4")]
    pub path: String,
    /// As in the Host header.
    #[prost(string, tag = "5")]
    pub host: String,
    /// `http` or `https`.
    #[prost(string, tag = "6")]
    pub scheme: String,
    /// Of the body; -1 when it is not known.
    #[prost(int64, tag = "9")]
    pub size: i64,
    /// As in `HTTP/1.1`.
    #[prost(string, tag = "10")]
    pub protocol: String,
    /// The body, when it is a text.
    #[prost(string, tag = "11")]
    pub body: String,
    /// The body, when it is none.
    #[prost(bytes = "bytes", tag = "12")]
    pub raw_body: Bytes,
}

/// What is known of TLS with the client.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TlsSession {
    /// The name that was asked for.
    #[prost(string, tag = "1")]
    pub sni: String,
}

/// The answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CheckResponse {
    /// 0 lets the request pass.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// What goes with it.
    #[prost(oneof = "Answer", tags = "2, 3, 5")]
    pub answer: Option<Answer>,
    /// For the log.
    #[prost(message, optional, tag = "4")]
    pub dynamic_metadata: Option<Struct>,
}

/// What goes with an answer.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Answer {
    /// What the client gets.
    #[prost(message, tag = "2")]
    Denied(DeniedResponse),
    /// What changes.
    #[prost(message, tag = "3")]
    Ok(OkResponse),
    /// The service says that it failed.
    #[prost(message, tag = "5")]
    Error(DeniedResponse),
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// One of gRPC.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Why.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// What the client gets.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeniedResponse {
    /// 403 when it is left out.
    #[prost(message, optional, tag = "1")]
    pub status: Option<HttpStatus>,
    /// Headers.
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<HeaderValueOption>,
    /// The body.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
}

/// What changes in a request that may pass.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OkResponse {
    /// Headers of the request.
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<HeaderValueOption>,
    /// Names of headers of the request.
    #[prost(string, repeated, tag = "5")]
    pub headers_to_remove: Vec<String>,
    /// Headers of the response.
    #[prost(message, repeated, tag = "6")]
    pub response_headers_to_add: Vec<HeaderValueOption>,
    /// Of the target; not done.
    #[prost(message, repeated, tag = "7")]
    pub query_parameters_to_set: Vec<QueryParameter>,
    /// Of the target; not done.
    #[prost(string, repeated, tag = "8")]
    pub query_parameters_to_remove: Vec<String>,
}

/// `envoy.config.core.v3.QueryParameter`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QueryParameter {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// [`HeaderValueOption::append_action`]: beside what there is.
pub const APPEND_OR_ADD: i32 = 0;
/// [`HeaderValueOption::append_action`]: in place of what there is.
pub const OVERWRITE_OR_ADD: i32 = 2;
