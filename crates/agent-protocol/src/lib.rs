//! The wire between portcullis and its agents, and the library that agents
//! are written with.
//!
//! An *agent* is a process that a proxy asks about a request before it lets
//! the request go on. This crate holds both ends of that conversation:
//!
//! - [`Connection`] is the proxy's end: it dials an agent, shakes hands,
//!   encodes each event once and hands back a [`PendingAnswer`].
//! - [`server`] is the agent's end: implement [`server::Agent`], bind a
//!   socket and call [`server::serve`].
//!
//! Both ends speak agent protocol version 2 over Unix sockets, in JSON with
//! peers of any make and in a compact binary encoding with peers that agree
//! to it ([`codec::binary`]). What is on the wire is written down in
//! docs/protocol.md of the repository.
//!
//! The crate knows no configuration files, no proxy, and no policy: what a
//! failed call means for a request is decided elsewhere.
#![warn(missing_docs)]

mod call_guard;
mod cancel;
mod capability;
pub mod codec;
mod connection;
mod control;
mod decision;
mod dialect;
mod error;
mod event;
mod grpc;
mod guardrail;
pub mod header_name;
mod header_op;
pub mod server;
mod target;
mod tls;
mod transport;
mod verdict_ttl;
mod websocket;

pub use call_guard::CallGuard;
pub use cancel::CancelReason;
pub use capability::{AgentLimits, Capabilities, EventKind, Extensions, Features};
pub use connection::{AnyAnswer, AnyConnection, AnyDriver, AnyPong};
pub use control::{
    Condition, ConfigChange, ConfigUpdate, ControlMessage, FlowAction, HealthState, LogEntry,
    LogLevel, Metric, MetricValue, MetricsReport,
};
pub use decision::{Audit, Decision, Verdict};
/// What is spoken with services that say whether a request may go on.
pub mod authz {
    pub use crate::dialect::authz::{
        ExtAuthzGrpcOptions, ExtAuthzHttpOptions, ForwardAuthOptions, messages,
    };
}
pub use dialect::channel::{GrpcEndpoint, TlsFiles};
pub use dialect::exchanges::MoreTime;
pub use dialect::http_client::HttpEndpoint;
/// What is spoken with agents that Envoy calls external processors.
pub mod ext_proc {
    pub use crate::dialect::ext_proc::{BodyMode, ExtProcOptions, Parts, StreamCounters, messages};
}
pub use dialect::v2::reverse::{
    RegisterError, ReverseAgent, ReverseDoor, ReversePeer, ReverseSettings, ReverseTls,
    ReverseTlsFiles,
};
pub use dialect::v2::{
    CloseReason, ConnectOptions, Connection, ConnectionDriver, ControlHandler, Limits,
    PendingAnswer, PendingConfiguration, PendingPong,
};
pub use error::{CallError, ConfigureError, ConnectError, ProtocolError};
pub use event::{
    BodyChunk, ClientCertificate, Event, RequestComplete, RequestHeaders, RequestMetadata,
    ResponseHeaders,
};
pub use guardrail::{
    Detection, GuardrailInspect, GuardrailResult, InspectionType, Severity, TextSpan,
};
pub use header_op::HeaderOp;
pub use target::{
    ExtAuthzGrpcTarget, ExtAuthzHttpTarget, ExtProcTarget, ForwardAuthTarget, Target,
};
pub use verdict_ttl::{KeyPart, MAX_VERDICT_TTL, VerdictTtl};
pub use websocket::{
    FrameDecision, FrameOpcode, MAX_CLOSE_REASON_BYTES, MAX_CONTROL_FRAME_BYTES, WebSocketFrame,
    is_close_code,
};
