//! The binary encoding: events and answers between peers that agreed to it.
//!
//! The frame header is the same, and only two types have a binary payload:
//! `0x10` (request headers) and `0x20` (answer). Everything else stays JSON.
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
//!   operation       u8 1 set, 2 add, 3 remove; string name;
//!                   string value unless it is remove
//! ```
//!
//! How it grows: new fields are appended to a section, and new sections are
//! added. A reader passes over what follows the fields that it knows, and
//! over sections that it does not know. Whatever must not be passed over is
//! negotiated in the handshake by a name of its own. A section that is known
//! appears at most once; the first three of an event are required, those of
//! an answer may be left out when they would be empty, and the order is free.

mod answer;
mod read;
mod request_headers;
mod write;

pub use answer::{decode_answer, encode_answer};
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
