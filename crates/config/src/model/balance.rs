//! `balance`, `sticky` and `slow-start` of an upstream: which target a request goes to.

use super::Secret;
use std::time::Duration;

/// Who among the targets is taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Balance {
    /// Targets take turns, by weight. The default.
    #[default]
    RoundRobin,
    /// Who has the fewest requests for its weight.
    LeastRequests,
    /// The better one of two that are drawn at random, by how long answers take and how many requests there are.
    P2cEwma {
        /// How fast it is forgotten how long answers took: after it, a bit more than a third is left. Default 10 s.
        decay: Duration,
    },
    /// One at random, by weight.
    Random,
    /// Requests that have something in common go to one target.
    Hash(Hash),
}

/// Consistent hashing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hash {
    /// What requests have in common.
    pub key: HashKey,
    /// How keys are spread over targets.
    pub algorithm: HashAlgorithm,
}

/// What is hashed. A request that has it not goes to a target at random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// `header:NAME`, all values. In lower case.
    Header(String),
    /// `cookie:NAME`
    Cookie(String),
    /// `client-ip`: the client's address, as in the log.
    ClientIp,
    /// `path`: in normal form, without the query.
    Path,
    /// `uri`: path and query.
    Uri,
}

/// How keys are spread over targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashAlgorithm {
    /// Points on a circle: a target that comes or goes moves the fewest keys. The default.
    #[default]
    Ring,
    /// A table: shares are more even.
    Maglev,
}

/// Clients stay with their target, by a cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// What cookies are authenticated with. 32 to 1024 bytes; the same for all replicas of the proxy.
    pub key: Secret,
    /// How long a cookie holds; it is renewed when half of that is over. Default 1 h.
    pub ttl: Duration,
}
