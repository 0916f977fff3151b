//! `health-check`, `outlier` and `panic-threshold` of an upstream: which targets are in order.

use super::Share;
use std::{ops::RangeInclusive, time::Duration};

/// Targets are asked regularly whether they are in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// How they are asked.
    pub kind: HealthCheckKind,
    /// From an answer to the next question, more or less a tenth. Default 5 s.
    pub interval: Duration,
    /// For an answer, connecting included. Default 1 s.
    pub timeout: Duration,
    /// So many good answers in a row make a target healthy that was not. Default 2.
    pub healthy: u32,
    /// So many failures in a row make a target unhealthy that was healthy. Default 3.
    pub unhealthy: u32,
}

/// How a target is asked whether it is in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthCheckKind {
    /// By a GET.
    Http {
        /// Begins with a slash.
        path: String,
        /// The Host header. None: the target's address.
        host: Option<String>,
        /// Statuses of a target that is in order. Default 200 to 299.
        expected: Vec<RangeInclusive<u16>>,
    },
    /// By a connection.
    Tcp,
    /// By `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service that is asked about; empty is the server as a whole. Default empty.
        service: String,
        /// The authority. None: the target's address.
        host: Option<String>,
    },
}

/// A target whose answers are failures gets nothing for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlier {
    /// So many in a row. Default 5.
    pub failures: u32,
    /// Which statuses are failures, beside answers that do not come.
    pub statuses: FailureStatuses,
    /// For so long at the first time, twice as long at the second, and so on. Default 30 s.
    pub eject: Duration,
    /// Never longer. Default 5 min.
    pub max_eject: Duration,
    /// At most this part of the targets at once, but one always may be, unless it is the only one. Default 50 %.
    pub max_ejected: Share,
}

/// Statuses that are failures of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailureStatuses {
    /// 502, 503 and 504: it cannot do its work. The default.
    #[default]
    Gateway,
    /// 500 to 599.
    ServerErrors,
    /// None: only answers that do not come.
    None,
}
