//! Protocol version 2 over a Unix socket: the proxy's end.

mod connection;
mod options;

pub use connection::{CloseReason, Connection, ConnectionDriver, PendingAnswer};
pub use options::{ConnectOptions, ControlHandler, Limits};
