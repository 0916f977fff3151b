//! What this executable can be besides the driver: each role is a process of its own.

pub(crate) mod agent;
pub(crate) mod envoy_agent;
pub(crate) mod floor;
pub(crate) mod load;
pub(crate) mod origin;
pub(crate) mod pinned;

use crate::error::BenchError;
use tokio::runtime::{Builder, Runtime};

/// A runtime on the thread of the caller.
fn current_thread_runtime() -> Result<Runtime, BenchError> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchError::io("start a runtime"))
}
