//! Both ends of the wire against each other, and against peers that speak it
//! in raw bytes.
#![expect(
    clippy::unwrap_used,
    reason = "what is unwrapped here is what the tests assert"
)]

mod announced;
mod cancel;
mod codec;
mod condition;
mod configure;
mod conversation;
mod event_codec;
mod frames;
mod grpc;
mod grpc_raw;
mod guard;
mod guardrail;
mod hostile;
mod legacy;
mod legacy_phases;
mod life;
mod overloaded;
mod page;
mod page_control;
mod page_guardrail;
mod page_protobuf;
mod phases;
mod protobuf;
mod report;
mod reverse;
mod reverse_tls;
mod support;
mod v1;
mod v1_crossing;
mod v1_http;
mod v1_questions;
mod vectors;
mod verdict_ttl;
