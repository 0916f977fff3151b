//! `pool` of an agent: its connections.

use std::time::Duration;

/// The connections of each worker to each replica of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Kept even when nothing is asked. Default 1, 1 to 1024, at most `max`.
    pub min: usize,
    /// Never exceeded; connections that are in use, being made or taking their leave count. Default 4, 1 to 1024.
    pub max: usize,
    /// One of those beyond `min` that had no event for this long is closed. Default 300 s, 1 ms to 24 h.
    pub idle: Duration,
    /// Which of several connections an event takes. Default the one with the least to do.
    pub balance: PoolBalance,
    /// The agent counts as connected when `min` connections of one replica are up, and not already with the first one.
    /// Default true.
    pub warm_up: bool,
    /// The most events that may be unanswered on one connection; further ones take another or wait. Default 1024, 1 to
    /// 65 536.
    pub max_outstanding: usize,
    /// Dialling, handshake and configuration of one connection together may take this long. Default 5 s, 1 ms to 24 h.
    pub connect_timeout: Duration,
    /// How often each connection is looked after: whether it is silent or idle. Default 1 s, 1 ms to 24 h.
    pub maintenance: Duration,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            min: 1,
            max: 4,
            idle: Duration::from_secs(300),
            balance: PoolBalance::default(),
            warm_up: true,
            max_outstanding: 1024,
            connect_timeout: Duration::from_secs(5),
            maintenance: Duration::from_secs(1),
        }
    }
}

/// Which connection an event takes, among those of agents that are well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PoolBalance {
    /// The one with the fewest unanswered events. The default.
    #[default]
    LeastInFlight,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// The one whose calls took the least time of late, for as much as it has to do.
    Fastest,
    /// Each as often as the agent says that it works on many events at once on it.
    Weighted,
}

impl PoolBalance {
    /// Every way, for tables in documents and tests.
    pub const ALL: [Self; 5] = [
        Self::LeastInFlight,
        Self::RoundRobin,
        Self::Random,
        Self::Fastest,
        Self::Weighted,
    ];

    /// Whether it looks at how long calls took. Nobody measures that for the others.
    pub const fn needs_pace(self) -> bool {
        match self {
            Self::Fastest => true,
            Self::LeastInFlight | Self::RoundRobin | Self::Random | Self::Weighted => false,
        }
    }

    /// The name as it is written in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeastInFlight => "least-in-flight",
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::Fastest => "fastest",
            Self::Weighted => "weighted",
        }
    }
}
