//! Cancelling: why the answer to an event is no longer wanted.

/// Why the answer to an event is no longer wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CancelReason {
    /// The client went away. Also what a call says that is dropped without a
    /// reason: it was dropped together with the request that it belonged to.
    ClientDisconnect = 0,
    /// The proxy has waited long enough.
    Timeout = 1,
    /// Another agent has decided about the request.
    BlockedByAgent = 2,
    /// The upstream failed, so that the decision is of no use.
    UpstreamError = 3,
    /// The proxy stops.
    ProxyShutdown = 4,
    /// Somebody asked for it.
    Manual = 5,
}

impl CancelReason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ClientDisconnect,
        Self::Timeout,
        Self::BlockedByAgent,
        Self::UpstreamError,
        Self::ProxyShutdown,
        Self::Manual,
    ];

    /// The number that goes over the wire.
    #[must_use]
    pub fn number(self) -> u64 {
        self as u64
    }

    /// The reason with this number; `None` for one that is not known.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.number() == number)
    }
}
