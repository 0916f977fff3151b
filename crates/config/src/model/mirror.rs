//! `mirror`: copies of requests for an upstream whose answers nobody waits for.

use super::{ByteSize, Share, UpstreamId};

/// Copies of some requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Who gets them.
    pub upstream: UpstreamId,
    /// Of the requests, each by itself. 0.01 % to 100 %; default 100 %.
    pub percent: Share,
    /// A request with a larger body is not copied. 0 to 16 MiB, default 64 KiB.
    pub max_body: ByteSize,
}
