//! Protocol version 2, the proxy's end: over a Unix socket and, in `grpc`, over
//! gRPC.
//!
//! A connection has two halves that meet in `Shared`: the handles, which
//! encode events into the outbound buffer and wait in the table of calls, and
//! the driver, one task that owns the socket. The driver swaps the outbound
//! buffer for its own empty one, so that everything that was queued since
//! goes out in one write, and it decodes up to [`MOST_AT_ONCE`] answers before it
//! takes the lock once to hand them over. The lock is a plain mutex that is
//! held for the time of an encoding and never over an await.

mod calls;
mod configure;
mod connect;
mod connection;
mod driver;
pub(crate) mod grpc;
mod options;
mod outbox;
mod ping;
mod pings;
pub(crate) mod reverse;
mod shared;

/// So many messages of an agent are taken at a time. Then others on its thread
/// have their turn, however much it sends.
const MOST_AT_ONCE: usize = 64;

pub use configure::PendingConfiguration;
pub(super) use configure::outcome as configuration_outcome;
pub use connection::{Connection, PendingAnswer};
pub use driver::ConnectionDriver;
pub use options::{ConnectOptions, ControlHandler, Limits};
pub use ping::PendingPong;
pub use shared::CloseReason;
