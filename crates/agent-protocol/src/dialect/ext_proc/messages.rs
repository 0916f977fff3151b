//! The messages of `envoy.service.ext_proc.v3`, as far as they are needed: what is left out is skipped when it is read. The
//! names are those of the published definitions, and so are the numbers of the fields.

use std::collections::BTreeMap;

use bytes::Bytes;

pub use crate::dialect::envoy::{
    HeaderValue, HeaderValueOption, HttpStatus, Kind, ListValue, Metadata, Struct, Value,
};

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Duration {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// `envoy.config.core.v3.HeaderMap`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HeaderMap {
    /// The fields, each value for itself.
    #[prost(message, repeated, tag = "1")]
    pub headers: Vec<HeaderValue>,
}

/// What an agent is told.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessingRequest {
    /// What it is about.
    #[prost(oneof = "Told", tags = "2, 3, 4, 5, 6, 7")]
    pub request: Option<Told>,
    /// Empty.
    #[prost(message, optional, tag = "8")]
    pub metadata_context: Option<Metadata>,
    /// What is known of the request beside its headers, under `envoy.filters.http.ext_proc`.
    #[prost(btree_map = "string, message", tag = "9")]
    pub attributes: BTreeMap<String, Struct>,
    /// Nobody waits for an answer.
    #[prost(bool, tag = "10")]
    pub observability_mode: bool,
    /// How bodies are sent; with the first message of a stream.
    #[prost(message, optional, tag = "11")]
    pub protocol_config: Option<ProtocolConfiguration>,
}

/// What a [`ProcessingRequest`] is about.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Told {
    /// The head of the request.
    #[prost(message, tag = "2")]
    RequestHeaders(HttpHeaders),
    /// The head of the response.
    #[prost(message, tag = "3")]
    ResponseHeaders(HttpHeaders),
    /// The body of the request, or a piece of it.
    #[prost(message, tag = "4")]
    RequestBody(HttpBody),
    /// The body of the response, or a piece of it.
    #[prost(message, tag = "5")]
    ResponseBody(HttpBody),
    /// What follows the body of the request.
    #[prost(message, tag = "6")]
    RequestTrailers(HttpTrailers),
    /// What follows the body of the response.
    #[prost(message, tag = "7")]
    ResponseTrailers(HttpTrailers),
}

/// How bodies are sent, numbers as in [`ProcessingMode`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ProtocolConfiguration {
    /// That of the request.
    #[prost(int32, tag = "1")]
    pub request_body_mode: i32,
    /// That of the response.
    #[prost(int32, tag = "2")]
    pub response_body_mode: i32,
}

/// The head of a message.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HttpHeaders {
    /// Its fields, pseudo-headers first.
    #[prost(message, optional, tag = "1")]
    pub headers: Option<HeaderMap>,
    /// No body follows.
    #[prost(bool, tag = "3")]
    pub end_of_stream: bool,
}

/// A body, or a piece of it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HttpBody {
    /// The bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
    /// Nothing follows.
    #[prost(bool, tag = "2")]
    pub end_of_stream: bool,
}

/// What follows a body.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HttpTrailers {
    /// The fields.
    #[prost(message, optional, tag = "1")]
    pub trailers: Option<HeaderMap>,
}

/// What an agent answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessingResponse {
    /// The answer itself.
    #[prost(oneof = "Answered", tags = "1, 2, 3, 4, 5, 6, 7, 11")]
    pub response: Option<Answered>,
    /// For the log.
    #[prost(message, optional, tag = "8")]
    pub dynamic_metadata: Option<Struct>,
    /// What shall be sent from now on.
    #[prost(message, optional, tag = "9")]
    pub mode_override: Option<ProcessingMode>,
    /// The answer itself comes later, and shall be waited for.
    #[prost(message, optional, tag = "10")]
    pub override_message_timeout: Option<Duration>,
}

/// The answer in a [`ProcessingResponse`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Answered {
    /// To the head of the request.
    #[prost(message, tag = "1")]
    RequestHeaders(HeadersResponse),
    /// To the head of the response.
    #[prost(message, tag = "2")]
    ResponseHeaders(HeadersResponse),
    /// To a body of the request.
    #[prost(message, tag = "3")]
    RequestBody(BodyResponse),
    /// To a body of the response.
    #[prost(message, tag = "4")]
    ResponseBody(BodyResponse),
    /// To what follows the body of the request.
    #[prost(message, tag = "5")]
    RequestTrailers(TrailersResponse),
    /// To what follows the body of the response.
    #[prost(message, tag = "6")]
    ResponseTrailers(TrailersResponse),
    /// Instead of the answer that was waited for: what the client gets.
    #[prost(message, tag = "7")]
    Immediate(ImmediateResponse),
    /// The same in pieces, which is not supported.
    #[prost(message, tag = "11")]
    StreamedImmediate(Metadata),
}

