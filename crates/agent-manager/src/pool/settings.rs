//! How many connections there are, and which of them an event takes.

use portcullis_config::PoolBalance;
use std::time::Duration;

/// The connections of each worker to each replica of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSettings {
    /// Kept up always; at least 1.
    pub min: usize,
    /// Made when the others are crowded; at least `min`. Connections that are made or take their leave count.
    pub max: usize,
    /// A connection beyond `min` without an event for this long is closed.
    pub idle: Duration,
    /// Which connection an event takes.
    pub balance: PoolBalance,
    /// A worker counts as connected with `min` connections to one replica, and not already with the first.
    pub warm_up: bool,
    /// Events that may be unanswered on one connection; at least 1. Calls wait when all have as many.
    pub max_outstanding: usize,
    /// How often each connection is looked after.
    pub maintenance: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        let portcullis_config::Pool {
            min,
            max,
            idle,
            balance,
            warm_up,
            max_outstanding,
            maintenance,
            connect_timeout: _,
        } = portcullis_config::Pool::default();
        Self {
            min,
            max,
            idle,
            balance,
            warm_up,
            max_outstanding,
            maintenance,
        }
    }
}
