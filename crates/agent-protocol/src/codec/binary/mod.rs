//! The binary encoding: events and answers between peers that agreed to it.
//!
//! The frame header is the same, and only events (`0x10` to `0x16`) and
//! answers (`0x20`) have a binary payload. Everything else stays JSON.
//! Integers are big-endian.
//!
//! ```text
//! string     u32 length, then that many bytes of UTF-8
//! optional   a string whose length is 0xFFFF_FFFF and nothing more when absent
//! bytes      u32 length, then that many bytes of any kind
//! list of T  u32 count, then that many T
//! section    u8 tag, u32 length, then that many bytes
//!
//! 0x10 request headers   u64 event id, then sections
//!   1 metadata      string correlation id, string request id,
//!                   u8 4 or 6 and the 4 or 16 bytes of the client's address,
//!                   u16 client port, u64 timestamp in nanoseconds since 1970,
//!                   string protocol, optional server name, TLS version,
//!                   TLS cipher, route id, upstream id, traceparent
//!   2 request line  string method, string path and query
//!   3 headers       list of (string name, bytes value)
//!   4 time left     u64 microseconds of the request's agent budget
//!
//! 0x11 request body chunk, 0x13 response body chunk
//!                   u64 event id, then sections
//!   1 request       string correlation id
//!   2 piece         u32 index, u8 flags (bit 0: last, bit 1: truncated; the
//!                   others are zero), u64 bytes transferred,
//!                   u8 1 and u64 size of the whole body or u8 0, bytes data
//!   3 trailers      as headers
//!   4 time left     as above
//!
//! 0x12 response headers  u64 event id, then sections
//!   1 request       string correlation id
//!   2 status        u16
//!   3 headers       as above
//!   4 time left     as above
//!
//! 0x14 request complete  u64 event id, then sections
//!   1 request       string correlation id
//!   2 outcome       u16 status, u64 microseconds that the request took,
//!                   u64 size of its body, u64 size of the response's body,
//!                   u32 attempts, optional error
//!
//! 0x15 websocket frame  u64 event id, then sections
//!   1 request       string correlation id
//!   2 frame         u8 opcode as in RFC 6455, u8 flags (bit 0: from client to
//!                   server, bit 1: fin; the others are zero), u64 index,
//!                   u8 4 or 6 and the 4 or 16 bytes of the client's address,
//!                   optional route id, bytes data
//!   4 time left     as above
//!
//! 0x16 guardrail inspect  u64 event id, then sections
//!   1 request       string correlation id
//!   2 text          u8 1 prompt injection or 2 personal data, u8 flags (bit
//!                   0: from a response; the others are zero), optional
//!                   model, optional route id, list of strings: categories,
//!                   list of (string, string): metadata, string content
//!   4 time left     as above
//!
//! 0x20 answer   u64 event id, u8 verdict, u8 flags, then sections
//!   verdict         0 allow, 1 block, 2 redirect, 3 challenge, 4 error,
//!                   5 overloaded
//!   flags           bit 0: needs more; the others are zero
//!   1 details       block: u16 status, u8 1 and bytes body or u8 0,
//!                          list of (string name, string value)
//!                   redirect: u16 status, string URL
//!                   challenge: string type, list of (string, string)
//!                   error: string message (only with `error` agreed)
//!                   overloaded: u8 1 and u64 milliseconds after which to
//!                          ask again, or u8 0 (only with `overloaded` agreed)
//!   2 request ops   list of header operations
//!   3 response ops  list of header operations
//!   4 audit         lists of strings: tags, rule ids, reason codes;
//!                   u8 1 and f32 confidence or u8 0;
//!                   string of a JSON object, empty for none
//!   5 request body  bytes that replace the chunk; empty drops it
//!   6 response body the same
//!   7 frame         u8 1 drop; 2 replace and bytes; 3 close, u16 code and
//!                   string reason. Without it the frame passes
//!   8 ttl           u64 milliseconds for which the verdict holds, list of
//!                   strings: what it does not depend on (only with
//!                   `verdict-ttl` agreed)
//!   9 guardrail     u8 1 detected or 0; u8 1 and f32 confidence or u8 0;
//!                   optional redacted content; list of detections: strings
//!                   category, description, severity, u8 1 and f32 confidence
//!                   or u8 0, u8 1 and u64 start and u64 end or u8 0
//!   operation       u8 1 set, 2 add, 3 remove; string name;
//!                   string value unless it is remove
//! ```
//!
//! How it grows: new fields are appended to a section, and new sections are
//! added. A reader passes over what follows the fields that it knows, and
//! over sections that it does not know. Whatever must not be passed over is
//! negotiated in the handshake by a name of its own. A section that is known
//! appears at most once; all of an event but time left and trailers are
//! required, those of an answer may be left out when they would be empty, and
//! the order is free.

mod answer;
mod body_chunk;
mod event;
mod guardrail;
mod read;
mod request_complete;
mod request_headers;
mod response_headers;
mod websocket_frame;
mod write;

pub use answer::{decode_answer, decode_shared_answer, encode_answer};
pub(crate) use event::encode_event_head;
pub use event::{decode_event, encode_event};
pub use request_headers::{decode_request_headers, encode_request_headers};

use super::EventId;

/// The id at the beginning of every payload.
#[must_use]
pub fn event_id(payload: &[u8]) -> Option<EventId> {
    payload
        .first_chunk()
        .map(|id| EventId::Number(u64::from_be_bytes(*id)))
}

const ABSENT: u32 = u32::MAX;