/// The answer to a head.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeadersResponse {
    /// All of it.
    #[prost(message, optional, tag = "1")]
    pub response: Option<CommonResponse>,
}

/// The answer to a body.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BodyResponse {
    /// All of it.
    #[prost(message, optional, tag = "1")]
    pub response: Option<CommonResponse>,
}

/// The answer to trailers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TrailersResponse {
    /// What shall be changed in them.
    #[prost(message, optional, tag = "1")]
    pub header_mutation: Option<HeaderMutation>,
}

/// [`CommonResponse::status`] of an answer whose body takes the place of the one that was sent.
pub const CONTINUE_AND_REPLACE: i32 = 1;

/// What the answers to heads and bodies have in common.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommonResponse {
    /// 0, or [`CONTINUE_AND_REPLACE`].
    #[prost(int32, tag = "1")]
    pub status: i32,
    /// Changes of the head.
    #[prost(message, optional, tag = "2")]
    pub header_mutation: Option<HeaderMutation>,
    /// What becomes of the body.
    #[prost(message, optional, tag = "3")]
    pub body_mutation: Option<BodyMutation>,
    /// The route shall be looked up again.
    #[prost(bool, tag = "5")]
    pub clear_route_cache: bool,
}

/// Changes of a head.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeaderMutation {
    /// What is set or added.
    #[prost(message, repeated, tag = "1")]
    pub set_headers: Vec<HeaderValueOption>,
    /// Names of what is removed.
    #[prost(string, repeated, tag = "2")]
    pub remove_headers: Vec<String>,
}

/// [`HeaderValueOption::append_action`]: only when there is none.
pub const ADD_IF_ABSENT: i32 = 1;
/// [`HeaderValueOption::append_action`]: only when there is one.
pub const OVERWRITE_IF_EXISTS: i32 = 3;

/// What becomes of a body.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BodyMutation {
    /// One of these.
    #[prost(oneof = "Mutation", tags = "1, 2, 3")]
    pub mutation: Option<Mutation>,
}

/// What becomes of a body.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Mutation {
    /// It becomes this.
    #[prost(bytes = "bytes", tag = "1")]
    Body(Bytes),
    /// Nothing is left of it.
    #[prost(bool, tag = "2")]
    ClearBody(bool),
    /// A piece of full-duplex streaming, which is not supported.
    #[prost(message, tag = "3")]
    StreamedResponse(HttpBody),
}

/// What the client gets instead.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImmediateResponse {
    /// The status; 200 when it is left out.
    #[prost(message, optional, tag = "1")]
    pub status: Option<HttpStatus>,
    /// Headers.
    #[prost(message, optional, tag = "2")]
    pub headers: Option<HeaderMutation>,
    /// The body.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
    /// The status of a gRPC call.
    #[prost(message, optional, tag = "4")]
    pub grpc_status: Option<GrpcStatus>,
    /// For the log.
    #[prost(string, tag = "5")]
    pub details: String,
}

/// The status of a gRPC call.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct GrpcStatus {
    /// As in 7.
    #[prost(uint32, tag = "1")]
    pub status: u32,
}

/// [`ProcessingMode`]: a head is not sent.
pub const SKIP: i32 = 2;
/// [`ProcessingMode`]: a head or trailers are sent.
pub const SEND: i32 = 1;
/// [`ProcessingMode`]: a body is not sent.
pub const NONE: i32 = 0;
/// [`ProcessingMode`]: a body is sent in pieces.
pub const STREAMED: i32 = 1;
/// [`ProcessingMode`]: a body is sent whole.
pub const BUFFERED: i32 = 2;

/// What an agent is sent. For heads and trailers 0 leaves it as it is, 1 sends them and [`SKIP`] does not.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ProcessingMode {
    /// The head of the request.
    #[prost(int32, tag = "1")]
    pub request_header_mode: i32,
    /// The head of the response.
    #[prost(int32, tag = "2")]
    pub response_header_mode: i32,
    /// The body of the request.
    #[prost(int32, tag = "3")]
    pub request_body_mode: i32,
    /// The body of the response.
    #[prost(int32, tag = "4")]
    pub response_body_mode: i32,
    /// The trailers of the request.
    #[prost(int32, tag = "5")]
    pub request_trailer_mode: i32,
    /// The trailers of the response.
    #[prost(int32, tag = "6")]
    pub response_trailer_mode: i32,
}
