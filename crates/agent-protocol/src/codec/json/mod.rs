//! The JSON encoding: what every version 2 peer speaks.
//!
//! Events are written straight into the outbound buffer, answers are written
//! and everything is read with serde.
//!
//! JSON holds text and header values are bytes. A value that is UTF-8 is
//! written as the text that it is; a value that is not is written as if it
//! were Latin-1, one character per byte, so that nothing of it is lost to an
//! agent that looks for ASCII in it. The reader takes the UTF-8 bytes of the
//! text, so values of the second kind do not come back as they were; the
//! binary encoding is exact. Bodies are base64, which costs a third more and is
//! read without guessing: what is not base64 is malformed.

mod answer;
mod base64;
mod body_chunk;
mod cancel;
mod control;
mod event;
mod frame_decision;
mod guardrail;
mod headers;
mod id;
mod report;
mod request_complete;
mod request_headers;
mod response_headers;
mod time;
mod websocket_frame;
mod write;

pub use answer::{decode_answer, decode_answer_without_id, encode_answer};
pub use cancel::{decode_cancel, encode_cancel};
pub use control::{
    decode_control, decode_ping, encode_flow, encode_health, encode_ping, encode_pong, encode_purge,
};
pub use event::{decode_event, encode_event};
pub(in crate::codec) use guardrail::{
    read_result as read_guardrail_result, write_result as write_guardrail_result,
};
pub use id::find_event_id;
pub use report::{encode_metrics, encode_reload_request};
pub use request_headers::{decode_request_headers, encode_request_headers};
