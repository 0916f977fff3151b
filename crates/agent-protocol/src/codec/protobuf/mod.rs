//! Version 2 in protobuf, as it is spoken over gRPC. Messages are written by
//! hand with their field numbers, which [`messages`] has all together; the
//! rest is between them and the types of this crate.
//!
//! Our extensions have field numbers from 100 on, which readers that do not
//! know them pass over. Whether a peer knows them is agreed on in the
//! handshake, as it is in JSON. There is no `binary` here: bytes are bytes
//! already.

mod answer;
mod control;
mod event;
mod guardrail;
mod handshake;
pub mod messages;

pub use answer::{decode_answer, encode_answer};
pub use control::{Control, decode_control, encode_control};
pub use event::{decode_event, encode_event, event_id, kind};
pub use handshake::{
    decode_handshake_request, decode_handshake_response, encode_handshake_request,
    encode_handshake_response,
};

/// Reading and writing of the [messages].
pub use prost::Message;

use http::{HeaderMap, HeaderName, HeaderValue};

use self::messages::Header;
use crate::Extensions;

/// What can be agreed on over gRPC.
pub const EXTENSIONS: Extensions = Extensions {
    binary: false,
    ..Extensions::ALL
};

fn header(name: impl Into<String>, value: &str) -> Header {
    Header {
        name: name.into(),
        value: value.to_owned(),
        raw_value: None,
    }
}

fn headers(fields: &HeaderMap) -> Vec<Header> {
    let field = |(name, value): (&HeaderName, &HeaderValue)| match str::from_utf8(value.as_bytes())
    {
        Ok(text) => header(name.as_str(), text),
        Err(_) => Header {
            name: name.as_str().to_owned(),
            value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
            raw_value: Some(bytes::Bytes::copy_from_slice(value.as_bytes())),
        },
    };
    fields.iter().map(field).collect()
}

fn header_map(fields: &[Header]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for field in fields {
        let value = field.raw_value.as_deref();
        let value = value.unwrap_or(field.value.as_bytes());
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|error| error.to_string())?;
        let value = HeaderValue::from_bytes(value).map_err(|error| error.to_string())?;
        let appended = map.try_append(name, value);
        appended.map_err(|error| error.to_string())?;
    }
    Ok(map)
}
