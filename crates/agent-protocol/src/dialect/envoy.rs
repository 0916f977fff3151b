//! Messages that several services of Envoy have in common, with the names and the numbers of the published definitions.

use std::collections::BTreeMap;

use bytes::Bytes;

/// `envoy.config.core.v3.HeaderValue`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HeaderValue {
    /// The name, in lower case where it goes to an agent.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value as text; Envoy leaves it empty, and ext_proc reads it nowhere there.
    #[prost(string, tag = "2")]
    pub value: String,
    /// The value; if there is any here, this one counts.
    #[prost(bytes = "bytes", tag = "3")]
    pub raw_value: Bytes,
}

/// `envoy.config.core.v3.HeaderValueOption`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeaderValueOption {
    /// Name and value.
    #[prost(message, optional, tag = "1")]
    pub header: Option<HeaderValue>,
    /// Added beside what is there, `google.protobuf.BoolValue`.
    #[prost(message, optional, tag = "2")]
    pub append: Option<bool>,
    /// What Envoy reads in few places: not in ext_proc, and in ext_authz where `append` is not written, for the response.
    #[prost(int32, tag = "3")]
    pub append_action: i32,
}

/// `envoy.type.v3.HttpStatus`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct HttpStatus {
    /// As in 403.
    #[prost(int32, tag = "1")]
    pub code: i32,
}

/// `envoy.config.core.v3.Metadata`, of which nothing is sent.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Metadata {}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Struct {
    /// The members.
    #[prost(btree_map = "string, message", tag = "1")]
    pub fields: BTreeMap<String, Value>,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    /// What it is.
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    pub kind: Option<Kind>,
}

/// What a [`Value`] is.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// Nothing.
    #[prost(int32, tag = "1")]
    Null(i32),
    /// A number.
    #[prost(double, tag = "2")]
    Number(f64),
    /// A text.
    #[prost(string, tag = "3")]
    Text(String),
    /// Yes or no.
    #[prost(bool, tag = "4")]
    Bool(bool),
    /// Members with names.
    #[prost(message, tag = "5")]
    Struct(Struct),
    /// One after the other.
    #[prost(message, tag = "6")]
    List(ListValue),
}

/// `google.protobuf.ListValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListValue {
    /// Its parts.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<Value>,
}
